"""Several replicas on one database: each order is driven by one, and none by nobody."""

from __future__ import annotations

import asyncio
import time

import pytest
from paymesh.payment.v1 import payment_pb2

from mesh.db import Database
from mesh.errors import MeshError, Reason
from payment_svc import operations
from tests.support.eventually import eventually
from tests.support.fakes import Step, captured, declined, parked, pending, unknown
from tests.support.payment_replica import State, states_of
from tests.support.payment_world import World, checkout
from tests.support.payments import new_order, new_payment

SUCCEEDED = State.ORDER_STATE_SUCCEEDED
PROCESSING = State.ORDER_STATE_PROCESSING
UNKNOWN = State.ORDER_STATE_UNKNOWN
CAPTURED = State.ORDER_STATE_CAPTURED

SLOW = 777


async def test_one_key_on_two_replicas_at_once_is_one_payment(world: World) -> None:
    one, two = await world.replica(), await world.replica()
    request = checkout(1000, 300)
    answers = await asyncio.gather(
        *(replica.create(request) for _ in range(32) for replica in (one, two))
    )
    assert len({answer.SerializeToString(deterministic=True) for answer in answers}) == 1
    assert states_of(answers[0]) == [SUCCEEDED, SUCCEEDED]
    assert set(world.executor.asked.values()) == {1}
    assert len(world.executor.captures) == 2
    await world.quiet()


async def test_a_replay_on_the_other_replica_waits_too(world: World) -> None:
    one, two = await world.replica(), await world.replica()
    gate = asyncio.Event()
    world.executor.on(SLOW, gate=gate)
    request = checkout(SLOW)
    first = asyncio.create_task(one.create(request))
    await two.until(request, PROCESSING)
    second = asyncio.create_task(two.create(request))
    await asyncio.sleep(0.1)
    assert not second.done()
    gate.set()
    assert await first == await second
    assert states_of(await second) == [SUCCEEDED]
    await world.quiet()


async def test_callers_are_answered_when_another_replica_ends_what_theirs_began(
    world: World,
) -> None:
    one, two = await world.replica(), await world.replica()
    await one.fall_asleep()
    world.wallet.fail = MeshError(Reason.DEPENDENCY_DOWN, "not now")
    request = checkout(1000)
    call = asyncio.create_task(one.create(request, timeout_s=20))
    await two.until(request, CAPTURED)
    world.wallet.fail = None
    await two.until(request, SUCCEEDED)
    assert states_of(await asyncio.wait_for(call, 2)) == [SUCCEEDED]
    one.wake()
    await world.quiet()


@pytest.mark.parametrize("first", [unknown, pending, parked(poll=True)])
async def test_callers_are_told_what_another_replica_ended_before_theirs_did(
    world: World, first: Step
) -> None:
    """A state that somebody was told is not taken back by an answer from memory."""
    one, two = await world.replica(), await world.replica()
    await one.fall_asleep()
    gate = asyncio.Event()
    world.executor.on(60, first, captured)
    world.executor.on(SLOW, gate=gate)
    request = checkout(60, SLOW)
    call = asyncio.create_task(one.create(request))
    await two.until(request, SUCCEEDED, PROCESSING)
    gate.set()
    assert states_of(await asyncio.wait_for(call, 2)) == [SUCCEEDED, SUCCEEDED]
    one.wake()
    await world.quiet()


async def test_lists_with_the_same_keys_in_another_order_do_not_wait_for_each_other(
    world: World,
) -> None:
    databases = [Database(world.url, application_name="test", pool_size=1) for _ in range(4)]
    payments = [new_payment(new_order()) for _ in range(300)]
    try:
        started = time.monotonic()
        answers = await asyncio.gather(
            *(
                operations.write(database, payments[:: (-1) ** number], 1)
                for number, database in enumerate(databases)
            )
        )
        assert time.monotonic() - started < 1
    finally:
        for database in databases:
            await database.close()
    accepted = [a for answer in answers for a in answer if isinstance(a, operations.Accepted)]
    assert sum(a.new for a in accepted) == 300
    assert len(accepted) == 1200


async def test_what_a_dead_replica_held_is_taken_over_within_its_lease(world: World) -> None:
    one, two = await world.replica(lease_ms=1_000), await world.replica()
    gate = asyncio.Event()
    world.executor.on(SLOW, gate=gate)
    requests = [checkout(SLOW, 5, SLOW) for _ in range(3)]
    calls = [asyncio.create_task(one.create(request)) for request in requests]
    for request in requests:
        await two.until(request, PROCESSING, SUCCEEDED, PROCESSING)
    await one.die()
    died = time.monotonic()
    gate.set()
    for request in requests:
        payment = await two.until(request, SUCCEEDED, SUCCEEDED, SUCCEEDED)
        world.assert_booked(payment)
    assert time.monotonic() - died < 2
    assert sorted(world.executor.asked.values()) == [1, 1, 1, *[2] * 6]
    assert len(world.executor.captures) == len(world.wallet.rows) == len(world.ledger.rows) == 9
    await asyncio.gather(*calls, return_exceptions=True)
    await world.quiet()


async def test_a_replica_that_dies_while_booking_books_nothing_twice(world: World) -> None:
    one, two = await world.replica(lease_ms=1_000), await world.replica()
    world.ledger.gate.clear()
    requests = [checkout(1000, 2000) for _ in range(2)]
    calls = [asyncio.create_task(one.create(request)) for request in requests]
    await eventually(lambda: len(world.wallet.rows) == 4)
    await one.die()
    world.ledger.gate.set()
    for request in requests:
        world.assert_booked(await two.until(request, SUCCEEDED, SUCCEEDED))
    assert len(world.wallet.rows) == len(world.ledger.rows) == 4
    await asyncio.gather(*calls, return_exceptions=True)
    await world.quiet()


