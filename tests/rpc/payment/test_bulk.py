"""CreatePayments: many payments over one stream, each by itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any

import grpc
import pytest
from paymesh.payment.v1 import payment_service_pb2 as pb

from mesh.errors import Reason
from mesh.status import from_status
from payment_svc.bulk import MAX_UNDER_WAY
from tests.support.eventually import eventually
from tests.support.fakes import declined
from tests.support.payment_replica import Replica, State, states_of
from tests.support.payment_world import World, checkout
from tests.support.refusals import refusal_of

SUCCEEDED = State.ORDER_STATE_SUCCEEDED
SLOW, REFUSED = 777, 666


def item(index: int, request: pb.CreatePaymentRequest) -> pb.CreatePaymentsRequest:
    """One item of a stream."""
    return pb.CreatePaymentsRequest(index=index, request=request)


async def told(
    replica: Replica, items: Sequence[pb.CreatePaymentsRequest], timeout_s: float | None = 20
) -> list[pb.CreatePaymentsResponse]:
    """The answers to a stream of these items, in their order."""
    return [answer async for answer in replica.stub.CreatePayments(iter(items), timeout=timeout_s)]


def by_index(answers: Sequence[pb.CreatePaymentsResponse]) -> list[pb.CreatePaymentsResponse]:
    """The answers by their items' numbers, each of which is told once."""
    assert len({answer.index for answer in answers}) == len(answers)
    return sorted(answers, key=lambda answer: answer.index)


def reason(answer: pb.CreatePaymentsResponse) -> Reason:
    """Why an item was refused."""
    assert answer.WhichOneof("result") == "error", answer
    return from_status(answer.error).reason


async def test_each_item_is_a_payment_and_is_told_by_its_number(world: World) -> None:
    replica = await world.replica()
    requests = [checkout(100 + number, 50) for number in range(200)]
    answers = by_index(await told(replica, [item(n, r) for n, r in enumerate(requests)]))
    for request, answer in zip(requests, answers, strict=True):
        assert answer.request_id == request.request_id == answer.payment.request_id
        assert states_of(answer.payment) == [SUCCEEDED, SUCCEEDED]
        assert answer.payment == await replica.get(request.request_id)
        world.assert_booked(answer.payment)
    assert set(world.executor.asked.values()) == {1}
    await world.quiet()


async def test_items_travel_in_lists(world: World) -> None:
    replica = await world.replica()
    await told(replica, [item(n, checkout(100)) for n in range(500)])
    assert sum(stream.lists for stream in world.executor.streams) < 250
    assert world.wallet.calls < 250


async def test_items_are_answered_in_the_order_of_completion(world: World) -> None:
    replica = await world.replica()
    gate = asyncio.Event()
    world.executor.on(SLOW, gate=gate)
    call = replica.stub.CreatePayments(timeout=20)
    await call.write(item(1, checkout(SLOW)))
    await call.write(item(2, checkout(100)))
    assert (await anext(aiter(call))).index == 2
    gate.set()
    await call.done_writing()
    assert [answer.index async for answer in call] == [1]


async def test_an_item_that_is_refused_fails_alone(world: World) -> None:
    replica = await world.replica()
    used, card = checkout(100), checkout(100)
    await replica.create(used)
    used.orders[0].amount.amount_minor = 200
    card.payment_method = "4242 4242 4242 4242"
    unknown = checkout(100)
    unknown.orders[0].amount.currency_code = "XXX"
    unknown.orders[0].ClearField("commission")
    nameless = checkout(100)
    nameless.request_id = ""
    huge = checkout(100)
    huge.metadata["k"] = "x" * 2_000_000
    world.executor.on(REFUSED, declined)
    items = [
        pb.CreatePaymentsRequest(index=0),
        item(1, checkout(0)),
        item(2, used),
        item(3, card),
        item(4, unknown),
        item(5, nameless),
        item(6, huge),
        item(7, checkout(REFUSED)),
        item(8, checkout(100)),
    ]
    answers = by_index(await told(replica, items))
    assert [reason(answer) for answer in answers[:7]] == [
        Reason.VALIDATION_FAILED,
        Reason.VALIDATION_FAILED,
        Reason.REQUEST_ID_REUSED,
        Reason.CARD_NUMBER_REFUSED,
        Reason.UNKNOWN_CURRENCY,
        Reason.VALIDATION_FAILED,
        Reason.VALIDATION_FAILED,
    ]
    assert [v.field for v in from_status(answers[1].error).violations] == [
        "orders[0].amount",
    ]
    assert answers[2].request_id == used.request_id
    assert answers[5].request_id == ""
    assert "4242" not in str(answers[3])
    assert states_of(answers[7].payment) == [State.ORDER_STATE_DECLINED]
    assert states_of(answers[8].payment) == [SUCCEEDED]
    assert world.rows("SELECT count(*) FROM payment") == [(3,)]


