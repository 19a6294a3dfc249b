"""The services of ledger_svc: proto → domain → operation → proto."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import grpc
from paymesh.common.v1 import money_pb2
from paymesh.ledger.v1 import (
    ledger_posting_service_pb2,
    ledger_posting_service_pb2_grpc,
    ledger_read_service_pb2,
    ledger_read_service_pb2_grpc,
    ledger_service_pb2,
    ledger_service_pb2_grpc,
)

from ledger_svc import chart, operations
from ledger_svc.chart import CaptureEvent
from ledger_svc.domain import Account, AccountKind, Entry, WrittenJournal
from ledger_svc.operations import Booked
from mesh import ids, money, paging, told
from mesh.batching import Writer
from mesh.clock import timestamp
from mesh.db import CommitUnknown, Database, NotCommitted
from mesh.errors import MeshError, Reason, Violation, validation_failed
from mesh.status import to_status
from mesh.validation import check

Context = grpc.aio.ServicerContext[Any, Any]
LedgerWriter = Writer[CaptureEvent, Booked]


class LedgerServicer(ledger_service_pb2_grpc.LedgerServiceServicer):
    """The reads."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def GetBalance(
        self, request: ledger_service_pb2.GetBalanceRequest, context: Context
    ) -> ledger_service_pb2.GetBalanceResponse:
        account = _account(request.account)
        unknown = _unknown_currency(request.currency_code, "currency_code")
        if unknown is not None:
            raise unknown
        as_of = _as_of(request)
        balance = await operations.get_balance(
            self._database, account, request.currency_code, as_of
        )
        return ledger_service_pb2.GetBalanceResponse(balance_minor=balance)

    async def GetTrialBalance(
        self, request: ledger_service_pb2.GetTrialBalanceRequest, context: Context
    ) -> ledger_service_pb2.GetTrialBalanceResponse:
        rows = await operations.get_trial_balance(self._database, _as_of(request))
        return ledger_service_pb2.GetTrialBalanceResponse(
            rows=[
                ledger_service_pb2.TrialBalanceRow(
                    account=_account_message(Account(row.kind, source=row.source)),
                    currency_code=row.currency_code,
                    debit_minor=row.debit_minor,
                    credit_minor=row.credit_minor,
                )
                for row in rows
            ]
        )

    async def ListJournals(
        self, request: ledger_service_pb2.ListJournalsRequest, context: Context
    ) -> ledger_service_pb2.ListJournalsResponse:
        key: UUID | Account
        key = ids.parse(request.order_id) if request.order_id else _account(request.account)
        after = paging.decode_token(request)
        size = paging.page_size(request.page_size)
        # One more than the page holds tells whether there is another page.
        rows = await operations.list_journals(self._database, key, after, size + 1)
        page = list(paging.fitting(map(_journal_message, rows[:size])))
        token = ""
        if len(page) < len(rows):
            last = rows[len(page) - 1]
            token = paging.encode_token(
                request, paging.Position(last.create_time, last.journal.journal_id)
            )
        return ledger_service_pb2.ListJournalsResponse(journals=page, next_page_token=token)


class LedgerPostingServicer(ledger_posting_service_pb2_grpc.LedgerPostingServiceServicer):
    """The writes, in lists; lists of concurrent calls are committed together."""

    def __init__(self, writer: LedgerWriter) -> None:
        self._writer = writer

    async def PostEvents(
        self, request: ledger_posting_service_pb2.PostEventsRequest, context: Context
    ) -> ledger_posting_service_pb2.PostEventsResponse:
        # The length only: the rules of the list leave its items out.
        error = check(request)
        if error is not None:
            raise error
        started_ns = time.time_ns()
        asked = [_event(item) for item in request.events]
        good = [event for event in asked if isinstance(event, CaptureEvent)]
        written = await self._writer.write(good, durable=False)
        if len(good) == len(asked):
            _raise_if_all_failed(written)
        rest = iter(written)
        answers = [next(rest) if isinstance(e, CaptureEvent) else e for e in asked]
        told.refused("event_refused", request.events, answers)
        told.spans("post", started_ns, request.events, answers)
        return ledger_posting_service_pb2.PostEventsResponse(
            results=[_result(answer) for answer in answers]
        )


