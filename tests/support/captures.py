"""Captures as wallet and ledger are told of them, with fresh ids."""

from __future__ import annotations

import uuid

from ledger_svc.chart import CaptureEvent
from mesh.money import Money
from wallet_svc.domain import Movement, MovementKind


def new_seller() -> str:
    return f"seller-{uuid.uuid4().hex}"


def new_source() -> str:
    return f"psp-{uuid.uuid4().hex}"


def new_movement(
    *, seller_id: str = "", amount_minor: int = 90, currency_code: str = "EUR"
) -> Movement:
    """What a capture of another order moves."""
    return Movement(
        operation_id=uuid.uuid4(),
        revision=0,
        kind=MovementKind.CAPTURE,
        seller_id=seller_id or new_seller(),
        order_id=uuid.uuid4(),
        currency_code=currency_code,
        amount_minor=amount_minor,
    )


def new_capture(
    *,
    seller_id: str = "",
    source: str = "",
    pending_minor: int = 90,
    commission_minor: int = 10,
    currency_code: str = "EUR",
    fee: Money | None = None,
) -> CaptureEvent:
    """The capture of another order, which conserves money."""
    return CaptureEvent(
        operation_id=uuid.uuid4(),
        revision=0,
        order_id=uuid.uuid4(),
        seller_id=seller_id or new_seller(),
        source=source or new_source(),
        captured=Money(pending_minor + commission_minor, currency_code),
        seller_pending_minor=pending_minor,
        commission_minor=commission_minor,
        fee=fee,
    )
