"""CreatePayment: what callers see, and that it happens once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import psycopg
import pytest
from paymesh.payment.v1 import payment_pb2

from mesh import money
from mesh.errors import Reason
from tests.support.eventually import eventually
from tests.support.fakes import captured, declined
from tests.support.payment_replica import State, states_of
from tests.support.payment_world import World, checkout
from tests.support.serving import error_of

SUCCEEDED = State.ORDER_STATE_SUCCEEDED
PROCESSING = State.ORDER_STATE_PROCESSING
DECLINED = State.ORDER_STATE_DECLINED

SLOW = 777
"""The amount of the order whose outcome is held back."""


async def test_every_order_is_taken_credited_and_booked_once(world: World) -> None:
    replica = await world.replica()
    payment = await replica.create(checkout(1000, 2500, 10))
    assert payment.state == payment_pb2.PAYMENT_STATE_SUCCEEDED
    assert states_of(payment) == [SUCCEEDED] * 3
    world.assert_booked(payment)
    assert len(world.executor.captures) == len(world.wallet.rows) == len(world.ledger.rows) == 3
    await world.quiet()


async def test_a_declined_order_is_an_answer_and_nothing_of_it_is_booked(world: World) -> None:
    replica = await world.replica()
    world.executor.on(51, declined)
    payment = await replica.create(checkout(1000, 51))
    assert payment.state == payment_pb2.PAYMENT_STATE_PARTIALLY_SUCCEEDED
    assert states_of(payment) == [SUCCEEDED, DECLINED]
    assert payment.orders[1].decline.category == payment_pb2.DECLINE_CATEGORY_INSUFFICIENT_FUNDS
    assert payment.orders[1].decline.code == "51"
    world.assert_booked(payment)
    await world.quiet()


async def test_outcomes_may_come_in_any_order_from_any_list(world: World) -> None:
    replica = await world.replica()
    gates = {amount: asyncio.Event() for amount in range(101, 106)}
    for amount, gate in gates.items():
        world.executor.on(amount, gate=gate)
    requests = [checkout(amount, 200) for amount in gates]
    calls = []
    for request in requests:  # one after the other: lists of their own
        calls.append(asyncio.create_task(replica.create(request)))
        await replica.until(request, PROCESSING, SUCCEEDED)
    for amount, call in reversed(list(zip(gates, calls, strict=True))):
        assert not call.done()
        gates[amount].set()
        assert states_of(await call) == [SUCCEEDED, SUCCEEDED]
    assert len(world.wallet.rows) == len(world.ledger.rows) == 10
    await world.quiet()


async def test_a_slow_order_holds_up_neither_its_sibling_nor_others(world: World) -> None:
    replica = await world.replica()
    gate = asyncio.Event()
    world.executor.on(SLOW, gate=gate)
    request = checkout(SLOW, 1000)
    call = asyncio.create_task(replica.create(request))
    seen = await replica.until(request, PROCESSING, SUCCEEDED, timeout_s=2)
    assert seen.state == payment_pb2.PAYMENT_STATE_PROCESSING
    world.assert_booked(seen)
    assert states_of(await replica.create(checkout(5), timeout_s=2)) == [SUCCEEDED]
    assert not call.done()
    gate.set()
    assert states_of(await call) == [SUCCEEDED, SUCCEEDED]
    await world.quiet()


async def test_one_key_64_times_at_once_is_one_payment_and_one_answer(world: World) -> None:
    replica = await world.replica()
    request = checkout(1000, 300)
    answers = await asyncio.gather(*(replica.create(request) for _ in range(64)))
    assert len({answer.SerializeToString(deterministic=True) for answer in answers}) == 1
    assert states_of(answers[0]) == [SUCCEEDED, SUCCEEDED]
    assert len(world.executor.captures) == 2
    assert set(world.executor.asked.values()) == {1}
    await world.quiet()


async def test_a_replay_waits_for_what_is_in_flight(world: World) -> None:
    replica = await world.replica()
    gate = asyncio.Event()
    world.executor.on(SLOW, gate=gate)
    request = checkout(SLOW)
    first = asyncio.create_task(replica.create(request))
    await replica.until(request, PROCESSING)
    second = asyncio.create_task(replica.create(request))
    await asyncio.sleep(0.1)
    assert not first.done()
    assert not second.done()
    gate.set()
    assert await first == await second
    again = await replica.create(request)
    assert again == await first
    assert states_of(again) == [SUCCEEDED]
    await world.quiet()


async def test_another_request_under_the_key_is_refused_and_changes_nothing(world: World) -> None:
    replica = await world.replica()
    request = checkout(1000)
    payment = await replica.create(request)
    request.orders[0].amount.amount_minor = 1001
    error = await error_of(replica.stub.CreatePayment(request))
    assert error.reason is Reason.REQUEST_ID_REUSED
    assert error.metadata == {"fields": "orders[0].amount.amount_minor"}
    assert await replica.get(request.request_id) == payment
    assert len(world.executor.captures) == 1


async def test_a_replay_comes_before_the_rules(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A currency that an upgrade withdrew refuses what is new, and no retry of what was taken."""
    replica = await world.replica()
    request = checkout(1000, 300)
    payment = await replica.create(request)
    monkeypatch.delitem(money._EXPONENTS, "EUR")
    assert await replica.create(request) == payment
    error = await error_of(replica.stub.CreatePayment(checkout(1000)))
    assert error.reason is Reason.UNKNOWN_CURRENCY
    request.orders[0].amount.amount_minor = 1001
    error = await error_of(replica.stub.CreatePayment(request))
    assert error.reason is Reason.REQUEST_ID_REUSED
    assert world.rows("SELECT count(*) FROM payment") == [(1,)]
    assert len(world.executor.captures) == 2


