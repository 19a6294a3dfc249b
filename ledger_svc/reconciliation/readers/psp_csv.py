"""The adapter's own settlement file, version 1 (mesh/settlement_file.py)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import date
from operator import itemgetter

from ledger_svc.reconciliation.readers.amounts import decimals_of, iso_date, minor, utc_time
from ledger_svc.reconciliation.readers.model import (
    Level,
    Line,
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
# Three ids of ours or none, then four integers that are surely small enough.
_SURE = re.compile(r"(?:(?:[0-9a-f]{32})?,){3}-?[0-9]{1,14}(?:,-?[0-9]{1,14}){3}", re.ASCII)
_KINDS = {str(kind): kind for kind in Kind}
_REVERSALS = frozenset(name for name in _KINDS if name.endswith(("_REVERSAL", "_RETURN")))
_KNOWN_DAYS = 1_000
_LAST_PAGE = {"true": True, "false": False}


def read(source: Source, format_name: str = FORMAT) -> Iterator[Line | Statement]:
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
        self._days: dict[str, date] = {}

    def lines(self) -> Iterator[Line]:
        """Every line, in the order of the file."""
        pick = None
        for cells in self._table.records():
            if pick is None:
                pick = self._columns()
            picked = pick(cells)
            if picked[0] == Record.LINE and self._page is not None and not self._ended_at:
                self._rows += 1
                yield self._line(self._page, picked, cells)
            else:
                self._take(self._table.row(cells))

    def _columns(self) -> Callable[[list[str]], tuple[str, ...]]:
        """Finds the columns of this version in a record, in their order."""
        header = self._table.header
        if missing := [name for name in COLUMNS if name not in header]:
            raise ReadError(
                ReadReason.MISSING_FIELD, "line 1", f"columns are missing: {', '.join(missing)}"
            )
        return itemgetter(*map(header.index, COLUMNS))

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

    def _line(self, page: _Open, picked: tuple[str, ...], cells: list[str]) -> Line:
        """One movement. Millions come: what is right is recognised without a call for each cell."""
        where = f"line {self._table.number}"
        self._entries += 1
        if self._entries > self._limits.entries:
            raise ReadError(
                ReadReason.TOO_MANY_LINES, where, f"more than {self._limits.entries} lines"
            )
        (
            _, account, currency, _, _, _, _, _, line_no, kind, source_reference,
            related_reference, batch_reference, key, operation, order, create_time, booking_date,
            value_date, gross_text, fee_text, net_text, original, original_currency, rate, _, _, _,
            _, description,
        ) = picked  # fmt: skip
        if (
            not source_reference
            or (account and account != page.tally.account)
            or (currency and currency != page.currency)
            or kind not in _KINDS
            or not _SURE.fullmatch(
                f"{key},{operation},{order},{line_no},{gross_text},{fee_text},{net_text}"
            )
        ):
            self._check(page, self._table.row(cells))
        gross, fee, net = int(gross_text), int(fee_text), int(net_text)
        number = page.tally.add(net, where)
        if gross - fee != net:
            page.tally.report(
                ProblemCode.LINE_ARITHMETIC, f"net is not gross - fee in {where}", breaks=True
            )
        if int(line_no) != number:
            page.tally.report(
                ProblemCode.CONTROL_TOTALS, f"line_no does not count on in {where}", breaks=True
            )
        page.lines += 1
        if net >= 0:
            page.credits_minor += net
        else:
            page.debits_minor -= net
        # In the order of its fields: their names would cost as much as all the checks.
        return Line(
            page.page.statement,
            number,
            where,
            Level.ENTRY,
            _KINDS[kind],
            net,
            page.currency,
            self._day(booking_date, "booking_date", cells),
            self._day(value_date, "value_date", cells),
            gross,
            fee,
            source_reference,
            related_reference,
            batch_reference,
            key,
            operation,
            order,
            (),
            (description,) if description else (),
            utc_time(create_time, f"{where}, column create_time") if create_time else None,
            kind in _REVERSALS,
            minor(original, f"{where}, column original_amount_minor") if original else None,
            original_currency,
            rate,
        )

    def _check(self, page: _Open, row: Row) -> None:
        """Looks closer at a line that is not surely right. Raises ReadError if it is wrong."""
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

    def _day(self, text: str, column: str, cells: list[str]) -> date | None:
        if not text:
            return None
        day = self._days.get(text)
        if day is None:
            day = iso_date(text, self._table.row(cells).at(column))
            if len(self._days) < _KNOWN_DAYS:
                self._days[text] = day
        return day

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


def _needed(row: Row, column: str) -> str:
    if not (text := row.cells[column]):
        raise ReadError(ReadReason.MISSING_FIELD, row.at(column), "this must not be empty")
    return text
