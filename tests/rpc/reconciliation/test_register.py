"""A line that no capture explains: what the register knows of it tells class 14 from class 3."""

from __future__ import annotations

import uuid

import pytest
from paymesh.ledger.v1 import operation_register_service_pb2 as register_pb
from paymesh.reconciliation.v1 import reconciliation_service_pb2 as pb

from mesh import ids
from tests.support.reconciliation import DAY, DayFile, reference
from tests.support.reconciliation_world import (
    RECEIVABLE,
    SUSPENSE,
    World,
    charge_cells,
    class_of,
    counts,
)

UNKNOWN = register_pb.REGISTER_STATE_UNKNOWN
PARKED = register_pb.REGISTER_STATE_PARKED
DECLINED = register_pb.REGISTER_STATE_DECLINED

NEXT_DAY = "2026-02-01"


@pytest.mark.parametrize("name", ["PENDING", "UNKNOWN", "PARKED", "DECLINED", "CAPTURED"])
async def test_class_14_the_evidence_names_what_the_register_says(world: World, name: str) -> None:
    cells = await world.registered(register_pb.RegisterState.Value(f"REGISTER_STATE_{name}"))
    run = await world.day(DayFile().line(250, 10, **cells))
    assert run.state == pb.RUN_STATE_EXPLAINED
    [found] = await world.breaks(run)
    assert class_of(found) == pb.BREAK_CLASS_STATUS_DIFFERS
    assert (found.rule, found.state) == (f"REGISTER_{name}", pb.BREAK_STATE_POSTED)
    assert (found.operation_id, found.order_id) == (cells["operation_id"], cells["order_id"])
    assert await world.balance(SUSPENSE) == 240
    assert await world.balance(RECEIVABLE) == 240
    await world.assert_sums_to_zero()
    assert await world.run() == run
    assert world.booked() == 1


async def test_what_the_register_does_not_know_is_class_3_though_it_is_named_by_our_own_key(
    world: World,
) -> None:
    run = await world.day(DayFile().line(250, 10, **charge_cells()))
    [found] = await world.breaks(run)
    assert class_of(found) == pb.BREAK_CLASS_UNKNOWN_TO_US
    assert (found.rule, found.state) == ("LEFT_OVER", pb.BREAK_STATE_POSTED)


async def test_a_line_that_names_only_the_psps_reference_is_known_by_it(world: World) -> None:
    theirs = reference()
    cells = await world.registered(DECLINED, psp_reference=theirs)
    run = await world.day(
        DayFile().line(250, psp_reference=theirs).line(250, psp_reference=reference())
    )
    found = {class_of(one): one for one in await world.breaks(run)}
    assert set(found) == {pb.BREAK_CLASS_STATUS_DIFFERS, pb.BREAK_CLASS_UNKNOWN_TO_US}
    known = found[pb.BREAK_CLASS_STATUS_DIFFERS]
    assert (known.rule, known.psp_reference) == ("REGISTER_DECLINED", theirs)
    assert (known.operation_id, known.order_id) == (cells["operation_id"], cells["order_id"])


async def test_what_is_registered_after_the_run_changes_the_next_one_and_books_nothing_more(
    world: World,
) -> None:
    cells = charge_cells()
    first = await world.day(DayFile().line(250, 10, **cells))
    assert counts(first) == {pb.BREAK_CLASS_UNKNOWN_TO_US: 1}
    await world.registered(UNKNOWN, cells)
    second = await world.run()
    assert (second.version, counts(second)) == (2, {pb.BREAK_CLASS_STATUS_DIFFERS: 1})
    # The next night finds it, whichever day it asks for.
    await world.registered(DECLINED, cells, version=2)
    await world.day(DayFile(240, day=NEXT_DAY), NEXT_DAY)
    [found] = await world.breaks()
    assert found.rule == "REGISTER_DECLINED"
    assert await world.balance(SUSPENSE) == 240
    assert world.booked() == 1
    last = await world.run()
    assert last.version == 3
    await world.run(NEXT_DAY)
    assert await world.run() == last


async def test_a_register_that_is_told_of_a_booked_capture_changes_no_run(world: World) -> None:
    cells = await world.registered(UNKNOWN)
    await world.capture(250, 10, cells=cells)
    run = await world.day(DayFile().line(250, 10, **cells))
    assert run.state == pb.RUN_STATE_BALANCED
    await world.registered(register_pb.REGISTER_STATE_CAPTURED, cells, version=2)
    assert await world.run() == run


async def test_a_declined_charge_that_is_there_twice_is_one_of_14_and_one_of_7(
    world: World,
) -> None:
    cells = await world.registered(DECLINED)
    run = await world.day(DayFile().line(250, **cells).line(250, **cells))
    assert counts(run) == {
        pb.BREAK_CLASS_DUPLICATE_IN_FILE: 1,
        pb.BREAK_CLASS_STATUS_DIFFERS: 1,
    }
    assert await world.balance(SUSPENSE) == 500


@pytest.mark.parametrize("state", [UNKNOWN, PARKED])
async def test_the_capture_that_the_line_led_to_takes_it_out_of_suspense(
    world: World, state: register_pb.RegisterState.ValueType
) -> None:
    cells = await world.registered(state)
    await world.day(DayFile().line(250, 10, **cells))
    assert await world.balance(SUSPENSE) == 240

    # The line is what payment_svc asks for.
    asked = pb.FindSettlementLinesRequest(operation_ids=[cells["operation_id"]])
    evidence = await world.reconciliation.FindSettlementLines(asked)
    assert [(line.gross_minor, line.journal_id) for line in evidence.lines] == [(250, "")]

    await world.capture(250, 10, cells=cells)
    # The next night finds it, whichever day it asks for.
    next_day = await world.day(DayFile(240, day=NEXT_DAY), NEXT_DAY)
    assert next_day.state == pb.RUN_STATE_BALANCED
    runs = await world.reconciliation.ListRuns(
        pb.ListRunsRequest(source=world.source, settlement_date=DAY)
    )
    assert [(one.version, one.state) for one in runs.runs] == [
        (2, pb.RUN_STATE_BALANCED),
        (1, pb.RUN_STATE_EXPLAINED),
    ]
    assert await world.balance(SUSPENSE) == 0
    assert await world.balance(RECEIVABLE) == 240
    assert [one.state for one in await world.breaks()] == [pb.BREAK_STATE_CLEARED]
    await world.assert_sums_to_zero()
    evidence = await world.reconciliation.FindSettlementLines(asked)
    journal_id = ids.journal_id("capture", uuid.UUID(cells["operation_id"])).hex
    assert [line.journal_id for line in evidence.lines] == [journal_id]
