"""CSV by its header: rows as mappings, with their line numbers. UTF-8 only."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import NamedTuple

from ledger_svc.reconciliation.readers.model import ReadError, ReadReason
from ledger_svc.reconciliation.readers.source import Source, record_too_long

_BLOCK_RECORDS = 500


class Row(NamedTuple):
    """where: `line 12`. cells: by column, stripped."""

    where: str
    cells: Mapping[str, str]

    def at(self, column: str) -> str:
        """The place of one cell."""
        return f"{self.where}, column {column}"


def rows(source: Source, *, final_line_end: bool = False) -> Iterator[Row]:
    """The rows of a CSV file, after its header. Raises ReadError as Table does."""
    table = Table(source, final_line_end=final_line_end)
    for cells in table.records():
        yield table.row(table.number, cells)


class Table:
    """A CSV file (RFC 4180), record by record: for millions of them cheaper than rows.

    final_line_end: the last row must have one, or the file was cut.
    """

    def __init__(self, source: Source, *, final_line_end: bool = False) -> None:
        self.header: list[str] = []
        self.number = 0
        """The line in which the record began that was taken last."""
        self._text = _Text(source)
        self._final_line_end = final_line_end

    def row(self, number: int, cells: list[str]) -> Row:
        """The record that begins in this line, by column."""
        stripped = map(str.strip, cells)
        return Row(f"line {number}", dict(zip(self.header, stripped, strict=True)))

    def records(self) -> Iterator[list[str]]:
        """The cells, as they stand, of each record after the header; without blank lines.

        Raises ReadError: BAD_ROW, BAD_ENCODING, RECORD_TOO_LONG, FILE_CUT.
        """
        text = self._text
        reader = csv.reader(text.lines(), strict=True)
        width = 0
        try:
            for cells in reader:
                self.number, text.row_from = text.row_from, reader.line_num + 1
                if not any(cells):
                    continue
                if not width:
                    self.header = _checked(cells, text.where(self.number))
                    width = len(cells)
                    continue
                if len(cells) != width:
                    # The last line of all that has no end was cut.
                    cut = text.ended_at == reader.line_num
                    raise ReadError(
                        ReadReason.FILE_CUT if cut else ReadReason.BAD_ROW,
                        text.where(self.number),
                        f"{len(cells)} cells, and the header has {width} columns",
                    )
                yield cells
        except csv.Error as error:
            where = text.where(text.row_from)
            if text.at_end:
                raise ReadError(
                    ReadReason.FILE_CUT, where, "the file ends within a quoted cell"
                ) from None
            # Its messages name the rule that is broken, never the text.
            raise ReadError(ReadReason.BAD_ROW, where, f"no CSV: {error}") from None
        if self._final_line_end and text.ended_at is not None:
            raise ReadError(ReadReason.FILE_CUT, "end of file", "the last row has no line end")

    def blocks(self) -> Iterator[tuple[list[int], list[list[str]]]]:
        """The same records, many at a time: the lines in which they began, and their cells.

        Raises ReadError as records does, after the records before it.
        """
        records = self.records()
        wrong = None
        while wrong is None:
            numbers: list[int] = []
            block: list[list[str]] = []
            try:
                for cells in islice(records, _BLOCK_RECORDS):
                    numbers.append(self.number)
                    block.append(cells)
            except ReadError as error:
                wrong = error
            if block:
                yield numbers, block
            elif wrong is None:
                return
        raise wrong


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


class _Text:
    """The lines for csv.reader, which asks for more while a quote is open."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.row_from = 1
        """The line in which the next row begins."""
        self.ended_at: int | None = None
        """The last line, if it has no end."""
        self.at_end = False

    @staticmethod
    def where(number: int) -> str:
        """The place of a line."""
        return f"line {number}"

    def lines(self) -> Iterator[str]:
        """One after the other, each with LF as its end."""
        most = self._source.limits.record_bytes
        number = held = 0
        for block in self._source.blocks():
            for line in block:
                number += 1
                # A row may go on over several lines.
                held = len(line) if number == self.row_from else held + len(line)
                if held > most:
                    raise record_too_long(self.where(self.row_from), self._source.limits)
                try:
                    text = line.decode()
                except UnicodeDecodeError:
                    raise ReadError(
                        ReadReason.BAD_ENCODING, self.where(number), "this is not UTF-8"
                    ) from None
                if text[-1] != "\n":
                    self.ended_at = number
                yield text
        self.at_end = True
