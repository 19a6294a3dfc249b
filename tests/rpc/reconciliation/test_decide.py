"""Operators resolve breaks and close days, once each."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest
from paymesh.reconciliation.v1 import reconciliation_service_pb2 as pb

from mesh.errors import Code, Reason
from tests.support.reconciliation import DAY, DayFile, reference
from tests.support.reconciliation_world import (
    FEES,
    RECEIVABLE,
    SUSPENSE,
    World,
    charge_cells,
    class_of,
)
from tests.support.serving import error_of

POST, ACCEPT = pb.RESOLUTION_POST, pb.RESOLUTION_ACCEPT


def decision(break_id: str, resolution: Any, **given: str) -> pb.ResolveBreakRequest:
    told = {"request_id": uuid.uuid4().hex, "actor": "ada", "note": "agreed with the PSP"}
    return pb.ResolveBreakRequest(break_id=break_id, resolution=resolution, **(told | given))


async def resolve(world: World, request: pb.ResolveBreakRequest, caller: str = "") -> pb.Break:
    metadata = (("paymesh-caller", caller),) if caller else ()
    response = await world.reconciliation.ResolveBreak(request, metadata=metadata)
    return response.resolved_break


async def close(world: World, **given: str) -> pb.Run:
    told = {
        "request_id": uuid.uuid4().hex,
        "settlement_date": DAY,
        "source": world.source,
        "actor": "ada",
    }
    response = await world.reconciliation.CloseDay(pb.CloseDayRequest(**(told | given)))
    return response.run


async def waiting(world: World) -> pb.Break:
    """A reserve that the PSP held, which waits for approval."""
    run = await world.day(
        DayFile(1000).line(-70, 0, kind="RESERVE_HOLD", psp_reference=reference())
    )
    [found] = await world.breaks(run)
    assert found.state == pb.BREAK_STATE_OPEN
    return found


async def test_a_proposal_that_is_approved_is_posted_once(world: World) -> None:
    found = await waiting(world)
    request = decision(found.break_id, POST)
    resolved = await resolve(world, request)
    # In suspense, which is not where it belongs.
    assert resolved.state == pb.BREAK_STATE_POSTED
    assert resolved.booked_journal_id
    assert resolved.proposal == found.proposal
    assert await world.balance(RECEIVABLE) == -70
    assert await world.balance(SUSPENSE) == -70
    answers = await asyncio.gather(*(resolve(world, request) for _ in range(5)))
    assert all(answer == resolved for answer in answers)
    assert world.booked() == 1
    run = await world.run()
    assert (run.version, run.balances[0].breaks_minor) == (2, 0)
    assert run.balances[0].ledger_minor == -70
    await world.assert_sums_to_zero()


async def test_what_is_accepted_stays_as_it_is(world: World) -> None:
    strange = reference()
    run = await world.day(DayFile().line(100, psp_reference=strange))
    [found] = await world.breaks(run)
    resolved = await resolve(world, decision(found.break_id, ACCEPT))
    assert resolved.state == pb.BREAK_STATE_RESOLVED
    assert resolved.booked_journal_id == found.booked_journal_id
    assert world.booked() == 1
    again = await world.run()
    assert (again.version, again.state) == (2, pb.RUN_STATE_EXPLAINED)
    [same] = await world.breaks(again)
    assert same.state == pb.BREAK_STATE_RESOLVED


async def test_what_was_moved_to_suspense_is_listed_until_it_is_accepted(world: World) -> None:
    found = await waiting(world)
    await resolve(world, decision(found.break_id, POST))
    [listed] = await world.breaks(state=pb.BREAK_STATE_POSTED)
    assert listed.break_id == found.break_id
    accepted = await resolve(world, decision(found.break_id, ACCEPT))
    assert (accepted.state, accepted.booked_journal_id) == (
        pb.BREAK_STATE_RESOLVED,
        listed.booked_journal_id,
    )
    assert await world.balance(SUSPENSE) == -70


async def test_a_proposal_to_where_it_belongs_is_resolved_by_its_posting(world: World) -> None:
    """A fee that differs by more than is booked without asking."""
    run = await world.day(DayFile().line(500, 9, **await world.capture(500, 5)))
    [found] = await world.breaks(run)
    assert (class_of(found), found.state) == (
        pb.BREAK_CLASS_FEE_DIFFERS,
        pb.BREAK_STATE_OPEN,
    )
    resolved = await resolve(world, decision(found.break_id, POST))
    assert resolved.state == pb.BREAK_STATE_RESOLVED
    assert await world.balance(FEES) == 9


async def test_what_stands_in_suspense_is_not_open_when_its_class_changes(world: World) -> None:
    cells = [charge_cells(order_id=(order := uuid.uuid4().hex)), charge_cells(order_id=order)]
    for one in cells:
        await world.capture(500, cells=one)
    never, settled = in_days(world, 3), in_days(world, 4)
    await world.day(DayFile(day=never), never)
    await world.day(DayFile(day=settled).line(500, **cells[0]), settled)
    # The other of them is there twice, and what was posted for it stands.
    [twice] = await world.breaks(state=pb.BREAK_STATE_POSTED)
    assert class_of(twice) == pb.BREAK_CLASS_DUPLICATE_IN_LEDGER
    assert (twice.operation_id, bool(twice.booked_journal_id)) == (cells[1]["operation_id"], True)
    assert await world.breaks(state=pb.BREAK_STATE_OPEN) == []
    assert await world.balance(SUSPENSE) == -500


def in_days(world: World, count: int) -> str:
    """The day so many days from now on."""
    rows = world.sql.execute(
        "SELECT (paymesh_now() AT TIME ZONE 'UTC')::date + %s", [count]
    ).fetchall()
    return str(rows[0][0])


async def test_what_is_accepted_before_it_is_posted_is_not_posted_later(world: World) -> None:
    await world.capture(500)
    today, later = in_days(world, 0), in_days(world, 3)
    [timing] = await world.breaks(await world.day(DayFile(day=today), today))
    assert class_of(timing) == pb.BREAK_CLASS_TIMING
    await resolve(world, decision(timing.break_id, ACCEPT))
    run = await world.day(DayFile(day=later), later)
    # It has become another class, of those that post by themselves.
    [found] = await world.breaks(run)
    assert (found.break_id, class_of(found)) == (timing.break_id, pb.BREAK_CLASS_NEVER_SETTLED)
    assert (found.state, found.booked_journal_id) == (pb.BREAK_STATE_RESOLVED, "")
    assert world.booked() == 0
    assert await world.balance(RECEIVABLE) == 500


async def test_what_was_accepted_as_it_was_posted_is_posted_again_when_it_comes_back(
    world: World,
) -> None:
    strange = reference()
    run = await world.day(DayFile().line(100, psp_reference=strange))
    [found] = await world.breaks(run)
    await resolve(world, decision(found.break_id, ACCEPT))
    await world.day(DayFile(revision=1).line(120, psp_reference=strange))
    assert await world.balance(SUSPENSE) == 120
    again = await world.day(DayFile(revision=2).line(100, psp_reference=strange))
    [same] = await world.breaks(again)
    assert (same.break_id, same.state) == (found.break_id, pb.BREAK_STATE_RESOLVED)
    assert same.booked_journal_id
    assert await world.balance(SUSPENSE) == 100


async def test_a_difference_of_another_amount_is_asked_anew(world: World) -> None:
    held = reference()
    run = await world.day(DayFile(1000).line(-70, 0, kind="RESERVE_HOLD", psp_reference=held))
    [found] = await world.breaks(run)
    await resolve(world, decision(found.break_id, POST))
    await world.day(DayFile(1000, revision=1).line(-80, 0, kind="RESERVE_HOLD", psp_reference=held))
    [now] = await world.breaks()
    assert (now.break_id, now.amount_minor) == (found.break_id, -80)
    assert now.state == pb.BREAK_STATE_OPEN
    assert await world.balance(SUSPENSE) == 0
    assert world.booked() == 2


@pytest.mark.parametrize("resolution", [POST, ACCEPT])
async def test_what_is_resolved_can_t_be_resolved_again(world: World, resolution: Any) -> None:
    found = await waiting(world)
    await resolve(world, decision(found.break_id, resolution))
    error = await error_of(resolve(world, decision(found.break_id, resolution)))
    assert (error.code, error.reason) == (Code.FAILED_PRECONDITION, Reason.WRONG_STATE)


async def test_a_request_id_is_for_one_request_of_one_caller(world: World) -> None:
    found = await waiting(world)
    request = decision(found.break_id, ACCEPT)
    await resolve(world, request, "back-office")
    other = decision(found.break_id, POST, request_id=request.request_id, note="no")
    reused = await error_of(resolve(world, other, "back-office"))
    assert (reused.reason, reused.metadata) == (
        Reason.REQUEST_ID_REUSED,
        {"fields": "note,resolution"},
    )
    assert (await error_of(resolve(world, other))).reason is Reason.WRONG_STATE
    bad = await error_of(resolve(world, other, "Not a name!"))
    assert bad.reason is Reason.VALIDATION_FAILED


async def test_nothing_is_posted_that_lines_move_already(world: World) -> None:
    await world.day(DayFile(0))
    broken = await world.day(DayFile(5, day="2026-02-01"), "2026-02-01")
    [found] = await world.breaks(broken)
    error = await error_of(resolve(world, decision(found.break_id, POST)))
    assert error.reason is Reason.WRONG_STATE
    posted = await world.day(
        DayFile(5, day="2026-02-02").line(100, psp_reference=reference()), "2026-02-02"
    )
    [in_suspense] = await world.breaks(posted)
    twice = await error_of(resolve(world, decision(in_suspense.break_id, POST)))
    assert twice.reason is Reason.WRONG_STATE


async def test_a_day_is_closed_and_a_late_file_opens_it_again(world: World) -> None:
    run = await world.day(DayFile().line(500, **await world.capture(500)))
    request_id = uuid.uuid4().hex
    closed = await close(world, request_id=request_id)
    assert (closed.run_id, closed.close_actor) == (run.run_id, "ada")
    assert closed.HasField("close_time")
    assert await close(world, request_id=request_id) == closed
    assert await close(world, actor="bea") == closed
    assert await world.run() == closed
    reused = await error_of(close(world, request_id=request_id, actor="bea"))
    assert (reused.reason, reused.metadata) == (Reason.REQUEST_ID_REUSED, {"fields": "actor"})

    reopened = await world.day(DayFile(500, statement="late").line(100, **await world.capture(100)))
    assert (reopened.version, reopened.close_actor) == (2, "")
    assert (await close(world)).run_id == reopened.run_id


async def test_a_wish_that_met_a_closed_day_closes_no_later_version(world: World) -> None:
    await world.day(DayFile())
    closed = await close(world)
    request_id = uuid.uuid4().hex
    assert await close(world, request_id=request_id, actor="bea") == closed
    reused = await error_of(close(world, request_id=request_id, actor="ada"))
    assert (reused.reason, reused.metadata) == (Reason.REQUEST_ID_REUSED, {"fields": "actor"})

    await world.day(DayFile(statement="late"))
    assert await close(world, request_id=request_id, actor="bea") == closed
    latest = await world.run()
    assert (latest.version, latest.close_actor) == (2, "")


async def test_a_day_with_breaks_that_wait_is_not_closed(world: World) -> None:
    found = await waiting(world)
    error = await error_of(close(world))
    assert (error.reason, error.metadata) == (Reason.WRONG_STATE, {"breaks": "1"})
    await resolve(world, decision(found.break_id, ACCEPT))
    assert (await close(world)).state == pb.RUN_STATE_EXPLAINED


async def test_a_day_that_is_open_or_unknown_is_not_closed(world: World) -> None:
    assert (await error_of(close(world))).reason is Reason.RUN_NOT_FOUND
    assert (await error_of(close(world, source="nobody"))).reason is Reason.SOURCE_NOT_FOUND
    await world.day(DayFile(0))
    await world.day(DayFile(5, day="2026-02-01"), "2026-02-01")
    error = await error_of(close(world, settlement_date="2026-02-01"))
    assert error.reason is Reason.WRONG_STATE


async def test_bad_input_is_refused(world: World) -> None:
    nobody = uuid.uuid4().hex
    missing = await error_of(resolve(world, decision(nobody, ACCEPT)))
    assert (missing.code, missing.reason) == (Code.NOT_FOUND, Reason.BREAK_NOT_FOUND)
    for request, field in (
        (decision("x", ACCEPT), "break_id"),
        (decision(nobody, 0), "resolution"),
        (decision(nobody, ACCEPT, actor=""), "actor"),
        (decision(nobody, ACCEPT, note=""), "note"),
        (decision(nobody, ACCEPT, request_id=""), "request_id"),
        (decision(nobody, ACCEPT, request_id="x" * 256), "request_id"),
    ):
        error = await error_of(resolve(world, request))
        assert [violation.field for violation in error.violations] == [field]
    error = await error_of(close(world, settlement_date="2026-02-30"))
    assert [violation.field for violation in error.violations] == ["settlement_date"]
