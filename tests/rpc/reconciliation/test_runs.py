"""Runs are the same again, prove themselves, and refuse what is no day."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from datetime import date, timedelta
from typing import Any

import pytest
from paymesh.reconciliation.v1 import reconciliation_service_pb2 as pb
from structlog.testing import capture_logs

from ledger_svc.config import Settings
from ledger_svc.main import wire
from ledger_svc.reconciliation import domain, run
from ledger_svc.reconciliation.sources import Source
from mesh import ids
from mesh.errors import Code, MeshError, Reason
from mesh.money import MAX_AMOUNT_MINOR
from tests.rpc.reconciliation.conftest import MAX_FILE_BYTES, Adapter
from tests.rpc.reconciliation.test_decide import POST, close, decision, resolve
from tests.support.ports import free_port
from tests.support.reconciliation import DAY, DayFile, ingest, reference
from tests.support.reconciliation_world import (
    FEES,
    SUSPENSE,
    World,
    charge_cells,
    class_of,
    counts,
)
from tests.support.serving import error_of, serving


async def versions(world: World) -> list[tuple[str, int, int]]:
    """Day, version and lines of every run, in their order."""
    listed = await world.reconciliation.ListRuns(pb.ListRunsRequest(source=world.source))
    return sorted((one.settlement_date, one.version, one.lines) for one in listed.runs)


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


async def test_a_day_that_was_not_ready_is_fetched_however_many_nights_later(
    world: World, adapter: tuple[str, Adapter]
) -> None:
    world.source, behind = adapter
    behind.files = {f"2026-02-0{n}": DayFile(day=f"2026-02-0{n}").content() for n in (1, 3, 4, 5)}
    await world.run("2026-02-01")
    for day in ("2026-02-03", "2026-02-04"):
        await world.run(day)
    behind.files["2026-02-02"] = DayFile(day="2026-02-02").content()
    behind.asked.clear()
    await world.run("2026-02-05")
    assert [str(day) for day in behind.asked] == ["2026-02-05", "2026-02-02"]
    assert await versions(world) == [
        ("2026-02-01", 1, 0), ("2026-02-02", 1, 0), ("2026-02-03", 1, 0), ("2026-02-03", 2, 0),
        ("2026-02-04", 1, 0), ("2026-02-05", 1, 0),
    ]  # fmt: skip
    assert [one.state for one in await world.breaks()] == [pb.BREAK_STATE_CLEARED]


async def test_a_day_that_has_a_file_and_no_run_is_reconciled_with_the_next(
    world: World, adapter: tuple[str, Adapter]
) -> None:
    world.source, behind = adapter
    await world.day(DayFile())
    mine = await world.capture(500)
    # Two days came without a run: of the one the night was killed once it had fetched the file.
    for n in (1, 2):
        file = DayFile(day=f"2026-02-0{n}")
        if n == 1:
            file.line(500, **mine).line(-500, 0, "FEE")
        await ingest(world.reconciliation, file.content(), world.source)
    later = await world.day(DayFile(day="2026-02-03"), "2026-02-03")
    assert later.state == pb.RUN_STATE_BALANCED
    assert behind.asked == []
    assert await versions(world) == [
        (DAY, 1, 0), ("2026-02-01", 1, 2), ("2026-02-02", 1, 0), ("2026-02-03", 1, 0),
    ]  # fmt: skip
    assert world.matches() == 1
    assert await world.run("2026-02-03") == later
    assert len(await versions(world)) == 4


async def test_a_correction_that_nobody_asks_for_counts_from_the_next_night_on(
    world: World,
) -> None:
    strange = reference()
    first = await world.day(DayFile().line(100, psp_reference=strange).line(-100, 0, "FEE"))
    assert await world.balance(SUSPENSE) == 100
    await close(world)
    corrected = DayFile(revision=1).line(120, psp_reference=strange).line(-120, 0, "FEE")
    await ingest(world.reconciliation, corrected.content(), world.source)
    # Until then the day can't be closed as it was.
    refused = await error_of(close(world))
    assert refused.reason is Reason.WRONG_STATE
    assert refused.metadata == {"run_id": first.run_id}

    await world.day(DayFile(day="2026-02-01"), "2026-02-01")
    assert await versions(world) == [(DAY, 1, 2), (DAY, 2, 2), ("2026-02-01", 1, 0)]
    assert await world.balance(SUSPENSE) == 120
    closed = await close(world)
    assert (closed.version, closed.close_actor) == (2, "ada")


async def test_a_difference_that_no_entry_can_hold_stays_open_and_its_day_has_its_run(
    world: World,
) -> None:
    mine = await world.capture(500)
    done = await world.day(DayFile().line(-MAX_AMOUNT_MINOR, **mine))
    assert (done.state, done.balances[0].difference_minor) == (pb.RUN_STATE_EXPLAINED, 0)
    [found] = await world.breaks(done)
    assert (class_of(found), found.state) == (
        pb.BREAK_CLASS_AMOUNT_DIFFERS,
        pb.BREAK_STATE_OPEN,
    )
    assert (found.amount_minor, list(found.proposal)) == (-MAX_AMOUNT_MINOR - 500, [])
    assert world.booked() == 0
    refused = await error_of(resolve(world, decision(found.break_id, POST)))
    assert refused.reason is Reason.WRONG_STATE
    assert await world.run() == done


@pytest.mark.parametrize("is_late", [False, True])
async def test_another_day_that_fails_is_told_and_does_not_stop_the_one_that_is_asked_for(
    world: World, monkeypatch: pytest.MonkeyPatch, is_late: bool
) -> None:
    mine = charge_cells()
    if is_late:
        await world.day(DayFile().line(500, **mine))
        await world.capture(500, cells=mine)
    else:
        await ingest(world.reconciliation, DayFile().content(), world.source)
    await ingest(
        world.reconciliation, DayFile(500 * is_late, day="2026-02-01").content(), world.source
    )
    reconcile: Callable[..., Awaitable[domain.Run]] = run.reconcile

    async def failing(database: Any, name: str, source: Source, day: date) -> domain.Run:
        if str(day) == DAY:
            raise MeshError(Reason.INTERNAL, "a row was refused")
        return await reconcile(database, name, source, day)

    monkeypatch.setattr(run, "reconcile", failing)
    with capture_logs() as lines:
        assert (await world.run("2026-02-01")).state == pb.RUN_STATE_BALANCED
    assert [line for line in lines if line["event"] == "day_left_behind"] == [
        {
            "event": "day_left_behind",
            "log_level": "warning",
            "source": world.source,
            "settlement_date": DAY,
            "cause": "INTERNAL: a row was refused",
        }
    ]
    # Who asks for that day itself is told.
    assert (await error_of(world.run())).code is Code.INTERNAL
    monkeypatch.undo()
    await world.run("2026-02-01")
    assert [day for day, _, _ in await versions(world)].count(DAY) == 1 + is_late


async def test_a_missing_day_whose_file_is_too_large_does_not_stop_the_one_that_is_asked_for(
    world: World, adapter: tuple[str, Adapter]
) -> None:
    world.source, behind = adapter
    behind.files = {day: DayFile(day=day).content() for day in ("2026-02-01", "2026-02-03")}
    behind.files["2026-02-02"] = b"x" * (MAX_FILE_BYTES + 1)
    await world.run("2026-02-01")
    later = await world.run("2026-02-03")
    assert [one.rule for one in await world.breaks(later)] == ["DAY_MISSING 2026-02-02"]


async def test_a_night_goes_back_no_further_than_a_line_for_its_capture(world: World) -> None:
    for day in ("2025-12-17", "2025-12-18"):
        await ingest(world.reconciliation, DayFile(day=day).content(), world.source)
    await world.day(DayFile(day="2026-02-01"), "2026-02-01")
    assert await versions(world) == [("2025-12-18", 1, 0), ("2026-02-01", 1, 0)]
    # What is later than the asked day is not touched.
    await ingest(world.reconciliation, DayFile(day="2026-02-02").content(), world.source)
    await world.run("2026-02-01")
    assert len(await versions(world)) == 2


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


async def test_settings_that_come_back_are_a_new_version_again(
    databases: dict[str, str], world: World
) -> None:
    strict = Source(kind="psp", accounts=frozenset({"acct-1"}))
    lenient = strict.model_copy(update={"fee_tolerance_minor": 2})
    cells = await world.capture(500, 5)
    await ingest(world.reconciliation, DayFile().line(500, 7, **cells).content(), world.source)
    runs = []
    for source in (strict, lenient, strict, strict):
        settings = Settings(
            port=free_port(),
            database_url=databases["ledger"],
            drain_s=0,
            sources={world.source: source},
        )
        async with serving(wire, settings) as channel:
            runs.append(await World(world.source, channel, world.sql).run())
            if source is lenient:
                assert await world.balance(FEES) == 7
    assert [run.version for run in runs] == [1, 2, 3, 3]
    assert len({run.run_id for run in runs}) == 3
    assert [run.balances[0].breaks_minor for run in runs] == [-2, 0, -2, -2]
    # What the second booked is reversed.
    assert world.booked() == 2
    assert await world.balance(FEES) == 5
    [found] = await world.breaks(runs[-1])
    assert (found.state, found.booked_journal_id) == (pb.BREAK_STATE_OPEN, "")


async def test_what_comes_after_the_cut_off_is_the_next_days_and_no_older(
    databases: dict[str, str], world: World
) -> None:
    # A second after midnight: but for this one, all of today is the settlement day after it.
    source = Source.model_validate({"kind": "psp", "cut_off": "00:00:01", "settle_days": 1})
    settings = Settings(
        port=free_port(),
        database_url=databases["ledger"],
        drain_s=0,
        sources={world.source: source},
    )
    row = world.sql.execute("SELECT (paymesh_now() AT TIME ZONE 'UTC')::date").fetchone()
    assert row is not None
    today, tomorrow, later = (str(row[0] + timedelta(days=n)) for n in range(3))
    await world.capture(500)
    async with serving(wire, settings) as channel:
        late = World(world.source, channel, world.sql)
        found = [counts(await late.day(DayFile(day=day), day)) for day in (today, tomorrow, later)]
    assert found == [{}, {pb.BREAK_CLASS_TIMING: 1}, {pb.BREAK_CLASS_NEVER_SETTLED: 1}]


async def test_a_run_of_before_the_version_was_in_the_id_is_the_same_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = ids.reconciliation_run_id
    with monkeypatch.context() as before:
        before.setattr(ids, "reconciliation_run_id", lambda *told: now(*told[:-1]))
        old = await world.day(DayFile().line(100, psp_reference=reference()))
    assert await world.run() == old


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
    ancient = await error_of(world.run("0001-01-01"))
    assert ancient.reason is Reason.SETTLEMENT_FILE_MISSING
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
