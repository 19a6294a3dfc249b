"""The settlement file of an adapter: its columns, records and kinds, version 1.

This is a half of the contract `paymesh.psp.v1`, as gen/ is: an adapter writes such a file,
ledger_svc reads it, and neither knows the other. docs/settlement-formats.md tells what each
cell means, for adapters that are not written in Python.

What a day's file must hold:
- A statement for each account and currency that ever had one, also without a line. It opens
  with what the day before closed with; opening + net of all lines = closing.
- Every capture before the day's cut-off that is in no earlier file, once, in an order that
  never changes. What came too late is in the next day's file.
- On a line that an operation of ours caused: its idempotency key, operation and order. (A key
  that is not 32 lower-case hex digits is not the mesh's, and its cell is empty.) On a
  line about an earlier one (a refund, dispute, reversal): that one's psp_reference as
  related_psp_reference, and its order. On lines that nothing of ours caused: none of these.
- transfer_reference on each line that a transfer to our bank pays, known or not paid yet; the
  TRANSFER is a line itself (psp_reference = transfer_reference), and minus the sum of all
  others that name it, in this file and earlier ones. The bank's statement names it so, too.
- Built again, the same bytes. A correction is the whole file with the next revision.
"""

from __future__ import annotations

from enum import StrEnum

FORMAT = "paymesh.settlement.v1"
"""The format's name, as GetSettlementFile and `settle inspect` say it."""

RECORD = "paymesh_settlement_v1"
"""The first column. It holds the record's type, and its name is what the file is known by."""


class Record(StrEnum):
    """The type of a row."""

    OPENING = "OPENING"
    """A page of a statement begins: account, currency, date, page, opening balance."""
    LINE = "LINE"
    """One movement."""
    CLOSING = "CLOSING"
    """The page ends: closing balance, and control totals of the page's lines."""
    END = "END"
    """The file ends: its number of rows before this one. A file without it was cut."""


class Kind(StrEnum):
    """What a line is about. Signs are of the PSP's balance: what we gain is positive."""

    CHARGE = "CHARGE"
    CHARGE_REVERSAL = "CHARGE_REVERSAL"
    REFUND = "REFUND"
    REFUND_REVERSAL = "REFUND_REVERSAL"
    DISPUTE = "DISPUTE"
    DISPUTE_REVERSAL = "DISPUTE_REVERSAL"
    FEE = "FEE"
    ADJUSTMENT = "ADJUSTMENT"
    FX = "FX"
    RESERVE_HOLD = "RESERVE_HOLD"
    RESERVE_RELEASE = "RESERVE_RELEASE"
    BALANCE_TRANSFER = "BALANCE_TRANSFER"
    INVOICE_DEDUCTION = "INVOICE_DEDUCTION"
    PAYOUT = "PAYOUT"
    """To a seller, from our funding account."""
    PAYOUT_RETURN = "PAYOUT_RETURN"
    TRANSFER = "TRANSFER"
    """To our bank account."""
    TRANSFER_RETURN = "TRANSFER_RETURN"


COLUMNS = (
    RECORD,
    "account",
    "currency_code",
    "settlement_date",
    "statement_id",
    "revision",
    "page",
    "last_page",
    "line_no",
    "kind",
    "psp_reference",
    "related_psp_reference",
    "transfer_reference",
    "idempotency_key",
    "operation_id",
    "order_id",
    "create_time",
    "booking_date",
    "value_date",
    "gross_minor",
    "fee_minor",
    "net_minor",
    "original_amount_minor",
    "original_currency_code",
    "exchange_rate",
    "balance_minor",
    "credits_minor",
    "debits_minor",
    "lines",
    "description",
)
"""The header, in this order. A later version adds columns at the end and a new RECORD name."""

LINE_END = "\r\n"
"""RFC 4180. The END row has one too: without it the file was cut."""
