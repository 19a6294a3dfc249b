"""Reading elements of an ISO 20022 message, by local names within one namespace."""

from __future__ import annotations

from collections.abc import Iterator

from ledger_svc.reconciliation.readers.model import ReadError, ReadReason
from ledger_svc.reconciliation.readers.xml_stream import Element, local_name

_FLAGS = {"true": True, "1": True, "false": False, "0": False}


def child(element: Element | None, *path: str) -> Element | None:
    """The first child by this path of local names."""
    for name in path:
        if element is None:
            return None
        element = next((one for one in element if local_name(one) == name), None)
    return element


def children(element: Element | None, name: str) -> Iterator[Element]:
    """All children of this local name."""
    if element is not None:
        yield from (one for one in element if local_name(one) == name)


def text(element: Element | None, *path: str) -> str:
    """The stripped text of a child; empty if there is none."""
    found = child(element, *path)
    return (found.text or "").strip() if found is not None else ""


def needed(element: Element, name: str, where: str) -> str:
    """The text of a child that must be there. Raises ReadError."""
    if not (found := text(element, name)):
        raise ReadError(ReadReason.MISSING_FIELD, f"{where}/{name}", "this must not be empty")
    return found


def flag(value: str, where: str) -> bool:
    """An xs:boolean. Raises ReadError."""
    if value not in _FLAGS:
        raise ReadError(ReadReason.BAD_FIELD, where, "neither true nor false")
    return _FLAGS[value]


def number(value: str, where: str) -> int:
    """A count. Raises ReadError."""
    if not (value.isascii() and value.isdecimal() and len(value) <= 18):
        raise ReadError(ReadReason.BAD_FIELD, where, "this is not a number")
    return int(value)
