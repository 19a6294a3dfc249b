"""What mutants became: the figures, and the reviewed list of those that no test kills.

The list, tools/survivors.toml, has two kinds. `equivalent`: no test can tell, whatever it does,
so that the mutant does not count. `accepted`: a test could tell, but only by what nothing brings;
it counts as survived. The list says what a line was and what it became, not where, so that it
outlives other changes of the file; and it has to be true, see `complaints`.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

LEAST_PERCENT = 90

HEADING = "## The figures"
"""Where the generated part of docs/mutation.md begins; it goes to the end."""


class Change(NamedTuple):
    """What a mutant changes: the lines as they were and as they are, joined, without indent."""

    file: str
    old: str
    new: str

    def __str__(self) -> str:
        return f"- {self.old}\n+ {self.new}".rstrip()


def change_of(file: str, before: str, after: str) -> Change:
    """What differs between two texts of the file: all lines from the first to the last."""
    old, new = before.splitlines(), after.splitlines()
    while old and new and old[0] == new[0]:
        del old[0], new[0]
    while old and new and old[-1] == new[-1]:
        del old[-1], new[-1]
    return Change(file, _joined(old), _joined(new))


def _joined(lines: Iterable[str]) -> str:
    return " ".join(line.strip() for line in lines)


class Explanation(NamedTuple):
    """Why nobody tells these changes; each is there as often as a file has it."""

    why: str
    equivalent: bool
    changes: tuple[Change, ...]


def read(path: Path) -> list[Explanation]:
    """The list in a file. ValueError for a line that is neither `- …` nor `+ …`."""
    kinds = tomllib.loads(path.read_text())
    return [
        Explanation(
            " ".join(group["why"].split()),
            kind == "equivalent",
            tuple(
                change for file, text in group["changes"].items() for change in _changes(file, text)
            ),
        )
        for kind in ("equivalent", "accepted")
        for group in kinds[kind]
    ]


def _changes(file: str, text: str) -> Iterator[Change]:
    """A `-` line and, each by itself, what it became: the `+` lines that follow it."""
    old = None
    for line in text.strip().splitlines():
        if line.startswith("- "):
            old = line[2:]
        elif line.startswith("+") and old is not None:
            yield Change(file, old, line[2:])
        else:
            raise ValueError(f"{file}: {line!r} is no change")


class Trial(NamedTuple):
    """A mutant that was tried. timed_out: its tests went on and on, which counts as killed."""

    change: Change
    survived: bool
    timed_out: bool = False


def complaints(explanations: Sequence[Explanation], trials: Sequence[Trial]) -> list[str]:
    """Where the list and the mutants differ: what is not explained, or explained in vain."""
    files = {trial.change.file for trial in trials}
    made = Counter(trial.change for trial in trials)
    survived = Counter(trial.change for trial in trials if trial.survived)
    listed = Counter(
        change for one in explanations for change in one.changes if change.file in files
    )
    return [
        *(f"survived, and is not explained: {c.file}\n{c}" for c in survived - listed),
        *(
            f"is explained, but {'is killed' if made[c] else 'is no mutant'}: {c.file}\n{c}"
            for c in listed - survived
        ),
    ]


class Figures(NamedTuple):
    """What became of mutants. survived: without those that are equivalent."""

    mutants: int
    killed: int
    survived: int
    equivalent: int
    timeouts: int

    @property
    def percent(self) -> float:
        """How many of a hundred that could be killed were."""
        return 100 * self.killed / ((self.mutants - self.equivalent) or 1)


def figures_of(trials: Collection[Trial], equivalent: Counter[Change]) -> Figures:
    """Count. equivalent: those changes, as often as they are listed."""
    survived = Counter(trial.change for trial in trials if trial.survived)
    same = (survived & equivalent).total()
    return Figures(
        mutants=len(trials),
        killed=len(trials) - survived.total(),
        survived=survived.total() - same,
        equivalent=same,
        timeouts=sum(trial.timed_out for trial in trials),
    )


def figures_by_file(
    explanations: Sequence[Explanation], trials: Sequence[Trial]
) -> dict[str, Figures]:
    """Those of each file, and of `all`."""
    same = Counter(change for one in explanations if one.equivalent for change in one.changes)
    files = list(dict.fromkeys(trial.change.file for trial in trials))
    by_file = {
        file: figures_of([trial for trial in trials if trial.change.file == file], same)
        for file in files
    }
    return {**by_file, "all": figures_of(trials, same)}


def table(figures: dict[str, Figures]) -> str:
    """As it is printed, and put into the page."""
    names = ("mutants", "killed", "survived", "equivalent", "percent", "timeouts")
    lines = [f"{'file':36}" + "".join(f"{name:>11}" for name in names)]
    for file, f in figures.items():
        counts = f"{f.mutants:11}{f.killed:11}{f.survived:11}{f.equivalent:11}"
        lines.append(f"{file:36}{counts}{f.percent:11.1f}{f.timeouts:11}")
    return "\n".join(lines)


def poor(figures: dict[str, Figures]) -> list[str]:
    """The files of whose mutants too few were killed."""
    return [file for file, its in figures.items() if its.percent < LEAST_PERCENT]


def page(before: str, printed: str, explanations: Sequence[Explanation]) -> str:
    """The page with its generated part anew: what was printed, and the list."""
    head, heading, _ = before.partition(HEADING)
    if not heading:
        raise ValueError(f"the page has no {HEADING!r}")
    parts = [head + heading, f"```\n{printed}\n```"]
    for title, says, equivalent in (
        (
            "## Equivalent",
            "No test can tell these from what they change, so they do not count.",
            True,
        ),
        (
            "## Survivors",
            "A test could tell these, but only by what nothing brings. They count as survived.",
            False,
        ),
    ):
        parts += [title, says]
        for one in explanations:
            if one.equivalent is equivalent:
                parts += [one.why, _diff(one.changes)]
    return "\n\n".join(parts) + "\n"


def _diff(changes: Iterable[Change]) -> str:
    by_file: dict[str, list[str]] = {}
    for change in changes:
        by_file.setdefault(change.file, []).append(str(change))
    return "```diff\n{}\n```".format(
        "\n".join("\n".join([f"# {file}", *texts]) for file, texts in by_file.items())
    )
