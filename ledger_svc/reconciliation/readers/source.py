"""A file's bytes: limited, counted, decoded; never the whole of it in memory."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from ledger_svc.reconciliation.readers.model import Limits, ReadError, ReadReason

HEAD_BYTES = 1 << 16
_CHUNK_BYTES = 1 << 15

_BOMS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


class TextLine(NamedTuple):
    """number: from 1. text: without its line end. ended: it had one."""

    number: int
    text: bytes
    ended: bool


class Source:
    """Bytes from a stream, read once.

    head: the first 64 KiB, without a byte order mark. charset: what the mark says, else None.
    Nothing is read beyond the limits. Raises ReadError.
    """

    def __init__(self, stream: BinaryIO, limits: Limits) -> None:
        self.limits = limits
        self._stream = stream
        self._taken = 0
        head = b""
        while len(head) < HEAD_BYTES and (more := self._take()):
            head += more
        self.charset: str | None = None
        for mark, name in _BOMS:
            if head.startswith(mark):
                head, self.charset = head[len(mark) :], name
                break
        self.head = head

    def utf8(self, charset: str) -> Iterator[bytes]:
        """The whole file in UTF-8, from any charset that Python knows; without NUL."""
        decoder = codecs.getincrementaldecoder(charset)(errors="strict")
        done = 0
        for chunk in self._chunks():
            try:
                text = decoder.decode(chunk)
            except UnicodeDecodeError as error:
                raise self._undecodable(charset, done + error.start) from None
            done += len(chunk)
            yield _without_nul(text.encode(), done)
        try:
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            raise self._undecodable(charset, done) from None

    def lines(self) -> Iterator[TextLine]:
        """Lines of a text in an ASCII-compatible charset (or UTF-16 with its mark), undecoded.

        Ends: LF, CR LF or CR.
        """
        number = 0
        for block in self.blocks():
            for line in block:
                number += 1
                text = line.removesuffix(b"\n")
                yield TextLine(number, text, ended=len(text) < len(line))

    def blocks(self) -> Iterator[list[bytes]]:
        """The same lines, many at a time, each with LF for its end; the last may have none."""
        mark = self.charset
        raw = self.utf8(mark) if mark and mark != "utf-8" else self._plain()
        number, rest = 0, b""
        for chunk in raw:
            data = rest + chunk
            # A CR at the end may be the half of a CR LF.
            cut = max(data.rfind(b"\n"), data.rfind(b"\r", 0, len(data) - 1)) + 1
            rest = data[cut:]
            if cut:
                block = _with_lf(data[:cut]).splitlines(keepends=True)
                number += len(block)
                yield block
            if len(rest) > self.limits.record_bytes:
                raise record_too_long(f"line {number + 1}", self.limits)
        if rest:
            yield [_with_lf(rest)]

    def _plain(self) -> Iterator[bytes]:
        done = 0
        for chunk in self._chunks():
            done += len(chunk)
            yield _without_nul(chunk, done)

    def _chunks(self) -> Iterator[bytes]:
        yield self.head
        while chunk := self._take():
            yield chunk

    def _take(self) -> bytes:
        chunk = self._stream.read(_CHUNK_BYTES)
        self._taken += len(chunk)
        if self._taken > self.limits.file_bytes:
            raise ReadError(
                ReadReason.FILE_TOO_LARGE,
                f"byte {self.limits.file_bytes}",
                f"a file may have {self.limits.file_bytes} bytes at most",
            )
        return chunk

    @staticmethod
    def _undecodable(charset: str, byte: int) -> ReadError:
        return ReadError(ReadReason.BAD_ENCODING, f"byte {byte}", f"this is not {charset}")


def _with_lf(data: bytes) -> bytes:
    return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in data else data


def record_too_long(where: str, limits: Limits) -> ReadError:
    """The refusal of a row, field or element that has no end."""
    return ReadError(ReadReason.RECORD_TOO_LONG, where, f"longer than {limits.record_bytes} bytes")


def _without_nul(chunk: bytes, done: int) -> bytes:
    if (at := chunk.find(0)) >= 0:
        raise ReadError(
            ReadReason.NUL_BYTE, f"byte {done - len(chunk) + at}", "a text has no NUL bytes"
        )
    return chunk
