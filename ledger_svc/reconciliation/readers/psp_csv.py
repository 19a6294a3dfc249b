"""The adapter's own settlement file, version 1 (mesh/settlement_file.py)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date

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
from ledger_svc.reconciliation.readers.rows import Row, rows
from ledger_svc.reconciliation.readers.source import Source
from ledger_svc.reconciliation.readers.tally import Tally
from mesh.settlement_file import COLUMNS, FORMAT, RECORD, Kind, Record

_OUR_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)
_LAST_PAGE = {"true": True, "false": False}


def read(source: Source, format_name: str = FORMAT) -> Iterator[Line | Statement]:
    """The lines of the file as they come, then its statements. Raises ReadError."""
    reader = _Reader(source, format_name)
    for row in rows(source, final_line_end=True):
        if line := reader.take(row):
            yield line
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
        self._limits = source.limits
        self._format = format_name
        self._pages = Pages(source.limits)
        self._page: _Open | None = None
        self._entries = 0
        self._rows = 0
        self._ended_at = ""

    def take(self, row: Row) -> Line | None:
        """One row; a line if it is one."""
        if not self._rows and (missing := [name for name in COLUMNS if name not in row.cells]):
            raise ReadError(
                ReadReason.MISSING_FIELD, "line 1", f"columns are missing: {', '.join(missing)}"
            )
        if self._ended_at:
            raise ReadError(ReadReason.UNEXPECTED_FIELD, row.where, f"a row after {self._ended_at}")
        self._rows += 1
        match row.cells[RECORD]:
            case Record.OPENING:
                self._open(row)
            case Record.LINE:
                return self._line(row)
            case Record.CLOSING:
                self._close(row)
            case Record.END:
                self._end(row)
            case _:
                raise ReadError(
                    ReadReason.UNKNOWN_RECORD_TYPE, row.at(RECORD), "no record type of this version"
                )
        return None

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
            lambda: Tally(account, currency, f"{identity}/{revision}"),
            row.where,
            first=number == 1,
            number=number,
        )
        self._pages.opens_with(opened, opening, row.where)
        opened.tally.closing_date = iso_date(
            _needed(row, "settlement_date"), row.at("settlement_date")
        )
        self._page = _Open(opened, currency, last=last)

    def _line(self, row: Row) -> Line:
        page = self._inside(row)
        self._entries += 1
        if self._entries > self._limits.entries:
            raise ReadError(
                ReadReason.TOO_MANY_LINES, row.where, f"more than {self._limits.entries} lines"
            )
        cells = row.cells
        for column, ours in (("account", page.tally.account), ("currency_code", page.currency)):
            if cells[column] and cells[column] != ours:
                raise ReadError(ReadReason.BAD_FIELD, row.at(column), "not that of its statement")
        net = minor(_needed(row, "net_minor"), row.at("net_minor"))
        gross = minor(_needed(row, "gross_minor"), row.at("gross_minor"))
        fee = minor(_needed(row, "fee_minor"), row.at("fee_minor"))
        number = page.tally.add(net, row.where)
        if gross - fee != net:
            page.tally.report(
                ProblemCode.LINE_ARITHMETIC, f"net is not gross - fee in {row.where}", breaks=True
            )
        if minor(_needed(row, "line_no"), row.at("line_no")) != number:
            page.tally.report(
                ProblemCode.CONTROL_TOTALS,
                f"line_no does not count on in {row.where}",
                breaks=True,
            )
        page.lines += 1
        page.credits_minor += max(net, 0)
        page.debits_minor += max(-net, 0)
        original = cells["original_amount_minor"]
        return Line(
            statement=page.page.statement,
            number=number,
            place=row.where,
            level=Level.ENTRY,
            kind=_kind(row),
            amount_minor=net,
            currency_code=page.currency,
            booking_date=_date(row, "booking_date"),
            value_date=_date(row, "value_date"),
            gross_minor=gross,
            fee_minor=fee,
            source_reference=_needed(row, "psp_reference"),
            related_reference=cells["related_psp_reference"],
            batch_reference=cells["transfer_reference"],
            idempotency_key=_our_id(row, "idempotency_key"),
            operation_id=_our_id(row, "operation_id"),
            order_id=_our_id(row, "order_id"),
            texts=(cells["description"],) if cells["description"] else (),
            create_time=(
                utc_time(cells["create_time"], row.at("create_time"))
                if cells["create_time"]
                else None
            ),
            reversal=cells["kind"].endswith(("_REVERSAL", "_RETURN")),
            original_amount_minor=(
                minor(original, row.at("original_amount_minor")) if original else None
            ),
            original_currency_code=cells["original_currency_code"],
            exchange_rate=cells["exchange_rate"],
        )

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


def _kind(row: Row) -> Kind:
    try:
        return Kind(row.cells["kind"])
    except ValueError:
        raise ReadError(
            ReadReason.UNKNOWN_RECORD_TYPE, row.at("kind"), "no kind of this version"
        ) from None


def _our_id(row: Row, column: str) -> str:
    text = row.cells[column]
    if text and not _OUR_ID.fullmatch(text):
        raise ReadError(ReadReason.BAD_FIELD, row.at(column), "ids are 32 lower-case hex digits")
    return text


def _date(row: Row, column: str) -> date | None:
    return iso_date(row.cells[column], row.at(column)) if row.cells[column] else None
