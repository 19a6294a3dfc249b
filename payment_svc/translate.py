"""Between the contract's messages and the domain, in both directions."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp
from paymesh.common.v1 import money_pb2
from paymesh.payment.v1 import check_mesh_pb2 as check_pb
from paymesh.payment.v1 import payment_pb2 as pb
from paymesh.payment.v1 import payment_service_pb2 as service_pb

from mesh import ids
from mesh.clock import timestamp
from mesh.errors import Violation, validation_failed
from mesh.money import Money
from mesh.paging import Position
from payment_svc.checked import FindingKind
from payment_svc.checking import Asked, Page, Told
from payment_svc.domain import CaptureMethod, FailurePolicy, NewOrder, NewPayment
from payment_svc.views import Operation, Order, Payment


def new_payment(request: service_pb.CreatePaymentRequest, caller: str) -> NewPayment:
    """The request after defaults."""
    return NewPayment(
        payment_id=ids.payment_id(caller, request.request_id),
        caller=caller,
        request_id=request.request_id,
        buyer_id=request.buyer_id,
        payment_method=request.payment_method,
        failure_policy=FailurePolicy(request.failure_policy or FailurePolicy.BEST_EFFORT),
        capture_method=CaptureMethod(request.capture_method or CaptureMethod.AUTOMATIC),
        metadata=dict(request.metadata),
        orders=[
            NewOrder(
                seller_id=order.seller_id,
                amount_minor=order.amount.amount_minor,
                currency_code=order.amount.currency_code,
                commission_minor=order.commission.amount_minor,
                reference=order.reference,
            )
            for order in request.orders
        ],
    )


def list_filters(
    request: service_pb.ListPaymentsRequest, after: Position | None
) -> Mapping[str, object]:
    """The filters that are set, by the names that the store knows.

    Errors: VALIDATION_FAILED for a time that is none.
    """
    filters: dict[str, object] = {}
    for name in ("buyer_id", "seller_id", "state"):
        if value := getattr(request, name):
            filters[name] = value
    if request.HasField("create_time_from"):
        filters["create_time_from"] = _time("create_time_from", request.create_time_from)
    if request.HasField("create_time_to"):
        filters["create_time_to"] = _time("create_time_to", request.create_time_to)
    if after is not None:
        filters |= {"after_time": after.create_time, "after_id": after.id}
    return filters


def payment_id_of(request: service_pb.GetPaymentRequest, caller: str) -> UUID:
    """The payment that a read asks for."""
    if request.HasField("payment_id"):
        return UUID(request.payment_id)
    return ids.payment_id(request.caller or caller, request.request_id)


def payment_message(payment: Payment) -> pb.Payment:
    """The payment as callers see it."""
    return pb.Payment(
        payment_id=payment.payment_id.hex,
        request_id=payment.request_id,
        caller=payment.caller,
        buyer_id=payment.buyer_id,
        state=pb.PaymentState.ValueType(payment.state),
        failure_policy=pb.FailurePolicy.ValueType(payment.failure_policy),
        capture_method=pb.CaptureMethod.ValueType(payment.capture_method),
        orders=[_order_message(order) for order in payment.orders],
        metadata=payment.metadata,
        create_time=timestamp(payment.create_time),
        update_time=timestamp(payment.update_time),
    )


def check_asked(request: check_pb.CheckMeshRequest, now: datetime) -> Asked:
    """What to check. Errors: VALIDATION_FAILED for a range that holds nothing."""
    start, end = (
        _time(name, getattr(request, name)) if request.HasField(name) else None
        for name in ("create_time_from", "create_time_to")
    )
    if start is not None and start > now:
        raise validation_failed(Violation("create_time_from", "must not be in the future"))
    if start is not None and end is not None and start >= end:
        raise validation_failed(Violation("create_time_to", "must be after create_time_from"))
    return Asked(start, end, request.repair, request.look_up)


def check_message(page: Page) -> check_pb.CheckMeshResponse:
    """What a page of a check brought."""
    return check_pb.CheckMeshResponse(
        findings=map(_finding_message, page.told),
        payments=page.payments,
        orders=page.orders,
        orders_under_way=page.under_way,
        look_ups_unanswered=page.unanswered,
        checked_from_time=timestamp(page.checked_from),
        checked_to_time=timestamp(page.checked_to),
    )


def _finding_message(told: Told) -> check_pb.MeshFinding:
    finding = told.finding
    advice = "" if told.repaired else ADVICE[finding.kind]
    if told.problem:
        advice = f"Not repaired: {told.problem}. {advice}"
    return check_pb.MeshFinding(
        finding_class=check_pb.FindingClass.ValueType(finding.kind.finding_class),
        kind=check_pb.FindingKind.ValueType(finding.kind),
        payment_id=finding.payment_id.hex,
        order_id="" if finding.order is None else finding.order.order_id.hex,
        operation_id="" if finding.order is None else finding.order.operation_id.hex,
        expected=finding.expected,
        found=finding.found,
        repaired=told.repaired,
        advice=advice,
    )


_REPAIR = "Check again with repair."
_RESTORED = "Was a database set back or pointed elsewhere? See the runbook."

ADVICE: Mapping[FindingKind, str] = {
    FindingKind.ORDER_PARKED: "See the runbook for its reason, then retry the payment.",
    FindingKind.ORDER_UNKNOWN: "Nothing: it is being found out.",
    FindingKind.ORDER_ABANDONED: _REPAIR,
    FindingKind.ORDER_BEHIND: _REPAIR,
    FindingKind.MOVEMENT_MISSING: _REPAIR,
    FindingKind.JOURNAL_MISSING: _REPAIR,
    FindingKind.PAYMENT_DIFFERS: "A row was changed by hand, or a bug: compare with a backup.",
    FindingKind.EXECUTOR_MISSING: _RESTORED,
    FindingKind.CAPTURE_LOST: "The buyer is charged: have it settled by hand. " + _RESTORED,
    FindingKind.EXECUTOR_DIFFERS: _RESTORED,
    FindingKind.MOVEMENT_DIFFERS: "Compare with a backup of the wallet; correct it by hand.",
    FindingKind.MOVEMENT_UNFOUNDED: "The seller has what nobody paid: find out what was captured.",
    FindingKind.JOURNAL_DIFFERS: "A correction is a new journal; compare with a backup.",
    FindingKind.JOURNAL_UNFOUNDED: "Find out what was captured; a correction is a new journal.",
    FindingKind.JOURNAL_SURPLUS: "Booked twice: a correction is a new journal.",
    FindingKind.PSP_CONTRADICTS: "Settle with the PSP what is true, by its own records.",
}


def _order_message(order: Order) -> pb.PaymentOrder:
    code = order.amount.currency_code
    zero = money_pb2.Money(currency_code=code)
    return pb.PaymentOrder(
        order_id=order.order_id.hex,
        seller_id=order.seller_id,
        amount=_money(order.amount),
        commission=money_pb2.Money(amount_minor=order.commission_minor, currency_code=code),
        reference=order.reference,
        state=pb.OrderState.ValueType(order.state),
        authorized=zero,
        captured=money_pb2.Money(amount_minor=order.captured_minor, currency_code=code),
        refunded=zero,
        disputed=zero,
        decline=pb.Decline(
            category=pb.DeclineCategory.ValueType(order.decline_category), code=order.decline_code
        )
        if order.decline_category
        else None,
        attention_reason=order.attention_reason,
        operations=[_operation_message(operation) for operation in order.operations],
    )


def _operation_message(operation: Operation) -> pb.Operation:
    return pb.Operation(
        operation_id=operation.operation_id.hex,
        kind=pb.OperationKind.ValueType(operation.kind),
        amount=_money(operation.amount),
        state=pb.OperationState.ValueType(operation.state),
        source=pb.EvidenceSource.ValueType(operation.evidence),
        psp_reference=operation.psp_reference,
        create_time=timestamp(operation.create_time),
    )


def _money(money: Money) -> money_pb2.Money:
    return money_pb2.Money(amount_minor=money.amount_minor, currency_code=money.currency_code)


def _time(field: str, stamp: Timestamp) -> datetime:
    try:
        time = stamp.ToDatetime(tzinfo=UTC)
        # What is stored has whole microseconds: from or before a part of one is from or
        # before the next.
        return time + timedelta(microseconds=1) if stamp.nanos % 1000 else time
    except (ValueError, OverflowError) as error:
        raise validation_failed(Violation(field, "is not a time")) from error
