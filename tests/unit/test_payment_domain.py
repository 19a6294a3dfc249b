"""The states of orders and payments, written out, and the rules of a new payment."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh import ids
from mesh.errors import Reason
from mesh.money import MAX_AMOUNT_MINOR
from payment_svc.domain import (
    OPEN_STATES,
    TRANSITIONS,
    CaptureMethod,
    FailurePolicy,
    NewOrder,
    NewPayment,
    OrderState,
    PaymentState,
    Result,
    check_amounts,
    differences,
    items_of,
    next_state,
    payment_state,
)
from payment_svc.schedule import Backoff, Schedule

S, R, P = OrderState, Result, PaymentState

TERMINAL = {S.SUCCEEDED, S.DECLINED, S.NOT_CHARGED, S.VOIDED, S.EXPIRED}

# A row a state that an order can be in while it is carried, a column a result; None: can't be.
# ruff: noqa: E501 - a table reads as one
TABLE = {
    #              BOOKED       CAPTURED    DECLINED    PENDING       UNKNOWN    PARKED    DELAYED
    S.PROCESSING: (S.SUCCEEDED, S.CAPTURED, S.DECLINED, S.PROCESSING, S.UNKNOWN, S.PARKED, S.PROCESSING),
    S.UNKNOWN:    (S.SUCCEEDED, S.CAPTURED, S.DECLINED, S.PROCESSING, S.UNKNOWN, S.PARKED, S.UNKNOWN),
    S.CAPTURED:   (S.SUCCEEDED, S.CAPTURED, None,       None,         None,      S.PARKED, S.CAPTURED),
    S.PARKED:     (S.SUCCEEDED, S.CAPTURED, S.DECLINED, S.PROCESSING, S.PARKED,  S.PARKED, S.PARKED),
}  # fmt: skip
RESULTS = (R.BOOKED, R.CAPTURED, R.DECLINED, R.PENDING, R.UNKNOWN, R.PARKED, R.DELAYED)


@pytest.mark.parametrize(("state", "result"), list(product(OrderState, Result)))
def test_every_pair_of_state_and_result_leads_where_the_table_says(
    state: OrderState, result: Result
) -> None:
    row = TABLE.get(state)
    expected = row[RESULTS.index(result)] if row else None
    if expected is None:
        with pytest.raises(ValueError, match=state.name):
            next_state(state, result)
    else:
        assert next_state(state, result) is expected


def test_a_terminal_state_is_never_left() -> None:
    assert not {state for state, _ in TRANSITIONS} & TERMINAL


def test_what_was_captured_never_becomes_unknown_or_declined() -> None:
    after_capture = {new for (old, _), new in TRANSITIONS.items() if old is S.CAPTURED}
    assert after_capture == {S.CAPTURED, S.SUCCEEDED, S.PARKED}


def test_the_lack_of_evidence_moves_no_parked_order() -> None:
    assert next_state(S.PARKED, R.UNKNOWN) is S.PARKED
    assert next_state(S.PARKED, R.DELAYED) is S.PARKED


@pytest.mark.parametrize(
    ("orders", "expected"),
    [
        ([S.NOT_STARTED, S.SUCCEEDED], P.PROCESSING),
        ([S.PROCESSING, S.PARKED], P.PROCESSING),
        ([S.UNKNOWN, S.DECLINED], P.PROCESSING),
        ([S.CAPTURED], P.PROCESSING),
        ([S.PARKED, S.SUCCEEDED, S.AUTHORIZED], P.NEEDS_ATTENTION),
        ([S.AUTHORIZED, S.SUCCEEDED], P.AUTHORIZED),
        ([S.SUCCEEDED, S.SUCCEEDED], P.SUCCEEDED),
        ([S.SUCCEEDED, S.DECLINED], P.PARTIALLY_SUCCEEDED),
        ([S.SUCCEEDED, S.VOIDED], P.PARTIALLY_SUCCEEDED),
        ([S.DECLINED, S.DECLINED], P.FAILED),
        ([S.DECLINED, S.NOT_CHARGED], P.FAILED),
        ([S.VOIDED, S.EXPIRED], P.VOIDED),
        ([S.NOT_CHARGED], P.VOIDED),
    ],
)
def test_the_payments_state_follows_from_its_orders(
    orders: list[OrderState], expected: PaymentState
) -> None:
    assert payment_state(orders) is expected


@given(st.lists(st.sampled_from(OrderState), min_size=1, max_size=6))
def test_a_payment_is_processing_exactly_while_an_order_is_open(orders: list[OrderState]) -> None:
    assert (payment_state(orders) is P.PROCESSING) == bool(set(orders) & OPEN_STATES)


@given(st.lists(st.sampled_from(OrderState), min_size=1, max_size=6), st.randoms())
def test_the_order_of_orders_does_not_matter(orders: list[OrderState], random: object) -> None:
    assert payment_state(orders) is payment_state(sorted(orders))


def order(
    amount_minor: int = 100, currency_code: str = "EUR", seller_id: str = "s", **more: object
) -> NewOrder:
    fields: dict[str, object] = {"commission_minor": 0, "reference": "", **more}
    return NewOrder(seller_id, amount_minor, currency_code, **fields)  # type: ignore[arg-type]


def payment(*orders: NewOrder, **more: object) -> NewPayment:
    fields: dict[str, object] = {
        "payment_id": ids.payment_id("default", "r"),
        "caller": "default",
        "request_id": "r",
        "buyer_id": "b",
        "payment_method": "tok_ok",
        "failure_policy": FailurePolicy.BEST_EFFORT,
        "capture_method": CaptureMethod.AUTOMATIC,
        "metadata": {},
        "orders": list(orders or [order()]),
        **more,
    }
    return NewPayment(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("code", ["ABC", "XXX", "XTS", "XAU", "DEM", "ZZZ"])
def test_a_code_that_is_not_money_in_use_is_refused_by_field(code: str) -> None:
    refusal = check_amounts([order(), order(currency_code=code)])
    assert refusal is not None
    assert refusal.reason is Reason.UNKNOWN_CURRENCY
    assert [v.field for v in refusal.violations] == ["orders[1].amount.currency_code"]


def test_amounts_that_overflow_as_a_sum_are_refused() -> None:
    refusal = check_amounts([order(MAX_AMOUNT_MINOR), order(1)])
    assert refusal is not None
    assert refusal.reason is Reason.VALIDATION_FAILED
    assert [v.field for v in refusal.violations] == ["orders"]


def test_the_cap_is_per_currency_and_inclusive() -> None:
    assert check_amounts([order(MAX_AMOUNT_MINOR), order(MAX_AMOUNT_MINOR, "JPY")]) is None


def test_equal_requests_do_not_differ() -> None:
    assert differences(payment(), payment()) == []


@pytest.mark.parametrize(
    ("changed", "fields"),
    [
        (payment(buyer_id="x"), ["buyer_id"]),
        (payment(payment_method="x"), ["payment_method"]),
        (payment(metadata={"a": "b"}), ["metadata"]),
        (payment(order(), order()), ["orders"]),
        (payment(order(101)), ["orders[0].amount.amount_minor"]),
        (payment(order(currency_code="USD")), ["orders[0].amount.currency_code"]),
        (payment(order(seller_id="x")), ["orders[0].seller_id"]),
        (payment(order(commission_minor=1)), ["orders[0].commission.amount_minor"]),
        (payment(order(reference="x")), ["orders[0].reference"]),
        (payment(order(101), buyer_id="x"), ["buyer_id", "orders[0].amount.amount_minor"]),
    ],
)
def test_each_field_in_which_requests_differ_is_named(
    changed: NewPayment, fields: list[str]
) -> None:
    assert differences(changed, payment()) == fields


def test_items_carry_computed_ids_so_that_a_retry_carries_the_same() -> None:
    first, second = items_of(payment(order(), order()), epoch=1)
    again, _ = items_of(payment(order(), order()), epoch=2)
    assert (first.order_id, first.operation_id) == (again.order_id, again.operation_id)
    assert first.order_id != second.order_id
    assert first.operation_id != second.operation_id


@given(st.integers(min_value=0, max_value=10_000))
def test_backoff_grows_to_its_most_and_never_overflows(attempt: int) -> None:
    backoff = Backoff(first_s=0.2, most_s=5.0)
    assert 0.2 <= backoff.after(attempt) <= backoff.after(attempt + 1) <= 5.0


def test_what_rests_is_not_scheduled_and_what_does_not_is() -> None:
    wait = Backoff(1.0, 2.0)
    schedule = Schedule(pending=wait, unknown=wait, delayed=wait, parked_s=60.0)
    resting = {r for r in Result if schedule.retry_after_s(r, 0, poll=False) is None}
    assert resting == {R.BOOKED, R.DECLINED, R.PARKED}
    assert schedule.retry_after_s(R.PARKED, 0, poll=True) == 60.0
