"""The one family of errors. Its mapping to google.rpc.Status is in mesh/status.py.

Every refusal of a Paymesh service carries an ErrorInfo with the domain ``paymesh``
and a reason; the reason is the contract, the message is for people. An error that
arrives without a reason (a dropped connection, a client's own deadline) says
nothing about the effect: it becomes ``Reason.UNSPECIFIED`` and callers treat it as
"unknown, ask again with the same key".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum


class Code(IntEnum):
    """google.rpc.Code, without the transport: a domain may raise errors."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class Reason(StrEnum):
    """Why something was refused or failed. Stable: callers branch on it."""

    UNSPECIFIED = ""
    VALIDATION_FAILED = "VALIDATION_FAILED"
    CARD_NUMBER_REFUSED = "CARD_NUMBER_REFUSED"
    UNKNOWN_CURRENCY = "UNKNOWN_CURRENCY"
    REQUEST_ID_REUSED = "REQUEST_ID_REUSED"
    OPERATION_CONFLICT = "OPERATION_CONFLICT"
    PAYMENT_NOT_FOUND = "PAYMENT_NOT_FOUND"
    WRONG_STATE = "WRONG_STATE"
    SOURCE_NOT_FOUND = "SOURCE_NOT_FOUND"
    FILE_NOT_FOUND = "FILE_NOT_FOUND"
    FILE_TOO_LARGE = "FILE_TOO_LARGE"
    RUN_NOT_FOUND = "RUN_NOT_FOUND"
    BREAK_NOT_FOUND = "BREAK_NOT_FOUND"
    SETTLEMENT_FILE_MISSING = "SETTLEMENT_FILE_MISSING"
    SETTLEMENT_NOT_READY = "SETTLEMENT_NOT_READY"
    SETTLEMENT_FILE_NOT_FOUND = "SETTLEMENT_FILE_NOT_FOUND"
    UNSUPPORTED_FORMAT = "UNSUPPORTED_FORMAT"
    OVERLOADED = "OVERLOADED"
    DEPENDENCY_DOWN = "DEPENDENCY_DOWN"
    OUTCOME_UNKNOWN = "OUTCOME_UNKNOWN"
    INTERNAL = "INTERNAL"


CODE_OF_REASON: Mapping[Reason, Code] = {
    Reason.UNSPECIFIED: Code.UNKNOWN,
    Reason.VALIDATION_FAILED: Code.INVALID_ARGUMENT,
    Reason.CARD_NUMBER_REFUSED: Code.INVALID_ARGUMENT,
    Reason.UNKNOWN_CURRENCY: Code.INVALID_ARGUMENT,
    Reason.REQUEST_ID_REUSED: Code.ALREADY_EXISTS,
    Reason.OPERATION_CONFLICT: Code.ALREADY_EXISTS,
    Reason.PAYMENT_NOT_FOUND: Code.NOT_FOUND,
    Reason.WRONG_STATE: Code.FAILED_PRECONDITION,
    Reason.SOURCE_NOT_FOUND: Code.NOT_FOUND,
    Reason.FILE_NOT_FOUND: Code.NOT_FOUND,
    Reason.FILE_TOO_LARGE: Code.INVALID_ARGUMENT,
    Reason.RUN_NOT_FOUND: Code.NOT_FOUND,
    Reason.BREAK_NOT_FOUND: Code.NOT_FOUND,
    Reason.SETTLEMENT_FILE_MISSING: Code.FAILED_PRECONDITION,
    Reason.SETTLEMENT_NOT_READY: Code.NOT_FOUND,
    Reason.SETTLEMENT_FILE_NOT_FOUND: Code.NOT_FOUND,
    Reason.UNSUPPORTED_FORMAT: Code.INVALID_ARGUMENT,
    Reason.OVERLOADED: Code.RESOURCE_EXHAUSTED,
    Reason.DEPENDENCY_DOWN: Code.UNAVAILABLE,
    Reason.OUTCOME_UNKNOWN: Code.ABORTED,
    Reason.INTERNAL: Code.INTERNAL,
}

# A permanent refusal is the callee's definite "no" to this very item: asking again
# with the same fields gives the same answer. Everything else may pass with time.
_PERMANENT = frozenset(
    {
        Reason.VALIDATION_FAILED,
        Reason.CARD_NUMBER_REFUSED,
        Reason.UNKNOWN_CURRENCY,
        Reason.REQUEST_ID_REUSED,
        Reason.OPERATION_CONFLICT,
        Reason.PAYMENT_NOT_FOUND,
        Reason.WRONG_STATE,
        Reason.SOURCE_NOT_FOUND,
        Reason.FILE_NOT_FOUND,
        Reason.FILE_TOO_LARGE,
        Reason.RUN_NOT_FOUND,
        Reason.UNSUPPORTED_FORMAT,
        Reason.BREAK_NOT_FOUND,
    }
)

# In the message; all of them are in the violations.
_MAX_NAMED_FIELDS = 10


@dataclass(frozen=True, slots=True)
class Violation:
    """One bad field: its path in the request (``orders[0].amount``) and what is wrong.

    The description never repeats the value: it may be a card number.
    """

    field: str
    description: str


@dataclass(eq=False)
class MeshError(Exception):
    """An error that may cross the wire.

    reason: the contract. message: for people, free of the caller's values.
    metadata: further facts of the ErrorInfo (strings). violations: the bad fields.
    retry_delay_s: when to come again, in seconds, if that is known.
    peer_code: the status that a peer sent, where it is not the reason's own.
    """

    reason: Reason
    message: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    violations: Sequence[Violation] = ()
    retry_delay_s: float | None = None
    peer_code: Code | None = None

    def __str__(self) -> str:
        """The message, after the reason where there is one."""
        return f"{self.reason}: {self.message}" if self.reason else self.message

    @property
    def code(self) -> Code:
        """The status code."""
        return CODE_OF_REASON[self.reason] if self.peer_code is None else self.peer_code

    @property
    def is_permanent(self) -> bool:
        """Whether the same request would be refused again."""
        return self.reason in _PERMANENT


def validation_failed(*violations: Violation) -> MeshError:
    """A request that breaks its own rules; nothing was stored."""
    fields = ", ".join(v.field or v.description for v in violations[:_MAX_NAMED_FIELDS])
    more = len(violations) - _MAX_NAMED_FIELDS
    return MeshError(
        Reason.VALIDATION_FAILED,
        f"the request is not valid: {fields}{f' and {more} more' if more > 0 else ''}",
        violations=violations,
    )


def dependency_down(what: str) -> MeshError:
    """Provably nothing was accepted, because `what` could not be reached."""
    return MeshError(Reason.DEPENDENCY_DOWN, f"{what} can't be reached; nothing was accepted")


def outcome_unknown(what: str) -> MeshError:
    """It is not known whether `what` happened; the caller repeats with the same key."""
    return MeshError(
        Reason.OUTCOME_UNKNOWN,
        f"it is not known whether {what}; call again with the same keys",
    )
