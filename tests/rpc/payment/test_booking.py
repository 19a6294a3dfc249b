"""Wallet and ledger: what was captured is credited and booked once, or parked, never lost."""

from __future__ import annotations

import asyncio

import pytest
from paymesh.executor.v1 import executor_service_pb2 as pb
from paymesh.payment.v1 import payment_pb2

from mesh.errors import MeshError, Reason
from payment_svc.conveyor import Conveyor
from tests.support.eventually import eventually
from tests.support.fakes import Step, captured, declined, parked, pending, unknown
from tests.support.payment_replica import Replica, State, states_of
from tests.support.payment_world import World, checkout

SUCCEEDED = State.ORDER_STATE_SUCCEEDED
CAPTURED = State.ORDER_STATE_CAPTURED
DECLINED = State.ORDER_STATE_DECLINED
PARKED = State.ORDER_STATE_PARKED
BOOKS = pytest.mark.parametrize("name", ["wallet", "ledger"])

GOOD, BAD = "good seller", "bad seller"
BOTH = (GOOD, BAD)


@BOOKS
async def test_what_can_not_be_booked_yet_is_captured_and_booked_when_it_can(
    world: World, name: str
) -> None:
    replica = await world.replica()
    books = getattr(world, name)
    await books.stop()
    request = checkout(1000, 2000)
    call = asyncio.create_task(replica.create(request))
    seen = await replica.until(request, CAPTURED, CAPTURED)
    assert seen.state == payment_pb2.PAYMENT_STATE_PROCESSING
    assert [order.captured for order in seen.orders] == [order.amount for order in seen.orders]
    assert seen.orders[0].operations[0].state == payment_pb2.OPERATION_STATE_SUCCEEDED
    assert seen.orders[0].operations[0].psp_reference
    assert not call.done()
    await books.start()
    payment = await call
    assert states_of(payment) == [SUCCEEDED, SUCCEEDED]
    assert len(world.executor.captures) == 2
    world.assert_booked(payment)
    await world.quiet()


@BOOKS
async def test_a_caller_is_told_processing_while_it_can_not_be_booked(
    world: World, name: str
) -> None:
    replica = await world.replica()
    books = getattr(world, name)
    books.fail = MeshError(Reason.DEPENDENCY_DOWN, "no database")
    payment = await replica.create(request := checkout(1000), timeout_s=3)
    assert payment.state == payment_pb2.PAYMENT_STATE_PROCESSING
    assert states_of(payment) == [CAPTURED]
    books.fail = None
    world.assert_booked(await replica.until(request, SUCCEEDED))
    await world.quiet()


@BOOKS
async def test_what_is_refused_for_good_is_parked_and_stays_captured(
    world: World, name: str
) -> None:
    replica = await world.replica()
    getattr(world, name).refuse[BAD] = MeshError(Reason.OPERATION_CONFLICT, "other amount")
    payment = await replica.create(checkout(1000, 2000, sellers=BOTH))
    assert states_of(payment) == [SUCCEEDED, PARKED]
    assert payment.state == payment_pb2.PAYMENT_STATE_NEEDS_ATTENTION
    order = payment.orders[1]
    assert order.attention_reason.startswith("BOOKING_REFUSED: captured, but not booked")
    assert order.captured == order.amount
    assert order.operations[0].state == payment_pb2.OPERATION_STATE_SUCCEEDED
    world.assert_booked(payment)
    calls = getattr(world, name).calls
    await asyncio.sleep(0.2)
    assert getattr(world, name).calls == calls
    await world.quiet()


@BOOKS
@pytest.mark.parametrize("reason", [Reason.DEPENDENCY_DOWN, Reason.OUTCOME_UNKNOWN])
async def test_one_that_fails_for_now_holds_up_no_other(
    world: World, name: str, reason: Reason
) -> None:
    replica = await world.replica()
    books = getattr(world, name)
    books.refuse[BAD] = MeshError(reason, "not now")
    request = checkout(1000, 2000, sellers=BOTH)
    call = asyncio.create_task(replica.create(request))
    await replica.until(request, SUCCEEDED, CAPTURED)
    del books.refuse[BAD]
    payment = await call
    assert states_of(payment) == [SUCCEEDED, SUCCEEDED]
    world.assert_booked(payment)
    await world.quiet()


