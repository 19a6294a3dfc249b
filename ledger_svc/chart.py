"""The chart of accounts, and the posting rules: which event books which journals."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple
from uuid import UUID

from ledger_svc.domain import (
    Account,
    AccountKind,
    Direction,
    Entry,
    Journal,
    JournalKind,
    check_balanced,
)
from mesh import ids
from mesh.errors import Violation
from mesh.money import Money

K = AccountKind
DEBIT, CREDIT = Direction.DEBIT, Direction.CREDIT


class AccountRule(NamedTuple):
    """What accounts of a kind are like.

    normal: the side on which the balance is positive. owned: there is one per seller
    (owner_id). sourced: there is one per PSP or bank (source).
    """

    normal: Direction
    owned: bool = False
    sourced: bool = False


CHART: Mapping[AccountKind, AccountRule] = {
    K.PSP_RECEIVABLE: AccountRule(DEBIT, sourced=True),
    K.SELLER_PENDING: AccountRule(CREDIT, owned=True),
    K.SELLER_AVAILABLE: AccountRule(CREDIT, owned=True),
    K.SELLER_RESERVED: AccountRule(CREDIT, owned=True),
    K.SELLER_DEBT: AccountRule(DEBIT, owned=True),
    K.COMMISSION_REVENUE: AccountRule(CREDIT),
    K.PSP_FEE_EXPENSE: AccountRule(DEBIT, sourced=True),
    K.BANK_CASH: AccountRule(DEBIT, sourced=True),
    K.BUYER_REFUND_PAYABLE: AccountRule(CREDIT),
    K.DISPUTE_RECEIVABLE: AccountRule(DEBIT, sourced=True),
    K.DISPUTE_FEE_EXPENSE: AccountRule(DEBIT, sourced=True),
    K.CHARGEBACK_LOSS: AccountRule(DEBIT),
    K.PAYOUT_IN_TRANSIT: AccountRule(CREDIT),
    K.SUSPENSE: AccountRule(CREDIT, sourced=True),
    K.ROUNDING: AccountRule(DEBIT, sourced=True),
    K.FX: AccountRule(DEBIT, sourced=True),
}
"""Every kind of account. The table `entry` checks owned and sourced once more."""


def violations(account: Account) -> list[Violation]:
    """What is missing in or too much on an account of its kind; paths within the account."""
    rule = CHART[account.kind]
    found = []
    for field, value, wanted in (
        ("owner_id", account.owner_id, rule.owned),
        ("source", account.source, rule.sourced),
    ):
        if wanted and not value:
            found.append(Violation(field, f"must be set for {account.kind.name}"))
        if value and not wanted:
            found.append(Violation(field, f"must be empty for {account.kind.name}"))
    return found


class CaptureEvent(NamedTuple):
    """An order was captured at `source` and credited to the seller's wallet.

    captured = seller_pending_minor + commission_minor, in the captured currency. fee: what
    the PSP keeps, if it told; the executor leaves out one in another currency. psp_reference:
    what the PSP calls the capture, empty if not known.
    """

    operation_id: UUID
    revision: int
    order_id: UUID
    seller_id: str
    source: str
    captured: Money
    seller_pending_minor: int
    commission_minor: int
    fee: Money | None
    psp_reference: str = ""


def journals(event: CaptureEvent) -> tuple[Journal, ...]:
    """The journals that the event books. The first is the key of the event.

    Errors: UnbalancedError for an event that does not conserve money.
    """
    currency = event.captured.currency_code
    receivable = Account(K.PSP_RECEIVABLE, source=event.source)
    pending = Account(K.SELLER_PENDING, owner_id=event.seller_id)
    booked = [
        _journal(
            JournalKind.CAPTURE,
            event,
            Entry(receivable, DEBIT, currency, event.captured.amount_minor),
            Entry(pending, CREDIT, currency, event.seller_pending_minor),
            Entry(Account(K.COMMISSION_REVENUE), CREDIT, currency, event.commission_minor),
        )
    ]
    if event.fee is not None and event.fee.amount_minor:
        expense = Account(K.PSP_FEE_EXPENSE, source=event.source)
        fee_currency, fee_minor = event.fee.currency_code, event.fee.amount_minor
        booked.append(
            _journal(
                JournalKind.PSP_FEE,
                event,
                Entry(expense, DEBIT, fee_currency, fee_minor),
                Entry(receivable, CREDIT, fee_currency, fee_minor),
            )
        )
    return tuple(booked)


_KINDS_OF_EVENT = (JournalKind.CAPTURE, JournalKind.PSP_FEE)


def possible_ids(event_key: Journal) -> tuple[UUID, ...]:
    """The ids of all journals that an event with this first journal may have.

    A replay is compared with all of them: one that has no fee now and had one then is
    another event, although the journal that it asks for is there.
    """
    return tuple(
        _journal_id(kind, event_key.operation_id, event_key.revision) for kind in _KINDS_OF_EVENT
    )


def first_ids(operation_id: UUID) -> tuple[UUID, ...]:
    """The ids of all journals that an operation's first event may have."""
    return tuple(_journal_id(kind, operation_id, 0) for kind in _KINDS_OF_EVENT)


