"""The states of orders and payments, written out, and the rules of a new payment."""

from __future__ import annotations

import pickle
from dataclasses import replace
from itertools import product
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paymesh.payment.v1 import payment_pb2 as pb

from mesh import ids
from mesh.errors import Reason
from mesh.money import MAX_AMOUNT_MINOR, Money
from payment_svc import domain
from payment_svc.domain import (
    ENDED_STATES,
    OPEN_STATES,
    TRANSITIONS,
    Captured,
    CaptureMethod,
    Declined,
    Delayed,
    Evidence,
    FailurePolicy,
    NewOrder,
    NewPayment,
    NewRetry,
    News,
    OperationState,
    OrderState,
    Parked,
    PaymentState,
    Pending,
    Result,
    Settled,
    Unknown,
    check_amounts,
    differences,
    items_of,
    next_state,
    payment_state,
    request_id_reused,
)
from tests.support.payments import progress
from tests.support.values import assert_value, numbers, on_the_wire

S, R, P, L = OrderState, Result, PaymentState, OperationState

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
    assert ENDED_STATES == TERMINAL


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
    # What is stored is read back: equal, and never the very objects of the request.
    asked = payment(order(1000, reference="order-4711"), metadata={"a": "b"})
    stored = pickle.loads(pickle.dumps(asked))
    assert stored.orders[0].reference is not asked.orders[0].reference
    assert differences(asked, stored) == []
    many = payment(*[order()] * 300)
    assert differences(many, replace(many, orders=list(many.orders))) == []


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


def test_a_field_that_is_greater_or_smaller_differs_alike() -> None:
    for before, after in [("a", "z"), ("z", "a")]:
        assert differences(payment(buyer_id=after), payment(buyer_id=before)) == ["buyer_id"]
    one, two = payment(order()), payment(order(), order())
    assert differences(one, two) == differences(two, one) == ["orders"]
    for before_minor, after_minor in [(1, 2), (2, 1)]:
        assert differences(payment(order(after_minor)), payment(order(before_minor))) == [
            "orders[0].amount.amount_minor"
        ]


@pytest.mark.parametrize("currencies", [("EUR", "USD"), ("USD", "EUR")])
def test_the_sum_that_is_too_much_is_that_of_its_currency(currencies: tuple[str, str]) -> None:
    too_much, within = currencies
    refusal = check_amounts(
        [order(MAX_AMOUNT_MINOR, too_much), order(1, within), order(2, too_much)]
    )
    assert refusal is not None
    (violation,) = refusal.violations
    assert violation.description == (
        f"the amounts in {too_much} add up to more than {MAX_AMOUNT_MINOR}"
    )


def test_a_used_request_id_is_refused_with_the_fields_that_differ() -> None:
    refusal = request_id_reused(["buyer_id", "orders"])
    assert refusal.reason is Reason.REQUEST_ID_REUSED
    assert refusal.metadata == {"fields": "buyer_id,orders"}


def test_an_order_goes_onto_the_conveyor_as_it_was_asked_for() -> None:
    new = payment(
        order(100, "EUR", "ada", commission_minor=7), order(200, "JPY", "bea"), payment_method="m"
    )
    first, second = items_of(new, epoch=3)
    assert (first.position, second.position) == (0, 1)
    assert (first.amount_minor, first.currency_code, first.commission_minor) == (100, "EUR", 7)
    assert (second.amount_minor, second.currency_code, second.commission_minor) == (200, "JPY", 0)
    assert (first.seller_id, second.seller_id) == ("ada", "bea")
    for position, item in enumerate((first, second)):
        assert item.payment_id == new.payment_id
        assert item.order_id == ids.order_id(new.payment_id, position)
        assert item.payment_method == "m"
        assert (item.state, item.attempt, item.epoch) == (S.PROCESSING, 0, 3)


def test_a_first_trip_is_nobody_s_restart_and_brings_no_evidence() -> None:
    (item,) = items_of(payment(), epoch=1)
    assert item.restart is False
    assert item.captured is False
    assert item.settled is None


def test_a_trip_is_its_operation_s_by_owner_and_attempt() -> None:
    (item,) = items_of(payment(), epoch=7)
    assert item.trip == (item.operation_id, 7, 0)


def test_an_item_s_ids_are_those_of_the_log() -> None:
    (item,) = items_of(payment(), epoch=1)
    assert {name: UUID(value) for name, value in item.ids.items()} == {
        "payment_id": item.payment_id,
        "order_id": item.order_id,
        "operation_id": item.operation_id,
    }


def test_what_identifies_a_buyer_is_in_no_log_line() -> None:
    new = payment(payment_method="tok_secret", metadata={"phone": "secret"})
    (item,) = items_of(new, epoch=1)
    assert "secret" not in repr(new)
    assert "secret" not in repr(item)


def test_an_operators_retry_has_one_key_for_each_request() -> None:
    asked = NewRetry(ids.payment_id("default", "r"), "ops", "retry-1", "the PSP put it right")
    assert asked.retry_id == replace(asked, note="once more").retry_id
    others = [
        replace(asked, payment_id=ids.payment_id("default", "s")),
        replace(asked, caller="other"),
        replace(asked, request_id="retry-2"),
    ]
    assert len({asked.retry_id, *(other.retry_id for other in others)}) == 4