async def test_a_start_is_nothing_else_than_a_take_over(world: World) -> None:
    one = await world.replica(lease_ms=1_000)
    gate = asyncio.Event()
    world.executor.on(SLOW, gate=gate)
    request = checkout(SLOW)
    call = asyncio.create_task(one.create(request))
    await one.until(request, PROCESSING)
    await one.die()
    gate.set()
    two = await world.replica()
    world.assert_booked(await two.until(request, SUCCEEDED))
    await asyncio.gather(call, return_exceptions=True)
    await world.quiet()


async def test_late_progress_of_a_replica_that_slept_is_not_written(world: World) -> None:
    other = await world.other_executor()
    one = await world.replica(lease_ms=1_000, executor_target=other.target)
    two = await world.replica()
    gate = asyncio.Event()
    other.on(SLOW, declined, gate=gate)
    request = checkout(SLOW)
    call = asyncio.create_task(one.create(request))
    await one.until(request, PROCESSING)
    await one.fall_asleep()
    payment = await two.until(request, SUCCEEDED)
    gate.set()  # the sleeper learns something else, too late
    assert await call == payment
    await eventually(lambda: not len(one.conveyor))
    assert await two.get(request.request_id) == payment
    world.assert_booked(payment)
    one.wake()
    assert states_of(await one.create(checkout(5))) == [State.ORDER_STATE_SUCCEEDED]
    assert world.rows("SELECT count(*) FROM replica") == [(3,)]
    await world.quiet()


async def test_a_sleeper_may_get_back_an_item_that_it_still_carries(world: World) -> None:
    """The item has moved on meanwhile: what the sleeper knew of it is not what it is."""
    other = await world.other_executor()
    one = await world.replica(lease_ms=1_000, executor_target=other.target)
    two = await world.replica(unknown_first_ms=700, unknown_most_ms=700)
    gate = asyncio.Event()
    other.on(SLOW, gate=gate)
    world.executor.on(SLOW, unknown)
    request = checkout(SLOW)
    call = asyncio.create_task(one.create(request))
    await one.until(request, PROCESSING)
    await one.fall_asleep()
    await two.until(request, UNKNOWN)
    await two.stop()
    one.wake()
    await eventually(lambda: other.asked.total() == 2)
    gate.set()
    payment = await one.until(request, SUCCEEDED)
    assert len(world.wallet.rows) == len(world.ledger.rows) == 1
    assert payment.state == payment_pb2.PAYMENT_STATE_SUCCEEDED
    await call
    await world.quiet()


async def test_what_a_replica_accepts_under_a_dead_epoch_ends_too(world: World) -> None:
    one = await world.replica(lease_ms=1_000)
    await one.fall_asleep()
    world.rows("UPDATE replica SET dead = true RETURNING epoch")
    gate = asyncio.Event()
    world.executor.on(SLOW, gate=gate)
    request = checkout(SLOW, 5)
    call = asyncio.create_task(one.create(request))
    await eventually(lambda: world.executor.asked.total() == 2)
    one.wake()
    await eventually(lambda: world.executor.asked.total() >= 3)
    gate.set()
    payment = await call
    assert states_of(payment) == [SUCCEEDED, SUCCEEDED]
    world.assert_booked(payment)
    await world.quiet()


async def test_a_stop_answers_who_waits_and_hands_over_what_is_left(world: World) -> None:
    """With leases of a minute: who comes next need not wait for them."""
    one = await world.replica(drain_s=0.6)
    gate, never = asyncio.Event(), asyncio.Event()
    world.executor.on(SLOW, gate=gate)
    world.executor.on(SLOW + 1, gate=never)
    answered, left = checkout(SLOW), checkout(SLOW + 1, 5)
    calls = [asyncio.create_task(one.create(request)) for request in (answered, left)]
    await one.until(left, PROCESSING, SUCCEEDED)
    stopping = asyncio.create_task(one.stop())
    await asyncio.sleep(0.2)
    gate.set()
    assert states_of(await calls[0]) == [SUCCEEDED]
    assert states_of(await calls[1]) == [PROCESSING, SUCCEEDED]
    await stopping
    two = await world.replica()
    await eventually(lambda: max(world.executor.asked.values()) == 2, 1)
    never.set()
    world.assert_booked(await two.until(left, SUCCEEDED, SUCCEEDED))
    await world.quiet()


@pytest.mark.parametrize("away", ["executor", "wallet", "ledger"])
async def test_a_stop_does_not_wait_for_services_that_are_away(world: World, away: str) -> None:
    service = getattr(world, away)
    await service.stop()
    one = await world.replica(drain_s=0.2)
    request = checkout(1000)
    await one.create(request, timeout_s=0.3)
    started = time.monotonic()
    await one.stop()
    assert time.monotonic() - started < 2
    await service.start()
    two = await world.replica()
    world.assert_booked(await two.until(request, SUCCEEDED))
    await world.quiet()


async def test_replicas_share_what_is_due(world: World) -> None:
    replicas = [await world.replica(poll_ms=10) for _ in range(3)]
    world.executor.on(60, unknown, unknown, unknown, captured)
    requests = [checkout(*[60] * 20) for _ in range(4)]
    for number, request in enumerate(requests):
        await replicas[number % 3].create(request)
    for request in requests:
        world.assert_booked(await replicas[0].until(request, *[SUCCEEDED] * 20))
    assert set(world.executor.asked.values()) == {4}
    assert len(world.wallet.rows) == len(world.ledger.rows) == 80
    await world.quiet()
