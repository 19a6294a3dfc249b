"""The tables of wallet_svc and their SQL; set-wise, one statement a list."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from wallet_svc.domain import Applied, Balance, ListedMovement, Movement, MovementKind, Split

# The balances change only by what RETURNING gave: a key that was there before, or that a
# concurrent transaction has just written, comes back from the insert as nothing.
#
# Locks are taken in one order by everyone: first the keys of the movements, in the
# order of the document (the aggregate reads all of `inserted` before a balance is touched),
# then the balances in theirs.
#
# The list travels as one JSON document: psycopg writes an array element by element in
# Python, which cost as much as all the rest of a list here.
#
# The sums go through the VALUES of an insert, and its CHECKs see them before the conflict
# does: kinds that make a balance smaller will need an UPDATE.
_INSERT_MOVEMENTS = text("""
WITH inserted AS (
  INSERT INTO movement (movement_id, operation_id, revision, kind, seller_id, order_id, currency,
                        amount_minor, pending_minor, available_minor, debt_minor)
  SELECT *
  FROM json_to_recordset(cast(:movements AS json))
       AS m (movement_id uuid, operation_id uuid, revision integer, kind smallint,
             seller_id text, order_id uuid, currency text, amount_minor bigint,
             pending_minor bigint, available_minor bigint, debt_minor bigint)
  ON CONFLICT (movement_id) DO NOTHING
  RETURNING movement_id, seller_id, currency, pending_minor, available_minor, debt_minor
), changed AS (
  INSERT INTO balance AS b (seller_id, currency, pending_minor, available_minor, debt_minor)
  SELECT seller_id, currency, sum(pending_minor), sum(available_minor), sum(debt_minor)
  FROM inserted
  GROUP BY seller_id, currency
  ORDER BY seller_id, currency
  ON CONFLICT (seller_id, currency) DO UPDATE
  SET pending_minor = b.pending_minor + excluded.pending_minor,
      available_minor = b.available_minor + excluded.available_minor,
      debt_minor = b.debt_minor + excluded.debt_minor
)
SELECT movement_id FROM inserted
""")

_READ_MOVEMENTS = text("""
SELECT movement_id, operation_id, revision, kind, seller_id, order_id, currency,
       amount_minor, pending_minor, available_minor, debt_minor
FROM movement
WHERE movement_id = ANY(cast(:movement_ids AS uuid[]))
""")

_LIST_MOVEMENTS = text("""
SELECT movement_id, kind, currency, amount_minor, order_id, create_time
FROM movement
WHERE seller_id = :seller_id
  AND (create_time, movement_id) < (cast(:before_time AS timestamptz), cast(:before_id AS uuid))
ORDER BY create_time DESC, movement_id DESC
LIMIT :limit
""")

_READ_BALANCES = text("""
SELECT currency, pending_minor, available_minor, reserved_minor, debt_minor
FROM balance
WHERE seller_id = :seller_id
ORDER BY currency
""")

_END_OF_TIME = ("infinity", UUID(int=0))


async def insert_movements(connection: AsyncConnection, movements: Sequence[Applied]) -> set[UUID]:
    """Writes the movements whose keys are free, and changes the balances by those.

    movements: no key twice. Returns the keys that were written. Of the others some
    movement is stored, and a later statement of the same transaction can see it.
    """
    document = json.dumps([_row(movement) for movement in sorted(movements)])
    rows = await connection.execute(_INSERT_MOVEMENTS, {"movements": document})
    return set(rows.scalars())


def _row(applied: Applied) -> dict[str, object]:
    movement, split = applied.movement, applied.split
    return {
        "movement_id": applied.movement_id.hex,
        "operation_id": movement.operation_id.hex,
        "revision": movement.revision,
        "kind": movement.kind,
        "seller_id": movement.seller_id,
        "order_id": movement.order_id.hex,
        "currency": movement.currency_code,
        "amount_minor": movement.amount_minor,
        "pending_minor": split.pending_minor,
        "available_minor": split.available_minor,
        "debt_minor": split.debt_minor,
    }


async def read_movements(
    connection: AsyncConnection, movement_ids: Sequence[UUID]
) -> list[Applied]:
    """The stored movements of these keys, in any order."""
    rows = await connection.execute(_READ_MOVEMENTS, {"movement_ids": list(movement_ids)})
    return [
        Applied(
            row.movement_id,
            Movement(
                row.operation_id,
                row.revision,
                MovementKind(row.kind),
                row.seller_id,
                row.order_id,
                row.currency,
                row.amount_minor,
            ),
            Split(row.pending_minor, row.available_minor, row.debt_minor),
        )
        for row in rows
    ]


async def list_movements(
    connection: AsyncConnection,
    seller_id: str,
    before: tuple[datetime, UUID] | None,
    limit: int,
) -> list[ListedMovement]:
    """At most `limit` movements of a seller, newest first, older than `before`."""
    before_time, before_id = before or _END_OF_TIME
    rows = await connection.execute(
        _LIST_MOVEMENTS,
        {
            "seller_id": seller_id,
            "before_time": before_time,
            "before_id": before_id,
            "limit": limit,
        },
    )
    return [ListedMovement(*row) for row in rows]


async def read_balances(connection: AsyncConnection, seller_id: str) -> list[Balance]:
    """A seller's balances by currency; none for an unknown seller."""
    rows = await connection.execute(_READ_BALANCES, {"seller_id": seller_id})
    return [Balance(*row) for row in rows]
