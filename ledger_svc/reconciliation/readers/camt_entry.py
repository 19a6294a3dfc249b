"""The parts of a camt statement: a balance, an entry's head, a transaction of an entry."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import NamedTuple

from ledger_svc.reconciliation.readers.amounts import iso_date, to_minor
from ledger_svc.reconciliation.readers.camt_xml import child, children, flag, needed, text
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
    kind = child(element, "Tp")
    code = text(kind, "CdOrPrtry", "Cd") or text(kind, "CdOrPrtry", "Prtry")
    amount_minor, currency_code = _amount(child(element, "Amt"), f"{where}/Amt")
    sign = 1
    if amount_minor or child(element, "CdtDbtInd") is not None:
        sign = _sign(element, where)
    return Balance(
        code,
        text(kind, "SubTp", "Cd") == "INTM",
        sign * amount_minor,
        currency_code,
        _day(child(element, "Dt"), f"{where}/Dt"),
        where,
    )


def head(element: Element, where: str) -> Head:
    """An Ntry, as far as its details. Raises ReadError."""
    amount_minor, currency_code = _amount(child(element, "Amt"), f"{where}/Amt")
    state = text(element, "Sts", "Cd") or text(element, "Sts")
    if state not in _STATES:
        # A bank's own word (Sts/Prtry) does not tell whether the money moved.
        raise ReadError(
            ReadReason.BAD_FIELD
            if state or child(element, "Sts") is not None
            else ReadReason.MISSING_FIELD,
            f"{where}/Sts",
            "none of BOOK, PDNG, INFO, FUTR",
        )
    reversal = text(element, "RvslInd")
    references = [("NtryRef", text(element, "NtryRef")), ("BkTxCd", _bank_code(element))]
    return Head(
        amount_minor,
        currency_code,
        _sign(element, where),
        state == "BOOK",
        _day(child(element, "BookgDt"), f"{where}/BookgDt"),
        _day(child(element, "ValDt"), f"{where}/ValDt"),
        text(element, "AcctSvcrRef"),
        tuple(pair for pair in references if pair[1]),
        flag(reversal, f"{where}/RvslInd") if reversal else False,
    )


def transaction(element: Element, where: str) -> Transaction:
    """A TxDtls. Its own sign is not read: the entry's counts. Raises ReadError."""
    refs = child(element, "Refs")
    source_reference = text(refs, "AcctSvcrRef")
    references = [
        (local_name(ref), (ref.text or "").strip())
        for ref in (refs if refs is not None else ())
        if local_name(ref) not in {"AcctSvcrRef", "Prtry"}
    ]
    references += [
        (text(ref, "Tp") or "Prtry", text(ref, "Ref")) for ref in children(refs, "Prtry")
    ]
    remittance = child(element, "RmtInf")
    texts = [(one.text or "").strip() for one in children(remittance, "Ustrd")]
    for structured in children(remittance, "Strd"):
        references.append(("CdtrRefInf", text(structured, "CdtrRefInf", "Ref")))
        texts += [(one.text or "").strip() for one in children(structured, "AddtlRmtInf")]
    if reason := text(element, "RtrInf", "Rsn", "Cd"):
        references.append(("RtrInf", reason))
    texts.append(text(element, "AddtlTxInf"))
    # From .03 on Amt stands by itself, before in AmtDtls.
    amount = child(element, "Amt")
    if amount is None:
        amount = child(element, "AmtDtls", "TxAmt", "Amt")
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
    if element is None or not (element.text or "").strip():
        raise ReadError(ReadReason.MISSING_FIELD, where, "this must not be empty")
    currency = element.get("Ccy")
    if not currency:
        raise ReadError(ReadReason.MISSING_FIELD, f"{where}/@Ccy", "this must not be empty")
    amount_minor = to_minor((element.text or "").strip(), currency.strip(), where)
    if amount_minor < 0 or len(element):
        raise ReadError(ReadReason.BAD_AMOUNT, where, "an amount here has no sign")
    return amount_minor, currency.strip()


def _sign(element: Element, where: str) -> int:
    told = needed(element, "CdtDbtInd", where)
    if told not in _SIGNS:
        raise ReadError(ReadReason.BAD_FIELD, f"{where}/CdtDbtInd", "neither CRDT nor DBIT")
    return _SIGNS[told]


def _day(element: Element | None, where: str) -> date | None:
    told = text(element, "Dt") or text(element, "DtTm")
    return iso_date(told, where) if told else None


def _bank_code(element: Element) -> str:
    code = child(element, "BkTxCd")
    domain = child(code, "Domn")
    parts = (
        text(domain, "Cd"),
        text(domain, "Fmly", "Cd"),
        text(domain, "Fmly", "SubFmlyCd"),
    )
    return "/".join(part for part in parts if part) or text(code, "Prtry", "Cd")
