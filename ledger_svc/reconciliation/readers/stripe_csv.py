"""Stripe's itemized reports with balance transactions: payout and ending balance reconciliation.

A statement is one payout in one currency. Opening and closing are not carried; where the
payout's own row is in the file, the statement ties if the entries sum to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date

from ledger_svc.reconciliation.readers.amounts import iso_date, to_minor, utc_time
from ledger_svc.reconciliation.readers.model import (
    Level,
    Line,
    ProblemCode,
    ReadError,
    ReadReason,
    Statement,
)
from ledger_svc.reconciliation.readers.rows import Row, rows
from ledger_svc.reconciliation.readers.source import Source
from ledger_svc.reconciliation.readers.tally import Tally
from mesh.settlement_file import Kind

FORMAT = "stripe.payout_reconciliation"

REQUIRED = frozenset(
    {"balance_transaction_id", "currency", "gross", "fee", "net", "reporting_category"}
)
"""The columns without which no row can be read. Others vary with what was asked for."""

_PAYOUT = "payout"

_KINDS: Mapping[str, Kind] = {
    "charge": Kind.CHARGE,
    "charge_failure": Kind.CHARGE_REVERSAL,
    "partial_capture_reversal": Kind.CHARGE_REVERSAL,
    "refund": Kind.REFUND,
    "refund_failure": Kind.REFUND_REVERSAL,
    "dispute": Kind.DISPUTE,
    "dispute_reversal": Kind.DISPUTE_REVERSAL,
    "fee": Kind.FEE,
    "network_cost": Kind.FEE,
    "tax": Kind.FEE,
    "other_adjustment": Kind.ADJUSTMENT,
    "currency_conversion": Kind.FX,
    "risk_reserved_funds": Kind.RESERVE_HOLD,
    "connect_reserved_funds": Kind.RESERVE_HOLD,
    _PAYOUT: Kind.TRANSFER,
    "payout_reversal": Kind.TRANSFER_RETURN,
    "transfer": Kind.BALANCE_TRANSFER,
    "transfer_reversal": Kind.BALANCE_TRANSFER,
    "connect_collection_transfer": Kind.BALANCE_TRANSFER,
    "topup": Kind.BALANCE_TRANSFER,
    "topup_reversal": Kind.BALANCE_TRANSFER,
    "platform_earning": Kind.BALANCE_TRANSFER,
    "platform_earning_refund": Kind.BALANCE_TRANSFER,
    "financing_payout": Kind.BALANCE_TRANSFER,
    "financing_payout_reversal": Kind.BALANCE_TRANSFER,
    "advance": Kind.BALANCE_TRANSFER,
    "advance_funding": Kind.BALANCE_TRANSFER,
    "unreconciled_customer_funds": Kind.BALANCE_TRANSFER,
    "issuing_authorization_hold": Kind.RESERVE_HOLD,
    "issuing_authorization_release": Kind.RESERVE_RELEASE,
    "issuing_transaction": Kind.ADJUSTMENT,
    "issuing_dispute": Kind.ADJUSTMENT,
    "issuing_disbursement": Kind.ADJUSTMENT,
    "financing_paydown": Kind.INVOICE_DEDUCTION,
    "financing_paydown_reversal": Kind.INVOICE_DEDUCTION,
    "anticipation_repayment": Kind.INVOICE_DEDUCTION,
    "contribution": Kind.INVOICE_DEDUCTION,
    "climate_order_purchase": Kind.INVOICE_DEDUCTION,
    "climate_order_refund": Kind.INVOICE_DEDUCTION,
}
"""By reporting_category. One that is not here may be anything: the file is refused."""

_REVERSALS = ("_reversal", "_failure", "_release")
_REFERENCES = (
    "payment_intent_id",
    "charge_id",
    "refund_id",
    "dispute_id",
    "invoice_id",
    "trace_id",
)
_METADATA = ("payment_metadata", "refund_metadata", "transfer_metadata", "metadata")


def read(source: Source, format_name: str = FORMAT) -> Iterator[Line | Statement]:
    """The lines of the file as they come, then its statements. Raises ReadError."""
    payouts: dict[tuple[str, str], _Payout] = {}
    count = 0
    for count, row in enumerate(rows(source), 1):
        if count > source.limits.entries:
            raise ReadError(
                ReadReason.TOO_MANY_LINES, row.where, f"more than {source.limits.entries} lines"
            )
        if count == 1 and (missing := REQUIRED - row.cells.keys()):
            raise ReadError(
                ReadReason.MISSING_FIELD,
                "line 1",
                f"columns are missing: {', '.join(sorted(missing))}",
            )
        currency = _needed(row, "currency").upper()
        name = row.cells.get("automatic_payout_id", "")
        category = _needed(row, "reporting_category")
        if category == _PAYOUT and not name:
            name = row.cells.get("source_id", "")
        payout = payouts.get((name, currency))
        if payout is None:
            if len(payouts) >= source.limits.statements:
                raise ReadError(
                    ReadReason.TOO_MANY_STATEMENTS,
                    row.where,
                    f"more than {source.limits.statements} payouts",
                )
            payout = payouts[name, currency] = _Payout(len(payouts), name, currency)
        yield payout.take(row, category)
    if not count:
        # Which payouts there are, nothing says: a month without any has a header alone.
        return
    for payout in payouts.values():
        yield payout.statement(format_name)


class _Payout:
    """The rows of one payout; number: among those of the file, from 0."""

    def __init__(self, number: int, name: str, currency: str) -> None:
        self._number = number
        self._currency = currency
        self._tally = Tally(name or None, currency, name)
        self._paid_minor: int | None = None

    def take(self, row: Row, category: str) -> Line:
        cells, tally = row.cells, self._tally
        kind = _KINDS.get(category)
        if kind is None:
            raise ReadError(
                ReadReason.UNKNOWN_RECORD_TYPE,
                row.at("reporting_category"),
                "no reporting category that is known",
            )
        gross, fee, net = (
            to_minor(_needed(row, column), self._currency, row.at(column))
            for column in ("gross", "fee", "net")
        )
        if gross - fee != net:
            tally.report(
                ProblemCode.LINE_ARITHMETIC, f"net is not gross - fee in {row.where}", breaks=True
            )
        if category == _PAYOUT:
            self._paid_minor = (self._paid_minor or 0) - net
            number = tally.entries
        else:
            number = tally.add(net, row.where)
        effective = _day(row, "automatic_payout_effective_at_utc", "automatic_payout_effective_at")
        tally.closing_date = effective or tally.closing_date
        created = cells.get("created_utc", "")
        return Line(
            statement=self._number,
            number=number,
            place=row.where,
            level=Level.TOTAL if category == _PAYOUT else Level.ENTRY,
            kind=kind,
            amount_minor=net,
            currency_code=self._currency,
            booking_date=_day(row, "created_utc", "created"),
            value_date=_day(row, "available_on_utc", "available_on"),
            gross_minor=gross,
            fee_minor=fee,
            source_reference=_needed(row, "balance_transaction_id"),
            related_reference=cells.get("source_id", "") or cells.get("charge_id", ""),
            batch_reference=tally.identity,
            idempotency_key=_ours(row, "idempotency_key"),
            operation_id=_ours(row, "operation_id"),
            order_id=_ours(row, "order_id"),
            references=tuple((name, cells[name]) for name in _REFERENCES if cells.get(name)),
            texts=tuple(cells[name] for name in ("description",) if cells.get(name)),
            create_time=utc_time(created, row.at("created_utc")) if created else None,
            reversal=category.endswith(_REVERSALS),
            original_currency_code=cells.get("customer_facing_currency", "").upper(),
        )

    def statement(self, format_name: str) -> Statement:
        ties: bool | None = None
        if self._paid_minor is not None:
            rows_minor = self._tally.credits_minor - self._tally.debits_minor
            ties = self._paid_minor == rows_minor
            if not ties:
                self._tally.report(
                    ProblemCode.DOES_NOT_TIE,
                    f"the payout differs by {self._paid_minor - rows_minor} minor units "
                    "from what its rows sum to",
                )
        return self._tally.statement(self._number, format_name, ties=ties)


def _needed(row: Row, column: str) -> str:
    if not (text := row.cells[column]):
        raise ReadError(ReadReason.MISSING_FIELD, row.at(column), "this must not be empty")
    return text


def _day(row: Row, *columns: str) -> date | None:
    """Of the first column that is filled."""
    for column in columns:
        if text := row.cells.get(column):
            return iso_date(text, row.at(column))
    return None


def _ours(row: Row, field: str) -> str:
    """What we sent along as metadata. A refund's own comes before its payment's."""
    names: tuple[str, ...] = _METADATA
    if row.cells.get("refund_metadata[operation_id]"):
        names = ("refund_metadata", *_METADATA)
    for name in names:
        if text := row.cells.get(f"{name}[{field}]"):
            return text
    return ""