class LedgerReadServicer(ledger_read_service_pb2_grpc.LedgerReadServiceServicer):
    """The reads of other services."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def FindJournals(
        self, request: ledger_read_service_pb2.FindJournalsRequest, context: Context
    ) -> ledger_read_service_pb2.FindJournalsResponse:
        asked = {ids.parse(o.operation_id): ids.parse(o.order_id) for o in request.operations}
        found = await operations.find_journals(self._database, asked)
        return ledger_read_service_pb2.FindJournalsResponse(journals=map(_journal_message, found))


def _raise_if_all_failed(results: list[Booked | MeshError]) -> None:
    """A database that is down is an error of the call, not of each of its items."""
    first = next(iter(results), None)
    if isinstance(first, NotCommitted | CommitUnknown) and all(r is first for r in results):
        raise first


def _event(item: ledger_posting_service_pb2.LedgerEvent) -> CaptureEvent | MeshError:
    error = check(item)
    if error is not None:
        return error
    capture = item.capture
    error = _unknown_currency(capture.captured.currency_code, "capture.captured.currency_code")
    if error is None and capture.HasField("fee"):
        error = _unknown_currency(capture.fee.currency_code, "capture.fee.currency_code")
    if error is not None:
        return error
    return CaptureEvent(
        ids.parse(item.operation_id),
        item.revision,
        ids.parse(item.order_id),
        capture.seller_id,
        capture.source,
        _money(capture.captured),
        capture.seller_pending_minor,
        capture.commission_minor,
        _money(capture.fee) if capture.HasField("fee") else None,
        capture.psp_reference,
    )


def _money(message: money_pb2.Money) -> money.Money:
    return money.Money(message.amount_minor, message.currency_code)


def _unknown_currency(currency_code: str, field: str) -> MeshError | None:
    if money.any_exponent(currency_code) is not None:
        return None
    return MeshError(
        Reason.UNKNOWN_CURRENCY,
        "the currency is not one of ISO 4217",
        violations=[Violation(field, "is not a currency of ISO 4217")],
    )


def _account(message: ledger_service_pb2.Account) -> Account:
    """The account, refused where its kind and its other fields don't go together."""
    account = Account(AccountKind(message.kind), message.owner_id, message.source)
    found = chart.violations(account)
    if found:
        raise validation_failed(*(Violation(f"account.{v.field}", v.description) for v in found))
    return account


def _as_of(
    request: ledger_service_pb2.GetBalanceRequest | ledger_service_pb2.GetTrialBalanceRequest,
) -> datetime | None:
    """Entries have whole microseconds: what is beyond them in the request changes nothing."""
    if not request.HasField("as_of_time"):
        return None
    try:
        return request.as_of_time.ToDatetime(tzinfo=UTC)
    except ValueError as error:
        raise validation_failed(Violation("as_of_time", "is not a time")) from error


def _result(answer: Booked | MeshError) -> ledger_posting_service_pb2.PostEventResult:
    if isinstance(answer, MeshError):
        return ledger_posting_service_pb2.PostEventResult(error=to_status(answer))
    return ledger_posting_service_pb2.PostEventResult(
        posted=ledger_posting_service_pb2.PostedEvent(
            journal_ids=[journal_id.hex for journal_id in answer]
        )
    )


def _account_message(account: Account) -> ledger_service_pb2.Account:
    return ledger_service_pb2.Account(
        kind=ledger_service_pb2.AccountKind.ValueType(account.kind),
        owner_id=account.owner_id,
        source=account.source,
    )


def _journal_message(written: WrittenJournal) -> ledger_service_pb2.Journal:
    journal = written.journal
    return ledger_service_pb2.Journal(
        journal_id=journal.journal_id.hex,
        kind=ledger_service_pb2.JournalKind.ValueType(journal.kind),
        reverses="" if journal.reverses is None else journal.reverses.hex,
        create_time=timestamp(written.create_time),
        entries=[_entry_message(entry) for entry in journal.entries],
        order_id=journal.order_id.hex if journal.order_id.int else "",
        operation_id=journal.operation_id.hex,
    )


def _entry_message(entry: Entry) -> ledger_service_pb2.Entry:
    return ledger_service_pb2.Entry(
        account=_account_message(entry.account),
        direction=ledger_service_pb2.Direction.ValueType(entry.direction),
        amount=money_pb2.Money(amount_minor=entry.amount_minor, currency_code=entry.currency_code),
    )
