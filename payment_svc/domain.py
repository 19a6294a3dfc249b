"""What a payment is, the states of an order as a table, and the rules. No I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import TypeAlias
from uuid import UUID

from mesh import ids
from mesh.errors import MeshError, Reason, Violation, validation_failed
from mesh.money import MAX_AMOUNT_MINOR, Money, exponent

REQUEST_VERSION = 1
"""The version of the fields that a replay is compared by. A field added later starts
version 2 and does not count against rows of version 1."""


class OrderState(IntEnum):
    """Where an order stands; the numbers are those of the contract."""

    NOT_STARTED = 1
    PROCESSING = 2
    UNKNOWN = 3
    AUTHORIZED = 4
    CAPTURED = 5
    SUCCEEDED = 6
    DECLINED = 7
    NOT_CHARGED = 8
    VOIDED = 9
    EXPIRED = 10
    PARKED = 11


class PaymentState(IntEnum):
    """Where a payment stands; the numbers are those of the contract."""

    PROCESSING = 1
    NEEDS_ATTENTION = 2
    AUTHORIZED = 3
    SUCCEEDED = 4
    PARTIALLY_SUCCEEDED = 5
    FAILED = 6
    VOIDED = 7


class OperationState(IntEnum):
    """How an operation went; the numbers are those of the contract."""

    PENDING = 1
    SUCCEEDED = 2
    FAILED = 3
    UNKNOWN = 4


CHARGE = 1
"""The only kind of operation so far; the number is that of the contract."""


class FailurePolicy(IntEnum):
    """What one order's failure means for the others."""

    BEST_EFFORT = 1


class CaptureMethod(IntEnum):
    """When the money is taken."""

    AUTOMATIC = 1


class Evidence(IntEnum):
    """Where an operation's state is known from; the numbers are those of the contract."""

    NONE = 0
    PSP_ANSWER = 1
    PSP_LOOK_UP = 2
    SETTLEMENT_FILE = 3


# --- what was learnt about an order ------------------------------------------------------


class Result(Enum):
    """What one trip over the conveyor taught about an order."""

    BOOKED = "captured at the PSP, credited and booked"
    CAPTURED = "captured at the PSP; wallet or ledger could not be reached"
    DECLINED = "definitely refused by the PSP"
    PENDING = "the PSP will tell later"
    UNKNOWN = "asked, and the answer is not known"
    PARKED = "waits for evidence or an operator"
    DELAYED = "nothing was learnt: the executor could not be asked"


OPEN_STATES = frozenset(
    {OrderState.NOT_STARTED, OrderState.PROCESSING, OrderState.UNKNOWN, OrderState.CAPTURED}
)

ENDED_STATES = frozenset(
    {
        OrderState.SUCCEEDED,
        OrderState.DECLINED,
        OrderState.NOT_CHARGED,
        OrderState.VOIDED,
        OrderState.EXPIRED,
    }
)
"""States that are never left: nobody drives such an order."""

_S, _R = OrderState, Result

# A missing pair can't happen and raises. What was captured never becomes uncaptured; a
# parked order is moved by evidence only, not by the lack of it; a terminal state is
# never left, so it has no row.
TRANSITIONS: Mapping[tuple[OrderState, Result], OrderState] = {
    (_S.PROCESSING, _R.BOOKED): _S.SUCCEEDED,
    (_S.PROCESSING, _R.CAPTURED): _S.CAPTURED,
    (_S.PROCESSING, _R.DECLINED): _S.DECLINED,
    (_S.PROCESSING, _R.PENDING): _S.PROCESSING,
    (_S.PROCESSING, _R.UNKNOWN): _S.UNKNOWN,
    (_S.PROCESSING, _R.PARKED): _S.PARKED,
    (_S.PROCESSING, _R.DELAYED): _S.PROCESSING,
    (_S.UNKNOWN, _R.BOOKED): _S.SUCCEEDED,
    (_S.UNKNOWN, _R.CAPTURED): _S.CAPTURED,
    (_S.UNKNOWN, _R.DECLINED): _S.DECLINED,
    (_S.UNKNOWN, _R.PENDING): _S.PROCESSING,
    (_S.UNKNOWN, _R.UNKNOWN): _S.UNKNOWN,
    (_S.UNKNOWN, _R.PARKED): _S.PARKED,
    (_S.UNKNOWN, _R.DELAYED): _S.UNKNOWN,
    (_S.CAPTURED, _R.BOOKED): _S.SUCCEEDED,
    (_S.CAPTURED, _R.CAPTURED): _S.CAPTURED,
    (_S.CAPTURED, _R.PARKED): _S.PARKED,
    (_S.CAPTURED, _R.DELAYED): _S.CAPTURED,
    (_S.PARKED, _R.BOOKED): _S.SUCCEEDED,
    (_S.PARKED, _R.CAPTURED): _S.CAPTURED,
    (_S.PARKED, _R.DECLINED): _S.DECLINED,
    (_S.PARKED, _R.PENDING): _S.PROCESSING,
    (_S.PARKED, _R.UNKNOWN): _S.PARKED,
    (_S.PARKED, _R.PARKED): _S.PARKED,
    (_S.PARKED, _R.DELAYED): _S.PARKED,
}


