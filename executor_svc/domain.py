"""What an operation at the PSP is, what can be found out about it, and where that leads.

No I/O. Amounts are minor units of their currency. The numbers of the enums are those of
the database; those that are also on the wire are the wire's. The types are named tuples:
lists of hundreds of them pass through, and frozen dataclasses cost twice as much.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import Enum, IntEnum, auto
from typing import NamedTuple
from uuid import UUID

from mesh.money import Money


class Kind(IntEnum):
    """What is asked of the PSP."""

    CHARGE = 1


class Source(IntEnum):
    """Where the evidence for a state comes from."""

    NONE = 0
    PSP_ANSWER = 1
    PSP_LOOK_UP = 2
    SETTLEMENT_FILE = 3


class DeclineCategory(IntEnum):
    """The mesh's word for a decline."""

    GENERIC = 1
    INSUFFICIENT_FUNDS = 2
    INVALID_PAYMENT_METHOD = 3
    EXPIRED = 4
    FRAUD = 5
    AUTHENTICATION_REQUIRED = 6
    NOT_SUPPORTED = 7


class State(IntEnum):
    """Where an operation stands."""

    SENT = 1
    """The intent is stored and the call to the PSP is under way, or its process died."""
    UNKNOWN = 2
    """The PSP was asked and no evidence came."""
    PENDING = 3
    """The PSP has it and will tell later."""
    PARKED_UNKNOWN = 4
    """Still unknown when a resend was no longer safe. Looked up when asked again."""
    PARKED = 5
    """The PSP's answer is not one to act on. Left by an operator only."""
    CAPTURED = 6
    """Exactly what was asked was taken. Terminal."""
    DECLINED = 7
    """Definitely nothing was taken. Terminal."""


class Outcome(Enum):
    """What a step at the PSP brought to light."""

    CAPTURED = auto()
    DECLINED = auto()
    PENDING = auto()
    UNKNOWN = auto()
    """No evidence, or "not found" while a resend is safe."""
    OVERDUE = auto()
    """No evidence, after a resend ceased to be safe."""
    FORGOTTEN = auto()
    """No evidence, after a resend ceased to be safe, from one that does not know the key."""
    WRONG_AMOUNT = auto()
    """Captured, but not what was asked."""
    REFUSED = auto()
    """The first call was not valid to the PSP, which did nothing because of it."""


RESTING = frozenset({State.PARKED, State.CAPTURED, State.DECLINED})
"""States in which asking the PSP can't change anything: answered from the row."""

RESENDABLE = frozenset({State.SENT, State.UNKNOWN, State.PENDING})
"""States in which the same key may be sent again, while the PSP surely remembers it."""

_OUTCOMES = (
    Outcome.CAPTURED, Outcome.DECLINED, Outcome.PENDING, Outcome.UNKNOWN,
    Outcome.OVERDUE, Outcome.FORGOTTEN, Outcome.WRONG_AMOUNT, Outcome.REFUSED,
)  # fmt: skip

# One row a state, one column an outcome, in the order of _OUTCOMES. What it says: evidence
# moves everything that is not terminal, except what an operator has to look at; the lack
# of evidence moves only what has none; a refusal speaks of one call, so it moves only what
# no other call has touched.
_TABLE: Mapping[State, tuple[State, ...]] = {
    State.SENT: (
        State.CAPTURED, State.DECLINED, State.PENDING, State.UNKNOWN,
        State.PARKED_UNKNOWN, State.PARKED_UNKNOWN, State.PARKED, State.PARKED,
    ),
    State.UNKNOWN: (
        State.CAPTURED, State.DECLINED, State.PENDING, State.UNKNOWN,
        State.PARKED_UNKNOWN, State.PARKED_UNKNOWN, State.PARKED, State.UNKNOWN,
    ),
    State.PENDING: (
        State.CAPTURED, State.DECLINED, State.PENDING, State.PENDING,
        State.PENDING, State.PARKED_UNKNOWN, State.PARKED, State.PENDING,
    ),
    State.PARKED_UNKNOWN: (
        State.CAPTURED, State.DECLINED, State.PENDING, State.PARKED_UNKNOWN,
        State.PARKED_UNKNOWN, State.PARKED_UNKNOWN, State.PARKED, State.PARKED_UNKNOWN,
    ),
    State.PARKED: (
        State.PARKED, State.PARKED, State.PARKED, State.PARKED,
        State.PARKED, State.PARKED, State.PARKED, State.PARKED,
    ),
    State.CAPTURED: (
        State.CAPTURED, State.CAPTURED, State.CAPTURED, State.CAPTURED,
        State.CAPTURED, State.CAPTURED, State.CAPTURED, State.CAPTURED,
    ),
    State.DECLINED: (
        State.DECLINED, State.DECLINED, State.DECLINED, State.DECLINED,
        State.DECLINED, State.DECLINED, State.DECLINED, State.DECLINED,
    ),
}  # fmt: skip

