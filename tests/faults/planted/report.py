"""What caught what, for people: docs/planted-bugs.md, and a line a bug."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tests.faults.planted.bench import Outcome, catches
from tests.faults.planted.plant import Bug

_HEAD = """\
# Planted bugs

`make planted` writes this file. The checker is checked: each of these bugs is planted into the
services (tests/faults/planted/, nowhere else), one at a time, and must be caught by its effects:
what the checker finds in the databases and in what callers were told, or an answer that is wrong
by itself. Without a bug the same scenarios find nothing. A scenario is a flow of the engine, or a
story (stories.py, nights.py there), and its faults, written as in tests/faults/engine/faults.py.
`python -m tests.faults.planted N` tries one bug, and prints all that was wrong if it is missed.
"""

_IDS = r"(?:seller)?[0-9a-f]{32}|[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}|\b[0-9a-f]{12}\b"
_ID = re.compile(rf"{_IDS}|\d{{4}}-\d\d-\d\d")
_OF = re.compile(rf"^(I\d+): (?:{_IDS}): ")
_MOST = 160


def caught(bug: Bug, outcomes: Sequence[Outcome]) -> Outcome | None:
    """The scenario that caught the bug, None if none did."""
    return next((outcome for outcome in outcomes if catches(bug, outcome)), None)


def said(bug: Bug, outcome: Outcome) -> str:
    """What was said of the bug, without ids."""
    (text, *_) = (problem for problem in outcome.problems if bug.says in problem)
    text = _ID.sub("…", _OF.sub(r"\1: ", " ".join(text.split())))
    return text if len(text) <= _MOST else f"{text[:_MOST].rstrip()} …"


def line(bug: Bug, outcomes: Sequence[Outcome]) -> str:
    """One bug, as it was tried."""
    found = caught(bug, outcomes)
    if found is None:
        tried = "; ".join(f"{o.scenario} ({', '.join(o.problems) or 'nothing'})" for o in outcomes)
        return f"{bug.number:2d}  {bug.name}: NOT CAUGHT by {tried}"
    return f"{bug.number:2d}  {bug.name}: {found.scenario}: {said(bug, found)}"


def row(bug: Bug, outcomes: Sequence[Outcome]) -> str:
    """The same in the file."""
    found = caught(bug, outcomes)
    told = "**not caught**" if found is None else said(bug, found).replace("|", "\\|")
    return f"{begins(bug, '' if found is None else found.scenario)} {told} |"


def begins(bug: Bug, scenario: str) -> str:
    """A row as far as it is the same at each run."""
    return f"| {bug.number} | {bug.name}: {bug.breaks} | `{scenario}` |"


def verdict(tried: Sequence[tuple[Bug, Sequence[Outcome]]]) -> str:
    """How many of how many."""
    found = sum(caught(bug, outcomes) is not None for bug, outcomes in tried)
    return f"{found} of {len(tried)}"


def text(tried: Sequence[tuple[Bug, Sequence[Outcome]]], right: Sequence[Outcome]) -> str:
    """The file."""
    rows = [row(bug, outcomes) for bug, outcomes in tried]
    return "\n".join(
        [
            _HEAD,
            (
                f"{verdict(tried)} caught; without a bug {_clean(right)} of {len(right)} scenarios"
                " find nothing."
            ),
            "",
            "| | Bug | Caught by | What was said |",
            "| ---: | --- | --- | --- |",
            *rows,
            "",
        ]
    )


def clean(outcome: Outcome) -> bool:
    """Whether a scenario without a bug went as it should: all faults happened, nothing is wrong."""
    return outcome.fired and not outcome.problems


def _clean(right: Sequence[Outcome]) -> int:
    return sum(map(clean, right))
