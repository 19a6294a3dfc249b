"""The tables of ledger_svc and their SQL: inserts and reads, nothing else is granted."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import TypeAlias
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from ledger_svc.domain import (
    Account,
    AccountKind,
    Direction,
    Entry,
    Journal,
    JournalKind,
    TrialBalanceRow,
    WrittenJournal,
)

Before: TypeAlias = tuple[datetime, UUID] | None
"""A list goes on with what is older than this (create_time, journal_id); None: from the start."""

# Journals and entries are one statement, because the triggers check at its end that each
# journal has all its entries and that they balance.
#
# They travel as one JSON document: psycopg writes an array element by element in Python,
# which cost half as much again as all the rest of a list here.
#
# The first journal of an event is its key. Who writes that one writes the event's other
# journals too, and nobody else does; a conflict on another one is an error, not a replay.
_INSERT_EVENTS = text("""
WITH asked AS (
  SELECT *
  FROM json_to_recordset(cast(:journals AS json))
       AS j (key uuid, journal_id uuid, kind smallint, operation_id uuid, revision integer,
             order_id uuid, reverses uuid, psp_reference text, line_count smallint, entries json)
), won AS (
  INSERT INTO journal (journal_id, kind, operation_id, revision, order_id, reverses,
                       psp_reference, line_count)
  SELECT journal_id, kind, operation_id, revision, order_id, reverses, psp_reference, line_count
  FROM asked
  WHERE journal_id = key
  ON CONFLICT (journal_id) DO NOTHING
  RETURNING journal_id AS key
), others AS (
  INSERT INTO journal (journal_id, kind, operation_id, revision, order_id, reverses,
                       psp_reference, line_count)
  SELECT journal_id, kind, operation_id, revision, order_id, reverses, psp_reference, line_count
  FROM asked JOIN won USING (key)
  WHERE journal_id <> key
), booked AS (
  INSERT INTO entry (journal_id, line, account_kind, owner_id, source, currency, direction,
                     amount_minor)
  SELECT journal_id, line, account_kind, owner_id, source, currency, direction, amount_minor
  FROM asked JOIN won USING (key),
       json_to_recordset(entries)
       AS e (line smallint, account_kind smallint, owner_id text,
             source text, currency text, direction smallint, amount_minor bigint)
)
SELECT key FROM won
""")

_READ_JOURNALS = text("""
SELECT journal_id, kind, operation_id, revision, order_id, reverses, psp_reference, create_time
FROM journal
WHERE journal_id = ANY(cast(:journal_ids AS uuid[]))
""")

_READ_ENTRIES = text("""
SELECT journal_id, account_kind, owner_id, source, currency, direction, amount_minor
FROM entry
WHERE journal_id = ANY(cast(:journal_ids AS uuid[]))
ORDER BY journal_id, line
""")

# Those of an operation by their keys, and whatever else names its order.
_FIND_JOURNALS = text("""
SELECT journal_id FROM journal WHERE journal_id = ANY(cast(:journal_ids AS uuid[]))
UNION
SELECT journal_id FROM journal WHERE order_id = ANY(cast(:order_ids AS uuid[]))
""")

# An index-only range scan of entry_by_account; the sum has the sign of the debit side.
BALANCE_SQL = """
SELECT coalesce(sum(CASE direction WHEN 1 THEN amount_minor ELSE -amount_minor END), 0)
FROM entry
WHERE account_kind = :account_kind AND owner_id = :owner_id AND source = :source
  AND currency = :currency AND create_time <= cast(:as_of AS timestamptz)
"""
_BALANCE = text(BALANCE_SQL)

_TRIAL_BALANCE = text("""
SELECT account_kind, source, currency,
       coalesce(sum(amount_minor) FILTER (WHERE direction = 1), 0) AS debit_minor,
       coalesce(sum(amount_minor) FILTER (WHERE direction = 2), 0) AS credit_minor
FROM entry
WHERE create_time <= cast(:as_of AS timestamptz)
GROUP BY account_kind, source, currency
ORDER BY account_kind, source, currency
""")

_LIST_BY_ORDER = text("""
SELECT journal_id
FROM journal
WHERE order_id = :order_id
  AND (create_time, journal_id) < (cast(:before_time AS timestamptz), cast(:before_id AS uuid))
ORDER BY create_time DESC, journal_id DESC
LIMIT :limit
""")

# A journal may have two lines on one account, hence DISTINCT; the index gives the order.
LIST_BY_ACCOUNT_SQL = """
SELECT DISTINCT create_time, journal_id
FROM entry
WHERE account_kind = :account_kind AND owner_id = :owner_id AND source = :source
  AND (create_time, journal_id) < (cast(:before_time AS timestamptz), cast(:before_id AS uuid))
