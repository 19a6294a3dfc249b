"""Each bug that is planted is caught, and by its effects: the same scenario without it is clean.

Bugs are planted in another process, because what dies there leaves unfinished what pytest would
complain of.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.planted import report
from tests.faults.planted.bench import Outcome
from tests.faults.planted.bugs import BUGS, scenarios
from tests.faults.planted.plant import Bug

_ALWAYS = frozenset({1, 5, 14, 20, 24, 30})
"""The bugs that the fast tests plant: quick to catch, in each of the services."""
_FILE = Path(__file__).parents[3] / "docs" / "planted-bugs.md"

Play = Callable[[str], list[Outcome]]


def _slow(*, unless: bool) -> list[pytest.MarkDecorator]:
    return [] if unless else [pytest.mark.slow]


_BUGS = [
    pytest.param(bug, id=f"{bug.number}", marks=_slow(unless=bug.number in _ALWAYS)) for bug in BUGS
]
_QUICK = scenarios(bug for bug in BUGS if bug.number in _ALWAYS)
_SCENARIOS = [
    pytest.param(scenario, id=scenario, marks=_slow(unless=scenario in _QUICK))
    for scenario in scenarios(BUGS)
]


@pytest.fixture(scope="module")
def play() -> Iterator[Play]:
    """Plays a bug by its number, or a scenario without a bug."""
    worker = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.planted.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert worker.stdin is not None
    assert worker.stdout is not None
    asked, answers = worker.stdin, worker.stdout

    def played(what: str) -> list[Outcome]:
        asked.write(f"{what}\n")
        asked.flush()
        line = answers.readline()
        assert line, f"the worker has ended, its exit code is {worker.wait(timeout=30)}"
        told: list[dict[str, Any]] = json.loads(line)
        return [Outcome(**one) for one in told]

    try:
        yield played
    finally:
        asked.close()
        worker.wait(timeout=30)


@pytest.mark.parametrize("bug", _BUGS)
def test_a_planted_bug_is_caught(bug: Bug, play: Play) -> None:
    outcomes = play(str(bug.number))

    assert report.caught(bug, outcomes) is not None, report.line(bug, outcomes)


@pytest.mark.parametrize("scenario", _SCENARIOS)
def test_without_a_bug_nothing_is_found(scenario: str, play: Play) -> None:
    (outcome,) = play(scenario)

    assert outcome.problems == []
    assert outcome.fired, "not all of its faults happened"


def test_there_are_35_bugs_and_the_file_tells_of_each() -> None:
    text = _FILE.read_text(encoding="utf-8")

    assert [bug.number for bug in BUGS] == list(range(1, 36))
    assert len({bug.plant for bug in BUGS}) == 35
    for bug in BUGS:
        rows = [report.begins(bug, scenario) for scenario in bug.scenarios]
        assert any(row in text for row in rows), f"run make planted: {rows[0]}"