async def test_a_caller_in_a_hurry_is_told_processing_and_the_payment_goes_on(
    world: World,
) -> None:
    replica = await world.replica()
    gate = asyncio.Event()
    world.executor.on(SLOW, gate=gate)
    request = checkout(SLOW)
    payment = await replica.create(request, timeout_s=0.4)
    assert payment.state == payment_pb2.PAYMENT_STATE_PROCESSING
    gate.set()
    await replica.until(request, SUCCEEDED)
    await world.quiet()


async def test_a_caller_that_goes_away_stops_nothing(world: World) -> None:
    replica = await world.replica()
    gate = asyncio.Event()
    world.executor.on(SLOW, gate=gate)
    request = checkout(SLOW)
    call = replica.stub.CreatePayment(request)
    waiting = asyncio.ensure_future(replica.create(request))
    await replica.until(request, PROCESSING)
    call.cancel()
    waiting.cancel()
    await asyncio.sleep(0.05)
    gate.set()
    payment = await replica.until(request, SUCCEEDED)
    world.assert_booked(payment)
    await world.quiet()


async def test_beyond_its_bound_a_replica_refuses_and_stores_nothing(world: World) -> None:
    replica = await world.replica(max_open_orders=100)
    gate = asyncio.Event()
    world.executor.on(SLOW, gate=gate)
    request = checkout(*[SLOW] * 99)
    call = asyncio.create_task(replica.create(request))
    await eventually(lambda: len(replica.conveyor) == 99)
    over = checkout(5, 5)
    error = await error_of(replica.stub.CreatePayment(over))
    assert error.reason is Reason.OVERLOADED
    assert error.retry_delay_s
    assert "this call accepted nothing" in error.message
    assert "of an earlier one with this request_id it says nothing" in error.message
    assert world.rows("SELECT count(*) FROM payment") == [(1,)]
    assert states_of(await replica.create(checkout(5))) == [SUCCEEDED]
    gate.set()
    assert states_of(await call) == [SUCCEEDED] * 99
    assert states_of(await replica.create(over)) == [SUCCEEDED, SUCCEEDED]
    await world.quiet()


async def test_the_bound_holds_for_a_burst_too(world: World) -> None:
    replica = await world.replica(max_open_orders=100)
    gate = asyncio.Event()
    world.executor.on(SLOW, gate=gate)
    requests = [checkout(*[SLOW] * 40) for _ in range(8)]
    calls = [asyncio.create_task(replica.create(request)) for request in requests]
    await eventually(lambda: sum(call.done() for call in calls) == 6)
    await eventually(lambda: len(replica.conveyor) == 80)
    gate.set()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(answer, payment_pb2.Payment) for answer in answers) == 2
    assert world.rows("SELECT count(*) FROM payment") == [(2,)]
    await world.quiet()


async def test_a_replay_is_answered_however_full_the_replica_is(world: World) -> None:
    replica = await world.replica(max_open_orders=100)
    gate = asyncio.Event()
    world.executor.on(SLOW, gate=gate)
    done = checkout(1000)
    before = await replica.create(done)
    request = checkout(*[SLOW] * 100)
    first = asyncio.create_task(replica.create(request))
    await eventually(lambda: len(replica.conveyor) == 100)
    assert await replica.create(done) == before
    second = asyncio.create_task(replica.create(request))
    await asyncio.sleep(0.1)
    assert not second.done()
    done.orders[0].amount.amount_minor = 1001
    error = await error_of(replica.stub.CreatePayment(done))
    assert error.reason is Reason.REQUEST_ID_REUSED
    gate.set()
    assert await first == await second
    await world.quiet()