TRANSITIONS: Mapping[tuple[State, Outcome], State] = {
    (state, outcome): following
    for state, row in _TABLE.items()
    for outcome, following in zip(_OUTCOMES, row, strict=True)
}


class ImpossibleTransitionError(Exception):
    """A pair of state and outcome that the table does not know: a bug."""


def after(state: State, outcome: Outcome) -> State:
    """The state that follows."""
    try:
        return TRANSITIONS[state, outcome]
    except KeyError:
        raise ImpossibleTransitionError(f"{outcome} in {state}") from None


class Move(NamedTuple):
    """What an outcome does to stored rows: those in `origins` go to `target`."""

    target: State
    origins: frozenset[State]


def _moves(outcome: Outcome) -> Move:
    origins = frozenset(state for state in State if after(state, outcome) is not state)
    (target,) = {after(state, outcome) for state in origins}
    return Move(target, origins)


MOVES: Mapping[Outcome, Move] = {outcome: _moves(outcome) for outcome in Outcome}
"""The table seen from the outcomes, as a conditional update needs it: each has one target."""


_EVIDENCE = frozenset({Outcome.CAPTURED, Outcome.DECLINED, Outcome.PENDING, Outcome.WRONG_AMOUNT})

RESTART_MOVES: Mapping[Outcome, Move] = {
    outcome: Move(move.target, move.origins | {State.PARKED}) if outcome in _EVIDENCE else move
    for outcome, move in MOVES.items()
}
"""The same in a round that an operator asked for: then evidence also moves what is parked.

But an amount that was captured is replaced by another captured amount only: what the PSP
once took is not forgotten because it now says "declined" or "pending".
"""


class Operation(NamedTuple):
    """What is asked: one operation at the PSP for one order."""

    operation_id: UUID
    payment_id: UUID
    order_id: UUID
    kind: Kind
    amount_minor: int
    currency_code: str
    payment_method: str

    @property
    def ids(self) -> dict[str, str]:
        """For lines in the log."""
        return {
            "payment_id": self.payment_id.hex,
            "order_id": self.order_id.hex,
            "operation_id": self.operation_id.hex,
        }

    @property
    def amount(self) -> Money:
        """How much is asked."""
        return Money(self.amount_minor, self.currency_code)


# What a repetition must ask for again, by its name on the wire.
_COMPARED: Mapping[str, str] = {
    "payment_id": "payment_id",
    "order_id": "order_id",
    "kind": "kind",
    "amount_minor": "amount.amount_minor",
    "currency_code": "amount.currency_code",
    "payment_method": "payment_method",
}


def differences(asked: Operation, stored: Operation) -> tuple[str, ...]:
    """The fields in which an operation differs from the one stored under its id."""
    if asked == stored:
        return ()
    return tuple(
        name for field, name in _COMPARED.items() if getattr(asked, field) != getattr(stored, field)
    )


class Captured(NamedTuple):
    """The PSP says that it took `amount`, and `fee` for itself if it tells."""

    amount: Money
    psp_reference: str
    fee: Money | None


class Settled(NamedTuple):
    """A settlement file of `source` says the same."""

    captured: Captured
    source: str


class Declined(NamedTuple):
    """The PSP says that it took nothing and won't; `code` is its own word for why."""

    category: DeclineCategory
    code: str
    psp_reference: str


class Pending(NamedTuple):
    """The PSP says that it will tell later."""

    psp_reference: str


class NotFound(NamedTuple):
    """The PSP does not know the key (any more)."""


class Refused(NamedTuple):
    """The PSP says that this call is not valid, and that it did nothing because of it."""

    why: str