async def test_a_card_number_that_was_sent_as_request_id_is_never_repeated(world: World) -> None:
    replica = await world.replica()
    alone, with_no_amount, huge = (
        checkout(amount, sellers=["seller"], request_id="4242 4242 4242 4242")
        for amount in (100, 0, 100)
    )
    huge.metadata["k"] = "x" * 2_000_000
    requests = [alone, with_no_amount, huge]
    answers = by_index(await told(replica, [item(n, r) for n, r in enumerate(requests)]))
    assert [reason(answer) for answer in answers] == [
        Reason.CARD_NUMBER_REFUSED,
        Reason.VALIDATION_FAILED,
        Reason.VALIDATION_FAILED,
    ]
    assert not [answer for answer in answers if "4242" in str(answer)]
    assert world.rows("SELECT count(*) FROM payment") == [(0,)]


async def test_one_key_twice_in_a_stream_and_beside_it_is_one_payment(world: World) -> None:
    replica = await world.replica()
    request = checkout(100)
    streamed, unary = await asyncio.gather(
        told(replica, [item(n, request) for n in range(20)]),
        asyncio.gather(*(replica.create(request) for _ in range(20))),
    )
    answers = [answer.payment for answer in streamed] + list(unary)
    assert len({answer.SerializeToString(deterministic=True) for answer in answers}) == 1
    assert list(world.executor.asked.values()) == [1]


async def test_a_caller_that_goes_away_stops_nothing(world: World) -> None:
    replica = await world.replica()
    gate = asyncio.Event()
    world.executor.on(SLOW, gate=gate)
    requests = [checkout(SLOW) for _ in range(10)]
    call = replica.stub.CreatePayments()
    for number, request in enumerate(requests):
        await call.write(item(number, request))
    await eventually(lambda: len(world.executor.asked) == 10)
    call.cancel()
    gate.set()
    for request in requests:
        world.assert_booked(await replica.until(request, SUCCEEDED))
    await world.quiet()


async def test_shortly_before_the_deadline_items_are_told_as_they_stand(world: World) -> None:
    replica = await world.replica()
    gate = asyncio.Event()
    world.executor.on(SLOW, gate=gate)
    requests = [checkout(SLOW), checkout(100)]
    answers = by_index(
        await told(replica, [item(n, r) for n, r in enumerate(requests)], timeout_s=1.5)
    )
    assert states_of(answers[0].payment) == [State.ORDER_STATE_PROCESSING]
    assert states_of(answers[1].payment) == [SUCCEEDED]
    gate.set()
    await replica.until(requests[0], SUCCEEDED)


async def test_no_more_is_read_than_may_be_under_way(world: World) -> None:
    replica = await world.replica()
    gate = asyncio.Event()
    world.executor.on(SLOW, gate=gate)
    items = [item(number, checkout(SLOW)) for number in range(MAX_UNDER_WAY + 500)]
    telling = asyncio.create_task(told(replica, items, timeout_s=60))
    await eventually(lambda: len(world.executor.asked) == MAX_UNDER_WAY)
    await asyncio.sleep(0.3)
    assert len(world.executor.asked) == MAX_UNDER_WAY
    gate.set()
    answers = by_index(await telling)
    assert [states_of(answer.payment) for answer in answers] == [[SUCCEEDED]] * len(items)


async def test_bytes_that_are_no_message_end_the_stream_after_what_was_read(world: World) -> None:
    replica = await world.replica()
    assert replica._channel is not None
    raw: Any = replica._channel.stream_stream(
        "/paymesh.payment.v1.PaymentService/CreatePayments",
        response_deserializer=pb.CreatePaymentsResponse.FromString,
    )
    request = checkout(100)
    call = raw(iter([item(1, request).SerializeToString(), b"\xff\xff"]), timeout=10)
    answers = aiter(call)
    assert (await anext(answers)).index == 1
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await anext(answers)
    assert refusal_of(refused.value).reason == Reason.VALIDATION_FAILED


async def test_a_replica_that_stops_answers_what_it_took_and_takes_no_more(world: World) -> None:
    one, two = await world.replica(drain_s=2.0), await world.replica()
    requests: list[pb.CreatePaymentRequest] = []
    stopping = asyncio.Event()

    async def endless() -> AsyncIterator[pb.CreatePaymentsRequest]:
        while not stopping.is_set() or len(requests) < 1_000:
            requests.append(checkout(100))
            yield item(len(requests), requests[-1])
            await asyncio.sleep(0.001)

    answered: dict[str, pb.CreatePaymentsResponse] = {}

    async def telling() -> grpc.aio.AioRpcError | None:
        with suppress(asyncio.CancelledError):
            try:
                async for answer in one.stub.CreatePayments(endless()):
                    answered[answer.request_id] = answer
            except grpc.aio.AioRpcError as error:
                return error
        return None

    stream = asyncio.create_task(telling())
    await eventually(lambda: len(answered) > 20)
    await one.stop()
    stopping.set()
    error = await stream
    assert error is not None
    assert refusal_of(error).reason == Reason.OUTCOME_UNKNOWN
    assert all(states_of(answer.payment) == [SUCCEEDED] for answer in answered.values())
    # What was not answered is sent again elsewhere, and then each is there once.
    left = [request for request in requests if request.request_id not in answered]
    again = by_index(await told(two, [item(n, r) for n, r in enumerate(left)]))
    assert [states_of(answer.payment) for answer in again] == [[SUCCEEDED]] * len(left)
    assert set(world.executor.asked.values()) == {1}
    assert world.rows("SELECT count(*) FROM payment") == [(len(requests),)]
