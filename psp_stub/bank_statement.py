"""The bank's statement of the transfers, as camt.053.001.08. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from xml.etree import ElementTree as ET

from mesh.money import format_minor
from psp_stub.settlement import BankLine, Sent, Statement

FORMAT = "camt.053.001.08"

_NAMESPACE = f"urn:iso:std:iso:20022:tech:xsd:{FORMAT}"
_BANK = "STUBDEFFXXX"


def bank_statement(sent: Sent, lines: Sequence[BankLine], iban: str) -> bytes:
    """The file: a statement for each currency of our account, one page."""
    day = sent.day.settlement_date
    document = ET.Element("Document", {"xmlns": _NAMESPACE})
    message = ET.SubElement(document, "BkToCstmrStmt")
    header = ET.SubElement(message, "GrpHdr")
    _add(header, "MsgId", f"STUBBANK-{day:%Y%m%d}-{sent.revision}")
    _add(header, "CreDtTm", _utc(sent.create_time))
    pages = ET.SubElement(header, "MsgPgntn")
    _add(pages, "PgNb", "1")
    _add(pages, "LastPgInd", "true")
    for statement in sent.statements:
        ours = [one for one in lines if one.currency_code == statement.currency_code]
        _statement(message, sent, statement, ours, iban)
    ET.indent(document)
    body: str = ET.tostring(document, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{body}\n'.encode()


def _statement(
    message: ET.Element, sent: Sent, told: Statement, lines: Sequence[BankLine], iban: str
) -> None:
    day, currency = sent.day.settlement_date, told.currency_code
    statement = ET.SubElement(message, "Stmt")
    # A correction has the identity of what it replaces; the message tells them apart.
    _add(statement, "Id", f"STUBBANK-{day:%Y%m%d}-{currency}")
    _add(statement, "ElctrncSeqNb", str(day.toordinal()))
    _add(statement, "CreDtTm", _utc(sent.create_time))
    account = ET.SubElement(statement, "Acct")
    _add(account, "Id/IBAN", iban)
    _add(account, "Ccy", currency)
    _add(account, "Svcr/FinInstnId/BICFI", _BANK)
    _balance(statement, sent, "OPBD", told.bank_opening_minor, currency)
    _balance(statement, sent, "CLBD", told.bank_closing_minor, currency)
    summary = ET.SubElement(statement, "TxsSummry")
    _add(summary, "TtlNtries/NbOfNtries", str(len(lines)))
    for name, sign in (("TtlCdtNtries", 1), ("TtlDbtNtries", -1)):
        amounts = [abs(one.amount_minor) for one in lines if one.amount_minor * sign > 0]
        totals = ET.SubElement(summary, name)
        _add(totals, "NbOfNtries", str(len(amounts)))
        _add(totals, "Sum", format_minor(sum(amounts), currency))
    for number, line in enumerate(lines, start=1):
        _entry(statement, sent, line, number)


def _entry(statement: ET.Element, sent: Sent, line: BankLine, number: int) -> None:
    day = sent.day.settlement_date.isoformat()
    entry = ET.SubElement(statement, "Ntry")
    _add(entry, "NtryRef", str(number))
    _amount(entry, line.amount_minor, line.currency_code)
    if line.is_reversal:
        _add(entry, "RvslInd", "true")
    _add(entry, "Sts/Cd", "BOOK")
    _add(entry, "BookgDt/Dt", day)
    _add(entry, "ValDt/Dt", day)
    _add(entry, "AcctSvcrRef", line.bank_reference)
    domain = ET.SubElement(ET.SubElement(entry, "BkTxCd"), "Domn")
    _add(domain, "Cd", "PMNT")
    family = ET.SubElement(domain, "Fmly")
    issued = line.amount_minor < 0
    _add(family, "Cd", "ICDT" if issued else "RCDT")
    _add(family, "SubFmlyCd", "RRTN" if line.is_reversal else "ESCT")
    details = ET.SubElement(ET.SubElement(entry, "NtryDtls"), "TxDtls")
    references = ET.SubElement(details, "Refs")
    _add(references, "AcctSvcrRef", line.bank_reference)
    _add(references, "EndToEndId", line.end_to_end_id or "NOTPROVIDED")
    _amount(details, line.amount_minor, line.currency_code)
    _add(details, "RmtInf/Ustrd", line.description)


def _balance(
    statement: ET.Element, sent: Sent, code: str, amount_minor: int, currency_code: str
) -> None:
    balance = ET.SubElement(statement, "Bal")
    _add(balance, "Tp/CdOrPrtry/Cd", code)
    _amount(balance, amount_minor, currency_code)
    _add(balance, "Dt/Dt", sent.day.settlement_date.isoformat())


def _amount(parent: ET.Element, amount_minor: int, currency_code: str) -> None:
    """Amt, unsigned, and its sign beside it."""
    amount = ET.SubElement(parent, "Amt", {"Ccy": currency_code})
    amount.text = format_minor(abs(amount_minor), currency_code)
    _add(parent, "CdtDbtInd", "DBIT" if amount_minor < 0 else "CRDT")


def _add(parent: ET.Element, path: str, text: str) -> None:
    """A new element at the end of a path of new elements."""
    for name in path.split("/"):
        parent = ET.SubElement(parent, name)
    parent.text = text


def _utc(time: datetime) -> str:
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
