"""Amounts and dates as files write them. Decimal, never float."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from decimal import Context, Decimal, Inexact

from ledger_svc.reconciliation.readers.model import ReadError, ReadReason
from mesh.money import MAX_AMOUNT_MINOR, any_exponent

_PLAIN = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)", re.ASCII)
_CENTS = re.compile(r"(-?[0-9]{1,12})\.([0-9]{2})", re.ASCII)
_ISO_DATE = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})(?:[T ].*|Z|[+-][0-9]{2}:?[0-9]{2})?", re.ASCII
)
_LONGEST = 40

_EXACT = Context(prec=_LONGEST + 8, traps=[Inexact])
_MAX = Decimal(MAX_AMOUNT_MINOR)


def decimals_of(currency_code: str, where: str) -> int:
    """The currency's exponent, also of a withdrawn one. Raises ReadError."""
    digits = any_exponent(currency_code)
    if digits is None:
        raise ReadError(ReadReason.UNKNOWN_CURRENCY, where, "the currency is not one of ISO 4217")
    return digits


def to_minor(text: str, currency_code: str, where: str) -> int:
    """An amount in major units (`-12.50`) in minor units, exactly.

    Zeros at the end don't count as decimals. Raises ReadError: BAD_AMOUNT, TOO_MANY_DECIMALS,
    AMOUNT_TOO_LARGE, UNKNOWN_CURRENCY.
    """
    digits = decimals_of(currency_code, where)
    if digits == 2 and (cents := _CENTS.fullmatch(text)):
        return int(cents[1] + cents[2])  # nearly all; the same without Decimal
    if len(text) > _LONGEST or not _PLAIN.fullmatch(text):
        raise ReadError(ReadReason.BAD_AMOUNT, where, "this is not a plain decimal number")
    scaled = _EXACT.scaleb(_EXACT.create_decimal(text), digits)
    if scaled != scaled.to_integral_value():
        raise ReadError(
            ReadReason.TOO_MANY_DECIMALS,
            where,
            f"more than the {digits} decimals of {currency_code}",
        )
    if abs(scaled) > _MAX:
        raise _too_large(where)
    return int(scaled)


def minor(text: str, where: str) -> int:
    """A signed integer of minor units. Raises ReadError."""
    body = text[1:] if text[:1] in {"-", "+"} else text
    if len(text) > _LONGEST or not (body.isascii() and body.isdecimal()):
        raise ReadError(ReadReason.BAD_AMOUNT, where, "this is not an integer of minor units")
    value = int(text)
    if abs(value) > MAX_AMOUNT_MINOR:
        raise _too_large(where)
    return value


def iso_date(text: str, where: str) -> date:
    """The day of an ISO 8601 date or time, as it stands in its own zone. Raises ReadError."""
    match = _ISO_DATE.fullmatch(text)
    try:
        if match:
            return date.fromisoformat(match[1])
    except ValueError:
        pass
    raise ReadError(ReadReason.BAD_DATE, where, "this is not a date of ISO 8601")


def utc_time(text: str, where: str) -> datetime:
    """An ISO 8601 time in UTC; one without a zone is UTC already. Raises ReadError."""
    try:
        time = datetime.fromisoformat(text)
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ReadError(ReadReason.BAD_DATE, where, "this is not a time of ISO 8601") from None


def _too_large(where: str) -> ReadError:
    return ReadError(
        ReadReason.AMOUNT_TOO_LARGE, where, f"more than {MAX_AMOUNT_MINOR} minor units"
    )
