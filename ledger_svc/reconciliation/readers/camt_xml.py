"""Reading elements of an ISO 20022 message, by local names within one namespace."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ledger_svc.reconciliation.readers.model import ReadError, ReadReason
from ledger_svc.reconciliation.readers.xml_stream import Element, split_tag

_FLAGS = {"true": True, "1": True, "false": False, "0": False}


def child(element: Element | None, *path: str) -> Element | None:
    """The first child by this path of local names."""
    for name in path:
        if element is None:
            return None
        element = next(element.iterchildren(f"{{*}}{name}"), None)
    return element


def children(element: Element | None, name: str) -> Iterator[Element]:
    """All children of this local name."""
    if element is not None:
        yield from element.iterchildren(f"{{*}}{name}")


def text(element: Element | None, *path: str) -> str:
    """The stripped text of a child; empty if there is none."""
    return said(child(element, *path))


# What an element says once: a second one would be another truth.
_ONCE = frozenset({"Amt", "CdtDbtInd", "Sts", "Tp", "RvslInd", "BookgDt", "ValDt"})


def parts(element: Element, where: str) -> Mapping[str, Element]:
    """The children by local name, the first of each, in one pass. Raises ReadError."""
    space, _ = split_tag(element.tag)
    found: dict[str, Element] = {}
    for one in element:
        its_space, name = split_tag(one.tag)
        if its_space != space:
            continue
        if name in found and name in _ONCE:
            raise ReadError(ReadReason.UNEXPECTED_FIELD, f"{where}/{name}", "this is there twice")
        found.setdefault(name, one)
    return found


def named(element: Element | None) -> Mapping[str, Element]:
    """The children by local name, the first of each: in one pass, where several are looked up."""
    found: dict[str, Element] = {}
    for one in element if element is not None else ():
        found.setdefault(split_tag(one.tag)[1], one)
    return found


def said(element: Element | None) -> str:
    """The stripped text of an element; empty if there is none."""
    return (element.text or "").strip() if element is not None else ""


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
