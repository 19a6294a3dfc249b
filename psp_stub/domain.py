"""What the stub does with a charge: scripts by token, states, fees. No I/O, no clock.

A token's `Script` tells three things apart that real PSPs also keep apart: what happens
to the money, what the caller hears of it, and what a look-up says afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import NamedTuple

from mesh.errors import Code, MeshError, Reason
from mesh.money import MAX_AMOUNT_MINOR, exponent

SOURCE = "psp_stub"
"""The adapter's name in ledger accounts and settlement."""


class State(StrEnum):
    """How a charge stands.

    PENDING becomes one of the others by the passing of time alone (its end is decided when
    it starts); those two are final.
    """

    CAPTURED = "CAPTURED"
    DECLINED = "DECLINED"
    PENDING = "PENDING"


class DeclineCategory(StrEnum):
    """The mesh's word for a decline, as far as the stub uses them."""

    GENERIC = "GENERIC"
    INSUFFICIENT_FUNDS = "INSUFFICIENT_FUNDS"
    INVALID_PAYMENT_METHOD = "INVALID_PAYMENT_METHOD"


class Decline(NamedTuple):
    """Why nothing was taken. code: the PSP's own."""

    category: DeclineCategory
    code: str


class Reply(Enum):
    """What a call hears."""

    OUTCOME = "how the charge stands"
    SILENCE = "nothing, ever"
    UNAVAILABLE = "UNAVAILABLE"
    INTERNAL = "INTERNAL"


_DECLINED = Decline(DeclineCategory.GENERIC, "card_declined")
_INSUFFICIENT_FUNDS = Decline(DeclineCategory.INSUFFICIENT_FUNDS, "insufficient_funds")
_INVALID_TOKEN = Decline(DeclineCategory.INVALID_PAYMENT_METHOD, "invalid_token")


@dataclass(frozen=True, slots=True)
class Script:
    """What the stub does with the charges of one token.

    decline: why it is refused; None where the money is taken.
    processed_at_call: the call under a key, counted from 1, at which the charge happens;
        earlier calls provably do nothing.
    before, at, after: what a call hears before, at and after that one.
    slow: each call waits for the setting slow_ms instead of the latency.
    pending: the outcome is known only pending_ms after the call.
    wrong_amount: another amount than asked is taken.
    found: whether a look-up tells of the charge.
    """

    decline: Decline | None = None
    processed_at_call: int = 1
    before: Reply = Reply.OUTCOME
    at: Reply = Reply.OUTCOME
    after: Reply = Reply.OUTCOME
    slow: bool = False
    pending: bool = False
    wrong_amount: bool = False
    found: bool = True

    def reply(self, call: int) -> Reply:
        """What the call of this number under its key hears."""
        if call < self.processed_at_call:
            return self.before
        return self.at if call == self.processed_at_call else self.after


SCRIPTS: Mapping[str, Script] = {
    "tok_ok": Script(),
    "tok_declined": Script(decline=_DECLINED),
    "tok_insufficient_funds": Script(decline=_INSUFFICIENT_FUNDS),
    "tok_slow": Script(slow=True),
    "tok_timeout_captured": Script(at=Reply.SILENCE),
    "tok_timeout_nothing": Script(processed_at_call=2, before=Reply.SILENCE),
    "tok_error_captured": Script(at=Reply.INTERNAL),
    "tok_unavailable_twice": Script(processed_at_call=3, before=Reply.UNAVAILABLE),
    "tok_pending_success": Script(pending=True),
    "tok_pending_failure": Script(decline=_DECLINED, pending=True),
    "tok_wrong_amount": Script(wrong_amount=True),
    "tok_silent": Script(at=Reply.SILENCE, after=Reply.SILENCE, found=False),
}
"""The tokens that the stub understands, exactly as written."""

# tok_dispute is among them until disputes are built.
_UNKNOWN_TOKEN = Script(decline=_INVALID_TOKEN)


