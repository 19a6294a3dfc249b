"""A payment as it is read: what is stored, for callers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from mesh.money import Money
from payment_svc.domain import Evidence, OperationState, OrderState, PaymentState


class Listed(NamedTuple):
    """A payment of a page, not read yet."""

    payment_id: UUID
    create_time: datetime
    order_count: int


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing that was asked of the PSP, as stored."""

    operation_id: UUID
    kind: int
    amount: Money
    state: OperationState
    evidence: Evidence
    psp_reference: str
    create_time: datetime


@dataclass(frozen=True, slots=True)
class Order:
    """One order, as stored; amounts in minor units of the amount's currency."""

    order_id: UUID
    seller_id: str
    amount: Money
    commission_minor: int
    reference: str
    state: OrderState
    captured_minor: int
    decline_category: int
    decline_code: str
    attention_reason: str
    operations: Sequence[Operation]


@dataclass(frozen=True, slots=True)
class Payment:
    """One payment, as stored."""

    payment_id: UUID
    caller: str
    request_id: str
    buyer_id: str
    state: PaymentState
    failure_policy: int
    capture_method: int
    metadata: Mapping[str, str]
    create_time: datetime
    update_time: datetime
    orders: Sequence[Order]
    rests: bool
    """Whether no order is under way or about to be: a caller need not wait."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Orders that do not rest for good: in one state, for one reason where they are parked."""

    state: OrderState
    reason: str
    """The attention_reason up to its colon; empty for what is not parked."""
    orders: int
    oldest_s: float
    """How long ago the oldest of them was accepted, in seconds."""


@dataclass(frozen=True, slots=True)
class Replicas:
    """living: those that are not dead. lease_left_s: of our own lease, in seconds."""

    living: int
    lease_left_s: float


@dataclass(frozen=True, slots=True)
class UnknownOperation:
    """An operation whose outcome only evidence can tell; amount: what was asked."""

    payment_id: UUID
    order_id: UUID
    operation_id: UUID
    amount: Money
    create_time: datetime

    @property
    def ids(self) -> dict[str, str]:
        """For lines in the log."""
        return {
            "payment_id": self.payment_id.hex,
            "order_id": self.order_id.hex,
            "operation_id": self.operation_id.hex,
        }


@dataclass(frozen=True, slots=True)
class Unregistered:
    """An operation as the ledger's register has to be told of it; amount: what was asked."""

    payment_id: UUID
    order_id: UUID
    operation_id: UUID
    kind: int
    amount: Money
    state: OrderState
    """Of its order."""
    reason: str
    """The attention_reason up to its colon; empty for what is not parked."""
    psp_reference: str
    attempt: int
    """How often it was driven: what is told later has more."""
    create_time: datetime

    @property
    def ids(self) -> dict[str, str]:
        """For lines in the log."""
        return {
            "payment_id": self.payment_id.hex,
            "order_id": self.order_id.hex,
            "operation_id": self.operation_id.hex,
        }