TERMINAL_STATES = frozenset(
    {
        PaymentState.SUCCEEDED,
        PaymentState.PARTIALLY_SUCCEEDED,
        PaymentState.FAILED,
        PaymentState.VOIDED,
    }
)


def next_state(state: OrderState, result: Result) -> OrderState:
    """The order's state after the result. ValueError for a pair that can't happen."""
    try:
        return TRANSITIONS[state, result]
    except KeyError:
        raise ValueError(f"an order that is {state.name} can't be {result.name}") from None


def payment_state(orders: Sequence[OrderState]) -> PaymentState:
    """The payment's state, by the table of the contract, first line that holds.

    The generated column payment.state says the same in SQL; a test compares them.
    """
    seen = set(orders)
    if seen & OPEN_STATES:
        return PaymentState.PROCESSING
    if OrderState.PARKED in seen:
        return PaymentState.NEEDS_ATTENTION
    if OrderState.AUTHORIZED in seen:
        return PaymentState.AUTHORIZED
    if seen == {OrderState.SUCCEEDED}:
        return PaymentState.SUCCEEDED
    if OrderState.SUCCEEDED in seen:
        return PaymentState.PARTIALLY_SUCCEEDED
    if OrderState.DECLINED in seen:
        return PaymentState.FAILED
    return PaymentState.VOIDED


# --- what the executor says ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Captured:
    """The PSP took the money, exactly what was asked."""

    psp_reference: str
    fee: Money | None
    source: str
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class Declined:
    """The PSP definitely refused; nothing was taken."""

    category: int
    code: str
    psp_reference: str
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class Pending:
    """The PSP will tell later."""

    psp_reference: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """The answer is not known after one round of the ladder."""


@dataclass(frozen=True, slots=True)
class Parked:
    """An operator has to look; `poll` tells whether asking again may bring evidence."""

    attention_reason: str
    poll: bool
    psp_reference: str = ""


@dataclass(frozen=True, slots=True)
class Delayed:
    """Nothing was learnt; `reason` is for logs."""

    reason: str


Outcome: TypeAlias = Captured | Declined | Pending | Unknown | Parked | Delayed


# --- a new payment ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NewOrder:
    """One order of a request; amounts in minor units."""

    seller_id: str
    amount_minor: int
    currency_code: str
    commission_minor: int
    reference: str


@dataclass(frozen=True, slots=True)
class NewPayment:
    """A request after defaults: what is stored, and what a replay is compared by."""

    payment_id: UUID
    caller: str
    request_id: str
    buyer_id: str
    payment_method: str = field(repr=False)
    failure_policy: FailurePolicy
    capture_method: CaptureMethod
    metadata: Mapping[str, str] = field(repr=False)
    orders: Sequence[NewOrder]


def check_amounts(orders: Sequence[NewOrder]) -> MeshError | None:
    """The refusal of unknown currencies and of sums over the cap, or None.

    Fields with their own rules (signs, caps, commission) were checked by protovalidate.
    """
    unknown = [
        Violation(
            f"orders[{position}].amount.currency_code", "is not a currency of ISO 4217 in use"
        )
        for position, order in enumerate(orders)
        if exponent(order.currency_code) is None
    ]
    if unknown:
        return MeshError(
            Reason.UNKNOWN_CURRENCY, "a currency_code is not known", violations=unknown
        )
    sums: Counter[str] = Counter()
    for order in orders:
        sums[order.currency_code] += order.amount_minor
    too_much = [code for code, total in sums.items() if total > MAX_AMOUNT_MINOR]
    if too_much:
        return validation_failed(
            *(
                Violation("orders", f"the amounts in {code} add up to more than {MAX_AMOUNT_MINOR}")
                for code in too_much
            )
        )
    return None


def differences(asked: NewPayment, stored: NewPayment) -> list[str]:
    """The fields in which a request differs from the stored one of the same request_id."""
    names = ("buyer_id", "payment_method", "failure_policy", "capture_method", "metadata")
    found = [name for name in names if getattr(asked, name) != getattr(stored, name)]
    if len(asked.orders) != len(stored.orders):
        return [*found, "orders"]
    for position, (new, old) in enumerate(zip(asked.orders, stored.orders, strict=True)):
        for name, path in _ORDER_FIELDS.items():
            if getattr(new, name) != getattr(old, name):
                found.append(f"orders[{position}].{path}")
    return found


