"""One request_id is one payment, whoever repeats it, how often, and how impatiently."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import grpc
import pytest
from paymesh.payment.v1 import payment_pb2 as pb
from paymesh.payment.v1 import payment_service_pb2 as service_pb
from paymesh.payment.v1.payment_service_pb2_grpc import PaymentServiceStub

from tests.support.checkout import new_checkout, new_order
from tests.support.mesh import RunningMesh, eventually, fresh
from tests.support.refusals import Refusal, refusal_of, refused

pytestmark = pytest.mark.usefixtures("balanced_books")

Change = Callable[[service_pb.CreatePaymentRequest], object]

CALLERS = 64


@pytest.fixture
def channels(mesh: RunningMesh) -> Iterator[list[grpc.Channel]]:
    """Connections of their own, as different processes of a backend have them."""
    opened = [mesh.new_channel("payment") for _ in range(4)]
    yield opened
    for channel in opened:
        channel.close()


def test_64_at_once_are_one(mesh: RunningMesh, channels: list[grpc.Channel]) -> None:
    request = new_checkout("tok_ok", new_order(), new_order(700, 7), new_order(1, 0))
    request.metadata["cart"] = "17"

    payments = _at_once(channels, [request] * CALLERS)

    assert len({payment.SerializeToString(deterministic=True) for payment in payments}) == 1
    assert payments[0].state == pb.PAYMENT_STATE_SUCCEEDED
    assert _stored(mesh, request) == 1
    assert mesh.captures(payments[0]) == [[10_000], [700], [1]]


def test_64_at_once_of_two_kinds_are_one_of_them(
    mesh: RunningMesh, channels: list[grpc.Channel]
) -> None:
    one = new_checkout("tok_ok", new_order(100, 0, seller_id=fresh("seller")))
    other = _changed(one, lambda r: r.orders[0].amount.__setattr__("amount_minor", 200))

    answers = _answers(channels, [one, other] * (CALLERS // 2))

    payments = [answer for answer in answers if isinstance(answer, pb.Payment)]
    refusals = [answer for answer in answers if isinstance(answer, Refusal)]
    assert len(payments) == len(refusals) == CALLERS // 2
    assert len({payment.SerializeToString(deterministic=True) for payment in payments}) == 1
    assert {refusal.reason for refusal in refusals} == {"REQUEST_ID_REUSED"}
    assert _stored(mesh, one) == 1
    assert mesh.captures(payments[0]) == [[payments[0].orders[0].amount.amount_minor]]


def test_replay_later_is_the_same_payment(mesh: RunningMesh) -> None:
    request = new_checkout()
    first = mesh.pay(request)

    again = [mesh.pay(request) for _ in range(3)]

    assert again == [first] * 3
    assert mesh.captures(first) == [[10_000]]


@pytest.mark.parametrize("token", ["tok_declined", "tok_wrong_amount"])
def test_replay_of_what_did_not_succeed_charges_nothing_new(mesh: RunningMesh, token: str) -> None:
    request = new_checkout(token)
    first = mesh.pay(request)
    captures = mesh.captures(first)

    assert mesh.pay(request) == first
    assert mesh.captures(first) == captures


def test_replay_that_says_the_defaults_is_the_same_request(mesh: RunningMesh) -> None:
    request = new_checkout("tok_ok", new_order(500, None))
    first = mesh.pay(request)

    def say_defaults(request: service_pb.CreatePaymentRequest) -> None:
        request.failure_policy = pb.FAILURE_POLICY_BEST_EFFORT
        request.capture_method = pb.CAPTURE_METHOD_AUTOMATIC
        request.orders[0].commission.currency_code = "EUR"

    assert mesh.pay(_changed(request, say_defaults)) == first


REUSES: dict[str, tuple[Change, str]] = {
    "another amount": (
        lambda r: r.orders[0].amount.__setattr__("amount_minor", 10_001),
        "orders[0].amount.amount_minor",
    ),
    "another commission": (
        lambda r: r.orders[1].commission.__setattr__("amount_minor", 1),
        "orders[1].commission.amount_minor",
    ),
    "another seller": (
        lambda r: r.orders[1].__setattr__("seller_id", fresh("seller")),
        "orders[1].seller_id",
    ),
    "another reference": (
        lambda r: r.orders[0].__setattr__("reference", "R-2"),
        "orders[0].reference",
    ),
    "another buyer": (lambda r: r.__setattr__("buyer_id", fresh("buyer")), "buyer_id"),
    "another token": (lambda r: r.__setattr__("payment_method", "tok_slow"), "payment_method"),
    "other metadata": (lambda r: r.metadata.__setitem__("cart", "18"), "metadata"),
    "no metadata": (lambda r: r.ClearField("metadata"), "metadata"),
    "one order less": (lambda r: r.orders.pop(), "orders"),
    "one order more": (lambda r: r.orders.append(new_order()), "orders"),
}


@pytest.mark.parametrize("name", REUSES)
def test_another_request_is_refused_and_names_the_field(mesh: RunningMesh, name: str) -> None:
    change, field = REUSES[name]
    request = new_checkout("tok_ok", new_order(), new_order())
    request.metadata["cart"] = "17"
    first = mesh.pay(request)

    refusal = refused(lambda: mesh.pay(_changed(request, change)))

    assert (refusal.code, refusal.reason) == ("ALREADY_EXISTS", "REQUEST_ID_REUSED")
    assert refusal.domain == "paymesh"
    assert refusal.metadata == {"fields": field}
    assert mesh.get(first.payment_id) == first
    assert mesh.captures(first) == [[10_000], [10_000]]


def test_another_currency_is_another_request(mesh: RunningMesh) -> None:
    request = new_checkout()
    mesh.pay(request)

    def change(request: service_pb.CreatePaymentRequest) -> None:
        request.orders[0].amount.currency_code = "USD"
        request.orders[0].commission.currency_code = "USD"

    refusal = refused(lambda: mesh.pay(_changed(request, change)))

    assert refusal.metadata == {"fields": "orders[0].amount.currency_code"}


def test_request_ids_of_callers_never_meet(mesh: RunningMesh) -> None:
    request = new_checkout("tok_ok", new_order(300, 0))
    other = _changed(request, lambda r: r.orders[0].amount.__setattr__("amount_minor", 400))

    of_default = mesh.pay(request)
    of_shop = mesh.pay(other, caller="shop-1")

    assert of_default.caller == "default"
    assert of_shop.caller == "shop-1"
    assert of_shop.payment_id != of_default.payment_id
    assert mesh.pay(request, caller="default") == of_default
    assert mesh.pay(other, caller="shop-1") == of_shop
    assert mesh.captures(of_default) == [[300]]
    assert mesh.captures(of_shop) == [[400]]


def test_replays_wait_like_the_first(mesh: RunningMesh, channels: list[grpc.Channel]) -> None:
    request = new_checkout("tok_slow")
    started = time.monotonic()
    first = [mesh.payments.CreatePayment.future(request, timeout=30) for _ in range(2)]
    eventually(lambda: _stored(mesh, request) == 1)

    replay = mesh.pay(request)

    assert time.monotonic() - started >= 2.0
    assert replay.state == pb.PAYMENT_STATE_SUCCEEDED
    assert [call.result().payment for call in first] == [replay] * 2
    assert mesh.captures(replay) == [[10_000]]


def test_a_caller_who_goes_away_stops_nothing(mesh: RunningMesh) -> None:
    cancelled, hung_up = new_checkout("tok_slow"), new_checkout("tok_slow")
    call = mesh.payments.CreatePayment.future(cancelled, timeout=30)
    channel = mesh.new_channel("payment")
    # Kept: a call that nobody holds is cancelled.
    kept = PaymentServiceStub(channel).CreatePayment.future(hung_up, timeout=30)
    for request in (cancelled, hung_up):
        eventually(lambda request=request: _stored(mesh, request) == 1)  # type: ignore[misc]

    call.cancel()
    channel.close()

    assert call.cancelled()
    assert kept.done()
    for request in (cancelled, hung_up):
        payment = mesh.rested(_find(mesh, request).payment_id)
        assert payment.state == pb.PAYMENT_STATE_SUCCEEDED
        assert mesh.captures(payment) == [[10_000]]


def test_shortly_before_a_deadline_the_answer_is_processing(mesh: RunningMesh) -> None:
    request = new_checkout("tok_slow")
    started = time.monotonic()

    payment = mesh.pay(request, timeout_s=1.2)

    assert time.monotonic() - started < 1.2
    assert payment.state == pb.PAYMENT_STATE_PROCESSING
    assert mesh.rested(payment.payment_id).state == pb.PAYMENT_STATE_SUCCEEDED
    assert mesh.captures(payment) == [[10_000]]


def test_a_deadline_of_300_ms(mesh: RunningMesh) -> None:
    requests = [new_checkout("tok_slow") for _ in range(5)]
    in_time: list[pb.PaymentState.ValueType] = []
    late: list[Refusal] = []

    for request in requests:
        try:
            payment = mesh.pay(request, timeout_s=0.3)
        except grpc.RpcError as error:
            late.append(refusal_of(error))
        else:
            in_time.append(payment.state)

    assert set(in_time) == {pb.PAYMENT_STATE_PROCESSING}
    # On a machine that is busy with other things some answers come too late.
    assert all(_says_nothing(refusal) for refusal in late)
    for request in requests:
        payment = mesh.rested(mesh.pay(request).payment_id)
        assert payment.state == pb.PAYMENT_STATE_SUCCEEDED
        assert mesh.captures(payment) == [[10_000]]


def test_a_caller_without_time_may_ask_again(mesh: RunningMesh) -> None:
    request = new_checkout()

    refusal = refused(lambda: mesh.pay(request, timeout_s=0.001))

    assert _says_nothing(refusal)
    payment = mesh.pay(request)
    assert payment.state == pb.PAYMENT_STATE_SUCCEEDED
    assert mesh.captures(payment) == [[10_000]]


def _at_once(
    channels: Sequence[grpc.Channel], requests: Sequence[service_pb.CreatePaymentRequest]
) -> list[pb.Payment]:
    answers = _answers(channels, requests)
    payments = [answer for answer in answers if isinstance(answer, pb.Payment)]
    assert len(payments) == len(answers), answers
    return payments


def _answers(
    channels: Sequence[grpc.Channel], requests: Sequence[service_pb.CreatePaymentRequest]
) -> list[pb.Payment | Refusal]:
    """What calls hear that are made at the same time over different connections."""
    stubs = [PaymentServiceStub(channel) for channel in channels]
    for channel in channels:
        grpc.channel_ready_future(channel).result(timeout=10)
    calls = [
        stubs[number % len(stubs)].CreatePayment.future(request, timeout=30)
        for number, request in enumerate(requests)
    ]
    answers: list[pb.Payment | Refusal] = []
    for call in calls:
        try:
            answers.append(call.result().payment)
        except grpc.RpcError as error:
            answers.append(refusal_of(error))
    return answers


def _says_nothing(refusal: Refusal) -> bool:
    """Whether it means: unknown, call again with the same request_id."""
    return (refusal.code, refusal.reason) in (
        ("DEADLINE_EXCEEDED", ""),
        ("ABORTED", "OUTCOME_UNKNOWN"),
    )


def _changed(
    request: service_pb.CreatePaymentRequest, change: Change
) -> service_pb.CreatePaymentRequest:
    changed = service_pb.CreatePaymentRequest()
    changed.CopyFrom(request)
    change(changed)
    return changed


def _stored(mesh: RunningMesh, request: service_pb.CreatePaymentRequest) -> int:
    return mesh.count(
        "payment", "SELECT count(*) FROM payment WHERE request_id = %s", request.request_id
    )


def _find(mesh: RunningMesh, request: service_pb.CreatePaymentRequest) -> pb.Payment:
    return mesh.payments.GetPayment(
        service_pb.GetPaymentRequest(request_id=request.request_id), timeout=10
    ).payment
