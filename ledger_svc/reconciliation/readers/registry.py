"""Which format a file is, by its content; and the reader for it.

A format joins as one more `Format` in FORMATS: nothing else changes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from ledger_svc.reconciliation.readers import camt053, mt940, psp_csv, stripe_csv
from ledger_svc.reconciliation.readers.model import (
    Limits,
    Line,
    Lines,
    ReadError,
    ReadReason,
    Statement,
)
from ledger_svc.reconciliation.readers.rows import header_of
from ledger_svc.reconciliation.readers.source import Source
from ledger_svc.reconciliation.readers.xml_stream import charset_of
from mesh import settlement_file

ReadFunction = Callable[[Source, str], Iterator[Line | Lines | Statement]]


class Head(NamedTuple):
    """What a format is recognised by: the first 64 KiB as text, and its columns if it is CSV."""

    text: str
    columns: Sequence[str]


@dataclass(frozen=True, slots=True)
class Format:
    """name: as reported. recognise: the name, or a more exact one; None if it is not it.

    read: None if no reader is built.
    """

    name: str
    recognise: Callable[[Head], str | None]
    read: ReadFunction | None = None


class Reading(NamedTuple):
    """A file that was recognised. blocks: its lines as they come, then its statements.

    Taking from it raises ReadError at the first thing that can't be read; what came before
    is then worth nothing.
    """

    format: str
    blocks: Iterator[Line | Lines | Statement]

    @property
    def items(self) -> Iterator[Line | Statement]:
        """The same, line by line."""
        for block in self.blocks:
            if isinstance(block, Lines):
                yield from block
            else:
                yield block


def read(stream: BinaryIO, limits: Limits | None = None, expected: str = "") -> Reading:
    """Recognises a file, of which nothing was read yet, and begins to read it.

    expected: a format's name that the caller was told; another one is refused, and so is a
    file that is recognised as none. Raises ReadError.
    """
    source = Source(stream, limits or Limits())
    format_, name = _recognised(source)
    if expected and expected not in {format_.name, name}:
        raise ReadError(ReadReason.UNKNOWN_FORMAT, "byte 0", f"this is {name}, not what was told")
    if format_.read is None:
        raise ReadError(ReadReason.UNSUPPORTED_FORMAT, "byte 0", f"{name} is not built yet")
    return Reading(name, format_.read(source, name))


_ARCHIVES = (
    b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd",
    b"7z\xbc\xaf\x27\x1c", b"Rar!", b"\x1f\x9d", b"\x04\x22\x4d\x18",
)  # fmt: skip

_CAMT = re.compile(r"<(?:([\w.-]+):)?(BkToCstmr[A-Za-z]+(?:V01)?)[\s/>]")
_CAMT_NAME = re.compile(r"(camt\.05[2-4]\.001)\.(\d\d)\b", re.ASCII)
_CAMT_READ = range(2, 14)


def _recognised(source: Source) -> tuple[Format, str]:
    if not source.head.strip():
        raise ReadError(ReadReason.EMPTY_FILE, "byte 0", "there is nothing in it")
    if source.head.startswith(_ARCHIVES):
        raise ReadError(
            ReadReason.COMPRESSED_FILE, "byte 0", "an archive is not opened; unpack it first"
        )
    head = _head(source)
    for format_ in FORMATS:
        if name := format_.recognise(head):
            return format_, name
    if "\0" in head.text:
        raise ReadError(ReadReason.NUL_BYTE, "the first 64 KiB", "a text has no NUL bytes")
    raise ReadError(ReadReason.UNKNOWN_FORMAT, "byte 0", "none of the formats that are known")


def _head(source: Source) -> Head:
    head = source.head
    if head.lstrip()[:1] == b"<" or head[:2] in {b"<\0", b"\0<"}:
        return Head(head.decode(charset_of(source), errors="replace"), ())
    text = head.decode(source.charset or "utf-8", errors="replace")
    return Head("\n".join(text.splitlines()), header_of(text.encode()))


def _camt(message: str, name: str) -> Callable[[Head], str | None]:
    """A message of the camt family, told by its element; the version by its namespace."""

    def recognise(head: Head) -> str | None:
        match = _CAMT.search(head.text)
        if match is None or match[2] not in {message, f"{message}V01"}:
            return None
        names = {found[0] for found in _CAMT_NAME.finditer(head.text) if found[0].startswith(name)}
        return max(names) if names else name

    return recognise


def _camt053(head: Head) -> str | None:
    name = _camt("BkToCstmrStmt", "camt.053")(head)
    if name and (version := _CAMT_NAME.fullmatch(name)) and int(version[2]) not in _CAMT_READ:
        return None
    return name


def _mt(kind: str) -> Callable[[Head], str | None]:
    """A SWIFT message, by its header; without one, by the fields that only it has."""

    def recognise(head: Head) -> str | None:
        return kind if _mt_type(head.text) == kind else None

    return recognise


_MT_HEADER = re.compile(r"\{2:\s*[IO](94[0-2]|950)")
_MT_FIELD = re.compile(r"^:(\d\d[A-Z]?):", re.MULTILINE)


def _mt_type(text: str) -> str | None:
    tags = {match[1] for match in _MT_FIELD.finditer(text)}
    if "20" not in tags:
        return None
    if header := _MT_HEADER.search(text):
        return f"MT{header[1]}"
    if tags & {"60F", "60M", "60", "62F", "62M", "62"}:
        return "MT940"
    if tags & {"34F", "13", "13D", "90C", "90D"}:
        return "MT942"
    # Too little is left to tell; the reader says what is missing.
    return "MT940" if tags & {"25", "25P", "28", "28C"} else None


def _columns(name: str, *needed: str) -> Callable[[Head], str | None]:
    """A CSV file with these columns."""
    return lambda head: name if set(needed) <= set(head.columns) else None


def _begins(name: str, pattern: str) -> Callable[[Head], str | None]:
    compiled = re.compile(pattern)
    return lambda head: name if compiled.match(head.text.lstrip()) else None


FORMATS: Sequence[Format] = (
    Format(
        settlement_file.FORMAT,
        _columns(settlement_file.FORMAT, settlement_file.RECORD),
        psp_csv.read,
    ),
    Format(stripe_csv.FORMAT, _columns(stripe_csv.FORMAT, *stripe_csv.REQUIRED), stripe_csv.read),
    Format("camt.053", _camt053, camt053.read),
    Format(mt940.FORMAT, _mt("MT940"), mt940.read),
    Format("camt.053", _camt("BkToCstmrStmt", "camt.053")),  # of another version
    Format("camt.052", _camt("BkToCstmrAcctRpt", "camt.052")),
    Format("camt.054", _camt("BkToCstmrDbtCdtNtfctn", "camt.054")),
    Format("MT941", _mt("MT941")),
    Format("MT942", _mt("MT942")),
    Format("MT950", _mt("MT950")),
    Format("BAI2", _begins("BAI2", r"01,[^,\n]*,[^,\n]*,\d{6},\d{4},")),
    Format("stripe.summary", _columns("stripe.summary", "reporting_category", "currency", "net")),
    Format(
        "adyen.settlement_detail",
        _columns("adyen.settlement_detail", "Psp Reference", "Gross Currency", "Net Currency"),
    ),
    Format("paypal.stl", _begins("paypal.stl", r'"?RH"?,')),
)
"""In the order in which they are tried."""
