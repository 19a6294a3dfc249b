"""What a check compares, as each book tells it, and what it may find. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from typing import NamedTuple
from uuid import UUID

from mesh.money import Money
from payment_svc.domain import ENDED_STATES, OrderState, PaymentState


class FindingClass(IntEnum):
    """How bad a finding is; the numbers are those of the contract."""

    CONTRADICTION = 1
    MISSING_STEP = 2
    APART = 3


class FindingKind(IntEnum):
    """What a finding is; the numbers are those of the contract, which says more."""

    ORDER_PARKED = 1
    ORDER_UNKNOWN = 2
    ORDER_ABANDONED = 3
    ORDER_BEHIND = 4
    MOVEMENT_MISSING = 5
    JOURNAL_MISSING = 6
    PAYMENT_DIFFERS = 7
    EXECUTOR_MISSING = 8
    CAPTURE_LOST = 9
    EXECUTOR_DIFFERS = 10
    MOVEMENT_DIFFERS = 11
    MOVEMENT_UNFOUNDED = 12
    JOURNAL_DIFFERS = 13
    JOURNAL_UNFOUNDED = 14
    JOURNAL_SURPLUS = 15
    PSP_CONTRADICTS = 16

    @property
    def finding_class(self) -> FindingClass:
        """How bad it is."""
        if self in (_K.ORDER_PARKED, _K.ORDER_UNKNOWN):
            return FindingClass.APART
        if self in DRIVEN_AGAIN or self in BOOKED_AGAIN:
            return FindingClass.MISSING_STEP
        return FindingClass.CONTRADICTION


_K = FindingKind

DRIVEN_AGAIN = frozenset({_K.ORDER_ABANDONED, _K.ORDER_BEHIND})
"""Mended by putting the order back on the conveyor."""

BOOKED_AGAIN = frozenset({_K.MOVEMENT_MISSING, _K.JOURNAL_MISSING})
"""Mended by the wallet's and the ledger's keyed writes, once more."""


class Execution(IntEnum):
    """Where an operation stands at the executor; the numbers are those of the contract."""

    SENT = 1
    UNKNOWN = 2
    PENDING = 3
    PARKED_UNKNOWN = 4
    PARKED = 5
    CAPTURED = 6
    DECLINED = 7


class LookUp(IntEnum):
    """What the PSP says of a key; the numbers are those of the contract."""

    CAPTURED = 1
    DECLINED = 2
    PENDING = 3
    NOT_FOUND = 4
    NO_ANSWER = 5


NOT_ENDED = frozenset(OrderState) - ENDED_STATES
"""States in which wallet and ledger may know of the order already, or not yet."""

ENDED_AS: Mapping[OrderState, Execution] = {
    OrderState.SUCCEEDED: Execution.CAPTURED,
    OrderState.CAPTURED: Execution.CAPTURED,
    OrderState.DECLINED: Execution.DECLINED,
}
"""What the executor must have said for an order to be so."""


@dataclass(frozen=True, slots=True)
class CheckedOrder:
    """An order with its charge, as payment_svc has stored them; amounts in minor units.

    driven: a replica has it. scheduled: somebody will; soon: within seconds.
    """

    payment_id: UUID
    order_id: UUID
    operation_id: UUID
    position: int
    seller_id: str
    amount: Money
    operation_minor: int
    commission_minor: int
    state: OrderState
    captured_minor: int
    psp_reference: str
    attention_reason: str
    attempt: int
    driven: bool
    scheduled: bool
    soon: bool

    @property
    def under_way(self) -> bool:
        """Whether it may change at any moment."""
        return self.driven or self.soon

    @property
    def ended_uncaptured(self) -> bool:
        """Whether it has ended, and nothing may have been taken for it."""
        return self.state not in NOT_ENDED and self.state is not OrderState.SUCCEEDED

    @property
    def ids(self) -> dict[str, str]:
        """For lines in the log."""
        return {
            "payment_id": self.payment_id.hex,
            "order_id": self.order_id.hex,
            "operation_id": self.operation_id.hex,
        }


@dataclass(frozen=True, slots=True)
class CheckedPayment:
    """A payment as stored. order_count: how many orders it was accepted with."""

    payment_id: UUID
    create_time: datetime
    state: PaymentState
    order_count: int
    orders: Sequence[CheckedOrder]
    without_operation: int
    """How many of its stored orders have no charge."""


@dataclass(frozen=True, slots=True)
class Executed:
    """An operation as the executor has stored it."""

    order_id: UUID
    payment_id: UUID
    amount: Money
    state: Execution
    captured: Money | None
    psp_reference: str
    fee: Money | None
    source: str
    evidence: int


@dataclass(frozen=True, slots=True)
class LookedUp:
    """What the PSP says of an operation now."""

    result: LookUp
    captured: Money | None
    psp_reference: str


@dataclass(frozen=True, slots=True)
class Moved:
    """An operation's movement, as the wallet has stored it."""

    seller_id: str
    order_id: UUID
    amount: Money
    pending_minor: int
    available_minor: int
    debt_minor: int


class Line(NamedTuple):
    """An entry of a journal: `debit psp_receivable psp_stub 12.50 EUR`, in its parts."""

    direction: str
    account: str
    amount: Money

    def __str__(self) -> str:
        return f"{self.direction} {self.account} {self.amount}"


@dataclass(frozen=True, slots=True)
class Booked:
    """A journal. kind: in lower case, as `capture`."""

    journal_id: UUID
    kind: str
    operation_id: UUID
    order_id: UUID
    lines: Sequence[Line]


@dataclass(frozen=True, slots=True)
class Books:
    """What the others know: by operation_id; the journals also by order_id, in one list."""

    executed: Mapping[UUID, Executed] = field(default_factory=dict)
    looked_up: Mapping[UUID, LookedUp] = field(default_factory=dict)
    moved: Mapping[UUID, Moved] = field(default_factory=dict)
    booked: Sequence[Booked] = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """What is not as it should be, or stands apart. order: None if it is about the payment."""

    kind: FindingKind
    payment_id: UUID
    order: CheckedOrder | None
    expected: str
    found: str
