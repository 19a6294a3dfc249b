"""Settlement days: the calendar, lines, statements, transfers. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import NamedTuple
from zoneinfo import ZoneInfo

from mesh.settlement_file import Kind

ACCOUNT = "psp_stub_merchant"
"""Our account at the stub, as its files name it."""

HOME_CURRENCY = "EUR"
"""Has a statement every day, so that a day on which nothing ever happened has one too."""

_DAY = timedelta(days=1)


def time_zone(name: str) -> tzinfo:
    """An IANA time zone. Raises ValueError. UTC needs no time zone data on the machine."""
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, KeyError):
        raise ValueError("must be an IANA time zone, for example Europe/Berlin") from None


@dataclass(frozen=True, slots=True)
class Calendar:
    """When settlement days end.

    zone: where midnight is. cut_off: since that day's midnight by the clock there, less than
    24 hours; 0 is the midnight after the day. A time that the clock skips or shows twice
    counts as before the change of the clock.
    """

    zone: tzinfo
    cut_off: timedelta

    def end(self, day: date) -> datetime:
        """The first moment that is no more of this day, UTC."""
        # timedelta of date and naive time: the wall clock, not hours that passed.
        wall = datetime.combine(day, time()) + (self.cut_off or _DAY)
        return wall.replace(tzinfo=self.zone).astimezone(UTC)

    def day_of(self, moment: datetime) -> date:
        """The settlement day that a moment belongs to."""
        day = moment.astimezone(self.zone).date() - _DAY
        while self.end(day) <= moment:
            day += _DAY
        return day


class Line(NamedTuple):
    """A line of the settlement file. Amounts in minor units, signed as the balance moves.

    fee_minor: deducted, so net = gross - fee. psp_reference is never empty; the others may
    be. create_time: UTC. in_batch: whether it is one of those that the next transfer pays.
    """

    kind: Kind
    psp_reference: str
    create_time: datetime
    gross_minor: int
    fee_minor: int = 0
    related_psp_reference: str = ""
    idempotency_key: str = ""
    operation_id: str = ""
    order_id: str = ""
    original_amount_minor: int | None = None
    original_currency_code: str = ""
    exchange_rate: str = ""
    description: str = ""

    @property
    def net_minor(self) -> int:
        """How the balance moves."""
        return self.gross_minor - self.fee_minor


class Altered(NamedTuple):
    """What a file says in the place of the true line_no of a currency.

    line: None says nothing there. part: counts from 0 where it says several lines. A line_no
    above all true ones adds lines.
    """

    currency_code: str
    line_no: int
    part: int
    line: Line | None


class BankLine(NamedTuple):
    """An entry of the bank's statement. amount_minor: signed, a credit is positive."""

    currency_code: str
    amount_minor: int
    bank_reference: str
    end_to_end_id: str
    is_reversal: bool
    description: str


class Statement(NamedTuple):
    """What a day's files tell of one currency, in minor units.

    account: ours at the PSP, as the file names it. captures: lines that the day truly has.
    gross_minor, fee_minor: of all lines that are told, without transfers. lines_batch: the
    transfer that pays those. transfer_batch: the one that is paid today, None if none is.
    returned_minor: of it, what the bank sent back. batch_number, batch_minor: of the next
    transfer, and what it has to pay so far. closing_error_minor: what the file's last
    balance is wrong by. lacks_last_page: the file ends before it.
    """

    currency_code: str
    account: str
    captures: int
    opening_minor: int
    gross_minor: int
    fee_minor: int
    lines_batch: int
    transfer_batch: int | None
    transfer_minor: int
    returned_minor: int
    closing_minor: int
    batch_number: int
    batch_minor: int
    bank_opening_minor: int
    bank_closing_minor: int
    closing_error_minor: int = 0
    lacks_last_page: bool = False

    @property
    def transfer_reference(self) -> str:
        """The reference of today's transfer; empty if there is none."""
        if self.transfer_batch is None:
            return ""
        return transfer_reference(self.currency_code, self.transfer_batch)


