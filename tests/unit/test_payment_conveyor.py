"""One item that can't be judged takes nothing from its neighbours."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, cast

import pytest

from mesh.errors import MeshError
from payment_svc.clients import Applied, Capture
from payment_svc.conveyor import Conveyor
from payment_svc.domain import (
    Captured,
    Declined,
    Evidence,
    Item,
    OrderState,
    Outcome,
    Progress,
    items_of,
)
from payment_svc.schedule import Backoff, Schedule
from tests.support.payments import new_payment

SOON = Backoff(1.0, 1.0)
SCHEDULE = Schedule(pending=SOON, unknown=SOON, delayed=SOON, parked_s=1.0)

CAPTURED = Captured("psp_1", None, "psp", Evidence.PSP_ANSWER)
DECLINED = Declined(2, "51", "psp_1", Evidence.PSP_ANSWER)


class Books:
    """A wallet and a ledger that take everything, or have a bug."""

    def __init__(self, *, buggy: bool = False) -> None:
        self._buggy = buggy

    async def credit(self, items: Sequence[Item]) -> list[Applied | MeshError]:
        if self._buggy:
            raise ZeroDivisionError
        return [Applied(item.amount_minor) for item in items]

    async def book(self, captures: Sequence[Capture]) -> list[MeshError | None]:
        return [None] * len(captures)


class Belt:
    """A conveyor whose executor is played by the test, and what it finished."""

    def __init__(self, books: Books) -> None:
        self.finished: list[Progress] = []
        played = cast("Any", books)
        self.conveyor = Conveyor(played, played, SCHEDULE, self.finished.extend)
        self.conveyor.connect(cast("Any", self))

    async def execute(self, items: Sequence[Item]) -> None:
        """Says nothing."""

    async def learn(self, *outcomes: tuple[Item, Outcome]) -> list[tuple[Item, OrderState]]:
        """What is finished of what the executor says."""
        self.conveyor.put([item for item, _ in outcomes])
        running = asyncio.create_task(self.conveyor.run())
        self.conveyor.learnt(list(outcomes))
        for _ in range(20):
            await asyncio.sleep(0)
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        return [(progress.item, progress.state) for progress in self.finished]


def an_item(state: OrderState = OrderState.PROCESSING) -> Item:
    (item,) = items_of(new_payment(), 1)
    item.state = state
    return item


ENDED = pytest.mark.parametrize("end", [OrderState.DECLINED, OrderState.SUCCEEDED])


@ENDED
async def test_an_item_that_has_ended_holds_up_none_of_its_list(end: OrderState) -> None:
    belt = Belt(Books())
    ended, good = an_item(end), an_item()
    finished = await belt.learn((ended, DECLINED), (good, DECLINED))
    assert finished == [(good, OrderState.DECLINED)]
    assert not belt.conveyor.carries(ended.operation_id)


@ENDED
async def test_an_item_that_has_ended_holds_up_nobody_s_booking(end: OrderState) -> None:
    belt = Belt(Books())
    ended, good = an_item(end), an_item()
    finished = await belt.learn((ended, CAPTURED), (good, CAPTURED))
    assert finished == [(good, OrderState.SUCCEEDED)]
    assert not belt.conveyor.carries(ended.operation_id)


@ENDED
async def test_a_bug_in_booking_beside_an_item_that_has_ended_loses_nobody(
    end: OrderState,
) -> None:
    belt = Belt(Books(buggy=True))
    ended, good = an_item(end), an_item()
    finished = await belt.learn((ended, CAPTURED), (good, CAPTURED))
    assert finished == [(good, OrderState.PROCESSING)]
    assert belt.finished[0].retry_after_s is not None
