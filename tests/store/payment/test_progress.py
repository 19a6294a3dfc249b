"""What owners learn is written once, by the owner only; the payment's state follows."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import combinations_with_replacement
from uuid import UUID

import pytest

from mesh.db import BadData, Database
from payment_svc import operations
from payment_svc.domain import (
    Item,
    NewPayment,
    OperationState,
    OrderState,
    PaymentState,
    items_of,
    payment_state,
)
from payment_svc.operations import Recorded
from tests.support.payments import new_order, new_payment, progress

S = OrderState
FAILED = OperationState.FAILED


async def accepted(database: Database, orders: int = 1, epoch: int = 1) -> list[Item]:
    payment = new_payment(*(new_order() for _ in range(orders)))
    await operations.write(database, [payment], epoch)
    return items_of(payment, epoch)


async def state_of(database: Database, payment_id: UUID) -> PaymentState:
    return (await operations.payments(database, [payment_id]))[payment_id].state


async def owned(database: Database, *written: object) -> list[bool]:
    results = await operations.write(database, written, 1)  # type: ignore[arg-type]
    return [r.owned for r in results if isinstance(r, Recorded)]


async def test_a_finished_order_is_captured_and_rests(database: Database) -> None:
    (item,) = await accepted(database)
    assert await owned(database, progress(item, S.SUCCEEDED)) == [True]
    stored = (await operations.payments(database, [item.payment_id]))[item.payment_id]
    assert stored.state is PaymentState.SUCCEEDED
    assert stored.rests
    assert stored.orders[0].captured_minor == item.amount_minor
    assert stored.orders[0].operations[0].psp_reference == "psp_1"
    assert stored.update_time >= stored.create_time


async def test_the_same_progress_twice_is_written_once(database: Database) -> None:
    (item,) = await accepted(database)
    done = progress(item, S.SUCCEEDED)
    assert await owned(database, done) == [True]
    assert await owned(database, done) == [False]
    assert await state_of(database, item.payment_id) is PaymentState.SUCCEEDED


async def test_progress_of_another_epoch_is_not_written(database: Database) -> None:
    (item,) = await accepted(database, epoch=7)
    item.epoch = 6
    assert await owned(database, progress(item, S.DECLINED)) == [False]
    assert await state_of(database, item.payment_id) is PaymentState.PROCESSING


@pytest.mark.parametrize("order", [1, -1])
async def test_of_two_trips_of_an_operation_in_one_list_only_the_owners_is_written(
    database: Database, order: int
) -> None:
    """A sleeper that got its item back: the trip of its lost epoch ends beside the new one."""
    (item,) = await accepted(database, epoch=6)
    late, ours = replace(item, epoch=5), replace(item)
    trips = [progress(late, S.DECLINED, operation_state=FAILED), progress(ours, S.SUCCEEDED)]
    assert await owned(database, *trips[::order]) == [False, True][::order]
    assert await state_of(database, item.payment_id) is PaymentState.SUCCEEDED


async def test_of_two_attempts_in_one_list_only_the_last_is_written(database: Database) -> None:
    mine = await operations.open_epoch(database, "test", 60)
    (first,) = await accepted(database, epoch=mine)
    assert await owned(database, progress(first, S.UNKNOWN, retry_after_s=0.0)) == [True]
    (second,) = (await operations.take(database, mine, 10)).items
    late = progress(first, S.UNKNOWN, retry_after_s=0.0)
    assert await owned(database, late, progress(second, S.SUCCEEDED)) == [False, True]


async def test_an_owner_that_is_wrong_about_the_state_writes_nothing(database: Database) -> None:
    (item,) = await accepted(database)
    item.state = S.UNKNOWN
    with pytest.raises(BadData):
        await owned(database, progress(item, S.SUCCEEDED))
    item.state = S.PROCESSING
    assert await owned(database, progress(item, S.SUCCEEDED)) == [True]


@pytest.mark.parametrize(
    "states",
    list(combinations_with_replacement([S.PROCESSING, S.SUCCEEDED, S.DECLINED, S.PARKED], 3)),
)
async def test_the_database_derives_the_payments_state_as_the_domain_does(
    database: Database, states: tuple[OrderState, ...]
) -> None:
    items = await accepted(database, orders=3)
    await owned(database, *(progress(i, s) for i, s in zip(items, states, strict=True)))
    assert await state_of(database, items[0].payment_id) is payment_state(states)


async def test_orders_that_finish_at_once_on_many_connections_add_up(database: Database) -> None:
    items = await accepted(database, orders=40)
    await asyncio.gather(*(owned(database, progress(item, S.SUCCEEDED)) for item in items))
    assert await state_of(database, items[0].payment_id) is PaymentState.SUCCEEDED


async def test_what_could_not_be_asked_overwrites_no_evidence(database: Database) -> None:
    (item,) = await accepted(database)
    await owned(database, progress(item, S.CAPTURED, retry_after_s=0.0, delayed=True))
    epoch = await operations.open_epoch(database, "test", 60)
    taken = await operations.take(database, epoch, 10)
    (again,) = taken.items
    assert again.state is S.CAPTURED
    nothing = progress(
        again, S.CAPTURED, operation_state=None, evidence=None, psp_reference=None,
        captured_minor=None, attention_reason=None, retry_after_s=60.0, delayed=True,
    )  # fmt: skip
    assert await owned(database, nothing) == [True]
    order = (await operations.payments(database, [item.payment_id]))[item.payment_id].orders[0]
    assert order.captured_minor == item.amount_minor
    assert order.operations[0].psp_reference == "psp_1"
    assert order.operations[0].evidence.name == "PSP_ANSWER"


async def test_accepts_and_finishes_share_a_commit(database: Database) -> None:
    (item,) = await accepted(database)
    payment: NewPayment = new_payment()
    done, new = await operations.write(database, [progress(item, S.SUCCEEDED), payment], 1)
    assert isinstance(done, Recorded)
    assert done.owned
    assert await state_of(database, payment.payment_id) is PaymentState.PROCESSING
    assert isinstance(new, operations.Accepted)
    assert new.new
