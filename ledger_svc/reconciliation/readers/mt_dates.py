"""Dates of SWIFT messages: two digits of the year, or none."""

from __future__ import annotations

import calendar
from datetime import date

from ledger_svc.reconciliation.readers.model import ReadError, ReadReason

_FEBRUARY = 2
_LAST_CENTURY_FROM = 80


def value_date(text: str, where: str) -> date:
    """YYMMDD. From 80 on it is the last century, as SWIFT has it. Raises ReadError."""
    year = int(text[:2])
    return _day(year + (1900 if year >= _LAST_CENTURY_FROM else 2000), text[2:], where)


def entry_date(text: str, valued: date, where: str) -> date | None:
    """MMDD in the year that brings it nearest to the value date; None if it is not told.

    Raises ReadError.
    """
    if not text.strip(" 0"):
        return None
    days = [_day(year, text, where) for year in (valued.year - 1, valued.year, valued.year + 1)]
    return min(days, key=lambda day: abs(day - valued))


def _day(year: int, month_and_day: str, where: str) -> date:
    month, day = int(month_and_day[:2]), int(month_and_day[2:])
    if month == _FEBRUARY and day in (29, 30):
        # Banks that count 30 days a month write 30 February.
        day = min(day, calendar.monthrange(year, month)[1])
    try:
        return date(year, month, day)
    except ValueError:
        raise ReadError(ReadReason.BAD_DATE, where, "there is no such day") from None
