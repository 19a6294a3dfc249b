"""What posts by itself, four ways: zero, cleared, once, and taken back by what comes late."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import pytest
from paymesh.ledger.v1 import operation_register_service_pb2 as register_pb
from paymesh.reconciliation.v1 import reconciliation_service_pb2 as pb

from tests.support.reconciliation import DAY, DayFile, reference
from tests.support.reconciliation_world import (
    FEES,
    RECEIVABLE,
    SUSPENSE,
    World,
    charge_cells,
    class_of,
    counts,
)

GROSS, FEE = 500, 5
NET = GROSS - FEE


class Seeded(NamedTuple):
    """A day with one difference, posted. comes_late: what makes it right, as its day's run."""

    day: str
    run: pb.Run
    closing: int
    comes_late: Callable[[], Awaitable[pb.Run]]


class Case(NamedTuple):
    """A class that posts. counter, posted: the other account, and what the posting brings it.

    right: the balances of (receivable, counter) once what was late has come.
    """

    seed: Callable[[World], Awaitable[Seeded]]
    counter: Any
    posted: int
    right: tuple[int, int]
    source: str = "psp"


async def _never_settled(world: World) -> Seeded:
    mine = await world.capture(GROSS, FEE)
    rows = world.sql.execute(
        "SELECT (paymesh_now() AT TIME ZONE 'UTC')::date + n FROM generate_series(3, 4) AS n"
    ).fetchall()
    day, next_day = (str(row[0]) for row in rows)

    async def settled_after_all() -> pb.Run:
        return await world.day(DayFile(day=next_day).line(GROSS, FEE, **mine), next_day)

    return Seeded(day, await world.day(DayFile(day=day), day), 0, settled_after_all)


async def _unknown_to_us(world: World) -> Seeded:
    strange = reference()

    async def captured() -> pb.Run:
        await world.capture(GROSS, FEE, cells=charge_cells(psp_reference=strange))
        return await world.run()

    run = await world.day(DayFile().line(GROSS, FEE, psp_reference=strange))
    return Seeded(DAY, run, NET, captured)


async def _fee_differs(world: World) -> Seeded:
    mine = await world.capture(GROSS, FEE)

    async def corrected() -> pb.Run:
        return await world.day(DayFile(revision=1).line(GROSS, FEE, **mine))

    run = await world.day(DayFile().line(GROSS, FEE + 2, **mine))
    return Seeded(DAY, run, NET - 2, corrected)


async def _duplicate_in_file(world: World) -> Seeded:
    mine = await world.capture(GROSS, FEE)

    async def corrected() -> pb.Run:
        return await world.day(DayFile(revision=1).line(GROSS, FEE, **mine))

    run = await world.day(DayFile().line(GROSS, FEE, **mine).line(GROSS, FEE, **mine))
    return Seeded(DAY, run, 2 * NET, corrected)


async def _status_differs(world: World) -> Seeded:
    mine = await world.registered(register_pb.REGISTER_STATE_UNKNOWN)

    async def captured() -> pb.Run:
        await world.capture(GROSS, FEE, cells=mine)
        return await world.run()

    return Seeded(DAY, await world.day(DayFile().line(GROSS, FEE, **mine)), NET, captured)


CASES: dict[pb.BreakClass.ValueType, Case] = {
    pb.BREAK_CLASS_NEVER_SETTLED: Case(_never_settled, SUSPENSE, -NET, (NET, 0)),
    pb.BREAK_CLASS_UNKNOWN_TO_US: Case(_unknown_to_us, SUSPENSE, NET, (NET, 0)),
    pb.BREAK_CLASS_FEE_DIFFERS: Case(_fee_differs, FEES, 2, (NET, FEE), source="fees"),
    pb.BREAK_CLASS_DUPLICATE_IN_FILE: Case(_duplicate_in_file, SUSPENSE, NET, (NET, 0)),
    pb.BREAK_CLASS_STATUS_DIFFERS: Case(_status_differs, SUSPENSE, NET, (NET, 0)),
}


async def _sums_to_zero(world: World, case: Case, class_: int) -> None:
    seeded = await case.seed(world)
    await world.assert_sums_to_zero()
    assert await world.balance(RECEIVABLE) == seeded.closing
    assert await world.balance(case.counter) == case.right[1] + case.posted
    await seeded.comes_late()
    await world.assert_sums_to_zero()


async def _break_clears(world: World, case: Case, class_: int) -> None:
    seeded = await case.seed(world)
    assert (seeded.run.state, counts(seeded.run)) == (pb.RUN_STATE_EXPLAINED, {class_: 1})
    # Nothing of it is left between the file and the ledger …
    for one in seeded.run.balances:
        assert (one.breaks_minor, one.difference_minor) == (0, 0)
    [found] = await world.breaks(seeded.run)
    final = class_ == pb.BREAK_CLASS_FEE_DIFFERS
    assert found.state == (pb.BREAK_STATE_RESOLVED if final else pb.BREAK_STATE_POSTED)
    assert found.booked_journal_id
    # … and once it is right nothing of it is left at all.
    late = await seeded.comes_late()
    assert (late.state, late.breaks) == (pb.RUN_STATE_BALANCED, 0)
    [cleared] = await world.breaks()
    assert (cleared.break_id, class_of(cleared)) == (found.break_id, class_)
    assert (cleared.state, cleared.booked_journal_id) == (pb.BREAK_STATE_CLEARED, "")


async def _second_run_posts_nothing(world: World, case: Case, class_: int) -> None:
    seeded = await case.seed(world)
    assert world.booked() == 1
    runs = await asyncio.gather(*(world.run(seeded.day) for _ in range(4)))
    assert [*runs, await world.run(seeded.day)] == [seeded.run] * 5
    assert world.booked() == 1
    late = await seeded.comes_late()
    assert world.booked() == 2
    assert await world.run(late.settlement_date) == late
    assert world.booked() == 2


async def _late_arrival_reverses(world: World, case: Case, class_: int) -> None:
    seeded = await case.seed(world)
    [found] = await world.breaks(seeded.run)
    await seeded.comes_late()
    assert (await world.balance(RECEIVABLE), await world.balance(case.counter)) == case.right
    # By the one journal that reverses the other, entry by entry.
    booked = uuid.UUID(found.booked_journal_id)
    [(reversal, reverses)] = world.sql.execute(
        "SELECT b.reversal_id, j.reverses FROM settlement_booking AS b"
        " JOIN journal AS j ON j.journal_id = b.reversal_id WHERE b.source = %s",
        [world.source],
    ).fetchall()
    assert reverses == booked
    assert world.sql.execute(
        "SELECT sum(CASE direction WHEN 1 THEN amount_minor ELSE -amount_minor END)::bigint"
        " FROM entry WHERE journal_id = ANY (%s) GROUP BY account_kind, currency",
        [[reversal, booked]],
    ).fetchall() == [(0,), (0,)]


WAYS = [_sums_to_zero, _break_clears, _second_run_posts_nothing, _late_arrival_reverses]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__.strip("_"))
@pytest.mark.parametrize("class_", CASES, ids=pb.BreakClass.Name)
async def test_what_posts_by_itself(
    world: World,
    class_: pb.BreakClass.ValueType,
    way: Callable[[World, Case, int], Awaitable[None]],
) -> None:
    case = CASES[class_]
    await way(world.of(world.source.replace("psp", case.source)), case, class_)
