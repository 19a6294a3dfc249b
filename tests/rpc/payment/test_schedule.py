"""Orders that wait: unknown, pending and parked ones, and who is told what meanwhile."""

from __future__ import annotations

import asyncio

from paymesh.payment.v1 import payment_pb2

from tests.support.eventually import eventually
from tests.support.fakes import captured, declined, parked, pending, unknown
from tests.support.payment_replica import State, states_of
from tests.support.payment_world import World, checkout

SUCCEEDED = State.ORDER_STATE_SUCCEEDED
PROCESSING = State.ORDER_STATE_PROCESSING
UNKNOWN = State.ORDER_STATE_UNKNOWN
DECLINED = State.ORDER_STATE_DECLINED
PARKED = State.ORDER_STATE_PARKED


async def test_an_unknown_outcome_is_told_as_such_and_asked_about_later(world: World) -> None:
    replica = await world.replica(unknown_first_ms=400, unknown_most_ms=400)
    world.executor.on(60, unknown, captured)
    payment = await replica.create(request := checkout(60, 5))
    assert payment.state == payment_pb2.PAYMENT_STATE_PROCESSING
    assert states_of(payment) == [UNKNOWN, SUCCEEDED]
    assert not payment.orders[0].captured.amount_minor
    assert payment.orders[0].operations[0].state == payment_pb2.OPERATION_STATE_UNKNOWN
    query = "SELECT count(*) FROM operation WHERE epoch IS NULL AND next_attempt_time > now()"
    assert world.rows(query) == [(1,)]
    payment = await replica.until(request, SUCCEEDED, SUCCEEDED)
    assert payment.state == payment_pb2.PAYMENT_STATE_SUCCEEDED
    world.assert_booked(payment)
    await world.quiet()


async def test_unknown_is_never_taken_for_a_decline(world: World) -> None:
    replica = await world.replica(unknown_first_ms=10, unknown_most_ms=10)
    world.executor.on(60, unknown)
    payment = await replica.create(request := checkout(60))
    await eventually(lambda: world.executor.asked.total() >= 5)
    payment = await replica.get(request.request_id)
    assert states_of(payment) == [UNKNOWN]
    world.executor.on(60, declined)
    payment = await replica.until(request, DECLINED)
    assert payment.state == payment_pb2.PAYMENT_STATE_FAILED
    await world.quiet()


async def test_a_pending_order_is_processing_and_then_final(world: World) -> None:
    replica = await world.replica(pending_first_ms=300, pending_most_ms=300)
    world.executor.on(61, pending, captured)
    world.executor.on(62, pending, declined)
    payment = await replica.create(request := checkout(61, 62))
    assert states_of(payment) == [PROCESSING, PROCESSING]
    assert payment.orders[0].operations[0].psp_reference == "psp-later"
    payment = await replica.until(request, SUCCEEDED, DECLINED)
    assert payment.state == payment_pb2.PAYMENT_STATE_PARTIALLY_SUCCEEDED
    world.assert_booked(payment)
    await world.quiet()


async def test_a_parked_order_is_polled_and_moved_by_evidence_only(world: World) -> None:
    replica = await world.replica(parked_poll_ms=30)
    world.executor.on(63, parked(poll=True, reason="UNRESOLVED: silence"))
    payment = await replica.create(request := checkout(63))
    assert states_of(payment) == [PARKED]
    assert payment.state == payment_pb2.PAYMENT_STATE_NEEDS_ATTENTION
    assert payment.orders[0].attention_reason == "UNRESOLVED: silence"
    asked = world.executor.asked.total()
    await eventually(lambda: world.executor.asked.total() >= asked + 3)
    world.executor.on(63, unknown)
    asked = world.executor.asked.total()
    await eventually(lambda: world.executor.asked.total() >= asked + 2)
    payment = await replica.get(request.request_id)
    assert states_of(payment) == [PARKED]
    assert payment.orders[0].attention_reason == "UNRESOLVED: silence"
    world.executor.on(63, captured)
    payment = await replica.until(request, SUCCEEDED)
    assert payment.orders[0].attention_reason == ""
    world.assert_booked(payment)
    await world.quiet()


async def test_a_parked_order_without_poll_is_left_to_the_operator(world: World) -> None:
    replica = await world.replica(parked_poll_ms=10)
    world.executor.on(64, parked(poll=False, reason="WRONG_AMOUNT: 7 instead of 8"))
    payment = await replica.create(checkout(64))
    assert states_of(payment) == [PARKED]
    assert payment.orders[0].attention_reason == "WRONG_AMOUNT: 7 instead of 8"
    await asyncio.sleep(0.3)
    assert world.executor.asked.total() == 1
    await world.quiet()


async def test_a_replay_of_what_waits_is_answered_at_once(world: World) -> None:
    replica = await world.replica(unknown_first_ms=60_000, unknown_most_ms=60_000)
    world.executor.on(60, unknown)
    first = await replica.create(request := checkout(60))
    assert await replica.create(request, timeout_s=2) == first
    await world.quiet()


async def test_what_is_due_is_driven_however_many_new_ones_come(world: World) -> None:
    """A replica that is full of new orders still finishes what it took before."""
    replica = await world.replica(max_open_orders=100)
    gate = asyncio.Event()
    world.executor.on(60, unknown, captured)
    world.executor.on(777, gate=gate)
    old = checkout(60)
    await replica.fall_asleep()
    await replica.create(old)
    full = asyncio.create_task(replica.create(checkout(*[777] * 100)))
    await eventually(lambda: len(replica.conveyor) == 100)
    replica.wake()
    await replica.until(old, SUCCEEDED, timeout_s=3)
    gate.set()
    await full
    await world.quiet()