@BOOKS
async def test_the_error_of_a_call_says_nothing_about_any_item(world: World, name: str) -> None:
    """A permanent reason that a whole call fails with parks no captured money."""
    replica = await world.replica()
    books = getattr(world, name)
    books.fail = MeshError(Reason.VALIDATION_FAILED, "the list is too long")
    request = checkout(1000, 2000)
    call = asyncio.create_task(replica.create(request))
    await replica.until(request, CAPTURED, CAPTURED)
    books.fail = None
    assert states_of(await call) == [SUCCEEDED, SUCCEEDED]
    await world.quiet()


@BOOKS
async def test_an_answer_that_is_lost_after_the_effect_books_nothing_twice(
    world: World, name: str
) -> None:
    replica = await world.replica()
    books = getattr(world, name)
    books.lose = 3
    payment = await replica.create(checkout(1000, 2000))
    assert states_of(payment) == [SUCCEEDED, SUCCEEDED]
    world.assert_booked(payment)
    assert len(world.wallet.rows) == len(world.ledger.rows) == 2
    await world.quiet()


@BOOKS
async def test_fewer_results_than_asked_lose_nothing(world: World, name: str) -> None:
    replica = await world.replica()
    books = getattr(world, name)
    books.cut_results = 1
    request = checkout(1000, 2000)
    call = asyncio.create_task(replica.create(request))
    await replica.until(request, CAPTURED, CAPTURED)
    books.cut_results = 0
    payment = await call
    assert states_of(payment) == [SUCCEEDED, SUCCEEDED]
    world.assert_booked(payment)
    await world.quiet()


@BOOKS
async def test_a_result_that_says_nothing_is_not_taken_for_a_yes(world: World, name: str) -> None:
    replica = await world.replica()
    books = getattr(world, name)
    books.empty_results = True
    request = checkout(1000)
    call = asyncio.create_task(replica.create(request))
    await replica.until(request, CAPTURED)
    books.empty_results = False
    assert states_of(await call) == [SUCCEEDED]
    await world.quiet()


@BOOKS
async def test_a_hang_of_the_books_holds_up_no_decline(world: World, name: str) -> None:
    replica = await world.replica(call_deadline_ms=5_000)
    books = getattr(world, name)
    books.gate.clear()
    world.executor.on(51, declined)
    hung = [asyncio.create_task(replica.create(checkout(1000))) for _ in range(4)]
    await eventually(lambda: books.calls >= 1)
    await asyncio.sleep(0.1)
    payment = await replica.create(checkout(51), timeout_s=2)
    assert states_of(payment) == [DECLINED]
    books.gate.set()
    for call in hung:
        assert states_of(await call) == [SUCCEEDED]
    await world.quiet()


@pytest.mark.parametrize(("part", "bugs"), [("_book", 3), ("_judged", 1)])
async def test_a_bug_in_booking_loses_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, part: str, bugs: int
) -> None:
    replica = await world.replica()
    original = getattr(Conveyor, part)

    def buggy(*arguments: object, **named: object) -> object:
        nonlocal bugs
        if bugs:
            bugs -= 1
            raise ZeroDivisionError
        return original(*arguments, **named)

    monkeypatch.setattr(Conveyor, part, buggy)
    replica.conveyor._book_stage._handle = replica.conveyor._book
    payment = await replica.create(checkout(1000, 2000))
    assert states_of(payment) == [SUCCEEDED, SUCCEEDED]
    assert not bugs
    world.assert_booked(payment)
    await world.quiet()


