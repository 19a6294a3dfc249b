"""XML in bounded memory: no DTD, no entities, no network, and nothing kept that was read."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any, cast

from lxml import etree

from ledger_svc.reconciliation.readers.model import ReadError, ReadReason
from ledger_svc.reconciliation.readers.source import Source, record_too_long

# What banks write. Others are refused, for a charset that is guessed wrong changes names.
_CHARSETS = frozenset(
    {"utf-8", "ascii", "iso8859-1", "iso8859-15", "cp1252", "utf-16", "utf-16-le", "utf-16-be"}
)
_DECLARED = re.compile(rb"""<\?xml[^>]{0,200}?\sencoding\s*=\s*["']([A-Za-z0-9._-]{1,40})["']""")
_LONGEST_PROLOG = 1 << 16

# The one error that the parser keeps to itself until its end.
_UNDECLARED_ENTITY = "ERR_UNDECLARED_ENTITY"

Element = etree._Element  # noqa: SLF001
"""lxml has no public name for it."""


class XmlStream:
    """Start and end events of the named elements, from a file that is read once.

    The caller lets go of what it has read by `release`; what is longer than the limit between
    two releases is refused, so memory is bounded whatever comes.
    """

    def __init__(self, source: Source, names: Iterable[str]) -> None:
        self._source = source
        self._parser = etree.XMLPullParser(
            events=("start", "end"),
            tag=[f"{{*}}{name}" for name in names],
            resolve_entities=False,
            no_network=True,
            load_dtd=False,
            dtd_validation=False,
            huge_tree=False,
            remove_comments=True,
            remove_pis=True,
            encoding="utf-8",
        )
        self._held_bytes = 0

    def events(self) -> Iterator[tuple[str, Element]]:
        """Raises ReadError: DTD_REFUSED, XML_NOT_WELL_FORMED, FILE_CUT, RECORD_TOO_LONG, …."""
        fed = 0
        try:
            for chunk in _without_dtd(self._source.utf8(charset_of(self._source))):
                fed += len(chunk)
                self._held_bytes += len(chunk)
                self._parser.feed(chunk)
                yield from cast("Iterator[tuple[str, Element]]", self._parser.read_events())
                if self._held_bytes > self._source.limits.record_bytes + len(chunk):
                    raise record_too_long(f"byte {fed}", self._source.limits)
        except etree.XMLSyntaxError as error:
            raise _malformed(error) from None
        try:
            self._parser.close()
        except etree.XMLSyntaxError as error:
            if _name_and_line(error)[0] == _UNDECLARED_ENTITY:
                raise _malformed(error) from None
            raise ReadError(ReadReason.FILE_CUT, "end of file", "the document has no end") from None

    def release(self, element: Element) -> None:
        """Lets go of an element that has ended, and of its elder siblings."""
        element.clear()
        self.release_elder(element)
        self._held_bytes = 0

    @staticmethod
    def release_elder(element: Element) -> None:
        """Lets go of an element's elder siblings; it may still be open itself."""
        parent = element.getparent()
        if parent is not None:
            while parent[0] is not element:
                del parent[0]


def charset_of(source: Source) -> str:
    """What a byte order mark or the XML declaration says; UTF-8 if neither. Raises ReadError."""
    if source.charset:
        name = source.charset
    elif source.head.startswith(b"<\0"):
        name = "utf-16-le"
    elif source.head.startswith(b"\0<"):
        name = "utf-16-be"
    else:
        match = _DECLARED.match(source.head.lstrip())
        name = match[1].decode() if match else "utf-8"
    try:
        codec = codecs.lookup(name).name
    except LookupError:
        codec = ""
    if codec not in _CHARSETS:
        raise ReadError(ReadReason.BAD_ENCODING, "byte 0", "a charset that is not read")
    # Without a mark, a declared UTF-16 can't be: its declaration was read as ASCII.
    return "utf-8" if codec == "utf-16" else codec


def local_name(element: Element) -> str:
    """The element's name without its namespace."""
    return split_tag(element.tag)[1]


def namespace(element: Element) -> str:
    """The element's namespace; empty if it has none."""
    return split_tag(element.tag)[0]


# A message has a hundred names and millions of elements.
@lru_cache(maxsize=1024)
def split_tag(tag: object) -> tuple[str, str]:
    """The namespace, empty if there is none, and the local name."""
    space, _, name = str(tag).rpartition("}")
    return space.removeprefix("{"), name


def _without_dtd(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Refuses a DOCTYPE before the parser sees it. It can only stand before the root."""
    prolog = ""
    for piece in chunks:
        # Before the XML declaration nothing may stand, and exports have blank lines there.
        chunk = piece if prolog else piece.lstrip()
        prolog += chunk.decode(errors="replace")
        if _root_begins(prolog):
            yield chunk
            break
        if len(prolog) > _LONGEST_PROLOG:
            raise ReadError(
                ReadReason.XML_NOT_WELL_FORMED, "before the root element", "there is no root"
            )
        yield chunk
    yield from chunks


def _root_begins(prolog: str) -> bool:
    """Whether the root is reached; False while more is needed. Raises ReadError at a DOCTYPE."""
    at = 0
    while True:
        at += len(prolog[at:]) - len(prolog[at:].lstrip())
        rest = prolog[at : at + 4]
        if len(rest) < 4:
            return False
        if rest.startswith("<?"):
            end, skip = prolog.find("?>", at), 2
        elif rest == "<!--":
            end, skip = prolog.find("-->", at), 3
        elif rest.startswith("<!"):
            raise ReadError(
                ReadReason.DTD_REFUSED, "before the root element", "a DOCTYPE is not read"
            )
        else:
            return True
        if end < 0:
            return False
        at = end + skip


def _malformed(error: etree.XMLSyntaxError) -> ReadError:
    """By the error's own name: its message would repeat what stands in the file."""
    name, line = _name_and_line(error)
    return ReadError(
        ReadReason.XML_NOT_WELL_FORMED,
        f"line {line}",
        f"this is no well-formed XML ({name.removeprefix('ERR_')})",
    )


def _name_and_line(error: etree.XMLSyntaxError) -> tuple[str, int]:
    # lxml's log goes on over parses of a thread; the last one is ours.
    errors = list(cast("Iterable[Any]", error.error_log))
    return (str(errors[-1].type_name), int(errors[-1].line)) if errors else ("", 0)
