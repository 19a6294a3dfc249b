"""The transactions of ledger_svc: one function, one commit, a list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from ledger_svc import chart, register, store, store_register
from ledger_svc.chart import CaptureEvent
from ledger_svc.domain import Account, Direction, Journal, TrialBalanceRow, WrittenJournal
from ledger_svc.register import Registered
from mesh.db import Database
from mesh.errors import MeshError, Reason
from mesh.paging import Position

log = structlog.get_logger()

Booked = tuple[UUID, ...]
"""The ids of an event's journals, in the order of the posting rules."""


async def post_events(
    database: Database, events: Sequence[CaptureEvent]
) -> list[Booked | MeshError]:
    """Books the events' journals, all in one commit.

    Idempotent on (operation_id, revision): an event that is booked, from before or earlier
    in the list, answers with its journals and writes nothing. One that is booked with
    other entries is OPERATION_CONFLICT, naming the fields; one that does not conserve
    money is refused by the posting rules; neither fails a neighbour.
    Errors: those of Database.commit.
    """
    asked = [_journals(event) for event in events]
    first: dict[UUID, tuple[Journal, ...]] = {}
    for journals in asked:
        if not isinstance(journals, MeshError):
            first.setdefault(journals[0].journal_id, journals)

    async def work(connection: AsyncConnection) -> dict[UUID, tuple[Journal, ...]]:
        won = await store.insert_events(connection, list(first.values()))
        stored = {key: first[key] for key in won}
        unanswered = {
            key: chart.possible_ids(journals[0])
            for key, journals in first.items()
            if key not in won
        }
        if unanswered:
            # In a statement of its own, which sees what the insert had to wait for.
            found = await store.read_journals(
                connection, [journal_id for ids in unanswered.values() for journal_id in ids]
            )
            for key, ids in unanswered.items():
                stored[key] = tuple(found[i].journal for i in ids if i in found)
        return stored

    stored = await database.commit("ledger.post", work, one_write=True) if first else {}
    return [
        journals
        if isinstance(journals, MeshError)
        else _answer(journals, stored[journals[0].journal_id])
        for journals in asked
    ]


def _journals(event: CaptureEvent) -> tuple[Journal, ...] | MeshError:
    try:
        return chart.journals(event)
    except MeshError as error:
        return error


def _answer(asked: tuple[Journal, ...], stored: tuple[Journal, ...]) -> Booked | MeshError:
    fields = chart.differences(asked, stored)
    if not fields:
        return tuple(journal.journal_id for journal in stored)
    log.warning(
        "journal_conflict",
        order_id=asked[0].order_id.hex,
        operation_id=asked[0].operation_id.hex,
        journal_id=asked[0].journal_id.hex,
        fields=fields,
    )
    return MeshError(
        Reason.OPERATION_CONFLICT,
        "this operation and revision is booked with other entries",
        {"fields": ",".join(fields)},
    )


async def register_operations(
    database: Database, told: Sequence[Registered]
) -> list[Registered | MeshError]:
    """Stores how operations stand that are in no journal, all in one commit.

    Idempotent on operation_id; see register.replaces. Answers with what is stored then; one
    that contradicts it is OPERATION_CONFLICT, naming the fields, and fails no neighbour.
    Errors: those of Database.commit.
    """
    if not told:
        return []
    last: dict[UUID, Registered] = {}
    for one in told:
        known = last.get(one.operation_id)
        if known is None or register.replaces(one, known):
            last[one.operation_id] = one

    async def work(connection: AsyncConnection) -> dict[UUID, Registered]:
        await store_register.put_registered(connection, list(last.values()))
        # In a statement of its own, which sees what the insert had to wait for.
        return await store_register.read_registered(connection, list(last))

    stored = await database.commit("ledger.register", work)
    return [_registered(one, stored[one.operation_id]) for one in told]


def _registered(told: Registered, stored: Registered) -> Registered | MeshError:
    fields = register.differences(told, stored)
    if not fields:
        return stored
    log.warning(
        "register_conflict",
        payment_id=told.payment_id.hex,
        order_id=told.order_id.hex,
        operation_id=told.operation_id.hex,
        told=told.state.name,
        stored=stored.state.name,
        fields=fields,
    )
    return MeshError(
        Reason.OPERATION_CONFLICT,
        "this operation is registered otherwise",
        {"fields": ",".join(fields)},
    )


async def find_journals(
    database: Database, operations: Mapping[UUID, UUID]
) -> list[WrittenJournal]:
    """The journals of operations, by their keys, and all others of their orders.

    operations: operation_id → order_id.
    """
    journal_ids = [i for operation_id in operations for i in chart.first_ids(operation_id)]
    order_ids = set(operations.values())

    async def work(connection: AsyncConnection) -> list[WrittenJournal]:
        found = await store.find_journals(connection, journal_ids, order_ids)
        return list((await store.read_journals(connection, found)).values())

    return await database.read("ledger.find", work)


async def get_balance(
    database: Database, account: Account, currency_code: str, as_of: datetime | None
) -> int:
    """The balance of an account, positive on its kind's normal side; 0 without entries."""

    async def work(connection: AsyncConnection) -> int:
        return await store.read_balance(connection, account, currency_code, as_of)

    debit_less_credit = await database.read("ledger.balance", work)
    debit_side = chart.CHART[account.kind].normal is Direction.DEBIT
    return debit_less_credit if debit_side else -debit_less_credit


async def get_trial_balance(database: Database, as_of: datetime | None) -> list[TrialBalanceRow]:
    """Debits and credits by kind, source and currency, from one snapshot."""

    async def work(connection: AsyncConnection) -> list[TrialBalanceRow]:
        return await store.read_trial_balance(connection, as_of)

    return await database.read("ledger.trial_balance", work)


async def list_journals(
    database: Database, key: UUID | Account, after: Position | None, limit: int
) -> list[WrittenJournal]:
    """At most `limit` journals of an order or an account, newest first, from `after` on."""
    before = None if after is None else (after.create_time, after.id)

    async def work(connection: AsyncConnection) -> list[WrittenJournal]:
        if isinstance(key, UUID):
            listed = await store.list_by_order(connection, key, before, limit)
        else:
            listed = await store.list_by_account(connection, key, before, limit)
        found = await store.read_journals(connection, listed)
        return [found[journal_id] for journal_id in listed]

    return await database.read("ledger.journals", work)
