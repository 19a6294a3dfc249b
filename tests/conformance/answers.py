"""What an adapter answers, as the mesh reads it: comparisons, and words for people."""

from __future__ import annotations

from collections.abc import Collection

from paymesh.common.v1 import money_pb2
from paymesh.payment.v1 import payment_pb2
from paymesh.psp.v1 import psp_service_pb2 as pb

from mesh.errors import Code, Reason
from mesh.status import from_status
from tests.conformance.rule import NotKept, NotTried

Told = pb.ChargeOutcome | pb.LookUpResult

REFUSALS = frozenset(
    {
        Reason.VALIDATION_FAILED,
        Reason.OPERATION_CONFLICT,
        Reason.UNKNOWN_CURRENCY,
        Reason.CARD_NUMBER_REFUSED,
    }
)
"""The reasons from which the executor concludes that a call did nothing."""

_MAX_SHOWN = 80


def kind(told: Told) -> str:
    """Which of its results an answer is; "" for none."""
    return told.WhichOneof("result") or ""


def shown(told: Told) -> str:
    """An answer in a few words."""
    match kind(told):
        case "captured":
            captured = told.captured
            return f"captured {money(captured.amount)} as {_cut(captured.psp_reference)!r}"
        case "declined":
            return f"declined {_category(told.declined.category)} ({_cut(told.declined.code)})"
        case "error":
            error = from_status(told.error)
            return f"error {error.code.name} / {error.reason or 'no reason'}"
        case "":
            return "an answer without a result"
        case other:
            return other.replace("_", " ")


def money(amount: money_pb2.Money) -> str:
    """An amount as it is on the wire: minor units and the currency."""
    return f"{amount.amount_minor} {_cut(amount.currency_code)}"


def captured(told: Told, what: str) -> pb.ChargeCaptured:
    """The capture that is told. Raises NotKept for anything else."""
    if kind(told) != "captured":
        raise NotKept(f"{what}: {shown(told)}, not captured")
    return told.captured


def same_capture(first: pb.ChargeCaptured, told: Told, what: str) -> None:
    """Raises NotKept unless the answer tells of the same capture as the first one did.

    References are compared where both are told, as the executor does.
    """
    again = captured(told, what)
    if (again.amount.amount_minor, again.amount.currency_code) != (
        first.amount.amount_minor,
        first.amount.currency_code,
    ):
        raise NotKept(f"{what}: captured {money(again.amount)}, before {money(first.amount)}")
    if again.psp_reference and first.psp_reference and again.psp_reference != first.psp_reference:
        raise NotKept(
            f"{what}: another capture, {_cut(again.psp_reference)!r} "
            f"instead of {_cut(first.psp_reference)!r}"
        )


def declined(told: Told, what: str) -> pb.ChargeDeclined:
    """The decline that is told. Raises NotKept for anything else."""
    if kind(told) != "declined":
        raise NotKept(f"{what}: {shown(told)}, not declined")
    return told.declined


def refused(told: Told, code: Code, reasons: Collection[Reason], what: str) -> None:
    """Raises NotKept unless the answer is the error of this code with one of these reasons."""
    if kind(told) == "error":
        error = from_status(told.error)
        if error.code is code and error.reason in reasons:
            return
    wanted = " or ".join(sorted(reasons))
    raise NotKept(f"{what}: {shown(told)}, not error {code.name} / {wanted}")


def unknown(told: Told, what: str) -> None:
    """Raises NotKept unless the answer is an error that leaves the outcome open."""
    if kind(told) != "error":
        raise NotKept(f"{what}: {shown(told)}, not an error")
    reason = from_status(told.error).reason
    if reason in REFUSALS:
        raise NotKept(f"{what}: {shown(told)}, which says that nothing was taken")


def is_stranger(told: Told) -> bool:
    """Whether the adapter says that it does not know the payment method."""
    return (
        kind(told) == "declined"
        and told.declined.category == payment_pb2.DECLINE_CATEGORY_INVALID_PAYMENT_METHOD
    )


def recognised(told: Told, token: str) -> None:
    """Raises NotTried where the adapter does not know the payment method."""
    if is_stranger(told):
        raise NotTried(f"the adapter does not know {token!r}: {shown(told)}")


def _category(number: int) -> str:
    try:
        name = payment_pb2.DeclineCategory.Name(number)  # type: ignore[arg-type]
    except ValueError:
        return str(number)
    return name.removeprefix("DECLINE_CATEGORY_")


def _cut(text: str) -> str:
    """What another program wrote, for a terminal: short, and without control characters."""
    text = "".join(c if c.isprintable() else "?" for c in text[: _MAX_SHOWN + 1])
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 1] + "…"