class NoAnswer(NamedTuple):
    """Nothing is known from this call; `why` is for people and free of others' text."""

    why: str


Answer = Captured | Declined | Pending | NotFound | Refused | NoAnswer


class Finding(NamedTuple):
    """What is to be stored of an answer. Empty and None where the answer says nothing."""

    outcome: Outcome
    source: Source = Source.NONE
    psp_reference: str = ""
    captured: Money | None = None
    fee: Money | None = None
    decline_category: DeclineCategory | None = None
    decline_code: str = ""
    attention_reason: str = ""

    @property
    def strength(self) -> int:
        """Of two findings of one operation the one with more of it says how it stands."""
        if self.outcome in _DEFINITE:
            return 2
        return 1 if self.outcome is Outcome.PENDING else 0


_DEFINITE = frozenset({Outcome.CAPTURED, Outcome.DECLINED, Outcome.WRONG_AMOUNT})

UNKNOWN = Finding(Outcome.UNKNOWN)

OVERDUE = Finding(
    Outcome.OVERDUE,
    attention_reason="OUTCOME_UNKNOWN: the PSP can't be asked, and it is too late to send the "
    "same key again",
)

ELSEWHERE = Finding(
    Outcome.FORGOTTEN,  # also of what was pending: nobody is left who could tell the end of it
    attention_reason="OUTCOME_UNKNOWN: sent to another PSP than the one that can be asked now, "
    "and it is too late to send the same key again",
)

FORGOTTEN = Finding(
    Outcome.FORGOTTEN,
    attention_reason="OUTCOME_UNKNOWN: the PSP does not know the key, and it is too late to "
    "send the same key again: it may have taken the money and forgotten the key",
)


def judge(
    operation: Operation, answer: Answer, source: Source, *, first_call: bool
) -> Finding | None:
    """What an answer of the PSP says about the operation; None: nothing.

    "Not found" says nothing by itself: what follows from it depends on the time. A refusal
    says nothing about the calls before (`first_call` False).
    """
    match answer:
        case Captured(amount, psp_reference, fee) if amount == operation.amount:
            return Finding(Outcome.CAPTURED, source, psp_reference, amount, fee)
        case Captured(amount, psp_reference, fee):
            reason = f"WRONG_AMOUNT: asked {operation.amount}, the PSP captured {amount}"
            return Finding(
                Outcome.WRONG_AMOUNT, source, psp_reference, amount, fee, attention_reason=reason
            )
        case Declined(category, code, psp_reference):
            return Finding(
                Outcome.DECLINED,
                source,
                psp_reference,
                decline_category=category,
                decline_code=code,
            )
        case Pending(psp_reference):
            return Finding(Outcome.PENDING, source, psp_reference)
        case Refused(why) if first_call:
            return Finding(Outcome.REFUSED, source, attention_reason=f"PSP_REFUSED_REQUEST: {why}")
        case Refused() | NotFound() | NoAnswer():
            return None


def why_unknown(answer: Answer) -> str:
    """What an answer without evidence says, for people."""
    match answer:
        case NoAnswer(why) | Refused(why):
            return why
        case NotFound():
            return "not found"
        case _:
            raise ValueError(f"{answer} is evidence")


class Stored(NamedTuple):
    """An operation as its row tells it.

    source: the PSP's stable name; evidence: where the state comes from; captured, fee: as
    the PSP told them, also where the amount is wrong; change_time: when the state was
    stored.
    """

    operation: Operation
    state: State
    source: str
    evidence: Source
    psp_reference: str
    captured: Money | None
    fee: Money | None
    decline_category: DeclineCategory | None
    decline_code: str
    attention_reason: str
    change_time: datetime


class Standing(NamedTuple):
    """The operations in one state. oldest_s: since the first of them was sent, in seconds."""

    state: State
    operations: int
    oldest_s: float


def contradicts(stored: Stored, finding: Finding) -> bool:
    """Whether the PSP told two things of one operation that can't both be true.

    The row stays as it is; a person has to know.
    """
    if finding.outcome not in _DEFINITE or stored.state not in RESTING:
        return False
    if stored.state is after(State.SENT, finding.outcome):
        return finding.psp_reference not in ("", stored.psp_reference)
    return True
