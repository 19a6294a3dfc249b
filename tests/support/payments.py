"""New payments for tests, with fresh ids."""

from __future__ import annotations

import uuid
from dataclasses import replace

from mesh import ids
from payment_svc.domain import (
    CaptureMethod,
    Evidence,
    FailurePolicy,
    Item,
    NewOrder,
    NewPayment,
    OperationState,
    OrderState,
    Progress,
)


def new_order(amount_minor: int = 1000, seller_id: str = "seller", **more: object) -> NewOrder:
    """An order in EUR with a commission of 0."""
    order = NewOrder(seller_id, amount_minor, "EUR", 0, "")
    return replace(order, **more)  # type: ignore[arg-type]


def new_payment(*orders: NewOrder, **more: object) -> NewPayment:
    """A payment under a request_id that nobody used."""
    request_id = str(more.pop("request_id", uuid.uuid4().hex))
    payment = NewPayment(
        payment_id=ids.payment_id("default", request_id),
        caller="default",
        request_id=request_id,
        buyer_id="buyer",
        payment_method="tok_ok",
        failure_policy=FailurePolicy.BEST_EFFORT,
        capture_method=CaptureMethod.AUTOMATIC,
        metadata={},
        orders=list(orders or [new_order()]),
    )
    return replace(payment, **more)  # type: ignore[arg-type]


def progress(item: Item, state: OrderState, **more: object) -> Progress:
    """What a trip that led to `state` writes; at rest unless `retry_after_s` says otherwise."""
    captured = state in (OrderState.SUCCEEDED, OrderState.CAPTURED)
    written = Progress(
        item=item,
        state=state,
        operation_state=OperationState.SUCCEEDED if captured else OperationState.UNKNOWN,
        evidence=Evidence.PSP_ANSWER if captured else None,
        psp_reference="psp_1" if captured else None,
        captured_minor=item.amount_minor if captured else None,
        decline_category=0,
        decline_code="",
        attention_reason="WHY: so" if state is OrderState.PARKED else "",
        retry_after_s=None,
        delayed=False,
    )
    return replace(written, **more)  # type: ignore[arg-type]
