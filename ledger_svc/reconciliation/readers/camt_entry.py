"""The parts of a camt statement: a balance, an entry's head, a transaction of an entry."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import NamedTuple

from ledger_svc.reconciliation.readers.amounts import iso_date, to_minor
from ledger_svc.reconciliation.readers.camt_xml import (
    child,
    children,
    flag,
    named,
    parts,
    said,
    text,
)
from ledger_svc.reconciliation.readers.model import ReadError, ReadReason
from ledger_svc.reconciliation.readers.xml_stream import Element, local_name

_SIGNS: Mapping[str, int] = {"CRDT": 1, "DBIT": -1}
_STATES = frozenset({"BOOK", "PDNG", "INFO", "FUTR"})
_NOTHING = frozenset({"", "NOTPROVIDED", "NONREF"})


class Balance(NamedTuple):
    """code: OPBD, CLBD and so on, or a bank's own. interim: of a page. Signed minor units."""

    code: str
    interim: bool
    amount_minor: int
    currency_code: str
    day: date | None
    where: str


class Head(NamedTuple):
    """What an entry says before its details. amount_minor: unsigned; sign: 1 or -1."""

    amount_minor: int
    currency_code: str
    sign: int
    is_booked: bool
    booking_date: date | None
    value_date: date | None
    source_reference: str
    references: tuple[tuple[str, str], ...]
    reversal: bool


class Transaction(NamedTuple):
    """One transaction of an entry. amount_minor: unsigned, None where it tells none."""

    where: str
    amount_minor: int | None
    currency_code: str
    source_reference: str
    references: tuple[tuple[str, str], ...]
    texts: tuple[str, ...]


def balance(element: Element, where: str) -> Balance:
    """A Bal. Raises ReadError."""
    told = parts(element, where)
    kind = told.get("Tp")
    code = text(kind, "CdOrPrtry", "Cd") or text(kind, "CdOrPrtry", "Prtry")
    amount_minor, currency_code = _amount(told.get("Amt"), f"{where}/Amt")
    sign = 1
    if amount_minor or "CdtDbtInd" in told:
        sign = _sign(told, where)
    return Balance(
        code,
        text(kind, "SubTp", "Cd") == "INTM",
        sign * amount_minor,
        currency_code,
        _day(told.get("Dt"), f"{where}/Dt"),
        where,
    )


def head(element: Element, where: str) -> Head:
    """An Ntry, as far as its details. Raises ReadError."""
    told = parts(element, where)
    amount_minor, currency_code = _amount(told.get("Amt"), f"{where}/Amt")
    status = told.get("Sts")
    state = said(status) or said(named(status).get("Cd"))
    if state not in _STATES:
        # A bank's own word (Sts/Prtry) does not tell whether the money moved.
        raise ReadError(
            ReadReason.MISSING_FIELD if status is None else ReadReason.BAD_FIELD,
            f"{where}/Sts",
            "none of BOOK, PDNG, INFO, FUTR",
        )
    reversal = said(told.get("RvslInd"))
    references = [
        ("NtryRef", said(told.get("NtryRef"))),
        ("BkTxCd", _bank_code(told.get("BkTxCd"))),
    ]
    return Head(
        amount_minor,
        currency_code,
        _sign(told, where),
        state == "BOOK",
        _day(told.get("BookgDt"), f"{where}/BookgDt"),
        _day(told.get("ValDt"), f"{where}/ValDt"),
        said(told.get("AcctSvcrRef")),
        tuple(pair for pair in references if pair[1]),
        flag(reversal, f"{where}/RvslInd") if reversal else False,
    )


def transaction(element: Element, where: str) -> Transaction:
    """A TxDtls. Its own sign is not read: the entry's counts. Raises ReadError."""
    told = parts(element, where)
    source_reference = ""
    references: list[tuple[str, str]] = []
    for ref in told.get("Refs", ()):
        match local_name(ref):
            case "AcctSvcrRef":
                source_reference = said(ref)
            case "Prtry":
                references.append((text(ref, "Tp") or "Prtry", text(ref, "Ref")))
            case name:
                references.append((name, said(ref)))
    texts: list[str] = []
    for part in told.get("RmtInf", ()):
        match local_name(part):
            case "Ustrd":
                texts.append(said(part))
            case "Strd":
                references.append(("CdtrRefInf", text(part, "CdtrRefInf", "Ref")))
                texts += [said(one) for one in children(part, "AddtlRmtInf")]
            case _:
                pass
    if reason := text(told.get("RtrInf"), "Rsn", "Cd"):
        references.append(("RtrInf", reason))
    texts.append(said(told.get("AddtlTxInf")))
    # From .03 on Amt stands by itself, before in AmtDtls.
    amount = told.get("Amt")
    if amount is None:
        amount = child(told.get("AmtDtls"), "TxAmt", "Amt")
    amount_minor, currency_code = (
        _amount(amount, f"{where}/Amt") if amount is not None else (None, "")
    )
    return Transaction(
        where,
        amount_minor,
        currency_code,
        source_reference,
        tuple(pair for pair in references if pair[1] not in _NOTHING),
        tuple(one for one in texts if one),
    )


def _amount(element: Element | None, where: str) -> tuple[int, str]:
    """An unsigned amount and its currency."""
    if not (told := said(element)) or element is None:
        raise ReadError(ReadReason.MISSING_FIELD, where, "this must not be empty")
    currency = (element.get("Ccy") or "").strip()
    if not currency:
        raise ReadError(ReadReason.MISSING_FIELD, f"{where}/@Ccy", "this must not be empty")
    amount_minor = to_minor(told, currency, where)
    if amount_minor < 0 or len(element):
        raise ReadError(ReadReason.BAD_AMOUNT, where, "an amount here has no sign")
    return amount_minor, currency


def _sign(told: Mapping[str, Element], where: str) -> int:
    mark = said(told.get("CdtDbtInd"))
    if mark not in _SIGNS:
        raise ReadError(
            ReadReason.BAD_FIELD if mark else ReadReason.MISSING_FIELD,
            f"{where}/CdtDbtInd",
            "neither CRDT nor DBIT",
        )
    return _SIGNS[mark]


def _day(element: Element | None, where: str) -> date | None:
    """Dt or DtTm, whichever a bank uses; neither is no date."""
    for one in element if element is not None else ():
        if told := said(one):
            return iso_date(told, where)
    return None


def _bank_code(element: Element | None) -> str:
    told = named(element)
    if "Domn" not in told:
        return text(told.get("Prtry"), "Cd")
    domain = named(told["Domn"])
    family = named(domain.get("Fmly"))
    codes = (said(domain.get("Cd")), said(family.get("Cd")), said(family.get("SubFmlyCd")))
    return "/".join(code for code in codes if code)
