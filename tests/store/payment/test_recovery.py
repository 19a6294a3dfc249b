"""Leases and epochs: each item has one owner, and none is forgotten."""

from __future__ import annotations

import asyncio

from mesh.db import Database
from payment_svc import operations
from payment_svc.domain import OrderState, items_of
from tests.support.payments import new_order, new_payment, progress

LONG_S = 60.0


async def accept(database: Database, epoch: int, orders: int = 1) -> None:
    await operations.write(database, [new_payment(*(new_order() for _ in range(orders)))], epoch)


async def expired_epoch(database: Database) -> int:
    epoch = await operations.open_epoch(database, "dead", 0.0)
    await asyncio.sleep(0.01)
    return epoch


async def test_every_start_has_an_epoch_of_its_own(database: Database) -> None:
    first = await operations.open_epoch(database, "a", LONG_S)
    second = await operations.open_epoch(database, "a", LONG_S)
    assert first != second


async def test_items_of_a_living_replica_are_left_alone(database: Database) -> None:
    living = await operations.open_epoch(database, "living", LONG_S)
    await accept(database, living)
    mine = await operations.open_epoch(database, "me", LONG_S)
    assert (await operations.take(database, mine, 10)).items == []


async def test_items_of_a_dead_replica_are_taken_with_all_that_is_needed(
    database: Database,
) -> None:
    dead = await expired_epoch(database)
    payment = new_payment(new_order(500, "ada", commission_minor=50))
    await operations.write(database, [payment], dead)
    mine = await operations.open_epoch(database, "me", LONG_S)
    taken = await operations.take(database, mine, 10)
    assert taken.dead_epochs == [dead]
    assert taken.items == items_of(payment, mine)


async def test_a_replica_declared_dead_can_neither_renew_nor_finish(database: Database) -> None:
    dead = await expired_epoch(database)
    payment = new_payment()
    await operations.write(database, [payment], dead)
    mine = await operations.open_epoch(database, "me", LONG_S)
    await operations.take(database, mine, 10)
    assert not await operations.renew_epoch(database, dead, LONG_S)
    (late,) = items_of(payment, dead)
    (result,) = await operations.write(database, [progress(late, OrderState.DECLINED)], dead)
    assert isinstance(result, operations.Recorded)
    assert not result.owned


async def test_a_late_renewal_before_anybody_noticed_keeps_the_epoch(database: Database) -> None:
    epoch = await expired_epoch(database)
    assert await operations.renew_epoch(database, epoch, LONG_S)


async def test_a_released_epoch_is_taken_over_at_once(database: Database) -> None:
    leaving = await operations.open_epoch(database, "leaving", LONG_S)
    await accept(database, leaving)
    await operations.release_epoch(database, leaving)
    mine = await operations.open_epoch(database, "me", LONG_S)
    assert len((await operations.take(database, mine, 10)).items) == 1


async def test_replicas_that_take_at_once_get_each_item_once(database: Database) -> None:
    dead = await expired_epoch(database)
    for _ in range(5):
        await accept(database, dead, orders=20)
    epochs = [await operations.open_epoch(database, f"r{n}", LONG_S) for n in range(4)]

    async def take_all(epoch: int) -> list[str]:
        found: list[str] = []
        for _ in range(40):
            taken = await operations.take(database, epoch, 7)
            found += [item.operation_id.hex for item in taken.items]
        return found

    shares = await asyncio.gather(*(take_all(epoch) for epoch in epochs))
    everything = [operation_id for share in shares for operation_id in share]
    assert len(everything) == len(set(everything)) == 100


async def test_a_scheduled_item_is_taken_when_it_is_due_and_not_before(
    database: Database,
) -> None:
    mine = await operations.open_epoch(database, "me", LONG_S)
    soon, later = new_payment(), new_payment()
    await operations.write(database, [soon, later], mine)
    (soon_item,), (later_item,) = items_of(soon, mine), items_of(later, mine)
    await operations.write(
        database,
        [
            progress(soon_item, OrderState.UNKNOWN, retry_after_s=0.0),
            progress(later_item, OrderState.UNKNOWN, retry_after_s=LONG_S),
        ],
        mine,
    )
    taken = (await operations.take(database, mine, 10)).items
    assert [item.operation_id for item in taken] == [soon_item.operation_id]
    assert taken[0].attempt == 1
    assert taken[0].state is OrderState.UNKNOWN


async def test_what_an_epoch_owns_can_be_found_after_a_lost_commit(database: Database) -> None:
    mine = await operations.open_epoch(database, "me", LONG_S)
    payment = new_payment(new_order(), new_order())
    await operations.write(database, [payment], mine)
    assert await operations.own_items(database, mine) == items_of(payment, mine)


async def test_a_payment_rests_when_none_of_its_orders_is_under_way(database: Database) -> None:
    mine = await operations.open_epoch(database, "me", LONG_S)
    payment = new_payment(new_order(), new_order())
    await operations.write(database, [payment], mine)
    first, second = items_of(payment, mine)
    ids = [payment.payment_id]
    await operations.write(database, [progress(first, OrderState.SUCCEEDED)], mine)
    assert await operations.resting(database, ids) == set()
    hurried = progress(second, OrderState.PROCESSING, retry_after_s=9.0, delayed=True)
    await operations.write(database, [hurried], mine)
    assert await operations.resting(database, ids) == set()


async def test_a_payment_that_waits_for_the_psp_rests(database: Database) -> None:
    mine = await operations.open_epoch(database, "me", LONG_S)
    payment = new_payment()
    await operations.write(database, [payment], mine)
    (item,) = items_of(payment, mine)
    await operations.write(
        database, [progress(item, OrderState.UNKNOWN, retry_after_s=LONG_S)], mine
    )
    assert await operations.resting(database, [payment.payment_id]) == {payment.payment_id}
