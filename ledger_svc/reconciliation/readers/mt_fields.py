"""SWIFT MT messages as fields: tags, continuation lines, blocks, ends of messages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from ledger_svc.reconciliation.readers.model import ReadError, ReadReason
from ledger_svc.reconciliation.readers.source import Source, record_too_long

END = "-"
"""The tag of what is no field: the end of a message, `-` or `-}`."""


class Field(NamedTuple):
    """tag: without colons. text: continuation lines after line feeds. where: its first line."""

    tag: str
    text: str
    where: str


# A line of text may begin as if it were a field (`:26:37`, a time that was wrapped), so only
# these are fields.
_TAG = re.compile(
    r":(20|21|25P?|28[CD]?|13[CD]?|34F|60[FM]?|61|62[FM]?|64|65|86|90[CD]|NS):(.*)", re.ASCII
)
_BLOCK = re.compile(r"\{[1-5]:", re.ASCII)
_MESSAGE_TYPE = re.compile(r"\{2:[IO](\d{3})", re.ASCII)
_FRAMING = "\x01\x02\x03\x1a"


def fields(source: Source) -> Iterator[Field]:
    """Fields and ends of messages, one after the other.

    Text is UTF-8, or else Latin-1: no charset is told, and all that is computed with is ASCII.
    Raises ReadError: FILE_CUT if a `{4:` block has no end, RECORD_TOO_LONG, UNEXPECTED_FIELD if
    a line has several messages.
    """
    messages = _Messages(source)
    for line in source.lines():
        try:
            text = line.text.decode()
        except UnicodeDecodeError:
            text = line.text.decode("latin-1")
        yield from messages.take(text.strip(_FRAMING).rstrip(), f"line {line.number}")
    yield from messages.finish()


class _Messages:
    """The field that is open, and whether a block is."""

    def __init__(self, source: Source) -> None:
        self._limits = source.limits
        self._tag = ""
        self._lines: list[str] = []
        self._bytes = 0
        self._where = ""
        self._in_block = False
        self._may_end = True
        """A lone `-` ends the message: outside of one, and after its closing balance."""

    def take(self, text: str, where: str) -> Iterator[Field]:
        """One line."""
        if match := _TAG.fullmatch(text):
            yield from self._flush()
            self._tag, self._where = match[1], where
            self._lines, self._bytes = [match[2]], len(text)
            self._may_end = self._tag[:2] in {"62", "64", "65"} or (
                self._may_end and self._tag == "86"
            )
        elif text.startswith("-}") or (text == "-" and self._may_end):
            yield from self._flush()
            yield Field(END, "", where)
            self._in_block = False
            yield from self._block(text[2:], where)
        elif _BLOCK.match(text):
            yield from self._block(text, where)
        elif self._tag:
            self._lines.append(text)
            self._bytes += len(text) + 1
            if self._bytes > self._limits.record_bytes:
                raise record_too_long(self._where, self._limits)

    def finish(self) -> Iterator[Field]:
        """The last field."""
        yield from self._flush()
        if self._in_block:
            raise ReadError(ReadReason.FILE_CUT, "end of file", "the last message has no end (-})")

    def _block(self, text: str, where: str) -> Iterator[Field]:
        """Headers, up to where the fields begin."""
        match = _MESSAGE_TYPE.search(text)
        if match and match[1] != "940":
            raise ReadError(ReadReason.UNSUPPORTED_FORMAT, where, f"a message of type MT{match[1]}")
        if "{4:" in text and not self._in_block:
            yield from self._flush()
            self._in_block = True
            rest = text.partition("{4:")[2].strip()
            if rest.startswith("-}") and "{4:" in rest:
                # No bank writes so, and each of them would go a call deeper.
                raise ReadError(ReadReason.UNEXPECTED_FIELD, where, "several messages on one line")
            if rest:
                yield from self.take(rest, where)

    def _flush(self) -> Iterator[Field]:
        if self._tag:
            text = "\n".join(self._lines).rstrip()
            yield Field(self._tag, text, self._where)
        self._tag = ""
