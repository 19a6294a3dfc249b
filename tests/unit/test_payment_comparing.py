"""What a check finds, from what each book says of an order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from paymesh.executor.v1 import executor_read_service_pb2 as executor_pb
from paymesh.payment.v1 import check_mesh_pb2 as pb

from mesh.money import Money
from payment_svc.checked import (
    Booked,
    Books,
    CheckedOrder,
    CheckedPayment,
    Executed,
    Execution,
    FindingClass,
    FindingKind,
    Line,
    LookedUp,
    LookUp,
    Moved,
)
from payment_svc.comparing import Comparison, expected_lines, of_payment
from payment_svc.domain import OrderState, PaymentState
from payment_svc.translate import ADVICE

S, X = OrderState, Execution
PAYMENT, ORDER, OPERATION = uuid4(), uuid4(), uuid4()
AMOUNT, FEE = Money(1_000, "EUR"), Money(32, "EUR")

OPEN = (S.NOT_STARTED, S.PROCESSING, S.UNKNOWN, S.CAPTURED)
UNCAPTURED = (S.DECLINED, S.NOT_CHARGED, S.VOIDED, S.EXPIRED)


def order(state: OrderState = S.SUCCEEDED, **change: Any) -> CheckedOrder:
    """One that rests, and is waited for by nobody."""
    captured = state in (S.SUCCEEDED, S.CAPTURED)
    plain = CheckedOrder(
        payment_id=PAYMENT,
        order_id=ORDER,
        operation_id=OPERATION,
        position=0,
        seller_id="ada",
        amount=AMOUNT,
        operation_minor=1_000,
        commission_minor=100,
        state=state,
        captured_minor=1_000 if captured else 0,
        psp_reference="psp_1" if captured else "",
        attention_reason="WHY: so" if state is S.PARKED else "",
        attempt=1,
        driven=False,
        scheduled=False,
        soon=False,
    )
    return replace(plain, **change)


def executed(state: Execution = X.CAPTURED, **change: Any) -> Executed:
    captured = state is X.CAPTURED
    plain = Executed(
        order_id=ORDER,
        payment_id=PAYMENT,
        amount=AMOUNT,
        state=state,
        captured=AMOUNT if captured else None,
        psp_reference="psp_1" if captured else "",
        fee=FEE if captured else None,
        source="psp",
        evidence=1,
    )
    return replace(plain, **change)


def moved(**change: Any) -> Moved:
    return replace(Moved("ada", ORDER, Money(900, "EUR"), 900, 0, 0), **change)


def journals(of: CheckedOrder | None = None, by: Executed | None = None) -> list[Booked]:
    lines = expected_lines(of or order(), by or executed())
    return [Booked(uuid4(), kind, OPERATION, ORDER, some) for kind, some in lines.items()]


def books(**change: Any) -> Books:
    """All that there is of an order that succeeded, but for what is given; None: nothing."""
    plain: dict[str, Any] = {"executed": executed(), "moved": moved(), "booked": journals()}
    given = {**plain, **change}
    by_operation = {
        name: {} if given.get(name) is None else {OPERATION: given[name]}
        for name in ("executed", "moved", "looked_up")
    }
    return Books(**by_operation, booked=given["booked"] or [])


def nothing(**change: Any) -> Books:
    return books(**{"executed": None, "moved": None, "booked": None, **change})


def found(of: CheckedOrder, in_books: Books) -> list[str]:
    return [finding.kind.name for finding in Comparison(in_books).findings(of)]


def test_the_numbers_are_those_of_the_contracts() -> None:
    for ours, theirs, prefix in (
        (FindingKind, pb.FindingKind, "FINDING_KIND_"),
        (FindingClass, pb.FindingClass, "FINDING_CLASS_"),
        (Execution, executor_pb.ExecutionState, "EXECUTION_STATE_"),
        (LookUp, executor_pb.PspLookUpResult, "PSP_LOOK_UP_RESULT_"),
    ):
        numbers = {f"{prefix}{one.name}": one.value for one in ours}
        assert numbers | {f"{prefix}UNSPECIFIED": 0} == dict(theirs.items())


def test_every_kind_has_a_class_and_an_advice() -> None:
    apart = {kind for kind in FindingKind if kind.finding_class is FindingClass.APART}
    missing = {kind for kind in FindingKind if kind.finding_class is FindingClass.MISSING_STEP}
    assert {kind.name for kind in apart} == {"ORDER_PARKED", "ORDER_UNKNOWN"}
    assert {kind.name for kind in missing} == {
        *("ORDER_ABANDONED", "ORDER_BEHIND", "MOVEMENT_MISSING", "JOURNAL_MISSING")
    }
    assert ADVICE.keys() == set(FindingKind)
    assert all(ADVICE.values())


# --- what is as it should be -------------------------------------------------------------


@pytest.mark.parametrize("commission", [0, 1, 1_000])
@pytest.mark.parametrize("fee", [None, Money(0, "EUR"), FEE, Money(5, "JPY")])
def test_an_order_that_is_booked_everywhere(commission: int, fee: Money | None) -> None:
    of, by = order(commission_minor=commission), executed(fee=fee)
    credit = 1_000 - commission
    wallet = moved(amount=Money(credit, "EUR"), pending_minor=credit)
    assert found(of, books(executed=by, moved=wallet, booked=journals(of, by))) == []


def test_a_declined_order_and_one_that_was_never_charged() -> None:
    assert found(order(S.DECLINED), nothing(executed=executed(X.DECLINED))) == []
    assert found(order(S.NOT_CHARGED), nothing()) == []
    assert found(order(S.AUTHORIZED), nothing(executed=executed(X.PENDING))) == []


@pytest.mark.parametrize("state", [S.NOT_STARTED, S.PROCESSING])
@pytest.mark.parametrize("execution", [None, *Execution])
@pytest.mark.parametrize("way", ["driven", "soon"])
def test_an_order_under_way_may_stand_anywhere(
    state: OrderState, execution: Execution | None, way: str
) -> None:
    by = None if execution is None else executed(execution)
    of = order(state, **{way: True, "scheduled": way == "soon"})
    assert found(of, nothing(executed=by)) == []
    if execution is X.CAPTURED:
        assert found(of, books()) == []


# --- what is not -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("MOVEMENT_MISSING", {"moved": None}),
        ("JOURNAL_MISSING", {"booked": None}),
        ("EXECUTOR_MISSING", {"executed": None}),
        ("EXECUTOR_DIFFERS", {"executed": executed(X.UNKNOWN)}),
        ("EXECUTOR_DIFFERS", {"executed": executed(X.PARKED, captured=Money(9, "EUR"))}),
        ("EXECUTOR_DIFFERS", {"executed": executed(X.DECLINED)}),
        ("EXECUTOR_DIFFERS", {"executed": executed(amount=Money(999, "EUR"))}),
        ("EXECUTOR_DIFFERS", {"executed": executed(amount=Money(1_000, "USD"))}),
        ("EXECUTOR_DIFFERS", {"executed": executed(captured=Money(999, "EUR"))}),
        ("EXECUTOR_DIFFERS", {"executed": executed(order_id=uuid4())}),
        ("EXECUTOR_DIFFERS", {"executed": executed(payment_id=uuid4())}),
        ("EXECUTOR_DIFFERS", {"executed": executed(psp_reference="psp_2")}),
        ("MOVEMENT_DIFFERS", {"moved": moved(seller_id="bob")}),
        ("MOVEMENT_DIFFERS", {"moved": moved(amount=Money(1_000, "EUR"))}),
        ("MOVEMENT_DIFFERS", {"moved": moved(amount=Money(900, "USD"))}),
        ("MOVEMENT_DIFFERS", {"moved": moved(pending_minor=0, available_minor=900)}),
        ("MOVEMENT_DIFFERS", {"moved": moved(order_id=uuid4())}),
    ],
)
def test_one_book_that_says_something_else(kind: str, change: dict[str, Any]) -> None:
    assert found(order(), books(**change)) == [kind]


def _lines(change: Callable[[list[Line]], list[Line]]) -> list[Booked]:
    capture, fee = journals()
    return [replace(capture, lines=change(list(capture.lines))), fee]


@pytest.mark.parametrize(
    "booked",
    [
        journals()[:1],
        journals()[1:],
        journals(order(seller_id="bob")),
        journals(order(commission_minor=99)),
        journals(by=executed(fee=Money(33, "EUR"))),
        journals(by=executed(source="other")),
        journals(order(amount=Money(1_000, "USD"))),
        _lines(lambda lines: lines[:-1]),
        _lines(lambda lines: [*lines, lines[0]]),
        _lines(lambda lines: []),
        [replace(journal, order_id=uuid4()) for journal in journals()],
    ],
    ids=[
        *("no_fee", "fee_only", "seller", "commission", "fee", "source", "currency"),
        *("a_line_less", "a_line_more", "no_lines", "another_order"),
    ],
)
def test_journals_that_are_not_those_of_the_order(booked: list[Booked]) -> None:
    assert found(order(), books(booked=booked)) == ["JOURNAL_DIFFERS"]


def test_lines_may_stand_in_any_order() -> None:
    assert found(order(), books(booked=_lines(lambda lines: lines[::-1]))) == []


@pytest.mark.parametrize("operation_id", [uuid4(), OPERATION], ids=["another", "the_same"])
def test_an_order_that_is_booked_twice(operation_id: UUID) -> None:
    again = replace(journals()[0], journal_id=uuid4(), operation_id=operation_id)
    assert found(order(), books(booked=[*journals(), again])) == ["JOURNAL_SURPLUS"]


@pytest.mark.parametrize("kind", ["settlement", "adjustment"])
@pytest.mark.parametrize("operation_id", [OPERATION, UUID(int=0)])
def test_what_the_reconciliation_books_for_an_order_is_not_the_orders(
    kind: str, operation_id: UUID
) -> None:
    lines = [Line("credit", "suspense psp", Money(5, "EUR"))]
    beside = Booked(uuid4(), kind, operation_id, ORDER, lines)
    assert found(order(), books(booked=[*journals(), beside])) == []
    declined = order(S.DECLINED)
    assert found(declined, nothing(executed=executed(X.DECLINED), booked=[beside])) == []


@pytest.mark.parametrize("state", UNCAPTURED)
def test_a_capture_that_the_order_does_not_know(state: OrderState) -> None:
    assert found(order(state), nothing(executed=executed())) == ["CAPTURE_LOST"]
    assert found(order(state), books()) == [
        *("CAPTURE_LOST", "MOVEMENT_UNFOUNDED", "JOURNAL_UNFOUNDED")
    ]


@pytest.mark.parametrize("state", UNCAPTURED)
def test_what_is_credited_or_booked_without_a_capture(state: OrderState) -> None:
    by = executed(X.DECLINED)
    assert found(order(state), nothing(executed=by, moved=moved())) == ["MOVEMENT_UNFOUNDED"]
    assert found(order(state), nothing(executed=by, booked=journals())) == ["JOURNAL_UNFOUNDED"]


def test_a_declined_order_whose_executor_does_not_say_so() -> None:
    assert found(order(S.DECLINED), nothing()) == ["EXECUTOR_MISSING"]
    unknown = nothing(executed=executed(X.UNKNOWN))
    assert found(order(S.DECLINED), unknown) == ["EXECUTOR_DIFFERS"]


def test_a_charge_of_another_amount_than_the_order() -> None:
    assert found(order(operation_minor=1), books()) == ["EXECUTOR_DIFFERS"]


def test_an_order_that_is_captured_and_its_executor_forgot() -> None:
    driven = order(S.CAPTURED, driven=True)
    assert found(driven, nothing()) == ["EXECUTOR_MISSING"]
    assert found(driven, nothing(executed=executed(X.DECLINED))) == ["EXECUTOR_DIFFERS"]


# --- how an order stands -----------------------------------------------------------------


@pytest.mark.parametrize("state", OPEN)
def test_an_open_order_that_nobody_drives(state: OrderState) -> None:
    by = executed() if state is S.CAPTURED else None
    assert found(order(state), nothing(executed=by)) == ["ORDER_ABANDONED"]


@pytest.mark.parametrize("state", [S.NOT_STARTED, S.PROCESSING, S.UNKNOWN, S.PARKED])
@pytest.mark.parametrize("execution", [X.CAPTURED, X.DECLINED])
@pytest.mark.parametrize("scheduled", [False, True])
def test_an_order_behind_its_executor(
    state: OrderState, execution: Execution, scheduled: bool
) -> None:
    of = order(state, scheduled=scheduled)
    assert found(of, nothing(executed=executed(execution))) == ["ORDER_BEHIND"]


def test_what_is_unknown_or_parked_stands_apart() -> None:
    for by in (None, executed(X.PARKED_UNKNOWN), executed(X.UNKNOWN)):
        assert found(order(S.PARKED), nothing(executed=by)) == ["ORDER_PARKED"]
        assert found(order(S.UNKNOWN, scheduled=True), nothing(executed=by)) == ["ORDER_UNKNOWN"]
    # It is parked for what the wallet or the ledger said, and knows of the money.
    booking = order(S.PARKED, captured_minor=1_000)
    assert found(booking, nothing(executed=executed())) == ["ORDER_PARKED"]


# --- the PSP -----------------------------------------------------------------------------


def says(result: LookUp, captured: Money | None = None, reference: str = "") -> LookedUp:
    return LookedUp(result, captured, reference)


@pytest.mark.parametrize(
    "said",
    [
        says(LookUp.CAPTURED, AMOUNT, "psp_1"),
        says(LookUp.CAPTURED, AMOUNT),
        says(LookUp.NOT_FOUND),
        says(LookUp.NO_ANSWER),
    ],
)
def test_a_psp_that_agrees_or_says_nothing(said: LookedUp) -> None:
    assert found(order(), books(looked_up=said)) == []
    if said.captured is None:
        declined = nothing(executed=executed(X.DECLINED), looked_up=said)
        assert found(order(S.DECLINED), declined) == []


@pytest.mark.parametrize(
    "said",
    [
        says(LookUp.CAPTURED, Money(999, "EUR"), "psp_1"),
        says(LookUp.CAPTURED, Money(1_000, "USD"), "psp_1"),
        says(LookUp.CAPTURED, AMOUNT, "psp_2"),
        says(LookUp.DECLINED),
        says(LookUp.PENDING),
    ],
)
def test_a_psp_that_contradicts_a_capture(said: LookedUp) -> None:
    assert found(order(), books(looked_up=said)) == ["PSP_CONTRADICTS"]


def test_a_psp_that_took_what_was_declined_or_never_asked() -> None:
    took = says(LookUp.CAPTURED, AMOUNT, "psp_9")
    declined = nothing(executed=executed(X.DECLINED), looked_up=took)
    assert found(order(S.DECLINED), declined) == ["PSP_CONTRADICTS"]
    assert found(order(S.NOT_CHARGED), nothing(looked_up=took)) == ["PSP_CONTRADICTS"]
    # It is being asked at this moment.
    assert found(order(S.PROCESSING, driven=True), nothing(looked_up=took)) == []
    # The order says the same; that the executor forgot it is another matter.
    assert found(order(), books(executed=None, looked_up=took)) == ["EXECUTOR_MISSING"]


def test_what_the_psp_says_of_an_open_order_is_told_with_it() -> None:
    took = nothing(executed=executed(X.PARKED_UNKNOWN), looked_up=says(LookUp.CAPTURED, AMOUNT))
    (finding,) = Comparison(took).findings(order(S.PARKED))
    assert finding.kind is FindingKind.ORDER_PARKED
    assert "the PSP says CAPTURED 10.00 EUR" in finding.found


# --- payments ----------------------------------------------------------------------------


def payment(state: PaymentState, *orders: OrderState, **change: Any) -> CheckedPayment:
    checked = CheckedPayment(
        PAYMENT, datetime(2026, 1, 1, tzinfo=UTC), state, len(orders), list(map(order, orders)), 0
    )
    return replace(checked, **change)


def test_a_payment_follows_from_its_orders() -> None:
    assert not list(of_payment(payment(PaymentState.SUCCEEDED, S.SUCCEEDED, S.SUCCEEDED)))
    assert not list(of_payment(payment(PaymentState.FAILED, S.DECLINED)))
    for wrong in (
        payment(PaymentState.FAILED, S.SUCCEEDED),
        payment(PaymentState.SUCCEEDED, S.SUCCEEDED, S.DECLINED),
        payment(PaymentState.SUCCEEDED, S.SUCCEEDED, order_count=2),
        payment(PaymentState.SUCCEEDED, S.SUCCEEDED, order_count=2, without_operation=1),
    ):
        (finding,) = of_payment(wrong)
        assert finding.kind is FindingKind.PAYMENT_DIFFERS
        assert (finding.payment_id, finding.order) == (PAYMENT, None)
        assert finding.expected != finding.found
