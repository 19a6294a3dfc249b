"""What came too late for its day's run is met by the next one, whichever day that is of."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from typing import Any

import pytest
from paymesh.ledger.v1 import operation_register_service_pb2 as register_pb
from paymesh.reconciliation.v1 import reconciliation_service_pb2 as pb

from ledger_svc.reconciliation.run import late_days
from mesh.db import Database
from tests.rpc.reconciliation.test_decide import ACCEPT, decision, resolve
from tests.support.reconciliation import DAY, DayFile, reference
from tests.support.reconciliation_world import (
    RECEIVABLE,
    SUSPENSE,
    World,
    charge_cells,
    class_of,
    counts,
    runs_of,
)

DAYS = (DAY, "2026-02-01", "2026-02-02", "2026-02-03")
GROSS, FEE = 500, 5
NET = GROSS - FEE
Cells = dict[str, Any]


NAMES: dict[str, Callable[[Cells], Cells]] = {
    "operation": lambda mine: mine,
    "reference": lambda mine: {"psp_reference": mine["psp_reference"]},
    "related reference": lambda mine: {
        "psp_reference": reference(),
        "related_psp_reference": mine["psp_reference"],
    },
    "order": lambda mine: {"psp_reference": reference(), "order_id": mine["order_id"]},
}


async def settles_with_the_next_night(world: World, mine: Cells) -> None:
    """The capture comes, and takes its line out of suspense; a further night changes nothing."""
    assert await world.balance(SUSPENSE) == NET
    versions = len(await runs_of(world))
    await world.capture(GROSS, FEE, cells=mine)
    for day in DAYS[1:3]:
        assert (await world.day(DayFile(NET, day=day), day)).state == pb.RUN_STATE_BALANCED
    [latest, *_] = await runs_of(world)
    assert (latest.version, latest.state) == (versions + 1, pb.RUN_STATE_BALANCED)
    assert await world.balance(SUSPENSE) == 0
    assert await world.balance(RECEIVABLE) == NET
    assert [one.state for one in await world.breaks()] == [pb.BREAK_STATE_CLEARED]
    await world.assert_sums_to_zero()


@pytest.mark.parametrize("accepted", [False, True])
@pytest.mark.parametrize("name", NAMES)
async def test_a_line_waits_for_its_capture_by_whatever_it_names(
    world: World, name: str, accepted: bool
) -> None:
    mine = charge_cells()
    run = await world.day(DayFile().line(GROSS, FEE, **NAMES[name](mine)))
    assert counts(run) == {pb.BREAK_CLASS_UNKNOWN_TO_US: 1}
    if accepted:
        [found] = await world.breaks(run)
        await resolve(world, decision(found.break_id, ACCEPT))
    await settles_with_the_next_night(world, mine)


async def test_a_line_that_an_operator_accepted_as_known_to_the_register_waits_too(
    world: World,
) -> None:
    mine = await world.registered(register_pb.REGISTER_STATE_UNKNOWN)
    run = await world.day(DayFile().line(GROSS, FEE, **mine))
    assert counts(run) == {pb.BREAK_CLASS_STATUS_DIFFERS: 1}
    [found] = await world.breaks(run)
    await resolve(world, decision(found.break_id, ACCEPT))
    await settles_with_the_next_night(world, mine)


async def test_a_line_that_names_only_the_reference_waits_for_the_register(world: World) -> None:
    theirs = reference()
    await world.day(DayFile().line(250, psp_reference=theirs))
    await world.registered(register_pb.REGISTER_STATE_DECLINED, psp_reference=theirs)
    await world.day(DayFile(250, day=DAYS[1]), DAYS[1])
    [found] = await world.breaks()
    assert (class_of(found), found.rule) == (pb.BREAK_CLASS_STATUS_DIFFERS, "REGISTER_DECLINED")


async def test_a_day_that_another_run_would_not_change_is_not_run_again(
    world: World, databases: dict[str, str]
) -> None:
    other = world.of(world.source.replace("psp", "any"))
    theirs = await other.capture(GROSS)
    file = DayFile()
    for name in NAMES.values():
        file.line(GROSS, **name(theirs))
    file.line(GROSS, **await world.registered(register_pb.REGISTER_STATE_DECLINED))
    file.line(7, kind="ADJUSTMENT", **await world.capture(GROSS))
    # Neither of two captures is surely the line's that names their order.
    one = await world.capture(GROSS)
    await world.capture(GROSS, cells=charge_cells(order_id=one["order_id"]))
    file.line(GROSS, **NAMES["order"](one))
    waits = charge_cells()
    file.line(GROSS, **NAMES["reference"](waits))
    await world.day(file)
    database = Database(databases["ledger"], application_name="test")
    try:
        day = date.fromisoformat(DAYS[1])
        assert await late_days(database, world.source, day) == []
        await world.capture(GROSS, cells=waits)
        assert await late_days(database, world.source, day) == [date.fromisoformat(DAY)]
    finally:
        await database.close()


@pytest.mark.parametrize("name", ["operation", "reference", "order"])
@pytest.mark.parametrize("asked", [DAYS[2], DAYS[3]], ids=["by itself", "with the next night"])
async def test_a_capture_that_a_correction_frees_is_the_other_days_line_s(
    world: World, name: str, asked: str
) -> None:
    mine, other = await world.capture(GROSS, FEE), await world.capture(GROSS, FEE)
    named = NAMES[name](mine)
    await world.day(DayFile().line(GROSS, FEE, **named))
    await world.day(DayFile(NET, day=DAYS[1]), DAYS[1])
    twice = await world.day(DayFile(NET, day=DAYS[2]).line(GROSS, FEE, **named), DAYS[2])
    assert counts(twice) == {pb.BREAK_CLASS_DUPLICATE_IN_FILE: 1}
    assert await world.balance(SUSPENSE) == NET
    assert await world.run(DAYS[2]) == twice

    corrected = await world.day(DayFile(revision=1).line(GROSS, FEE, **other))
    assert corrected.state == pb.RUN_STATE_BALANCED
    if asked == DAYS[3]:
        await world.day(DayFile(2 * NET, day=DAYS[3]), DAYS[3])
    now = await world.run(DAYS[2])
    assert (now.version, now.state) == (2, pb.RUN_STATE_BALANCED)
    assert await world.balance(SUSPENSE) == 0
    assert await world.balance(RECEIVABLE) == 2 * NET
    assert await world.run(DAYS[2]) == now
    await world.assert_sums_to_zero()
