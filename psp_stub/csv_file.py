"""The stub's settlement file: statements and lines → CSV (mesh/settlement_file.py). Pure."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping
from datetime import datetime

from mesh.settlement_file import COLUMNS, LINE_END, RECORD, Kind, Record
from psp_stub.settlement import Line, Sent, Statement, transfer_reference

_OUR_KEY = re.compile(r"[0-9a-f]{32}", re.ASCII)

PAGE_LINES = 1_000
"""A statement has a page for each so many lines."""


class CsvFile:
    """A file in the making: told in its order, taken in pieces."""

    def __init__(self, sent: Sent) -> None:
        self._day = sent.day.settlement_date.isoformat()
        self._sent = sent
        self._buffer = io.StringIO(newline="")
        self._writer = csv.writer(self._buffer, lineterminator=LINE_END)
        self._writer.writerow(COLUMNS)
        self._rows = 0

    def take(self) -> bytes:
        """What was written since the last time."""
        text = self._buffer.getvalue()
        self._buffer.seek(0)
        self._buffer.truncate()
        return text.encode()

    @property
    def pending(self) -> int:
        """Characters that wait to be taken."""
        return self._buffer.tell()

    def statement(self, statement: Statement, lines: int) -> CsvStatement:
        """Begins a statement of so many lines, its transfers not counted."""
        return CsvStatement(self, self._sent, statement, lines)

    def end(self) -> None:
        """Ends the file."""
        self.row({RECORD: Record.END, "lines": self._rows})

    def row(self, cells: Mapping[str, object]) -> None:
        """Writes a row; columns that it does not name are empty."""
        self._writer.writerow([cells.get(name, "") for name in COLUMNS])
        self._rows += 1


class CsvStatement:
    """One statement of a file, in pages."""

    def __init__(self, file: CsvFile, sent: Sent, statement: Statement, lines: int) -> None:
        self._file = file
        self._statement = statement
        self._moment = sent.day.close_time
        self._transfers = _transfers(statement, self._moment)
        self._day = sent.day.settlement_date.isoformat()
        self._names: Mapping[str, object] = {
            "account": statement.account,
            "currency_code": statement.currency_code,
            "settlement_date": self._day,
            "statement_id": f"{self._day}/{statement.currency_code}",
            "revision": sent.revision,
        }
        self._left = lines + len(self._transfers)
        if statement.lacks_last_page and self._left:
            self._left -= 1
        self._balance = statement.opening_minor
        self._page = self._number = 0
        self._open()

    def line(self, line: Line) -> None:
        """The next line."""
        self._write(line, transfer_reference(self._statement.currency_code, self._lines_batch))

    def end(self) -> None:
        """Adds the transfers and ends the statement."""
        for line, reference in self._transfers:
            self._write(line, reference)
        self._close()

    @property
    def _lines_batch(self) -> int:
        return self._statement.lines_batch

    def _write(self, line: Line, reference: str) -> None:
        if not self._left:
            return  # what the last page held, which is missing
        if self._lines == PAGE_LINES:
            self._close()
            self._open()
        self._left -= 1
        self._number += 1
        self._lines += 1
        net = line.net_minor
        self._balance += net
        self._credits += max(net, 0)
        self._debits += max(-net, 0)
        original = line.original_amount_minor
        self._file.row(
            {
                RECORD: Record.LINE,
                **self._names,
                "page": self._page,
                "line_no": self._number,
                "kind": line.kind,
                "psp_reference": line.psp_reference,
                "related_psp_reference": line.related_psp_reference,
                "transfer_reference": reference,
                # Whoever charges past the mesh has keys of another form.
                "idempotency_key": (
                    line.idempotency_key if _OUR_KEY.fullmatch(line.idempotency_key) else ""
                ),
                "operation_id": line.operation_id,
                "order_id": line.order_id,
                "create_time": _utc(line.create_time),
                "booking_date": self._day,
                "value_date": self._day,
                "gross_minor": line.gross_minor,
                "fee_minor": line.fee_minor,
                "net_minor": net,
                "original_amount_minor": "" if original is None else original,
                "original_currency_code": line.original_currency_code,
                "exchange_rate": line.exchange_rate,
                "description": line.description,
            }
        )

    def _open(self) -> None:
        self._page += 1
        self._lines = self._credits = self._debits = 0
        self._file.row(
            {
                RECORD: Record.OPENING,
                **self._names,
                "page": self._page,
                "last_page": self._last_page(),
                "balance_minor": self._balance,
            }
        )

    def _close(self) -> None:
        is_last = self._last_page() == "true"
        error = self._statement.closing_error_minor if is_last else 0
        self._file.row(
            {
                RECORD: Record.CLOSING,
                **self._names,
                "page": self._page,
                "last_page": self._last_page(),
                "balance_minor": self._balance + error,
                "credits_minor": self._credits,
                "debits_minor": self._debits,
                "lines": self._lines,
            }
        )

    def _last_page(self) -> str:
        lines = self._left + self._lines
        return "false" if lines > PAGE_LINES or self._statement.lacks_last_page else "true"


def _transfers(statement: Statement, moment: datetime) -> list[tuple[Line, str]]:
    """The lines of the transfer, each with the transfer that it is part of."""
    reference = statement.transfer_reference
    if not reference:
        return []
    transfers = [(Line(Kind.TRANSFER, reference, moment, -statement.transfer_minor), reference)]
    if statement.returned_minor:
        returned = Line(
            Kind.TRANSFER_RETURN,
            f"{reference}_R",
            moment,
            statement.returned_minor,
            related_psp_reference=reference,
        )
        pays = transfer_reference(statement.currency_code, statement.batch_number)
        transfers.append((returned, pays))
    return transfers


def _utc(time: datetime) -> str:
    return time.isoformat(timespec="microseconds").replace("+00:00", "Z")
