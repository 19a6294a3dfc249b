"""Every token of the stub that charges, through the whole mesh.

Captures are counted in the stub's own truth, never by what the mesh says.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import pytest
from paymesh.payment.v1 import payment_pb2 as pb

from tests.support.checkout import new_checkout
from tests.support.mesh import RunningMesh, eventually, started_on
from tests.support.postgres import PostgresServer

pytestmark = pytest.mark.usefixtures("balanced_books")

AMOUNT = 10_000

SUCCEED_AT_ONCE = ("tok_ok", "tok_slow")
SUCCEED_BY_THE_LADDER = ("tok_timeout_captured", "tok_timeout_nothing", "tok_error_captured")
SUCCEED_LATER = ("tok_unavailable_twice", "tok_pending_success")
DECLINES = {
    "tok_declined": (pb.DECLINE_CATEGORY_GENERIC, "card_declined"),
    "tok_insufficient_funds": (pb.DECLINE_CATEGORY_INSUFFICIENT_FUNDS, "insufficient_funds"),
    "tok_pending_failure": (pb.DECLINE_CATEGORY_GENERIC, "card_declined"),
    # Until disputes are built.
    "tok_dispute": (pb.DECLINE_CATEGORY_INVALID_PAYMENT_METHOD, "invalid_token"),
    "tok_nobody_knows": (pb.DECLINE_CATEGORY_INVALID_PAYMENT_METHOD, "invalid_token"),
    "TOK_OK": (pb.DECLINE_CATEGORY_INVALID_PAYMENT_METHOD, "invalid_token"),
    "tok_ok ": (pb.DECLINE_CATEGORY_INVALID_PAYMENT_METHOD, "invalid_token"),
}
ALL = (
    *SUCCEED_AT_ONCE,
    *SUCCEED_BY_THE_LADDER,
    *SUCCEED_LATER,
    *DECLINES,
    "tok_wrong_amount",
    "tok_silent",
)


class Told(NamedTuple):
    """What CreatePayment answered, and after how many seconds."""

    payment: pb.Payment
    seconds: float


@pytest.fixture(scope="module")
def told(mesh: RunningMesh) -> dict[str, Told]:
    """The first answers for all tokens, which are sent at the same time."""
    started = time.monotonic()
    ended: dict[str, float] = {}
    calls = {
        token: mesh.payments.CreatePayment.future(new_checkout(token), timeout=30) for token in ALL
    }
    for token, call in calls.items():
        call.add_done_callback(partial(_note, ended, token))
    answers = {token: call.result().payment for token, call in calls.items()}
    eventually(lambda: len(ended) == len(ALL))
    return {token: Told(answers[token], ended[token] - started) for token in ALL}


@pytest.mark.parametrize("token", SUCCEED_AT_ONCE + SUCCEED_BY_THE_LADDER)
def test_first_answer_is_succeeded(mesh: RunningMesh, told: dict[str, Told], token: str) -> None:
    payment = told[token].payment
    (order,) = payment.orders
    (operation,) = order.operations

    assert payment.state == pb.PAYMENT_STATE_SUCCEEDED
    assert order.state == pb.ORDER_STATE_SUCCEEDED
    assert order.captured.amount_minor == AMOUNT
    assert operation.state == pb.OPERATION_STATE_SUCCEEDED
    assert operation.psp_reference
    assert mesh.captures(payment) == [[AMOUNT]]


def test_slow_takes_two_seconds(told: dict[str, Told]) -> None:
    assert told["tok_slow"].seconds >= 2.0


@pytest.mark.parametrize("token", ["tok_timeout_captured", "tok_error_captured"])
def test_lost_answer_is_found_by_look_up(told: dict[str, Told], token: str) -> None:
    ((operation,),) = [order.operations for order in told[token].payment.orders]

    assert operation.source == pb.EVIDENCE_SOURCE_PSP_LOOK_UP


@pytest.mark.parametrize("token", SUCCEED_LATER)
def test_first_answer_is_processing_and_it_succeeds_later(
    mesh: RunningMesh, told: dict[str, Told], token: str
) -> None:
    first = told[token].payment

    last = mesh.rested(first.payment_id)

    assert first.state == pb.PAYMENT_STATE_PROCESSING
    assert last.state == pb.PAYMENT_STATE_SUCCEEDED
    assert last.orders[0].captured.amount_minor == AMOUNT
    assert mesh.captures(last) == [[AMOUNT]]


def test_pending_is_processing_not_unknown(told: dict[str, Told]) -> None:
    for token in ("tok_pending_success", "tok_pending_failure"):
        (order,) = told[token].payment.orders
        assert order.state == pb.ORDER_STATE_PROCESSING


@pytest.mark.parametrize("token", DECLINES)
def test_decline(mesh: RunningMesh, told: dict[str, Told], token: str) -> None:
    first = told[token].payment

    last = mesh.rested(first.payment_id)

    pending = token == "tok_pending_failure"
    assert (first.state == pb.PAYMENT_STATE_PROCESSING) == pending
    assert last.state == pb.PAYMENT_STATE_FAILED
    (order,) = last.orders
    assert order.state == pb.ORDER_STATE_DECLINED
    assert (order.decline.category, order.decline.code) == DECLINES[token]
    assert order.captured.amount_minor == 0
    assert [operation.state for operation in order.operations] == [pb.OPERATION_STATE_FAILED]
    assert mesh.captures(last) == [[]]
    assert _books(mesh, last) == (0, 0)


def test_wrong_amount_is_parked_and_never_booked(mesh: RunningMesh, told: dict[str, Told]) -> None:
    payment = told["tok_wrong_amount"].payment

    assert payment.state == pb.PAYMENT_STATE_NEEDS_ATTENTION
    (order,) = payment.orders
    assert order.state == pb.ORDER_STATE_PARKED
    assert order.attention_reason.startswith("WRONG_AMOUNT: ")
    assert order.captured.amount_minor == 0
    ((captured,),) = mesh.captures(payment)
    assert captured != AMOUNT
    # What is parked for that is not asked about again, whatever the schedule.
    time.sleep(1.2)
    assert mesh.get(payment.payment_id) == payment
    assert _books(mesh, payment) == (0, 0)


def test_silent_is_unknown_and_captured_once(mesh: RunningMesh, told: dict[str, Told]) -> None:
    first = told["tok_silent"].payment
    assert first.orders[0].state == pb.ORDER_STATE_UNKNOWN

    _rounds(mesh, first, 2)

    last = mesh.get(first.payment_id)
    assert last.state == pb.PAYMENT_STATE_PROCESSING
    (order,) = last.orders
    assert order.state == pb.ORDER_STATE_UNKNOWN
    assert order.captured.amount_minor == 0
    assert [operation.state for operation in order.operations] == [pb.OPERATION_STATE_UNKNOWN]
    assert mesh.captures(last) == [[AMOUNT]]
    assert _books(mesh, last) == (0, 0)


@pytest.fixture(scope="module")
def forgetful(postgres_server: PostgresServer) -> Iterator[RunningMesh]:
    """Its PSP remembers a key for 2 s, so that a resend is safe within 1 s; and it is asked
    about a lost answer when it has forgotten."""
    with started_on(
        postgres_server, psp_stub_key_memory_s=2, executor_ladder_backoff_ms=2_500
    ) as mesh:
        yield mesh


def test_a_forgetful_psp_never_charges_twice(forgetful: RunningMesh) -> None:
    tokens = ("tok_timeout_captured", "tok_silent", "tok_error_captured")
    calls = [
        forgetful.payments.CreatePayment.future(new_checkout(token), timeout=30) for token in tokens
    ]
    payments = [call.result().payment for call in calls]

    for payment in payments:
        # Long after the key is forgotten; a PSP that is sent it again charges again.
        _rounds(forgetful, payment, 3)

    for payment in payments:
        last = forgetful.get(payment.payment_id)
        (order,) = last.orders
        assert order.state == pb.ORDER_STATE_PARKED
        assert order.attention_reason.startswith("OUTCOME_UNKNOWN: ")
        assert last.state == pb.PAYMENT_STATE_NEEDS_ATTENTION
        assert forgetful.captures(last) == [[AMOUNT]]
        assert _books(forgetful, last) == (0, 0)
    assert forgetful.violations(at_rest=False) == []


def test_what_a_forgetful_psp_may_have_charged_is_parked(forgetful: RunningMesh) -> None:
    payment = forgetful.paid(new_checkout("tok_timeout_nothing"))

    _rounds(forgetful, payment, 2)

    assert forgetful.get(payment.payment_id).state == pb.PAYMENT_STATE_NEEDS_ATTENTION
    assert forgetful.captures(payment) == [[]]


def test_a_forgetful_psp_that_is_asked_in_time(postgres_server: PostgresServer) -> None:
    with started_on(postgres_server, psp_stub_key_memory_s=2) as mesh:
        found = mesh.pay(new_checkout("tok_timeout_captured"))
        silent = mesh.pay(new_checkout("tok_silent"))
        _rounds(mesh, silent, 3)

        # On a machine that is very busy the look-up may come too late.
        assert mesh.rested(found.payment_id).orders[0].state in (
            pb.ORDER_STATE_SUCCEEDED,
            pb.ORDER_STATE_PARKED,
        )
        assert mesh.captures(found) == [[AMOUNT]]
        assert mesh.get(silent.payment_id).orders[0].state == pb.ORDER_STATE_PARKED
        assert mesh.captures(silent) == [[AMOUNT]]


def _note(ended: dict[str, float], token: str, _: object) -> None:
    ended[token] = time.monotonic()


def _books(mesh: RunningMesh, payment: pb.Payment) -> tuple[int, int]:
    """How many movements and journals there are of the payment's orders."""
    orders = [order.order_id for order in payment.orders]
    where = "WHERE order_id = ANY (%s::uuid[])"
    return (
        mesh.count("wallet", f"SELECT count(*) FROM movement {where}", orders),
        mesh.count("ledger", f"SELECT count(*) FROM journal {where}", orders),
    )


def _rounds(mesh: RunningMesh, payment: pb.Payment, rounds: int) -> None:
    """Waits until the payment's operations were driven so often."""
    eventually(
        lambda: (
            mesh.count(
                "payment",
                "SELECT min(attempt) FROM operation WHERE payment_id = %s::uuid",
                payment.payment_id,
            )
            >= rounds
        )
    )
