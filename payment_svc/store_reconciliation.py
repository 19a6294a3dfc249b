"""The SQL of what the reconciliation is asked and told: what is unknown, and what it must know.

Both are read page by page in the order of a partial index that holds nothing else, so that a
look costs what is open and not what there ever was.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import TypeAlias
from uuid import UUID

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.money import Money
from payment_svc.domain import OperationState, OrderState
from payment_svc.views import UnknownOperation, Unregistered

Place: TypeAlias = tuple[datetime, UUID] | None
"""A page begins after this (create_time, operation_id); None: at the start."""

_AFTER = """
(o.create_time, o.operation_id) > (cast(:after_time AS timestamptz), cast(:after_id AS uuid))
"""

_FAILED, _UNKNOWN_STATE = OperationState.FAILED.value, OperationState.UNKNOWN.value

_OPEN = f"""
SELECT o.payment_id, q.order_id, o.operation_id, o.amount_minor, q.currency_code, o.create_time
FROM operation o
JOIN payment_order q ON q.payment_id = o.payment_id AND q.position = o.position
WHERE {{operations}} AND {_AFTER}
  AND o.epoch IS NULL AND NOT o.restart
  AND ({{orders}})
ORDER BY o.create_time, o.operation_id LIMIT :most
"""
# What is parked for another reason was captured, was refused, or waits for an operator with
# what is known of it already.
UNKNOWN_SQL = _OPEN.format(
    operations=f"o.state = {_UNKNOWN_STATE}",
    orders=f"""q.state = {OrderState.UNKNOWN.value}
       OR q.state = {OrderState.PARKED.value}
          AND split_part(q.attention_reason, ':', 1) = 'OUTCOME_UNKNOWN'""",
)
_UNKNOWN = text(UNKNOWN_SQL)
PENDING_SQL = _OPEN.format(
    operations=f"o.state = {OperationState.PENDING.value} AND o.next_attempt_time IS NOT NULL",
    orders=f"q.state = {OrderState.PROCESSING.value}",
)
_PENDING = text(PENDING_SQL)

# By its state, too: a replica of an earlier release marks nothing.
UNREGISTERED_SQL = f"""
SELECT o.payment_id, q.order_id, o.operation_id, o.kind, o.amount_minor, q.currency_code,
  q.state, split_part(q.attention_reason, ':', 1) AS reason, o.psp_reference, o.attempt,
  o.create_time
FROM operation o
JOIN payment_order q ON q.payment_id = o.payment_id AND q.position = o.position
WHERE (o.unregistered OR (o.state IN ({_FAILED}, {_UNKNOWN_STATE}) AND NOT o.in_register))
  AND {_AFTER}
ORDER BY o.create_time, o.operation_id LIMIT :most
"""
_UNREGISTERED = text(UNREGISTERED_SQL)

# Only what was not driven since it was read: else there is more to be told.
MARK_REGISTERED_SQL = """
UPDATE operation o SET unregistered = false, in_register = true
FROM json_to_recordset(cast(:told AS json)) AS t(
  payment_id uuid, operation_id uuid, attempt integer)
WHERE o.payment_id = t.payment_id AND o.operation_id = t.operation_id
  AND o.attempt = t.attempt
"""
_MARK_REGISTERED = text(MARK_REGISTERED_SQL)


async def select_unknown(
    connection: AsyncConnection, after: Place, most: int
) -> list[UnknownOperation]:
    """Operations of orders that are unknown, or parked as such, and that nobody drives."""
    return await _open(connection, _UNKNOWN, after, most)


async def select_pending(
    connection: AsyncConnection, after: Place, most: int
) -> list[UnknownOperation]:
    """Operations that are asked about later, because the PSP said so or was not asked yet."""
    return await _open(connection, _PENDING, after, most)


async def _open(
    connection: AsyncConnection, statement: TextClause, after: Place, most: int
) -> list[UnknownOperation]:
    return [
        UnknownOperation(
            row.payment_id,
            row.order_id,
            row.operation_id,
            Money(row.amount_minor, row.currency_code),
            row.create_time,
        )
        for row in await connection.execute(statement, _page(after, most))
    ]


async def select_unregistered(
    connection: AsyncConnection, after: Place, most: int
) -> list[Unregistered]:
    """Operations of which the ledger's register has something to be told."""
    return [
        Unregistered(
            row.payment_id,
            row.order_id,
            row.operation_id,
            row.kind,
            Money(row.amount_minor, row.currency_code),
            OrderState(row.state),
            row.reason,
            row.psp_reference,
            row.attempt,
            row.create_time,
        )
        for row in await connection.execute(_UNREGISTERED, _page(after, most))
    ]


async def mark_registered(connection: AsyncConnection, told: Sequence[Unregistered]) -> None:
    """Notes what was told, as far as nothing was learnt since."""
    rows = [
        {
            "payment_id": one.payment_id.hex,
            "operation_id": one.operation_id.hex,
            "attempt": one.attempt,
        }
        # In one order everywhere: another replica may note the same.
        for one in sorted(told, key=lambda one: one.operation_id)
    ]
    await connection.execute(_MARK_REGISTERED, {"told": json.dumps(rows)})


def _page(after: Place, most: int) -> dict[str, object]:
    after_time, after_id = after or ("-infinity", UUID(int=0))
    return {"after_time": after_time, "after_id": after_id, "most": most}
