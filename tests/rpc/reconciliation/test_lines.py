"""What needs a person is a warning in the log, and what does not is none."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any

import pytest
from paymesh.reconciliation.v1 import reconciliation_service_pb2 as pb
from structlog.testing import capture_logs

from tests.support.reconciliation import DayFile, ingest, reference
from tests.support.reconciliation_world import World

Line = MutableMapping[str, Any]


@pytest.fixture
def lines() -> Iterator[list[Line]]:
    with capture_logs() as found:
        yield found


def only(lines: list[Line], event: str) -> Line:
    [found] = [line for line in lines if line["event"] == event]
    lines.clear()
    return found


async def test_a_file_that_can_t_be_used_is_a_warning_with_its_problem(
    world: World, lines: list[Line]
) -> None:
    for content, state, problem in (
        (b"nonsense", "QUARANTINED", "UNKNOWN_FORMAT"),
        (DayFile(last=False).content(), "WAITING", "PAGES_MISSING"),
    ):
        await ingest(world.reconciliation, content, world.source)
        line = only(lines, "settlement_file")
        assert (line["log_level"], line["state"]) == ("warning", state)
        assert line["problem"].startswith(problem)
    await ingest(world.reconciliation, DayFile().content(), world.source)
    line = only(lines, "settlement_file")
    assert (line["log_level"], "problem" in line) == ("info", False)


async def test_a_day_that_is_open_is_a_warning(world: World, lines: list[Line]) -> None:
    await world.day(DayFile(0).line(500, **await world.capture(500)))
    assert only(lines, "reconciled")["log_level"] == "info"
    opened = await world.day(DayFile(450, day="2026-02-01"), "2026-02-01")
    assert opened.state == pb.RUN_STATE_OPEN
    told = only(lines, "reconciled")
    assert (told["log_level"], told["state"]) == ("warning", "OPEN")
    # Breaks alone are listed, and many of them clear by themselves.
    corrected = DayFile(500, day="2026-02-01", revision=1).line(9, psp_reference=reference())
    await world.day(corrected, "2026-02-01")
    told = only(lines, "reconciled")
    assert (told["log_level"], told["state"]) == ("info", "EXPLAINED")
