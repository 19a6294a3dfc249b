"""What every format is read into: lines, statements, and the refusal. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from typing import Any, NamedTuple

from mesh.settlement_file import Kind


class ReadReason(StrEnum):
    """Why a file is refused. Stable: callers branch on it."""

    EMPTY_FILE = "EMPTY_FILE"
    COMPRESSED_FILE = "COMPRESSED_FILE"
    UNKNOWN_FORMAT = "UNKNOWN_FORMAT"
    UNSUPPORTED_FORMAT = "UNSUPPORTED_FORMAT"
    """The format is known and no reader is built."""
    BAD_ENCODING = "BAD_ENCODING"
    NUL_BYTE = "NUL_BYTE"
    FILE_TOO_LARGE = "FILE_TOO_LARGE"
    TOO_MANY_LINES = "TOO_MANY_LINES"
    TOO_MANY_STATEMENTS = "TOO_MANY_STATEMENTS"
    RECORD_TOO_LONG = "RECORD_TOO_LONG"
    """A row, a field or an XML element is longer than any real one."""
    FILE_CUT = "FILE_CUT"
    """The end of the file is missing."""
    DTD_REFUSED = "DTD_REFUSED"
    XML_NOT_WELL_FORMED = "XML_NOT_WELL_FORMED"
    BAD_ROW = "BAD_ROW"
    """A row that is no CSV, or has other columns than the header."""
    MISSING_FIELD = "MISSING_FIELD"
    UNEXPECTED_FIELD = "UNEXPECTED_FIELD"
    BAD_FIELD = "BAD_FIELD"
    BAD_AMOUNT = "BAD_AMOUNT"
    TOO_MANY_DECIMALS = "TOO_MANY_DECIMALS"
    AMOUNT_TOO_LARGE = "AMOUNT_TOO_LARGE"
    UNKNOWN_CURRENCY = "UNKNOWN_CURRENCY"
    BAD_DATE = "BAD_DATE"
    UNKNOWN_RECORD_TYPE = "UNKNOWN_RECORD_TYPE"


@dataclass(eq=False)
class ReadError(Exception):
    """A file that can't be read without guessing.

    where: the line, the byte or the path of the element. message: for people; it repeats no
    value of the file.
    """

    reason: ReadReason
    where: str
    message: str

    def __str__(self) -> str:
        """The reason, the place and the message."""
        return f"{self.reason} at {self.where}: {self.message}"


class Level(StrEnum):
    """How a line counts."""

    ENTRY = "ENTRY"
    """It moves the balance. Only these are counted and summed."""
    DETAIL = "DETAIL"
    """A part of a batch entry, told before it. Details need not sum to their entry."""
    TOTAL = "TOTAL"
    """The payout that the entries sum to: beside them, never one of them. A run takes it as the
    day's transfer to the bank."""


class Line(NamedTuple):
    """One line of a statement.

    statement: which one of the file, from 0. number: the entry that it is or belongs to, from
    1 within its statement. place: where it stands in the file. amount_minor: signed, as the
    balance moves (of a PSP's line that is the net), None only for a DETAIL that tells none in the
    entry's currency; kind: None for a bank's entry, which does
    not tell. gross_minor, fee_minor: where carried; gross - fee = amount.

    source_reference: what the PSP or the bank calls it. related_reference: the PSP's name of
    what it is about (the charge of a refund). batch_reference: the payout or transfer that it
    is settled in. idempotency_key, operation_id, order_id: ours, where carried. references:
    every further reference as (name, text); texts: free text, as it stands. create_time: when
    it happened at the PSP, UTC. reversal: the source calls it the reversal of an earlier
    entry; the sign is already right. original_*: before the PSP's conversion, unsigned as it
    stands.
    """

    statement: int
    number: int
    place: str
    level: Level
    kind: Kind | None
    amount_minor: int | None
    currency_code: str
    booking_date: date | None = None
    value_date: date | None = None
    gross_minor: int | None = None
    fee_minor: int | None = None
    source_reference: str = ""
    related_reference: str = ""
    batch_reference: str = ""
    idempotency_key: str = ""
    operation_id: str = ""
    order_id: str = ""
    references: tuple[tuple[str, str], ...] = ()
    texts: tuple[str, ...] = ()
    create_time: datetime | None = None
    reversal: bool = False
    original_amount_minor: int | None = None
    original_currency_code: str = ""
    exchange_rate: str = ""


@dataclass(frozen=True, slots=True)
class Lines:
    """Many lines, column by column: the fields of Line in their order, all of one length."""

    columns: tuple[Sequence[Any], ...]

    def __len__(self) -> int:
        """How many lines."""
        return len(self.columns[0])

    def __iter__(self) -> Iterator[Line]:
        """Each of them."""
        return map(Line, *self.columns)


class ProblemCode(StrEnum):
    """What is wrong with a statement that can be read all the same."""

    PAGES_MISSING = "PAGES_MISSING"
    PAGES_BROKEN = "PAGES_BROKEN"
    """A page does not open with what the page before it closed with."""
    BALANCE_MISSING = "BALANCE_MISSING"
    """A balance that the format must carry is not there."""
    BALANCE_AMBIGUOUS = "BALANCE_AMBIGUOUS"
    ACCOUNT_MISSING = "ACCOUNT_MISSING"
    DOES_NOT_TIE = "DOES_NOT_TIE"
    EXPLAINED_BY_VALUE_DATE = "EXPLAINED_BY_VALUE_DATE"
    """It does not tie, by exactly what is valued after the closing balance's date."""
    CONTROL_TOTALS = "CONTROL_TOTALS"
    LINE_ARITHMETIC = "LINE_ARITHMETIC"
    """Net is not gross minus fee."""


class Problem(NamedTuple):
    """A problem and its sentence."""

    code: ProblemCode
    text: str

    def __str__(self) -> str:
        return f"{self.code}: {self.text}"


@dataclass(frozen=True, slots=True)
class Statement:
    """The facts of one statement; its pages are one.

    account: as the source writes it; None where the file names none. currency_code: None only
    for a statement without any amount. Balances are signed, credit positive; None: the format
    or the file does not carry it. credits_minor, debits_minor: sums of the entries, unsigned.
    ties: opening + credits - debits = closing, and nothing else is known to be broken; None
    where there is nothing to compare. identity: what the source calls the statement;
    revision: how often it was corrected. date: of the closing balance.
    """

    number: int
    format: str
    account: str | None
    currency_code: str | None
    opening_minor: int | None
    closing_minor: int | None
    entries: int
    credits_minor: int
    debits_minor: int
    ties: bool | None
    problems: tuple[Problem, ...]
    identity: str = ""
    revision: int = 0
    date: date | None = None

    @property
    def problem(self) -> str | None:
        """The problems in one text, None if there are none."""
        return "; ".join(map(str, self.problems)) or None


@dataclass(frozen=True, slots=True)
class Limits:
    """What a file may have at most; more than any real one.

    file_bytes; entries: lines of all levels; statements: their sums are in memory until the
    end; record_bytes: a row with its quoted line breaks, a field with its continuation lines,
    or an XML element between two that are let go.
    """

    file_bytes: int = 4 << 30
    entries: int = 20_000_000
    statements: int = 20_000
    record_bytes: int = 1 << 20
