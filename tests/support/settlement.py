"""Settlement files of the tests' own making, and what the readers make of them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ledger_svc.reconciliation.readers import (
    Level,
    Limits,
    Line,
    ReadError,
    ReadReason,
    Statement,
    read,
)
from mesh.settlement_file import COLUMNS, LINE_END, RECORD, Record

DATA = Path(__file__).parent.parent / "data" / "settlement"

XML = '<?xml version="1.0" encoding="UTF-8"?>'

STRIPE_COLUMNS = (
    "automatic_payout_id",
    "automatic_payout_effective_at_utc",
    "balance_transaction_id",
    "created_utc",
    "available_on_utc",
    "currency",
    "gross",
    "fee",
    "net",
    "reporting_category",
    "source_id",
    "description",
    "customer_facing_amount",
    "customer_facing_currency",
    "payment_intent_id",
    "payment_metadata[operation_id]",
    "payment_metadata[order_id]",
    "refund_metadata[operation_id]",
    "refund_metadata[order_id]",
)


@dataclass
class Outcome:
    """All that was read of one file."""

    format: str
    lines: list[Line] = field(default_factory=list)
    statements: list[Statement] = field(default_factory=list)

    @property
    def only(self) -> Statement:
        [statement] = self.statements
        return statement

    @property
    def entries(self) -> list[Line]:
        return [line for line in self.lines if line.level is Level.ENTRY]


def read_all(content: bytes | str, limits: Limits | None = None) -> Outcome:
    """Everything in the file; text is encoded as UTF-8."""
    data = content.encode() if isinstance(content, str) else content
    reading = read(io.BytesIO(data), limits)
    outcome = Outcome(reading.format)
    for item in reading.items:
        if isinstance(item, Statement):
            outcome.statements.append(item)
        else:
            assert not outcome.statements, "a line after a statement"
            outcome.lines.append(item)
    return outcome


def refusal(content: bytes | str, limits: Limits | None = None) -> ReadError:
    """The refusal of a file that can't be read."""
    with pytest.raises(ReadError) as refused:
        read_all(content, limits)
    assert refused.value.where
    assert refused.value.message
    return refused.value


def reason(content: bytes | str, limits: Limits | None = None) -> ReadReason:
    """Why a file is refused."""
    return refusal(content, limits).reason


def ties_as_complete(content: bytes) -> bool:
    """Whether the file is read, all of it ties and nothing is said against it."""
    try:
        outcome = read_all(content)
    except ReadError:
        return False
    return bool(outcome.statements) and all(
        statement.ties and statement.problem is None for statement in outcome.statements
    )


# --- camt.053 --------------------------------------------------------------------------


def camt(*statements: str, version: str = "08", header: str = "", declaration: str = "") -> str:
    """A message of these Stmt elements."""
    space = f' xmlns="urn:iso:std:iso:20022:tech:xsd:camt.053.001.{version}"' if version else ""
    return (
        f"{declaration or XML}<Document{space}><BkToCstmrStmt>"
        f"<GrpHdr><MsgId>M</MsgId>{header}</GrpHdr>"
        f"{''.join(statements)}</BkToCstmrStmt></Document>"
    )


def stmt(
    *entries: str,
    opening: str | None = "100.00",
    closing: str | None = "100.00",
    account: str = "<IBAN>DE00TEST</IBAN>",
    pages: str = "",
    summary: str = "",
    balances: str = "",
    currency: str = "EUR",
    closing_day: str = "2026-01-31",
) -> str:
    """A Stmt; balances are signed decimals."""
    told = balances
    if opening is not None:
        told += bal("OPBD", opening, currency, "2026-01-30")
    if closing is not None:
        told += bal("CLBD", closing, currency, closing_day)
    return (
        f"<Stmt><Id>S-1</Id>{pages}<Acct><Id>{account}</Id></Acct>{told}{summary}"
        f"{''.join(entries)}</Stmt>"
    )


def bal(
    code: str, amount: str, currency: str = "EUR", day: str = "2026-01-31", sub: str = ""
) -> str:
    """A Bal of a signed amount."""
    subtype = f"<SubTp><Cd>{sub}</Cd></SubTp>" if sub else ""
    mark = "DBIT" if amount.startswith("-") else "CRDT"
    return (
        f"<Bal><Tp><CdOrPrtry><Cd>{code}</Cd></CdOrPrtry>{subtype}</Tp>"
        f'<Amt Ccy="{currency}">{amount.removeprefix("-")}</Amt><CdtDbtInd>{mark}</CdtDbtInd>'
        f"<Dt><Dt>{day}</Dt></Dt></Bal>"
    )