async def _captured_and_asked_again(
    world: World, replica: Replica, step: Step, asked: int = 3
) -> None:
    """An order whose capture is stored, and whose executor then says something else."""
    world.wallet.refuse[BAD] = MeshError(Reason.DEPENDENCY_DOWN, "not now")
    world.executor.on(90, captured, step)
    request = checkout(90, sellers=[BAD])
    request.request_id = "captured before"
    call = asyncio.create_task(replica.create(request))
    await eventually(lambda: world.executor.asked.total() >= asked)
    call.cancel()


@pytest.mark.parametrize("step", [unknown, pending, parked(poll=True)])
async def test_the_lack_of_evidence_takes_back_no_capture(world: World, step: Step) -> None:
    replica = await world.replica()
    await _captured_and_asked_again(world, replica, step)
    (order,) = (await replica.get("captured before")).orders
    assert order.state in (CAPTURED, PARKED)
    assert order.captured == order.amount
    assert order.operations[0].state == payment_pb2.OPERATION_STATE_SUCCEEDED
    assert order.operations[0].source == payment_pb2.EVIDENCE_SOURCE_PSP_ANSWER
    # Neighbours in the same lists are none the worse.
    assert states_of(await replica.create(checkout(5))) == [SUCCEEDED]
    world.executor.on(90)
    del world.wallet.refuse[BAD]
    if order.state == CAPTURED:
        (request := checkout(90, sellers=[BAD])).request_id = "captured before"
        world.assert_booked(await replica.until(request, SUCCEEDED))


async def test_a_capture_that_is_contradicted_is_parked_and_never_declined(world: World) -> None:
    replica = await world.replica()
    await _captured_and_asked_again(world, replica, declined, asked=2)
    (request := checkout(90, sellers=[BAD])).request_id = "captured before"
    payment = await replica.until(request, PARKED)
    (order,) = payment.orders
    assert order.attention_reason.startswith("CONTRADICTED")
    assert order.captured == order.amount
    assert order.operations[0].state == payment_pb2.OPERATION_STATE_SUCCEEDED
    await world.quiet()


@pytest.mark.parametrize(
    "step", [declined, pending, unknown, parked(poll=True, reason="OUTCOME_UNKNOWN: too late")]
)
async def test_a_contradicted_capture_that_is_retried_stays_what_it_is(
    world: World, step: Step
) -> None:
    replica = await world.replica()
    await _captured_and_asked_again(world, replica, declined, asked=2)
    (request := checkout(90, sellers=[BAD])).request_id = "captured before"
    payment = await replica.until(request, PARKED)
    world.executor.on(90, step)
    asked = world.executor.asked.total()
    await replica.retry(payment)
    await eventually(lambda: world.executor.asked.total() > asked)
    await eventually(lambda: not replica.conveyor._items)
    (order,) = (await replica.get("captured before")).orders
    assert order.state == PARKED
    assert order.attention_reason.startswith("CONTRADICTED")
    assert order.captured == order.amount
    assert order.operations[0].state == payment_pb2.OPERATION_STATE_SUCCEEDED
    # What is true in the end is booked.
    world.executor.on(90)
    del world.wallet.refuse[BAD]
    await replica.retry(payment, request_id="settled with the PSP")
    world.assert_booked(await replica.until(request, SUCCEEDED))


async def test_text_that_the_database_refuses_parks_the_order_and_keeps_the_capture(
    world: World,
) -> None:
    replica = await world.replica()

    def poison(item: pb.OperationItem) -> pb.OperationOutcome:
        outcome = captured(item)
        outcome.captured.psp_reference = "nul \0 byte"
        return outcome

    world.executor.on(91, poison)
    payment = await replica.create(checkout(91, 5), timeout_s=5)
    assert states_of(payment) == [PARKED, SUCCEEDED]
    order = payment.orders[0]
    assert order.attention_reason.startswith("RESULT_REFUSED")
    assert order.captured == order.amount
    assert order.operations[0].state == payment_pb2.OPERATION_STATE_SUCCEEDED
    await asyncio.sleep(0.1)
    world.executor.on(91)
    await world.quiet()