def differences(asked: Sequence[Journal], stored: Sequence[Journal]) -> tuple[str, ...]:
    """The fields of the event in which what would be booked differs from what is booked."""
    if tuple(asked) == tuple(stored):
        return ()
    ours, theirs = dict(_facts(asked)), dict(_facts(stored))
    fields = {
        field
        for field in ours.keys() | theirs.keys()
        # Who a line of zero would have been for is not known, so it is no difference.
        if (field in ours and field in theirs and ours[field] != theirs[field])
        or (field.endswith("_minor") and ours.get(field, 0) != theirs.get(field, 0))
    }
    if not fields and _without_references(asked) == _without_references(stored):
        return ()
    return tuple(sorted(fields)) or ("entries",)


def _without_references(journals: Sequence[Journal]) -> list[Journal]:
    """Whether the PSP's reference was known is no difference; another one is a fact's."""
    return [journal._replace(psp_reference="") for journal in journals]


def _journal(kind: JournalKind, event: CaptureEvent, *lines: Entry) -> Journal:
    """A journal of these lines, without those of zero."""
    journal = Journal(
        _journal_id(kind, event.operation_id, event.revision),
        kind,
        event.operation_id,
        event.revision,
        event.order_id,
        tuple(line for line in lines if line.amount_minor),
        psp_reference=event.psp_reference,
    )
    check_balanced(journal)
    return journal


# The tags are part of the journals' ids: frozen with them.
_TAG_OF_KIND: Mapping[JournalKind, str] = {
    JournalKind.CAPTURE: "capture",
    JournalKind.PSP_FEE: "psp_fee",
}


def _journal_id(kind: JournalKind, operation_id: UUID, revision: int) -> UUID:
    return ids.journal_id(_TAG_OF_KIND[kind], operation_id, revision)


def _facts(booked: Iterable[Journal]) -> Iterator[tuple[str, str | int]]:
    """The event's fields, on the wire, that its journals tell of."""
    for journal in booked:
        yield "order_id", journal.order_id.hex
        if journal.psp_reference:
            yield "capture.psp_reference", journal.psp_reference
        for entry in journal.entries:
            match journal.kind, entry.account.kind:
                case JournalKind.CAPTURE, K.PSP_RECEIVABLE:
                    yield "capture.source", entry.account.source
                    yield "capture.captured.currency_code", entry.currency_code
                    yield "capture.captured.amount_minor", entry.amount_minor
                case JournalKind.CAPTURE, K.SELLER_PENDING:
                    yield "capture.seller_id", entry.account.owner_id
                    yield "capture.seller_pending_minor", entry.amount_minor
                case JournalKind.CAPTURE, K.COMMISSION_REVENUE:
                    yield "capture.commission_minor", entry.amount_minor
                case JournalKind.PSP_FEE, K.PSP_FEE_EXPENSE:
                    yield "capture.fee.currency_code", entry.currency_code
                    yield "capture.fee.amount_minor", entry.amount_minor
                case _:
                    pass  # the other side of a fee
