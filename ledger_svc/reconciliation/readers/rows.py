"""CSV by its header: rows as mappings, with their line numbers. UTF-8 only."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from ledger_svc.reconciliation.readers.model import ReadError, ReadReason
from ledger_svc.reconciliation.readers.source import Source, record_too_long


class Row(NamedTuple):
    """where: `line 12`. cells: by column, stripped."""

    where: str
    cells: Mapping[str, str]

    def at(self, column: str) -> str:
        """The place of one cell."""
        return f"{self.where}, column {column}"


def rows(source: Source, *, final_line_end: bool = False) -> Iterator[Row]:
    """The rows of a CSV file (RFC 4180), after its header.

    final_line_end: the last row must have one, or the file was cut. Blank lines are passed
    over. Raises ReadError: BAD_ROW, BAD_ENCODING, RECORD_TOO_LONG, FILE_CUT.
    """
    text = _Text(source)
    reader = csv.reader(text, strict=True)
    header: list[str] | None = None
    while True:
        text.begin_row()
        try:
            cells = next(reader, None)
        except csv.Error as error:
            if text.at_end:
                raise ReadError(
                    ReadReason.FILE_CUT, text.where, "the file ends within a quoted cell"
                ) from None
            # Its messages name the rule that is broken, never the text.
            raise ReadError(ReadReason.BAD_ROW, text.where, f"no CSV: {error}") from None
        if cells is None:
            break
        if not any(cells):
            continue
        if header is None:
            header = _checked(cells, text.where)
            continue
        if len(cells) != len(header):
            cut = not text.ended
            raise ReadError(
                ReadReason.FILE_CUT if cut else ReadReason.BAD_ROW,
                text.where,
                f"{len(cells)} cells, and the header has {len(header)} columns",
            )
        yield Row(
            text.where, {name: cell.strip() for name, cell in zip(header, cells, strict=True)}
        )
    if final_line_end and not text.ended:
        raise ReadError(ReadReason.FILE_CUT, text.where, "the last row has no line end")


def header_of(head: bytes) -> list[str]:
    """The columns in the first line of a file's head; empty if it is no CSV in UTF-8."""
    line = head.lstrip(b"\r\n ").splitlines()[:1]
    try:
        return [name.strip() for name in next(csv.reader([line[0].decode()], strict=True))]
    except (IndexError, UnicodeDecodeError, csv.Error, StopIteration):
        return []


def _checked(header: list[str], where: str) -> list[str]:
    names = [name.strip() for name in header]
    if len(set(names)) < len(names):
        raise ReadError(ReadReason.BAD_ROW, where, "two columns have the same name")
    return names


class _Text(Iterator[str]):
    """The lines for csv.reader, which asks for more while a quote is open."""

    def __init__(self, source: Source) -> None:
        self._lines = source.lines()
        self._limits = source.limits
        self._number = 0
        self._row_bytes = 0
        self._first = 1
        self.ended = True
        self.at_end = False

    @property
    def where(self) -> str:
        """The line in which the row began."""
        return f"line {self._first}"

    def begin_row(self) -> None:
        """What comes now is another row."""
        self._row_bytes = 0
        self._first = self._number + 1

    def __next__(self) -> str:
        line = next(self._lines, None)
        if line is None:
            self.at_end = True
            raise StopIteration
        self._number, self.ended = line.number, line.ended
        self._row_bytes += len(line.text)
        if self._row_bytes > self._limits.record_bytes:
            raise record_too_long(self.where, self._limits)
        try:
            return line.text.decode() + "\n"
        except UnicodeDecodeError:
            raise ReadError(
                ReadReason.BAD_ENCODING, f"line {line.number}", "this is not UTF-8"
            ) from None
