"""The adapter's own settlement file, version 1 (mesh/settlement_file.py)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from itertools import groupby
from operator import itemgetter, ne, sub

from ledger_svc.reconciliation.readers.amounts import decimals_of, iso_date, minor, utc_time
from ledger_svc.reconciliation.readers.model import (
    Level,
    Line,
    Lines,
    ProblemCode,
    ReadError,
    ReadReason,
    Statement,
)
from ledger_svc.reconciliation.readers.pages import Page, Pages
from ledger_svc.reconciliation.readers.rows import Row, Table
from ledger_svc.reconciliation.readers.source import Source
from ledger_svc.reconciliation.readers.tally import Tally
from mesh.settlement_file import COLUMNS, FORMAT, RECORD, Kind, Record

_OUR_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)
_REFERENCES = ("psp_reference", "related_psp_reference", "transfer_reference")
_AMOUNTS = ("gross_minor", "fee_minor", "net_minor")
_RARE = ("original_amount_minor", "original_currency_code", "exchange_rate", "description")
# Of each line three ids of ours or none, then four integers that are surely small enough.
_CHECKED = ("idempotency_key", "operation_id", "order_id", "line_no", *_AMOUNTS)
_SURE = re.compile(r"(?:(?:(?:[0-9a-f]{32})?,){3}-?[0-9]{1,14}(?:,-?[0-9]{1,14}){3}\n)+", re.ASCII)
_KINDS = {str(kind): kind for kind in Kind}
_REVERSALS = frozenset(name for name in _KINDS if name.endswith(("_REVERSAL", "_RETURN")))
_LAST_PAGE = {"true": True, "false": False}


def read(source: Source, format_name: str = FORMAT) -> Iterator[Line | Lines | Statement]:
    """The lines of the file as they come, then its statements. Raises ReadError."""
    reader = _Reader(source, format_name)
    yield from reader.lines()
    yield from reader.finish()


class _Open:
    """The page that is open, with sums of its own for the control totals."""

    def __init__(self, page: Page, currency: str, *, last: bool) -> None:
        self.page = page
        self.tally = page.tally
        self.currency = currency
        self.last = last
        self.credits_minor = 0
        self.debits_minor = 0
        self.lines = 0

    def count(self, lines: int, credits_minor: int, debits_minor: int) -> None:
        """Adds to the sums."""
        self.lines += lines
        self.credits_minor += credits_minor
        self.debits_minor += debits_minor


class _Reader:
    def __init__(self, source: Source, format_name: str) -> None:
        self._table = Table(source, final_line_end=True)
        self._limits = source.limits
        self._format = format_name
        self._pages = Pages(source.limits)
        self._page: _Open | None = None
        self._entries = 0
        self._rows = 0
        self._ended_at = ""

    def lines(self) -> Iterator[Line | Lines]:
        """Every line, in the order of the file."""
        record_of = None
        for numbers, block in self._table.blocks():
            if record_of is None:
                record_of = self._record_column()
            rows = zip(map(record_of, block), numbers, block, strict=True)
            for record, run in groupby(rows, itemgetter(0)):
                _, places, cells = zip(*run, strict=True)
                sure = self._sure(places, cells) if record == Record.LINE else None
                if sure is None:
                    yield from self._each(places, cells)
                else:
                    yield sure

    def _record_column(self) -> Callable[[list[str]], str]:
        header = self._table.header
        if missing := [name for name in COLUMNS if name not in header]:
            raise ReadError(
                ReadReason.MISSING_FIELD, "line 1", f"columns are missing: {', '.join(missing)}"
            )
        return itemgetter(header.index(RECORD))

    def _each(self, numbers: Sequence[int], rows: Sequence[list[str]]) -> Iterator[Line]:
        """The lines of rows, looked at one by one."""
        for number, cells in zip(numbers, rows, strict=True):
            row = self._table.row(number, cells)
            if row.cells[RECORD] == Record.LINE and self._page is not None and not self._ended_at:
                self._rows += 1
                yield self._line(self._page, row)
            else:
                self._take(row)

    def _take(self, row: Row) -> None:
        """A row that is no line, or a line where none may be."""
        if self._ended_at:
            raise ReadError(ReadReason.UNEXPECTED_FIELD, row.where, f"a row after {self._ended_at}")
        self._rows += 1
        match row.cells[RECORD]:
            case Record.OPENING:
                self._open(row)
            case Record.LINE:
                self._inside(row)
            case Record.CLOSING:
                self._close(row)
            case Record.END:
                self._end(row)
            case _:
                raise ReadError(
                    ReadReason.UNKNOWN_RECORD_TYPE, row.at(RECORD), "no record type of this version"
                )

    def finish(self) -> Iterator[Statement]:
        """The statements, once nothing more comes."""
        if not self._ended_at:
            raise ReadError(ReadReason.FILE_CUT, "end of file", "there is no END row")
        for number, tally in enumerate(self._pages.finish()):
            yield tally.statement(number, self._format)

    def _open(self, row: Row) -> None:
        if self._page is not None:
            raise ReadError(ReadReason.MISSING_FIELD, row.where, "no CLOSING before this OPENING")
        currency = _needed(row, "currency_code")
        decimals_of(currency, row.at("currency_code"))
        account, identity = _needed(row, "account"), _needed(row, "statement_id")
        revision = minor(row.cells["revision"] or "0", row.at("revision"))
        number = minor(_needed(row, "page"), row.at("page"))
        last = _LAST_PAGE.get(row.cells["last_page"])
        if last is None:
            raise ReadError(ReadReason.BAD_FIELD, row.at("last_page"), "neither true nor false")
        opening = minor(_needed(row, "balance_minor"), row.at("balance_minor"))
        opened = self._pages.open(
            (account, currency, identity),
            lambda: Tally(account, currency, identity),
            row.where,
            first=number == 1,
            number=number,
        )
        self._pages.opens_with(opened, opening, row.where)
        opened.tally.revision = revision
        opened.tally.closing_date = iso_date(
            _needed(row, "settlement_date"), row.at("settlement_date")
        )
        self._page = _Open(opened, currency, last=last)

    def _sure(self, numbers: Sequence[int], rows: Sequence[list[str]]) -> Lines | None:
        """The lines of rows of which everything is surely right, None of others.

        Millions come, and column by column they take half the time.
        """
        page = self._page
        if page is None or self._ended_at:
            return None
        column = dict(zip(self._table.header, zip(*rows, strict=True), strict=True))
        count, first = len(rows), page.tally.entries + 1
        cells = zip(*map(column.__getitem__, _CHECKED), strict=True)
        checked = "\n".join(map(",".join, cells)) + "\n"
        if (
            not set(column["account"]) <= {"", page.tally.account}
            or not set(column["currency_code"]) <= {"", page.currency}
            or not set(column["kind"]) <= _KINDS.keys()
            or any(any(column[name]) for name in _RARE)
            or self._entries + count > self._limits.entries
            or checked.count("\n") != count  # a cell may hold one, and look like two lines
            or not _SURE.fullmatch(checked)
            or list(map(int, column["line_no"])) != list(range(first, first + count))
        ):
            return None
        gross, fees, nets = (list(map(int, column[name])) for name in _AMOUNTS)
        references, related, batches = (list(map(str.strip, column[name])) for name in _REFERENCES)
        if not all(references) or any(map(ne, map(sub, gross, fees), nets)):
            return None
        try:
            days = {text: _day(text) for text in {*column["booking_date"], *column["value_date"]}}
            times = [utc_time(text, "") if text else None for text in column["create_time"]]
        except ReadError:
            return None
        credits_minor = sum(net for net in nets if net > 0)
        debits_minor = credits_minor - sum(nets)
        page.tally.add_all(count, credits_minor, debits_minor, f"line {numbers[-1]}")
        page.count(count, credits_minor, debits_minor)
        self._entries += count
        self._rows += count
        kinds = [_KINDS[kind] for kind in column["kind"]]
        return Lines(
            (
                (page.page.statement,) * count,
                range(first, first + count),
                [f"line {number}" for number in numbers],
                (Level.ENTRY,) * count,
                kinds,
                nets,
                (page.currency,) * count,
                [days[day] for day in column["booking_date"]],
                [days[day] for day in column["value_date"]],
                gross,
                fees,
                references,
                related,
                batches,
                column["idempotency_key"],
                column["operation_id"],
                column["order_id"],
                ((),) * count,
                ((),) * count,
                times,
                [kind in _REVERSALS for kind in kinds],
                (None,) * count,
                ("",) * count,
                ("",) * count,
            )
        )

    def _line(self, page: _Open, row: Row) -> Line:
        """One movement. Raises ReadError if something of it is wrong."""
        where, cells = row.where, row.cells
        self._entries += 1
        if self._entries > self._limits.entries:
            raise ReadError(
                ReadReason.TOO_MANY_LINES, where, f"more than {self._limits.entries} lines"
            )
        self._check(page, row)
        gross, fee, net = (int(cells[name]) for name in _AMOUNTS)
        number = page.tally.add(net, where)
        if gross - fee != net:
            page.tally.report(
                ProblemCode.LINE_ARITHMETIC, f"net is not gross - fee in {where}", breaks=True
            )
        if int(cells["line_no"]) != number:
            page.tally.report(
                ProblemCode.CONTROL_TOTALS, f"line_no does not count on in {where}", breaks=True
            )
        page.count(1, max(net, 0), max(-net, 0))
        time, original = cells["create_time"], cells["original_amount_minor"]
        return Line(
            page.page.statement,
            number,
            where,
            Level.ENTRY,
            _KINDS[cells["kind"]],
            net,
            page.currency,
            _day(cells["booking_date"], row.at("booking_date")),
            _day(cells["value_date"], row.at("value_date")),
            gross,
            fee,
            cells["psp_reference"],
            cells["related_psp_reference"],
            cells["transfer_reference"],
            cells["idempotency_key"],
            cells["operation_id"],
            cells["order_id"],
            (),
            (cells["description"],) if cells["description"] else (),
            utc_time(time, row.at("create_time")) if time else None,
            cells["kind"] in _REVERSALS,
            minor(original, row.at("original_amount_minor")) if original else None,
            cells["original_currency_code"],
            cells["exchange_rate"],
        )

    def _check(self, page: _Open, row: Row) -> None:
        """Raises ReadError if something of a line is wrong."""
        for column, ours in (("account", page.tally.account), ("currency_code", page.currency)):
            if row.cells[column] and row.cells[column] != ours:
                raise ReadError(ReadReason.BAD_FIELD, row.at(column), "not that of its statement")
        if row.cells["kind"] not in _KINDS:
            raise ReadError(
                ReadReason.UNKNOWN_RECORD_TYPE, row.at("kind"), "no kind of this version"
            )
        _needed(row, "psp_reference")
        for column in ("idempotency_key", "operation_id", "order_id"):
            if row.cells[column] and not _OUR_ID.fullmatch(row.cells[column]):
                raise ReadError(
                    ReadReason.BAD_FIELD, row.at(column), "ids are 32 lower-case hex digits"
                )
        for column in ("net_minor", "gross_minor", "fee_minor", "line_no"):
            minor(_needed(row, column), row.at(column))

    def _close(self, row: Row) -> None:
        page = self._inside(row)
        closing = minor(_needed(row, "balance_minor"), row.at("balance_minor"))
        for column, ours in (
            ("credits_minor", page.credits_minor),
            ("debits_minor", page.debits_minor),
            ("lines", page.lines),
        ):
            if minor(_needed(row, column), row.at(column)) != ours:
                page.tally.report(
                    ProblemCode.CONTROL_TOTALS,
                    f"{column} of {row.where} is not what the lines make",
                    breaks=True,
                )
        self._pages.close(page.page, closing_minor=closing, last=page.last)
        self._page = None

    def _end(self, row: Row) -> None:
        if self._page is not None:
            raise ReadError(ReadReason.MISSING_FIELD, row.where, "no CLOSING before the END")
        if minor(_needed(row, "lines"), row.at("lines")) != self._rows - 1:
            raise ReadError(ReadReason.FILE_CUT, row.at("lines"), "rows are missing or too many")
        self._ended_at = row.where

    def _inside(self, row: Row) -> _Open:
        if self._page is None:
            raise ReadError(ReadReason.MISSING_FIELD, row.where, "no OPENING before this row")
        return self._page


def _day(text: str, where: str = "") -> date | None:
    return iso_date(text, where) if text else None


def _needed(row: Row, column: str) -> str:
    if not (text := row.cells[column]):
        raise ReadError(ReadReason.MISSING_FIELD, row.at(column), "this must not be empty")
    return text