_ORDER_FIELDS = {
    "seller_id": "seller_id",
    "amount_minor": "amount.amount_minor",
    "currency_code": "amount.currency_code",
    "commission_minor": "commission.amount_minor",
    "reference": "reference",
}


def request_id_reused(fields: Sequence[str]) -> MeshError:
    """The refusal of another request under a used request_id."""
    names = ",".join(fields)
    return MeshError(
        Reason.REQUEST_ID_REUSED,
        f"the request_id was used for a payment with other values of: {names}",
        {"fields": names},
    )


@dataclass(frozen=True, slots=True)
class NewRetry:
    """An operator's wish that a payment's parked orders are driven again."""

    payment_id: UUID
    caller: str
    request_id: str
    note: str

    @property
    def retry_id(self) -> UUID:
        """The key of its row."""
        return ids.retry_id(self.payment_id, self.caller, self.request_id)


@dataclass(frozen=True, slots=True)
class Settled:
    """What a line of a settlement file proves: the PSP took `amount`, before its fee."""

    amount: Money
    fee: Money | None
    psp_reference: str
    source: str


# --- on the conveyor ----------------------------------------------------------------------


Trip: TypeAlias = tuple[UUID, int, int]
"""operation_id, epoch and attempt."""


@dataclass(slots=True)
class Item:
    """One order's operation on its way; owned by the replica whose epoch it carries.

    Epoch and attempt together tell one ownership from any other: what is learnt is written
    only while the row still has both, so an older trip never counts for a newer one.
    """

    payment_id: UUID
    order_id: UUID
    operation_id: UUID
    position: int
    seller_id: str
    amount_minor: int
    currency_code: str
    commission_minor: int
    payment_method: str = field(repr=False)
    state: OrderState
    attempt: int
    epoch: int
    restart: bool = False
    """Whether an operator asked for this trip: from the first rung, though it is parked."""
    captured: bool = False
    """Whether its order's row says that the money is taken: in CAPTURED, and in PARKED after it."""
    settled: Settled | None = None
    """What this trip brings to the executor, instead of having the PSP asked."""

    @property
    def trip(self) -> Trip:
        """What tells this trip from any other, also of the same operation."""
        return self.operation_id, self.epoch, self.attempt

    @property
    def ids(self) -> dict[str, str]:
        """For lines in the log."""
        return {
            "payment_id": self.payment_id.hex,
            "order_id": self.order_id.hex,
            "operation_id": self.operation_id.hex,
        }


class News(IntEnum):
    """Whether the ledger's register of what is in no journal has to be told of a trip."""

    NONE = 0
    IF_REGISTERED = 1
    """Captured: the journal tells, and the register only if it says that it waits."""
    IF_NOT_REGISTERED = 2
    """It waits as before."""
    ALWAYS = 3


@dataclass(frozen=True, slots=True)
class Progress:
    """What one trip changed; written only while the item is still its owner's.

    None leaves what is stored: evidence is never overwritten by the lack of it.
    """

    item: Item
    state: OrderState
    operation_state: OperationState | None
    evidence: Evidence | None
    psp_reference: str | None
    captured_minor: int | None
    decline_category: int
    decline_code: str
    attention_reason: str | None
    retry_after_s: float | None
    """When it is driven again, in seconds from now by database time; None: it rests."""
    delayed: bool
    """Whether the next attempt is ours to hurry: callers keep waiting for it."""

    @property
    def news(self) -> News:
        """What the ledger's register has to be told of it."""
        if self.operation_state is OperationState.SUCCEEDED and self.state is not OrderState.PARKED:
            return News.IF_REGISTERED
        if self.delayed:
            return News.NONE
        if self.state is OrderState.PARKED or self.state is not self.item.state:
            return News.ALWAYS
        return News.IF_NOT_REGISTERED


def items_of(payment: NewPayment, epoch: int) -> list[Item]:
    """The items that put a new payment on the conveyor: one charge an order."""
    items = []
    for position, order in enumerate(payment.orders):
        order_id = ids.order_id(payment.payment_id, position)
        items.append(
            Item(
                payment_id=payment.payment_id,
                order_id=order_id,
                operation_id=ids.first_charge_id(order_id),
                position=position,
                seller_id=order.seller_id,
                amount_minor=order.amount_minor,
                currency_code=order.currency_code,
                commission_minor=order.commission_minor,
                payment_method=payment.payment_method,
                # Not NOT_STARTED: it is handed to the conveyor by the same commit, and
                # from then on nobody could prove that nothing was asked of the PSP.
                state=OrderState.PROCESSING,
                attempt=0,
                epoch=epoch,
            )
        )
    return items
