"""Reads a file once, and judges it whole: its lines go to disk, ready for COPY.

Everything here is synchronous and runs in a thread: a large file takes long to read, and
payments must not wait for it.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import lru_cache
from typing import IO, BinaryIO

from ledger_svc.reconciliation.domain import BreakClass, Delivery, FileState, Verdict
from ledger_svc.reconciliation.readers import (
    Level,
    Limits,
    Line,
    Lines,
    ProblemCode,
    ReadError,
    ReadReason,
    Statement,
    read,
)
from ledger_svc.reconciliation.sources import Source

_BLOCK_BYTES = 1 << 20
_OUR_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)
_OUR_IDS = re.compile(r"(?:[0-9a-f]{32})?(?:,(?:[0-9a-f]{32})?)*", re.ASCII)
_MANY = 500
_LEVEL = Line._fields.index("level")
# What is looked up by must fit an index; no source's references come near it.
MAX_REFERENCE_CHARACTERS = 255

# The columns of settlement_line in the order of _row, for COPY.
COLUMNS = (
    "sequence", "statement", "number", "amount_minor", "gross_minor", "fee_minor",
    "original_amount_minor", "operation_id", "order_id", "create_time", "booking_date",
    "value_date", "level", "is_reversal", "currency", "kind", "source_reference",
    "related_reference", "batch_reference", "idempotency_key", "original_currency",
    "exchange_rate", "place", "more",
)  # fmt: skip
# The texts, from the currency on, are quoted: so an empty one is empty, and not NULL.


class Rows:
    """The lines of a file as CSV, on disk: COPY may take them while they are still written.

    first_day: the booking date of the first line, once it is read. is_complete: nothing more
    comes, and the file can be used.
    """

    def __init__(self) -> None:
        self.first_day: date | None = None
        self.is_complete = False
        self.file: IO[str] = tempfile.TemporaryFile(  # noqa: SIM115 - closed by close
            "w+", _BLOCK_BYTES, encoding="utf-8", newline=""
        )

    def block(self, offset: int) -> bytes:
        """What stands there on disk, a block at most; empty if nothing does yet."""
        return os.pread(self.file.fileno(), _BLOCK_BYTES, offset)

    def close(self) -> None:
        """Lets go of the disk."""
        self.file.close()


@dataclass
class Judged:
    """What was found."""

    verdict: Verdict
    statements: Sequence[Statement]


@dataclass
class _Read:
    format: str = ""
    statements: list[Statement] = field(default_factory=list)
    transfers: int = 0
    """Lines beside the entries of their statement, which are lines of the day all the same."""


def judge(
    stream: BinaryIO, delivery: Delivery, source: Source, max_file_bytes: int, rows: Rows
) -> Judged:
    """Reads the file and says whether it can be used. Raises nothing for a bad file.

    rows: where its lines go to. If the file can't be used, they are not complete.
    """
    found = _Read()
    try:
        reading = read(stream, Limits(file_bytes=max_file_bytes), delivery.format)
        found.format = reading.format
        rows.file.writelines(_rows(reading.blocks, found, rows))
    except ReadError as error:
        verdict = Verdict(
            FileState.QUARANTINED,
            found.format,
            delivery.settlement_date,
            0,
            problem=f"{error.reason}: {error.message}",
            place=error.where,
        )
        return Judged(verdict, ())
    rows.file.flush()
    verdict = _verdict(found, delivery, source)
    rows.is_complete = verdict.state is FileState.INGESTED
    return Judged(verdict, found.statements)


def explained_minor(statement: Statement) -> int:
    """By how much opening + lines misses closing, if value dates explain it; else 0."""
    if statement.opening_minor is None or statement.closing_minor is None:
        return 0
    lines = statement.credits_minor - statement.debits_minor
    return statement.opening_minor + lines - statement.closing_minor


def _verdict(found: _Read, delivery: Delivery, source: Source) -> Verdict:
    statements, told = found.statements, delivery.settlement_date
    days = {one.date for one in statements if one.date is not None}
    day = max(days, default=told)

    def refused(
        class_: BreakClass,
        problem: str,
        place: str = "",
        state: FileState = FileState.QUARANTINED,
    ) -> Verdict:
        return Verdict(state, found.format, day, 0, class_, problem, place)

    if day is None:
        return refused(BreakClass.NONE, "DATE_MISSING: neither the file nor its header names a day")
    if told is not None and days and told != day:
        return refused(BreakClass.NONE, f"DATE_DIFFERS: the file is for {day}, told was {told}")
    seen: set[tuple[object, ...]] = set()
    for one in statements:
        place = f"statement {one.number + 1}"
        codes = {problem.code for problem in one.problems}
        if ProblemCode.PAGES_MISSING in codes:
            return refused(BreakClass.PAGES_INCOMPLETE, one.problem or "", place, FileState.WAITING)
        if source.accounts and one.account not in source.accounts:
            return refused(
                BreakClass.UNKNOWN_ACCOUNT,
                "ACCOUNT_UNKNOWN: the account is not one of the source's",
                place,
            )
        if one.ties is False and codes != {ProblemCode.EXPLAINED_BY_VALUE_DATE}:
            return refused(BreakClass.ARITHMETIC_BROKEN, one.problem or "DOES_NOT_TIE", place)
        key = (one.date or day, one.account, one.currency_code, one.identity)
        if key in seen:
            return refused(
                BreakClass.FILE_RESENT, "IDENTITY_TWICE: two statements of one name", place
            )
        seen.add(key)
    odd = [f"statement {one.number + 1}: {one.problem}" for one in statements if one.problem]
    return Verdict(
        FileState.INGESTED,
        found.format,
        day,
        sum(one.entries for one in statements) + found.transfers,
        problem="; ".join(odd[:10]),
    )


def _rows(blocks: Iterator[Line | Lines | Statement], found: _Read, rows: Rows) -> Iterator[str]:
    """The rows of the lines, many at a time; the statements are set aside."""
    sequence = 1
    for lines in _many(blocks, found.statements):
        found.transfers += lines.columns[_LEVEL].count(Level.TOTAL)
        if sequence == 1:
            rows.first_day = next(iter(lines)).booking_date
        yield _csv(sequence, lines)
        sequence += len(lines)


def _many(
    blocks: Iterator[Line | Lines | Statement], statements: list[Statement]
) -> Iterator[Lines]:
    single: list[Line] = []
    for block in blocks:
        if isinstance(block, Line):
            single.append(block)
        elif isinstance(block, Statement):
            _check_length(f"statement {block.number + 1}", block.account or "", block.identity)
            statements.append(block)
        if single and (isinstance(block, Lines) or len(single) == _MANY):
            yield Lines(tuple(zip(*single, strict=True)))
            single.clear()
        if isinstance(block, Lines):
            yield block
    if single:
        yield Lines(tuple(zip(*single, strict=True)))


def _csv(first: int, lines: Lines) -> str:
    """The lines, of which the first has this number in the file, as PostgreSQL takes CSV.

    Column by column, for millions come: csv.writer would take as long as their reader.
    """
    (
        statements, numbers, places, levels, kinds, amounts, currencies, booking_dates,
        value_dates, gross, fees, source_references, related_references, batch_references, keys,
        operations, orders, references, told, times, reversals, originals, other_currencies, rates,
    ) = lines.columns  # fmt: skip
    named = (source_references, related_references, batch_references, keys)
    if any(max(map(len, column)) > MAX_REFERENCE_CHARACTERS for column in named):
        for place, *names in zip(places, *named, strict=True):
            _check_length(place, *names)
    if Level.TOTAL in levels:
        # A payout is none of the entries that sum to it, but it is the line of the day that
        # takes them to the bank: without it they would be owed for ever.
        levels = [Level.ENTRY if level is Level.TOTAL else level for level in levels]
    more: Sequence[str] = ("{}",) * len(lines)
    given = (*operations, *orders)
    # With their lengths, for a text with a comma would look like two of them.
    are_ours = set(map(len, given)) <= {0, 32} and _OUR_IDS.fullmatch(",".join(given))
    if any(references) or any(told) or not are_ours:
        operations, orders, more = zip(
            *map(_with_more, operations, orders, references, told), strict=True
        )
    plain = (
        map(str, range(first, first + len(lines))),
        map(str, statements),
        map(str, numbers),
        *map(_numbers, (amounts, gross, fees, originals)),
        operations,
        orders,
        map(_time, times),
        map(_day, booking_dates),
        map(_day, value_dates),
        levels,
        map(str, reversals),
    )
    texts = (
        currencies, [kind or "" for kind in kinds], *named, other_currencies, rates, places, more,
    )  # fmt: skip
    quoted = list(map('","'.join, zip(*texts, strict=True)))
    if "".join(quoted).count('"') > 2 * (len(texts) - 1) * len(lines):
        doubled = ([text.replace('"', '""') for text in column] for column in texts)
        quoted = list(map('","'.join, zip(*doubled, strict=True)))
    return "".join(
        f'{before},"{after}"\n'
        for before, after in zip(map(",".join, zip(*plain, strict=True)), quoted, strict=True)
    )


def _with_more(
    operation: str, order: str, references: tuple[tuple[str, str], ...], texts: tuple[str, ...]
) -> tuple[str, str, str]:
    """What is no id of ours, in a field that anybody may fill, is a reference."""
    if operation and not _OUR_ID.fullmatch(operation):
        references, operation = (*references, ("operation_id", operation)), ""
    if order and not _OUR_ID.fullmatch(order):
        references, order = (*references, ("order_id", order)), ""
    more = _json({"references": references, "texts": texts}) if references or texts else "{}"
    return operation, order, more


def _numbers(column: Sequence[int | None]) -> Iterable[str]:
    return ["" if n is None else str(n) for n in column] if None in column else map(str, column)


def _time(time: datetime | None) -> str:
    if time is None:
        return ""
    # In half the time of isoformat; the reader has brought it to UTC.
    return "%04d-%d-%d %d:%d:%d.%06d+00" % (  # noqa: UP031
        time.year, time.month, time.day, time.hour, time.minute, time.second, time.microsecond
    )  # fmt: skip


@lru_cache(1_000)
def _day(day: date | None) -> str:
    return "" if day is None else day.isoformat()


_json = json.JSONEncoder(ensure_ascii=False).encode


def _check_length(place: str, *references: str) -> None:
    if any(len(reference) > MAX_REFERENCE_CHARACTERS for reference in references):
        raise _too_long(place)


def _too_long(place: str) -> ReadError:
    return ReadError(
        ReadReason.BAD_FIELD,
        place,
        f"a reference has more than {MAX_REFERENCE_CHARACTERS} characters",
    )
