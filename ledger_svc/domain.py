"""What a ledger is: accounts, entries, and journals that balance per currency.

No I/O. All amounts are minor units of their currency. The types are named tuples: they
cost half of what frozen dataclasses cost, and lists of hundreds of them pass through.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime
from enum import IntEnum
from typing import NamedTuple
from uuid import UUID

from mesh.errors import MeshError, Reason


class AccountKind(IntEnum):
    """The accounts. The numbers are those of the wire and of the database."""

    PSP_RECEIVABLE = 1
    SELLER_PENDING = 2
    SELLER_AVAILABLE = 3
    SELLER_RESERVED = 4
    SELLER_DEBT = 5
    COMMISSION_REVENUE = 6
    PSP_FEE_EXPENSE = 7
    BANK_CASH = 8
    BUYER_REFUND_PAYABLE = 9
    DISPUTE_RECEIVABLE = 10
    DISPUTE_FEE_EXPENSE = 11
    CHARGEBACK_LOSS = 12
    PAYOUT_IN_TRANSIT = 13
    SUSPENSE = 14
    ROUNDING = 15
    FX = 16


class JournalKind(IntEnum):
    """Why a journal was written. The numbers are those of the wire and of the database."""

    CAPTURE = 1
    PSP_FEE = 2
    SETTLEMENT = 3
    ADJUSTMENT = 4


class Direction(IntEnum):
    """The side of an entry. The numbers are those of the wire and of the database."""

    DEBIT = 1
    CREDIT = 2


class Account(NamedTuple):
    """One account: its kind, and whose and where it is, empty where the kind has none."""

    kind: AccountKind
    owner_id: str = ""
    source: str = ""


class Entry(NamedTuple):
    """One line of a journal; amount_minor is at least 1, the direction is its sign."""

    account: Account
    direction: Direction
    currency_code: str
    amount_minor: int


class Journal(NamedTuple):
    """A balanced set of entries that one operation causes; never changed once written.

    reverses: the journal that this one corrects. psp_reference: what the PSP calls the
    operation, empty if not known.
    """

    journal_id: UUID
    kind: JournalKind
    operation_id: UUID
    revision: int
    order_id: UUID
    entries: tuple[Entry, ...]
    reverses: UUID | None = None
    psp_reference: str = ""


class WrittenJournal(NamedTuple):
    """A journal as it is stored, with the time when it was written."""

    journal: Journal
    create_time: datetime


class TrialBalanceRow(NamedTuple):
    """What was debited and credited to one kind of account, source and currency."""

    kind: AccountKind
    source: str
    currency_code: str
    debit_minor: int
    credit_minor: int


class UnbalancedError(MeshError):
    """A journal whose debits and credits differ in a currency."""

    def __init__(self, journal: Journal, currency_code: str, debit_less_credit_minor: int) -> None:
        super().__init__(
            Reason.VALIDATION_FAILED,
            f"the {journal.kind.name.lower()} journal does not balance in {currency_code}",
            {
                "journal_id": journal.journal_id.hex,
                "currency_code": currency_code,
                "debit_less_credit_minor": str(debit_less_credit_minor),
            },
        )


def check_balanced(journal: Journal) -> None:
    """Debits equal credits in each currency. Errors: UnbalancedError."""
    sums: defaultdict[str, int] = defaultdict(int)
    for entry in journal.entries:
        debit = entry.direction is Direction.DEBIT
        sums[entry.currency_code] += entry.amount_minor if debit else -entry.amount_minor
    for currency_code, total in sums.items():
        if total:
            raise UnbalancedError(journal, currency_code, total)
