"""A large file is stored while it is read, and yet whole or not at all."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from paymesh.reconciliation.v1 import reconciliation_service_pb2 as pb

from ledger_svc.reconciliation import files, judging
from tests.support.reconciliation import DAY, DayFile, ingest, reference
from tests.support.reconciliation_world import World

if TYPE_CHECKING:
    from paymesh.reconciliation.v1.reconciliation_service_pb2_grpc import (
        ReconciliationServiceAsyncStub,
    )

    from ledger_svc.reconciliation.domain import Delivery, StoredFile

Sql = psycopg.Connection[tuple[Any, ...]]

LINES = 3_000


@pytest.fixture(autouse=True)
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Whatever takes any time is large; what became of each try to store meanwhile."""
    tries: list[str] = []
    store = files._store_while_read

    async def watched(*arguments: Any) -> StoredFile:
        try:
            stored = await store(*arguments)
        except files._NotAsExpected:
            tries.append("given up")
            raise
        tries.append("stored")
        return stored

    monkeypatch.setattr(files, "SOON_S", 0)
    monkeypatch.setattr(files, "_store_while_read", watched)
    return tries


def day_file() -> DayFile:
    file = DayFile(1000)
    for _ in range(LINES):
        file.line(100, 1, psp_reference=reference(), booking_date=DAY)
    return file


def stored(sql: Sql, psp: str) -> tuple[int, int, int]:
    """Files, statements and lines of the source."""
    row = sql.execute(
        "SELECT (SELECT count(*) FROM settlement_file WHERE source = %(psp)s),"
        " (SELECT count(*) FROM statement WHERE source = %(psp)s),"
        " (SELECT count(*) FROM settlement_line AS l JOIN settlement_file AS f USING (file_id)"
        "  WHERE f.source = %(psp)s)",
        {"psp": psp},
    ).fetchone()
    assert row is not None
    return row[0], row[1], row[2]


async def test_its_lines_are_stored_once_and_reconciled(
    world: World, psp: str, sql: Sql, meanwhile: list[str]
) -> None:
    file = day_file()
    file.line(500, 5, **await world.capture(500, 5))
    content = file.content()
    first = await ingest(world.reconciliation, content, psp, settlement_date=DAY)
    assert first.state == pb.FILE_STATE_INGESTED
    assert first.lines == LINES + 1
    assert meanwhile == ["stored"]
    assert stored(sql, psp) == (1, 1, LINES + 1)
    assert await ingest(world.reconciliation, content, psp, settlement_date=DAY) == first
    assert meanwhile == ["stored", "given up"]
    run = await world.run()
    assert (run.lines, run.matched) == (LINES + 1, 1)


async def test_ten_at_once_are_one(
    reconciliation: ReconciliationServiceAsyncStub, psp: str, sql: Sql, meanwhile: list[str]
) -> None:
    content = day_file().content()
    answers = await asyncio.gather(
        *(ingest(reconciliation, content, psp, settlement_date=DAY) for _ in range(10))
    )
    assert all(one == answers[0] for one in answers)
    assert answers[0].state == pb.FILE_STATE_INGESTED
    assert stored(sql, psp) == (1, 1, LINES)
    assert meanwhile.count("stored") <= 1


async def test_what_turns_out_bad_at_its_end_leaves_no_line(
    reconciliation: ReconciliationServiceAsyncStub, psp: str, sql: Sql, meanwhile: list[str]
) -> None:
    content = day_file().content()
    cut = await ingest(reconciliation, content[:-30], psp, settlement_date=DAY)
    assert cut.state == pb.FILE_STATE_QUARANTINED
    assert cut.problem.startswith("FILE_CUT")
    assert meanwhile == ["given up"]
    assert stored(sql, psp) == (1, 0, 0)


async def test_what_does_not_tie_leaves_no_line(
    reconciliation: ReconciliationServiceAsyncStub, psp: str, sql: Sql, meanwhile: list[str]
) -> None:
    content = day_file().content().replace(b",1000,", b",1001,", 1)
    file = await ingest(reconciliation, content, psp, settlement_date=DAY)
    assert file.state == pb.FILE_STATE_QUARANTINED
    assert file.problem_class == pb.BREAK_CLASS_ARITHMETIC_BROKEN
    assert meanwhile == ["given up"]
    assert stored(sql, psp)[2] == 0


async def test_a_day_that_its_lines_do_not_tell_is_learnt_at_the_end(
    reconciliation: ReconciliationServiceAsyncStub,
    psp: str,
    sql: Sql,
    meanwhile: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The lines are there, and the file is not yet judged to its end.
    judge = judging.judge

    def known(
        stream: Any, delivery: Delivery, source: Any, most: int, rows: judging.Rows
    ) -> judging.Judged:
        judged = judge(stream, delivery, source, most, rows)
        time.sleep(1)
        return judged

    monkeypatch.setattr(files, "SOON_S", 0.4)
    monkeypatch.setattr(files, "judge", known)
    file = DayFile(1000).line(100, psp_reference=reference(), booking_date="2026-01-29")
    told = await ingest(reconciliation, file.content(), psp)
    assert (told.state, told.settlement_date) == (pb.FILE_STATE_INGESTED, DAY)
    assert meanwhile == ["given up"]
    assert stored(sql, psp) == (1, 1, 1)