def script_of(payment_method: str) -> Script:
    """The token's script; one that is not known is declined as `invalid_token`."""
    return SCRIPTS.get(payment_method, _UNKNOWN_TOKEN)


class Ask(NamedTuple):
    """A charge as it is asked for.

    Ids are 32 lower-case hex digits: the stub only keeps them. The amount is in minor units
    of its currency.
    """

    idempotency_key: str
    operation_id: str
    order_id: str
    payment_method: str
    amount_minor: int
    currency_code: str


# The fields of an Ask as its caller knows them, in the order of the tuple.
_FIELD_NAMES = (
    "idempotency_key",
    "operation_id",
    "order_id",
    "payment_method",
    "amount.amount_minor",
    "amount.currency_code",
)


def conflict(stored: Ask, asked: Ask) -> MeshError:
    """The refusal of a key that was used with other fields, which it names."""
    differing = [
        name for name, old, new in zip(_FIELD_NAMES, stored, asked, strict=True) if old != new
    ]
    return MeshError(
        Reason.OPERATION_CONFLICT,
        "the key was used before with other fields",
        {"fields": ",".join(differing)},
    )


@dataclass(frozen=True, slots=True)
class FeeSchedule:
    """What the PSP keeps of each capture.

    bps: of the captured amount, in basis points (290 is 2.9 %).
    fixed_minor: for each capture, in minor units of a currency with two decimals; for
        other currencies the same in major units (30 is 0.30: 300 fils of BHD, 0 yen).
    """

    bps: int
    fixed_minor: int

    def fee_minor(self, amount_minor: int, currency_code: str) -> int:
        """The fee in the charge's own currency, rounded half up, at most the amount."""
        digits = exponent(currency_code) or 0
        fixed = _divide_half_up(self.fixed_minor * 10**digits, 100)
        return min(_divide_half_up(amount_minor * self.bps, 10_000) + fixed, amount_minor)


class Decision(NamedTuple):
    """What becomes of a charge, decided once and for ever.

    captured_minor and fee_minor are 0 for a decline. pending: told only later.
    """

    captured_minor: int
    fee_minor: int
    decline: Decline | None
    pending: bool


def decide(ask: Ask, fees: FeeSchedule) -> Decision:
    """What becomes of the charge when it is processed."""
    script = script_of(ask.payment_method)
    if script.decline is not None:
        return Decision(0, 0, script.decline, script.pending)
    captured = ask.amount_minor
    if script.wrong_amount:
        captured += 1 if captured < MAX_AMOUNT_MINOR else -1
    fee = fees.fee_minor(captured, ask.currency_code)
    return Decision(captured, fee, None, script.pending)


class Charge(NamedTuple):
    """A charge as it stands now. Amounts are 0 unless it is CAPTURED."""

    state: State
    captured_minor: int
    currency_code: str
    fee_minor: int
    decline: Decline | None
    psp_reference: str


def as_new(ask: Ask, decision: Decision, psp_reference: str) -> Charge:
    """How a charge stands that was just made and does not wait."""
    return Charge(
        State.CAPTURED if decision.decline is None else State.DECLINED,
        decision.captured_minor,
        ask.currency_code,
        decision.fee_minor,
        decision.decline,
        psp_reference,
    )


def unavailable() -> MeshError:
    """What an overloaded PSP says.

    It carries no reason, as no PSP's error does: that nothing was taken is the stub's
    secret, and the mesh has to find out.
    """
    return MeshError(Reason.UNSPECIFIED, "the PSP is not available", peer_code=Code.UNAVAILABLE)


def failed() -> MeshError:
    """What a PSP says that broke down after it took the money; without a reason as well."""
    return MeshError(Reason.UNSPECIFIED, "the PSP had an error", peer_code=Code.INTERNAL)


def _divide_half_up(dividend: int, divisor: int) -> int:
    return (2 * dividend + divisor) // (2 * divisor)