def ntry(
    amount: str = "5.00",
    mark: str = "CRDT",
    details: str = "",
    *,
    currency: str = "EUR",
    status: str = "<Sts><Cd>BOOK</Cd></Sts>",
    reversal: str = "",
    value_day: str = "2026-01-30",
) -> str:
    """An Ntry; details: its TxDtls elements."""
    return (
        f'<Ntry><Amt Ccy="{currency}">{amount}</Amt><CdtDbtInd>{mark}</CdtDbtInd>{reversal}'
        f"{status}<BookgDt><Dt>2026-01-30</Dt></BookgDt><ValDt><Dt>{value_day}</Dt></ValDt>"
        f"<AcctSvcrRef>BANK-1</AcctSvcrRef><NtryDtls>{details}</NtryDtls></Ntry>"
    )


# --- MT940 -----------------------------------------------------------------------------


def mt940(
    *fields: str,
    opening: str = "60F:C260130EUR100,00",
    closing: str = "62F:C260131EUR100,00",
    head: str = ":20:REF\n:25:ACCOUNT\n:28C:1/1\n",
) -> str:
    """A message of these `:61:` and `:86:` fields."""
    return f"{head}:{opening}\n" + "".join(f":{one}\n" for one in fields) + f":{closing}\n-\n"


# --- the adapter's own CSV -------------------------------------------------------------


def csv_text(columns: Iterable[str], rows: Iterable[Mapping[str, object]]) -> str:
    """A CSV file; cells that are not told are empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), restval="", lineterminator=LINE_END)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


class OwnFile:
    """Writes a settlement file as an adapter does, so that a test can then break it."""

    def __init__(self) -> None:
        self.rows: list[dict[str, object]] = []
        self._balance = 0
        self._page: dict[str, object] = {}
        self._nets: list[int] = []
        self._line_no = 0

    def open(
        self,
        opening: int = 0,
        *,
        currency: str = "EUR",
        statement: str = "2026-01-31",
        page: int = 1,
        last: bool = True,
    ) -> OwnFile:
        self._page = {
            "account": "psp_stub",
            "currency_code": currency,
            "settlement_date": "2026-01-31",
            "statement_id": statement,
            "revision": 0,
            "page": page,
            "last_page": "true" if last else "false",
        }
        self._balance, self._nets = opening, []
        self._line_no = 0 if page == 1 else self._line_no
        return self._row(Record.OPENING, balance_minor=opening)

    def line(self, gross: int, fee: int = 0, kind: str = "CHARGE", **cells: object) -> OwnFile:
        self._line_no += 1
        self._nets.append(gross - fee)
        self._balance += gross - fee
        told: dict[str, object] = {
            "line_no": self._line_no,
            "kind": kind,
            "psp_reference": f"psp-{self._line_no}",
            "gross_minor": gross,
            "fee_minor": fee,
            "net_minor": gross - fee,
        }
        return self._row(Record.LINE, **(told | cells))

    def close(self, **cells: object) -> OwnFile:
        told: dict[str, object] = {
            "balance_minor": self._balance,
            "credits_minor": sum(net for net in self._nets if net > 0),
            "debits_minor": -sum(net for net in self._nets if net < 0),
            "lines": len(self._nets),
        }
        return self._row(Record.CLOSING, **(told | cells))

    def text(self, **end: object) -> str:
        """The file, with its END."""
        told: dict[str, object] = {RECORD: Record.END, "lines": len(self.rows)}
        return csv_text(COLUMNS, [*self.rows, told | end])

    def _row(self, record: Record, **cells: object) -> OwnFile:
        self.rows.append({RECORD: record} | self._page | cells)
        return self


# --- Stripe ----------------------------------------------------------------------------


def stripe_row(
    net: str, gross: str = "", fee: str = "0.00", category: str = "charge", **cells: str
) -> dict[str, str]:
    """A row of the payout po_1 in euros."""
    return {
        "automatic_payout_id": "po_1",
        "automatic_payout_effective_at_utc": "2026-02-02 00:00:00",
        "balance_transaction_id": "txn_1",
        "created_utc": "2026-01-30 10:11:12",
        "available_on_utc": "2026-02-01 00:00:00",
        "currency": "eur",
        "gross": gross or net,
        "fee": fee,
        "net": net,
        "reporting_category": category,
        "source_id": "ch_1",
    } | cells


def stripe(*rows: Mapping[str, str]) -> str:
    """A payout reconciliation of these rows."""
    return csv_text(STRIPE_COLUMNS, rows)