ORDER BY create_time DESC, journal_id DESC
LIMIT :limit
"""
_LIST_BY_ACCOUNT = text(LIST_BY_ACCOUNT_SQL)

_END_OF_TIME = "infinity"


async def insert_events(
    connection: AsyncConnection, events: Sequence[tuple[Journal, ...]]
) -> set[UUID]:
    """Writes the journals of the events whose first journal is not there yet.

    events: each its journals, no first journal twice. Returns the first journals' ids of
    the events that were written, each wholly. Of the others a first journal is stored, and
    a later statement of the same transaction can see it.
    """
    # In one order, so that two lists with the same events never wait for each other.
    ordered = sorted(events, key=lambda journals: journals[0].journal_id)
    journals = [
        _journal_row(event[0].journal_id, journal) for event in ordered for journal in event
    ]
    rows = await connection.execute(_INSERT_EVENTS, {"journals": json.dumps(journals)})
    return set(rows.scalars())


def _journal_row(key: UUID, journal: Journal) -> dict[str, object]:
    return {
        "key": key.hex,
        "journal_id": journal.journal_id.hex,
        "kind": journal.kind,
        "operation_id": journal.operation_id.hex,
        "revision": journal.revision,
        "order_id": journal.order_id.hex,
        "reverses": None if journal.reverses is None else journal.reverses.hex,
        "psp_reference": journal.psp_reference,
        "line_count": len(journal.entries),
        "entries": [_entry_row(line, entry) for line, entry in enumerate(journal.entries)],
    }


def _entry_row(line: int, entry: Entry) -> dict[str, object]:
    return {
        "line": line,
        "account_kind": entry.account.kind,
        "owner_id": entry.account.owner_id,
        "source": entry.account.source,
        "currency": entry.currency_code,
        "direction": entry.direction,
        "amount_minor": entry.amount_minor,
    }


async def read_journals(
    connection: AsyncConnection, journal_ids: Sequence[UUID]
) -> dict[UUID, WrittenJournal]:
    """The stored journals of these ids with their entries."""
    parameters = {"journal_ids": list(journal_ids)}
    entries: dict[UUID, list[Entry]] = {}
    for row in await connection.execute(_READ_ENTRIES, parameters):
        account = Account(AccountKind(row.account_kind), row.owner_id, row.source)
        entry = Entry(account, Direction(row.direction), row.currency, row.amount_minor)
        entries.setdefault(row.journal_id, []).append(entry)
    return {
        row.journal_id: WrittenJournal(
            Journal(
                row.journal_id,
                JournalKind(row.kind),
                row.operation_id,
                row.revision,
                row.order_id,
                tuple(entries.get(row.journal_id, ())),
                row.reverses,
                row.psp_reference,
            ),
            row.create_time,
        )
        for row in await connection.execute(_READ_JOURNALS, parameters)
    }


async def find_journals(
    connection: AsyncConnection, journal_ids: Collection[UUID], order_ids: Collection[UUID]
) -> list[UUID]:
    """The ids of the stored ones of these journals, and of all journals of the orders."""
    rows = await connection.execute(
        _FIND_JOURNALS, {"journal_ids": list(journal_ids), "order_ids": list(order_ids)}
    )
    return list(rows.scalars())


async def read_balance(
    connection: AsyncConnection, account: Account, currency_code: str, as_of: datetime | None
) -> int:
    """Debits less credits of an account in a currency, up to and including `as_of`."""
    rows = await connection.execute(
        _BALANCE,
        {
            "account_kind": int(account.kind),
            "owner_id": account.owner_id,
            "source": account.source,
            "currency": currency_code,
            "as_of": as_of or _END_OF_TIME,
        },
    )
    return int(rows.scalar_one())


async def read_trial_balance(
    connection: AsyncConnection, as_of: datetime | None
) -> list[TrialBalanceRow]:
    """The sums of both sides by kind, source and currency, up to and including `as_of`."""
    rows = await connection.execute(_TRIAL_BALANCE, {"as_of": as_of or _END_OF_TIME})
    return [
        TrialBalanceRow(
            AccountKind(row.account_kind),
            row.source,
            row.currency,
            int(row.debit_minor),
            int(row.credit_minor),
        )
        for row in rows
    ]


async def list_by_order(
    connection: AsyncConnection, order_id: UUID, before: Before, limit: int
) -> list[UUID]:
    """At most `limit` journals of an order, newest first, older than `before`."""
    rows = await connection.execute(
        _LIST_BY_ORDER, {"order_id": order_id, "limit": limit, **_before(before)}
    )
    return list(rows.scalars())


async def list_by_account(
    connection: AsyncConnection, account: Account, before: Before, limit: int
) -> list[UUID]:
    """At most `limit` journals with a line on an account, newest first, older than `before`."""
    rows = await connection.execute(
        _LIST_BY_ACCOUNT,
        {
            "account_kind": int(account.kind),
            "owner_id": account.owner_id,
            "source": account.source,
            "limit": limit,
            **_before(before),
        },
    )
    return [row.journal_id for row in rows]


def _before(before: Before) -> dict[str, object]:
    if before is None:
        return {"before_time": _END_OF_TIME, "before_id": UUID(int=0)}
    return {"before_time": before[0], "before_id": before[1]}
