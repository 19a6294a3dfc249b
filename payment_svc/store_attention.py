"""The SQL that finds what needs attention: by the indexes of what is owned, scheduled and parked.

What does not rest for good is in one of the three; what has come to its end is in none, so a
look costs what is open and not what there ever was. Each is read in its index's order: unlike a
bitmap of it, which the planner likes while it has no statistics, that passes over the dead
entries of what has ended since the last vacuum.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.clock import DB_NOW
from payment_svc.domain import OPEN_STATES

# Payments, not orders, are told of: of many orders of one payment one id is left.
_IDS = "(array_agg(payment_id ORDER BY create_time))[1:100] AS payment_ids"

NO_BITMAPS = text("SET LOCAL enable_bitmapscan = off")

_OPEN_STATES = ", ".join(str(state.value) for state in sorted(OPEN_STATES))

OPEN_SQL = f"""
WITH open AS MATERIALIZED (
  (SELECT payment_id, position FROM operation
   WHERE next_attempt_time IS NOT NULL ORDER BY next_attempt_time LIMIT :most)
  UNION ALL
  (SELECT payment_id, position FROM operation WHERE epoch IS NOT NULL ORDER BY epoch LIMIT :most)
), old AS (
  SELECT q.payment_id, q.create_time, q.state, '' AS reason
  FROM open o
  JOIN payment_order q ON q.payment_id = o.payment_id AND q.position = o.position
  WHERE q.state IN ({_OPEN_STATES}) AND q.create_time <= {DB_NOW} - cast(:age AS interval)
  UNION ALL
  (SELECT payment_id, create_time, state, split_part(attention_reason, ':', 1)
   FROM payment_order WHERE attention_reason <> '' ORDER BY create_time LIMIT :most)
)
SELECT state, reason, least(count(*), :most) AS orders, min(create_time) AS oldest_time, {_IDS}
FROM old GROUP BY state, reason ORDER BY state DESC, reason
"""
_OPEN = text(OPEN_SQL)

OVERDUE_SQL = f"""
SELECT count(*) AS orders, min(next_attempt_time) AS oldest_time, {_IDS}
FROM (
  SELECT payment_id, create_time, next_attempt_time FROM operation
  WHERE next_attempt_time <= {DB_NOW} - cast(:grace AS interval)
  ORDER BY next_attempt_time LIMIT :most
) late
"""
_OVERDUE = text(OVERDUE_SQL)

ORPHANED_SQL = f"""
SELECT count(*) AS orders, min(r.lease_until) AS oldest_time, {_IDS}
FROM (
  SELECT payment_id, create_time, epoch FROM operation
  WHERE epoch IS NOT NULL ORDER BY epoch LIMIT :most
) o JOIN replica r USING (epoch)
WHERE r.lease_until <= {DB_NOW} - cast(:grace AS interval)
"""
_ORPHANED = text(ORPHANED_SQL)

LEASES_SQL = """
SELECT epoch, name, lease_until, dead
FROM (SELECT * FROM replica ORDER BY epoch DESC LIMIT :most) r
WHERE NOT dead OR epoch = ANY(ARRAY(
  SELECT o.epoch FROM operation o WHERE o.epoch IS NOT NULL ORDER BY o.epoch LIMIT :counted))
ORDER BY epoch DESC
"""
_LEASES = text(LEASES_SQL)


async def without_bitmaps(connection: AsyncConnection) -> None:
    """Until the transaction ends, indexes are read in their order: see the module."""
    await connection.execute(NO_BITMAPS)


async def select_open(connection: AsyncConnection, age: timedelta, most: int) -> Sequence[Row[Any]]:
    """(state, reason, orders, oldest_time, payment_ids) of orders that are parked or open.

    Parked at any age, by the first word of their reason; the others from `age` on.
    """
    return (await connection.execute(_OPEN, {"age": age, "most": most})).all()


async def select_overdue(connection: AsyncConnection, grace: timedelta, most: int) -> Row[Any]:
    """(orders, oldest_time, payment_ids) of operations that nobody takes."""
    return (await connection.execute(_OVERDUE, {"grace": grace, "most": most})).one()


async def select_orphaned(connection: AsyncConnection, grace: timedelta, most: int) -> Row[Any]:
    """(orders, oldest_time, payment_ids) of operations whose owner's lease is over."""
    return (await connection.execute(_ORPHANED, {"grace": grace, "most": most})).one()


async def select_leases(connection: AsyncConnection, most: int, counted: int) -> Sequence[Row[Any]]:
    """(epoch, name, lease_until, dead) of the newest replicas that live or own something."""
    return (await connection.execute(_LEASES, {"most": most, "counted": counted})).all()
