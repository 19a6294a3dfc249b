"""Runs are the same again, prove themselves, and refuse what is no day."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING

from paymesh.reconciliation.v1 import reconciliation_service_pb2 as pb

from mesh.errors import Code, Reason
from tests.rpc.reconciliation.conftest import Adapter
from tests.support.reconciliation import DAY, DayFile, ingest, reference
from tests.support.reconciliation_world import (
    SUSPENSE,
    World,
    class_of,
    counts,
)
from tests.support.serving import error_of

if TYPE_CHECKING:
    pass


async def test_class_17_a_day_that_does_not_go_on_from_the_day_before(world: World) -> None:
    await world.day(DayFile(0).line(500, **await world.capture(500)))
    broken = await world.day(DayFile(450, day="2026-02-02"), "2026-02-02")
    assert broken.state == pb.RUN_STATE_OPEN
    [found] = await world.breaks(broken)
    assert class_of(found) == pb.BREAK_CLASS_CHAIN_BROKEN
    assert found.amount_minor == -50
    # The day between was missing, and comes.
    await world.day(DayFile(500, day="2026-02-01").line(-50, 0, kind="FEE"), "2026-02-01")
    whole = await world.run("2026-02-02")
    assert (whole.version, whole.state) == (2, pb.RUN_STATE_BALANCED)
    assert [one.state for one in await world.breaks()] == [pb.BREAK_STATE_CLEARED]


async def test_class_17_a_missing_day_that_changed_no_balance(world: World) -> None:
    world = world.of(world.source.replace("psp", "daily"))
    await world.day(DayFile(500))
    later = await world.day(DayFile(500, day="2026-02-03"), "2026-02-03")
    assert later.state == pb.RUN_STATE_OPEN
    [found] = await world.breaks(later)
    assert class_of(found) == pb.BREAK_CLASS_CHAIN_BROKEN
    assert (found.rule, found.amount_minor) == ("DAY_MISSING 2026-02-01", 0)
    assert list(found.proposal) == []
    assert later.balances[0].difference_minor == 0
    assert await world.run("2026-02-03") == later

    # One of the two comes, then the other; the next night finds it, whichever it asks for.
    await world.day(DayFile(500, day="2026-02-01"), "2026-02-01")
    await ingest(
        world.reconciliation,
        DayFile(500, day="2026-02-02")
        .line(7, psp_reference=reference())
        .line(-7, 0, "FEE")
        .content(),
        world.source,
    )
    await world.run("2026-02-02")
    assert [one.state for one in await world.breaks(later)] == [pb.BREAK_STATE_CLEARED]
    runs = await world.reconciliation.ListRuns(
        pb.ListRunsRequest(source=world.source, settlement_date="2026-02-03")
    )
    assert [(one.version, one.state) for one in runs.runs] == [
        (3, pb.RUN_STATE_BALANCED),
        (2, pb.RUN_STATE_OPEN),
        (1, pb.RUN_STATE_OPEN),
    ]


async def test_a_missing_day_whose_balances_tell_is_found_once(world: World) -> None:
    world = world.of(world.source.replace("psp", "daily"))
    await world.day(DayFile(500))
    later = await world.day(DayFile(450, day="2026-02-03"), "2026-02-03")
    [found] = await world.breaks(later)
    assert (found.rule, found.amount_minor) == ("CHAIN", -50)


async def test_a_weekend_is_no_missing_day_where_only_weekdays_have_files(world: World) -> None:
    world = world.of(world.source.replace("psp", "weekdays"))
    friday, monday, wednesday = "2026-01-30", "2026-02-02", "2026-02-04"
    await world.day(DayFile(day=friday), friday)
    assert (await world.day(DayFile(day=monday), monday)).state == pb.RUN_STATE_BALANCED
    assert (await world.day(DayFile(day=wednesday), wednesday)).state == pb.RUN_STATE_OPEN


async def test_days_that_no_night_asked_for_are_fetched_with_the_next(
    world: World, adapter: tuple[str, Adapter]
) -> None:
    world.source, behind = adapter
    days = {f"2026-02-0{n}": DayFile(500, day=f"2026-02-0{n}").content() for n in (1, 2, 4)}
    behind.files = days
    assert (await world.run("2026-02-01")).state == pb.RUN_STATE_BALANCED
    # The third has no file yet.
    later = await world.run("2026-02-04")
    [found] = await world.breaks(later)
    assert found.rule == "DAY_MISSING 2026-02-03"
    days["2026-02-03"] = DayFile(500, day="2026-02-03").content()
    assert (await world.run("2026-02-04")).state == pb.RUN_STATE_BALANCED
    listed = await world.reconciliation.ListRuns(pb.ListRunsRequest(source=world.source))
    assert sorted((one.settlement_date, one.version) for one in listed.runs) == [
        ("2026-02-01", 1), ("2026-02-02", 1), ("2026-02-03", 1), ("2026-02-04", 1),
        ("2026-02-04", 2),
    ]  # fmt: skip


async def test_another_sources_captures_are_not_touched(world: World) -> None:
    other = world.of(world.source.replace("psp", "fees"))
    theirs = await other.capture(500)
    run = await world.day(DayFile().line(500, **theirs))
    assert counts(run) == {pb.BREAK_CLASS_UNKNOWN_TO_US: 1}
    assert world.matches() == 0


async def test_ten_at_once_are_one(world: World) -> None:
    file = DayFile()
    for n in range(20):
        file.line(500, 5, **await world.capture(500, 5))
        file.line(100 + n, psp_reference=reference())
    await ingest(world.reconciliation, file.content(), world.source)
    runs = await asyncio.gather(*(world.run() for _ in range(10)))
    runs += [await world.run() for _ in range(10)]
    assert all(run == runs[0] for run in runs)
    assert (world.matches(), world.booked()) == (20, 20)
    assert await world.balance(SUSPENSE) == sum(100 + n for n in range(20))
    versions = world.sql.execute(
        "SELECT count(*) FROM reconciliation_run WHERE source = %s", [world.source]
    ).fetchone()
    assert versions == (1,)
    await world.assert_sums_to_zero()


async def test_several_currencies_are_proved_apart(world: World) -> None:
    file = DayFile().line(500, **await world.capture(500))
    file.close()
    file.open_day(0, currency="JPY", statement="yen")
    file.line(70, psp_reference=reference())
    run = await world.day(file)
    assert [(one.currency_code, one.lines_minor, one.ledger_minor) for one in run.balances] == [
        ("EUR", 500, 500),
        ("JPY", 70, 70),
    ]
    assert await world.balance(SUSPENSE, "JPY") == 70


async def test_breaks_are_listed_in_pages_and_by_class_and_state(world: World) -> None:
    file = DayFile()
    for _ in range(5):
        file.line(100, psp_reference=reference())
    file.line(-50, 0, kind="REFUND", psp_reference=reference())
    run = await world.day(file)
    token = ""
    found: list[pb.Break] = []
    while True:
        page = await world.reconciliation.ListBreaks(
            pb.ListBreaksRequest(run_id=run.run_id, page_size=2, page_token=token)
        )
        found += page.breaks
        token = page.next_page_token
        if not token:
            break
    assert len({one.break_id for one in found}) == len(found) == 6
    unknown = await world.breaks(run, **{"class": pb.BREAK_CLASS_UNKNOWN_TO_US})
    assert len(unknown) == 5
    assert await world.breaks(run, state=pb.BREAK_STATE_OPEN) == []


async def test_a_day_without_a_file_can_t_be_reconciled(world: World) -> None:
    error = await error_of(world.run())
    assert (error.code, error.reason) == (
        Code.FAILED_PRECONDITION,
        Reason.SETTLEMENT_FILE_MISSING,
    )
    # A quarantined file is no file.
    await ingest(world.reconciliation, b"nonsense", world.source)
    again = await error_of(world.run())
    assert again.reason is Reason.SETTLEMENT_FILE_MISSING


async def test_a_file_that_has_not_come_is_fetched_once(
    world: World, adapter: tuple[str, Adapter]
) -> None:
    world.source, behind = adapter
    down = await error_of(world.run())
    assert down.reason is Reason.DEPENDENCY_DOWN
    behind.file = b"nonsense"
    unusable = await error_of(world.run())
    assert unusable.reason is Reason.SETTLEMENT_FILE_MISSING
    assert unusable.metadata["problem"].startswith("UNKNOWN_FORMAT")
    behind.file = DayFile(day="2026-02-01").content()
    another_day = await error_of(world.run())
    assert another_day.metadata["problem"].startswith("DATE_DIFFERS")

    mine = await world.capture(500, 5)
    behind.file = DayFile().line(500, 5, **mine).content()
    run = await world.run()
    assert (run.state, run.matched) == (pb.RUN_STATE_BALANCED, 1)
    assert await world.run() == run
    assert [str(day) for day in behind.asked] == [DAY] * 4


async def test_bad_input_is_refused(world: World) -> None:
    stub = world.reconciliation
    nobody = uuid.uuid4().hex
    for call, reason in (
        (
            stub.Reconcile(pb.ReconcileRequest(settlement_date="2026-02-30", source=world.source)),
            Reason.VALIDATION_FAILED,
        ),
        (
            stub.Reconcile(pb.ReconcileRequest(settlement_date="today", source=world.source)),
            Reason.VALIDATION_FAILED,
        ),
        (
            stub.Reconcile(pb.ReconcileRequest(settlement_date=DAY, source="nobody")),
            Reason.SOURCE_NOT_FOUND,
        ),
        (stub.GetRun(pb.GetRunRequest(run_id=nobody)), Reason.RUN_NOT_FOUND),
        (stub.ListBreaks(pb.ListBreaksRequest(run_id=nobody)), Reason.RUN_NOT_FOUND),
        (
            stub.ListBreaks(pb.ListBreaksRequest(state=pb.BreakState.ValueType(99))),
            Reason.VALIDATION_FAILED,
        ),
        (stub.ListBreaks(pb.ListBreaksRequest(page_token="x")), Reason.VALIDATION_FAILED),
        (stub.ListRuns(pb.ListRunsRequest(settlement_date="x")), Reason.VALIDATION_FAILED),
        (stub.ListRuns(pb.ListRunsRequest(page_size=-1)), Reason.VALIDATION_FAILED),
    ):
        assert (await error_of(call)).reason is reason