class Carried(NamedTuple):
    """What a day takes over from the one before, in one currency."""

    opening_minor: int = 0
    batch_number: int = 1
    batch_minor: int = 0
    bank_opening_minor: int = 0

    @staticmethod
    def of(before: Statement) -> Carried:
        """What this statement leaves to the next day."""
        return Carried(
            before.closing_minor,
            before.batch_number,
            before.batch_minor,
            before.bank_closing_minor,
        )


class Sums(NamedTuple):
    """Of the lines that a day truly has in one currency."""

    captures: int = 0
    gross_minor: int = 0
    fee_minor: int = 0


class Deviation(NamedTuple):
    """What a statement says otherwise than its lines do, by order."""

    account: str = ACCOUNT
    opening_minor: int = 0
    transfer_minor: int = 0
    is_returned: bool = False
    closing_error_minor: int = 0
    lacks_last_page: bool = False


class Day(NamedTuple):
    """A closed day. end_time: its cut-off; close_time: when that was done. UTC."""

    settlement_date: date
    end_time: datetime
    close_time: datetime


class Sent(NamedTuple):
    """One revision of a day's files. is_missing: its settlement file can't be had."""

    day: Day
    revision: int
    create_time: datetime
    is_missing: bool
    statements: tuple[Statement, ...]


def transfer_reference(currency_code: str, number: int) -> str:
    """What a transfer is called: by the PSP, in its lines, and by the bank."""
    return f"stub_tr_{currency_code}_{number:08d}"


def state(
    currency_code: str,
    carried: Carried,
    sums: Sums,
    deviation: Deviation,
    *,
    delayed: bool,
) -> Statement:
    """A day's statement, without the bank's lines (see `with_bank`).

    sums: of what the file says. delayed: a transfer pays the lines of the days before; else
    it pays those of its own day too. What is not more than nothing is paid with the next one.
    """
    net = sums.gross_minor - sums.fee_minor
    number, due = carried.batch_number, carried.batch_minor
    lines_batch = number + 1 if delayed and due > 0 else number
    if not delayed:
        due += net
    transfer = max(due - deviation.transfer_minor, 1) if due > 0 else 0
    left = net if delayed else 0
    if not transfer:
        left += due
    returned = transfer if deviation.is_returned else 0
    opening = carried.opening_minor + deviation.opening_minor
    return Statement(
        currency_code=currency_code,
        account=deviation.account,
        captures=sums.captures,
        opening_minor=opening,
        gross_minor=sums.gross_minor,
        fee_minor=sums.fee_minor,
        lines_batch=lines_batch,
        transfer_batch=number if transfer else None,
        transfer_minor=transfer,
        returned_minor=returned,
        closing_minor=opening + net - transfer + returned,
        batch_number=number + 1 if transfer else number,
        batch_minor=left + returned,
        bank_opening_minor=carried.bank_opening_minor,
        bank_closing_minor=carried.bank_opening_minor,
        closing_error_minor=deviation.closing_error_minor,
        lacks_last_page=deviation.lacks_last_page,
    )


def with_bank(statement: Statement, lines: Iterable[BankLine]) -> Statement:
    """The statement with the balance that these lines at the bank lead to."""
    moved = sum(one.amount_minor for one in lines if one.currency_code == statement.currency_code)
    return statement._replace(bank_closing_minor=statement.bank_opening_minor + moved)


def bank_lines(statement: Statement) -> list[BankLine]:
    """What the bank truly books: the transfer, and its return."""
    reference = statement.transfer_reference
    if not reference:
        return []
    paid = BankLine(
        statement.currency_code,
        statement.transfer_minor,
        reference,
        reference,
        is_reversal=False,
        description=f"PSP STUB SETTLEMENT {reference}",
    )
    if not statement.returned_minor:
        return [paid]
    returned = paid._replace(
        amount_minor=-statement.returned_minor,
        bank_reference=f"{reference}_R",
        is_reversal=True,
        description=f"RETURN {reference}",
    )
    return [paid, returned]