@contextmanager
def locked(world: World, table: str) -> Iterator[None]:
    with psycopg.connect(world.admin_url) as connection:
        connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE".encode())
        yield


async def test_a_deadline_shorter_than_the_accept_leaves_it_open(world: World) -> None:
    replica = await world.replica()
    request = checkout(1000)
    with locked(world, "payment"):
        error = await error_of(replica.stub.CreatePayment(request, timeout=0.3))
        assert error.reason is Reason.OUTCOME_UNKNOWN
    payment = await replica.create(request)
    assert states_of(payment) == [SUCCEEDED]
    assert world.rows("SELECT count(*) FROM payment") == [(1,)]
    assert set(world.executor.asked.values()) == {1}
    await world.quiet()


async def test_repetitions_in_a_hurry_leave_nothing_behind(world: World) -> None:
    """However often a request is sent while its accept is under way, it is one accept."""
    replica = await world.replica()
    request, other = checkout(1000), checkout(1000)
    other.request_id = request.request_id
    other.buyer_id = "another"
    with locked(world, "payment"):
        first = asyncio.create_task(error_of(replica.stub.CreatePayment(request, timeout=0.3)))
        await eventually(lambda: bool(replica.intake._accepting))
        errors = await asyncio.gather(
            first,
            *(
                error_of(replica.stub.CreatePayment(each, timeout=0.3))
                for each in [*[request] * 20, other]
            ),
        )
        assert {error.reason for error in errors} == {Reason.OUTCOME_UNKNOWN}
        assert len(replica.intake._accepting) == 2
    assert states_of(await replica.create(request)) == [SUCCEEDED]
    error = await error_of(replica.stub.CreatePayment(other))
    assert error.reason is Reason.REQUEST_ID_REUSED
    assert not replica.intake._accepting
    assert not replica.intake._joinable
    await world.quiet()


async def test_a_database_that_is_held_by_a_lock_stores_nothing_and_says_so(
    world: World,
) -> None:
    replica = await world.replica()
    request = checkout(1000)
    with locked(world, "payment"):
        error = await error_of(replica.stub.CreatePayment(request, timeout=5))
        assert error.reason is Reason.DEPENDENCY_DOWN
        assert error.code == grpc.StatusCode.UNAVAILABLE.value[0]
    assert world.rows("SELECT count(*) FROM payment") == [(0,)]
    assert states_of(await replica.create(request)) == [SUCCEEDED]
    await world.quiet()


async def test_what_callers_gave_up_is_accepted_or_not_but_never_half(world: World) -> None:
    replica = await world.replica()
    requests = [checkout(1000, 2000) for _ in range(20)]
    with locked(world, "payment"):
        errors = await asyncio.gather(
            *(error_of(replica.stub.CreatePayment(r, timeout=0.3)) for r in requests)
        )
        assert {error.reason for error in errors} == {Reason.OUTCOME_UNKNOWN}
        assert replica.intake._orders_reserved == 40
    await eventually(lambda: not replica.intake._orders_reserved)
    for request in requests:
        world.assert_booked(await replica.create(request))
    assert world.rows("SELECT count(*) FROM payment") == [(20,)]
    assert set(world.executor.asked.values()) == {1}
    await world.quiet()


@pytest.mark.parametrize("timeout_s", [0.001, 0.01, 0.03])
async def test_hardly_any_time_at_all_harms_nobody(world: World, timeout_s: float) -> None:
    replica = await world.replica()
    request = checkout(1000)
    try:
        await replica.create(request, timeout_s=timeout_s)
    except grpc.aio.AioRpcError as error:
        assert error.code() in (  # noqa: PT017 - either may come first
            grpc.StatusCode.DEADLINE_EXCEEDED,
            grpc.StatusCode.ABORTED,
        )
    assert states_of(await replica.create(request)) == [SUCCEEDED]
    assert len(world.executor.captures) == 1
    await world.quiet()


async def test_all_is_over_before_a_caller_waits(world: World) -> None:
    """The outcome may overtake the caller's own way from the accept to its waiting."""
    replica = await world.replica()
    world.executor.on(9, captured, times=1)
    answers = await asyncio.gather(*(replica.create(checkout(9), timeout_s=5) for _ in range(50)))
    assert {answer.state for answer in answers} == {payment_pb2.PAYMENT_STATE_SUCCEEDED}
    await world.quiet()
