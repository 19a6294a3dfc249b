"""Faults of settlement files: the kinds, the orders, and what they need to be carried out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from enum import StrEnum
from typing import NamedTuple

from psp_stub.settlement import Carried, Line, Sums


class FaultKind(StrEnum):
    """What can be wrong; psp_stub_control_service.proto says what each one is."""

    LATE_LINE = "LATE_LINE"
    MISSING_LINE = "MISSING_LINE"
    UNKNOWN_LINE = "UNKNOWN_LINE"
    AMOUNT_DIFFERS = "AMOUNT_DIFFERS"
    FEE_DIFFERS = "FEE_DIFFERS"
    FEE_LINE = "FEE_LINE"
    CURRENCY_DIFFERS = "CURRENCY_DIFFERS"
    DUPLICATE_LINE = "DUPLICATE_LINE"
    UNKNOWN_REFUND = "UNKNOWN_REFUND"
    CHARGEBACK = "CHARGEBACK"
    CHARGEBACK_REVERSAL = "CHARGEBACK_REVERSAL"
    TRANSFER_DIFFERS = "TRANSFER_DIFFERS"
    BANK_LINE_MISSING = "BANK_LINE_MISSING"
    UNKNOWN_BANK_LINE = "UNKNOWN_BANK_LINE"
    DECLINED_SETTLED = "DECLINED_SETTLED"
    CHARGE_REVERSAL = "CHARGE_REVERSAL"
    TRANSFER_RETURN = "TRANSFER_RETURN"
    ARITHMETIC_BROKEN = "ARITHMETIC_BROKEN"
    CHAIN_BROKEN = "CHAIN_BROKEN"
    FILE_MISSING = "FILE_MISSING"
    PAGES_INCOMPLETE = "PAGES_INCOMPLETE"
    FX_DIFFERENCE = "FX_DIFFERENCE"
    RESERVE_HOLD = "RESERVE_HOLD"
    RESERVE_RELEASE = "RESERVE_RELEASE"
    BALANCE_TRANSFER = "BALANCE_TRANSFER"
    INVOICE_DEDUCTION = "INVOICE_DEDUCTION"
    OFFSETTING_ERRORS = "OFFSETTING_ERRORS"
    AMBIGUOUS_LINES = "AMBIGUOUS_LINES"
    CLOSING_DIFFERS = "CLOSING_DIFFERS"
    UNKNOWN_ACCOUNT = "UNKNOWN_ACCOUNT"


_LINES_NEEDED: Mapping[FaultKind, int] = {
    FaultKind.MISSING_LINE: 1,
    FaultKind.AMOUNT_DIFFERS: 1,
    FaultKind.FEE_DIFFERS: 1,
    FaultKind.CURRENCY_DIFFERS: 1,
    FaultKind.DUPLICATE_LINE: 1,
    FaultKind.UNKNOWN_REFUND: 1,
    FaultKind.CHARGEBACK: 1,
    FaultKind.CHARGE_REVERSAL: 1,
    FaultKind.FX_DIFFERENCE: 1,
    FaultKind.OFFSETTING_ERRORS: 2,
    FaultKind.AMBIGUOUS_LINES: 2,
}


class Fault(NamedTuple):
    """An order. amount_minor: by how much, or how much. applied: once the day is closed."""

    kind: FaultKind
    currency_code: str
    ordered: int
    amount_minor: int
    applied: int | None = None


class Capture(NamedTuple):
    """A line that a day truly has."""

    line_no: int
    line: Line


class Material(NamedTuple):
    """What a day truly holds, as far as its faults need it; each by currency.

    moment: the time of lines that are made up. captures: in the order of the file, at least
    as many as `needed`. declined: charges that took nothing, as they would be told. disputes:
    told on earlier days and not reversed yet, oldest first.
    """

    settlement_date: date
    moment: datetime
    carried: Mapping[str, Carried]
    sums: Mapping[str, Sums]
    captures: Mapping[str, Sequence[Capture]]
    declined: Mapping[str, Sequence[Line]]
    disputes: Mapping[str, Sequence[Line]]


def needed(faults: Sequence[Fault], currency_code: str, *, most: int) -> int:
    """How many captures the faults of a currency have to be shown; pairs need many."""
    ours = [one for one in faults if one.currency_code == currency_code]
    if any(one.kind is FaultKind.AMBIGUOUS_LINES and one.ordered for one in ours):
        return most
    return min(sum(one.ordered * _LINES_NEEDED.get(one.kind, 0) for one in ours), most)