@pytest.mark.parametrize(
    ("before", "after", "learnt", "delayed", "news"),
    [
        (S.PROCESSING, S.SUCCEEDED, L.SUCCEEDED, False, News.IF_REGISTERED),
        (S.PROCESSING, S.CAPTURED, L.SUCCEEDED, True, News.IF_REGISTERED),
        (S.PARKED, S.SUCCEEDED, L.SUCCEEDED, False, News.IF_REGISTERED),
        (S.PROCESSING, S.PARKED, L.SUCCEEDED, False, News.ALWAYS),  # booking was refused
        (S.PROCESSING, S.DECLINED, L.FAILED, False, News.ALWAYS),
        (S.PROCESSING, S.UNKNOWN, L.UNKNOWN, False, News.ALWAYS),
        (S.UNKNOWN, S.UNKNOWN, L.UNKNOWN, False, News.IF_NOT_REGISTERED),
        (S.UNKNOWN, S.PARKED, L.UNKNOWN, False, News.ALWAYS),
        (S.PARKED, S.PARKED, L.UNKNOWN, False, News.ALWAYS),  # perhaps for another reason
        (S.UNKNOWN, S.PROCESSING, L.PENDING, False, News.ALWAYS),
        (S.PROCESSING, S.PROCESSING, L.PENDING, False, News.IF_NOT_REGISTERED),
        (S.PROCESSING, S.PROCESSING, None, True, News.NONE),
        (S.UNKNOWN, S.UNKNOWN, None, True, News.NONE),
        (S.PARKED, S.PARKED, None, True, News.NONE),
    ],
)
def test_what_a_trip_has_to_tell_the_register(
    before: OrderState,
    after: OrderState,
    learnt: OperationState | None,
    delayed: bool,
    news: News,
) -> None:
    (item,) = items_of(payment(), epoch=1)
    trip = progress(replace(item, state=before), after, operation_state=learnt, delayed=delayed)
    assert trip.news is news


def test_news_that_put_an_operation_into_the_register_are_above_those_that_do_not() -> None:
    assert News.NONE < News.IF_REGISTERED < min(News.IF_NOT_REGISTERED, News.ALWAYS)
    assert len(set(News)) == 4


@pytest.mark.parametrize(
    ("ours", "wire", "prefix"),
    [
        (OrderState, pb.OrderState, "ORDER_STATE_"),
        (PaymentState, pb.PaymentState, "PAYMENT_STATE_"),
        (OperationState, pb.OperationState, "OPERATION_STATE_"),
        (Evidence, pb.EvidenceSource, "EVIDENCE_SOURCE_"),
    ],
)
def test_the_numbers_are_those_of_the_wire(ours: Any, wire: Any, prefix: str) -> None:
    assert numbers(ours) == on_the_wire(wire, prefix)


def test_what_is_built_of_a_list_of_the_contract_has_its_number() -> None:
    assert int(FailurePolicy.BEST_EFFORT) == pb.FAILURE_POLICY_BEST_EFFORT
    assert int(CaptureMethod.AUTOMATIC) == pb.CAPTURE_METHOD_AUTOMATIC
    assert pb.OPERATION_KIND_CHARGE == domain.CHARGE
    assert int(Evidence.NONE) == pb.EVIDENCE_SOURCE_UNSPECIFIED


def test_the_stored_version_of_a_request_is_the_first_while_no_field_was_added() -> None:
    # Rows of this version are compared by these fields; a field more needs another version.
    assert domain.REQUEST_VERSION == 1
    everything = payment(
        order(2, "USD", "z", commission_minor=1, reference="z"),
        buyer_id="z",
        payment_method="z",
        metadata={"z": "z"},
    )
    assert differences(everything, payment()) == [
        "buyer_id",
        "payment_method",
        "metadata",
        "orders[0].seller_id",
        "orders[0].amount.amount_minor",
        "orders[0].amount.currency_code",
        "orders[0].commission.amount_minor",
        "orders[0].reference",
    ]


MONEY = Money(1, "EUR")


@pytest.mark.parametrize(
    "value",
    [
        Captured("psp_1", None, "psp", Evidence.PSP_ANSWER),
        Declined(1, "code", "psp_1", Evidence.PSP_ANSWER),
        Pending("psp_1"),
        Unknown(),
        Parked("WHY: so", poll=False),
        Delayed("why"),
        order(),
        payment(),
        NewRetry(UUID(int=1), "caller", "r", "note"),
        Settled(MONEY, None, "psp_1", "psp"),
        progress(items_of(payment(), 1)[0], S.SUCCEEDED),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_was_asked_or_learnt_is_never_changed(value: object) -> None:
    assert_value(value)


def test_an_item_moves_and_carries_no_dict() -> None:
    (item,) = items_of(payment(), epoch=1)
    item.attempt += 1
    assert item.attempt == 1
    assert not hasattr(item, "__dict__")


def test_items_carry_computed_ids_so_that_a_retry_carries_the_same() -> None:
    first, second = items_of(payment(order(), order()), epoch=1)
    again, _ = items_of(payment(order(), order()), epoch=2)
    assert (first.order_id, first.operation_id) == (again.order_id, again.operation_id)
    assert first.order_id != second.order_id
    assert first.operation_id != second.operation_id
