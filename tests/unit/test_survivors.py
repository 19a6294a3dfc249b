"""The list of mutants that no test kills: it is counted right, and it has to be true."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import survivors
from tools.survivors import Change, Explanation, Figures, Trial

FILE = "payment_svc/domain.py"
SAME, FAR, DEAD = (Change(FILE, "if a:", new) for new in ("if b:", "if c:", "if d:"))

LIST = [Explanation("a is b", True, (SAME,)), Explanation("no c comes", False, (FAR,))]
TRIALS = [Trial(SAME, survived=True), Trial(FAR, survived=True), Trial(DEAD, survived=False)]


@pytest.mark.parametrize(
    ("after", "old", "new"),
    [
        ("a\n    b\nX\n", "c", "X"),
        ("a\nc\n", "b", ""),
        ("a\n    X\nY\n", "b c", "X Y"),
        ("a\n    b\nc\nX\n", "", "X"),
    ],
)
def test_a_change_is_the_lines_that_differ(after: str, old: str, new: str) -> None:
    assert survivors.change_of(FILE, "a\n    b\nc\n", after) == Change(FILE, old, new)


def test_the_list_names_a_line_and_each_of_what_it_became(tmp_path: Path) -> None:
    path = tmp_path / "list.toml"
    path.write_text(
        """
        [[equivalent]]
        why = '''a is
        b'''
        changes."payment_svc/domain.py" = '''
- if a:
+ if b:
+ if c:
- @property
+
'''
        [[accepted]]
        why = "no d comes"
        changes."payment_svc/domain.py" = '''
- if a:
+ if d:
'''
        """
    )
    without = Change(FILE, "@property", "")
    assert survivors.read(path) == [
        Explanation("a is b", True, (SAME, FAR, without)),
        Explanation("no d comes", False, (DEAD,)),
    ]


@pytest.mark.parametrize("text", ["if a:", "+ if b:", "- if a:\n\n+ if b:"])
def test_what_is_no_change_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "list.toml"
    path.write_text(
        f'accepted = []\n[[equivalent]]\nwhy = "so"\nchanges."{FILE}" = """\n{text}\n"""\n'
    )
    with pytest.raises(ValueError, match="is no change"):
        survivors.read(path)


def test_a_list_that_explains_what_survived_is_true() -> None:
    assert survivors.complaints(LIST, TRIALS) == []


def test_what_survived_unexplained_is_named() -> None:
    (complaint,) = survivors.complaints(LIST[:1], TRIALS)
    assert complaint == f"survived, and is not explained: {FILE}\n- if a:\n+ if c:"


def test_a_change_that_two_lines_allow_is_explained_twice() -> None:
    twice = [*TRIALS, TRIALS[0]]
    (complaint,) = survivors.complaints(LIST, twice)
    assert complaint.startswith("survived, and is not explained")
    assert survivors.complaints([*LIST, LIST[0]], twice) == []


def test_an_explanation_of_what_is_killed_is_wrong() -> None:
    (complaint,) = survivors.complaints([*LIST, Explanation("d", True, (DEAD,))], TRIALS)
    assert complaint == f"is explained, but is killed: {FILE}\n- if a:\n+ if d:"


def test_an_explanation_of_what_is_no_mutant_any_more_is_wrong() -> None:
    (complaint,) = survivors.complaints(LIST, TRIALS[1:])
    assert complaint == f"is explained, but is no mutant: {FILE}\n- if a:\n+ if b:"


def test_explanations_of_files_that_were_not_tried_are_left_alone() -> None:
    elsewhere = Explanation("so", True, (SAME._replace(file="wallet_svc/domain.py"),))
    assert survivors.complaints([*LIST, elsewhere], TRIALS) == []


def test_only_what_is_equivalent_does_not_count() -> None:
    trials = [*TRIALS, Trial(DEAD, survived=False, timed_out=True)]
    figures = survivors.figures_by_file(LIST, trials)
    assert figures[FILE] == figures["all"]
    assert figures["all"] == Figures(mutants=4, killed=2, survived=1, equivalent=1, timeouts=1)
    assert figures["all"].percent == pytest.approx(200 / 3)


def test_what_is_killed_is_not_equivalent_though_the_list_says_so() -> None:
    wrong = [Explanation("d", True, (DEAD,))]
    assert survivors.figures_by_file(wrong, TRIALS)["all"] == Figures(3, 1, 2, 0, 0)


@pytest.mark.parametrize(("killed", "is_poor"), [(89, True), (90, False)])
def test_too_few_are_killed_below_ninety_of_a_hundred(killed: int, is_poor: bool) -> None:
    figures = {FILE: Figures(100, killed, 100 - killed, 0, 0)}
    assert survivors.poor(figures) == [FILE] * is_poor


def test_the_page_keeps_what_is_written_by_hand() -> None:
    by_hand = "# Mutation testing\n\nWhat it is.\n\n"
    first = survivors.page(f"{by_hand}{survivors.HEADING}\n", "the table", LIST)
    assert first.startswith(by_hand)
    assert first.index("the table") < first.index("a is b") < first.index("no c comes")
    assert "- if a:\n+ if b:" in first
    again = survivors.page(first, "another table", LIST)
    assert again == first.replace("the table", "another table")


def test_a_page_without_its_place_is_not_written_over() -> None:
    with pytest.raises(ValueError, match="The figures"):
        survivors.page("# Another page\n", "the table", LIST)


def test_our_own_list_can_be_read_and_says_why() -> None:
    ours = survivors.read(Path(survivors.__file__).with_name("survivors.toml"))
    assert all(one.why and one.changes for one in ours)
