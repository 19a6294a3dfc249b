"""`paymesh payment watch` and `retry`, against a mesh that the test plays."""

from __future__ import annotations

import json

import grpc
import pytest
from paymesh.common.v1.money_pb2 import Money
from paymesh.payment.v1 import payment_pb2, payment_service_pb2

from mesh.errors import MeshError, Reason, outcome_unknown
from tests.support.fake_channel import FakeMesh

PAYMENT = "127.0.0.1:50051"
RPC = payment_service_pb2.DESCRIPTOR.services_by_name["PaymentService"].methods_by_name
ID = "a" * 32
RETRY = ("payment", "retry", ID, "--note", "the PSP put it right")


def payment(
    state: payment_pb2.PaymentState.ValueType,
    order: payment_pb2.OrderState.ValueType,
    reason: str = "",
) -> payment_pb2.Payment:
    return payment_pb2.Payment(
        payment_id=ID,
        request_id="r-1",
        state=state,
        orders=[
            payment_pb2.PaymentOrder(
                order_id="b" * 32,
                seller_id="alice[red]",
                amount=Money(amount_minor=1250, currency_code="EUR"),
                state=order,
                attention_reason=reason,
            )
        ],
    )


PROCESSING = payment(payment_pb2.PAYMENT_STATE_PROCESSING, payment_pb2.ORDER_STATE_PROCESSING)
SUCCEEDED = payment(payment_pb2.PAYMENT_STATE_SUCCEEDED, payment_pb2.ORDER_STATE_SUCCEEDED)
DECLINED = payment(payment_pb2.PAYMENT_STATE_FAILED, payment_pb2.ORDER_STATE_DECLINED)
PARKED = payment(
    payment_pb2.PAYMENT_STATE_NEEDS_ATTENTION, payment_pb2.ORDER_STATE_PARKED, "WRONG_AMOUNT: 1"
)


def changes(*payments: payment_pb2.Payment) -> list[payment_service_pb2.WatchPaymentResponse]:
    return [payment_service_pb2.WatchPaymentResponse(payment=each) for each in payments]


def test_watch_prints_a_line_a_change_without_a_deadline(mesh: FakeMesh) -> None:
    run = mesh.run("payment", "watch", ID, "--caller", "shop")
    call = mesh.take_stream(run, PAYMENT, RPC["WatchPayment"])
    assert call.request == payment_service_pb2.WatchPaymentRequest(payment_id=ID)
    assert call.metadata["paymesh-caller"] == "shop"
    assert call.timeout_s is None
    call.send(*changes(PROCESSING, PARKED, SUCCEEDED))
    call.end()
    result = run.result(10)
    assert result.exit_code == 0
    first, second, third = result.stdout.splitlines()
    assert "alice[red] PROCESSING" in first
    assert "NEEDS_ATTENTION" in second
    assert "WRONG_AMOUNT: 1" in second
    assert "alice[red] SUCCEEDED" in third


def test_watch_as_json_is_an_object_a_line(mesh: FakeMesh) -> None:
    run = mesh.run("payment", "watch", ID, "--json", "--timeout", "7")
    call = mesh.take_stream(run, PAYMENT, RPC["WatchPayment"])
    assert call.timeout_s == 7
    call.send(*changes(PROCESSING, DECLINED))
    call.end()
    result = run.result(10)
    assert result.exit_code == 1
    states = [json.loads(line)["payment"]["state"] for line in result.stdout.splitlines()]
    assert states == ["PAYMENT_STATE_PROCESSING", "PAYMENT_STATE_FAILED"]


@pytest.mark.parametrize(
    ("error", "code", "exit_code"),
    [
        (MeshError(Reason.PAYMENT_NOT_FOUND, "none"), grpc.StatusCode.NOT_FOUND, 1),
        (MeshError(Reason.DEPENDENCY_DOWN, "stopping"), grpc.StatusCode.UNAVAILABLE, 3),
    ],
)
def test_a_watch_that_ends_with_an_error_says_it_in_a_line(
    mesh: FakeMesh, error: MeshError, code: grpc.StatusCode, exit_code: int
) -> None:
    run = mesh.run("payment", "watch", ID)
    call = mesh.take_stream(run, PAYMENT, RPC["WatchPayment"])
    call.send(*changes(PROCESSING))
    call.refuse(error, code)
    result = run.result(10)
    assert result.exit_code == exit_code
    assert result.stderr == f"error: {error.reason}: {error.message}\n"


def test_retry_tells_its_key_before_the_call_and_then_the_payment(mesh: FakeMesh) -> None:
    run = mesh.run(*RETRY, "--request-id", "op-1")
    call = mesh.take(run, PAYMENT, RPC["RetryPayment"])
    assert call.request == payment_service_pb2.RetryPaymentRequest(
        request_id="op-1", payment_id=ID, note="the PSP put it right"
    )
    assert call.timeout_s == 30
    call.answer(payment_service_pb2.RetryPaymentResponse(payment=SUCCEEDED))
    result = run.result(10)
    assert result.exit_code == 0
    assert result.stderr == "request_id op-1\n"
    assert "SUCCEEDED" in result.stdout


@pytest.mark.parametrize(("answer", "exit_code"), [(PARKED, 1), (PROCESSING, 4), (DECLINED, 1)])
def test_a_retry_that_did_not_help_is_no_success(
    mesh: FakeMesh, answer: payment_pb2.Payment, exit_code: int
) -> None:
    run = mesh.run(*RETRY)
    mesh.take(run, PAYMENT, RPC["RetryPayment"]).answer(
        payment_service_pb2.RetryPaymentResponse(payment=answer)
    )
    assert run.result(10).exit_code == exit_code


def test_a_retry_whose_outcome_is_unknown_says_how_to_repeat_it(mesh: FakeMesh) -> None:
    run = mesh.run(*RETRY, "--request-id", "op-1", "--json")
    mesh.take(run, PAYMENT, RPC["RetryPayment"]).refuse(
        outcome_unknown("the round ended"), grpc.StatusCode.ABORTED
    )
    result = run.result(10)
    assert result.exit_code == 4
    error = json.loads(result.stdout)["error"]
    assert (error["request_id"], error["repeat"]) == ("op-1", True)


def test_a_retry_needs_a_note(mesh: FakeMesh) -> None:
    result = mesh.run("payment", "retry", ID).result(10)
    assert result.exit_code == 2
    assert not mesh.addresses
