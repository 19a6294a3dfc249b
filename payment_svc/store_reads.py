"""The SQL that reads payments for callers, set-wise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import groupby
from typing import Any
from uuid import UUID

from sqlalchemy import Row, TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.clock import DB_NOW
from mesh.money import Money
from payment_svc.domain import Evidence, OperationState, OrderState, PaymentState
from payment_svc.views import Listed, Operation, Order, Payment, Replicas, Standing

# The metadata, which may be larger than all the rest, once and not with each order.
_SELECT_PAYMENTS = text("""
SELECT p.payment_id, p.caller, p.request_id, p.buyer_id, p.state AS payment_state,
  p.failure_policy, p.capture_method, p.create_time, p.update_time,
  CASE WHEN q.position = 0 THEN p.metadata END AS metadata,
  q.position, q.order_id, q.seller_id, q.amount_minor, q.currency_code, q.commission_minor,
  q.reference, q.state, q.captured_minor, q.decline_category, q.decline_code,
  q.attention_reason,
  o.operation_id, o.kind, o.amount_minor AS operation_minor, o.state AS operation_state,
  o.evidence, o.psp_reference, o.create_time AS operation_time,
  o.epoch IS NULL AND NOT o.delayed AND NOT o.restart AS rests
FROM payment p
JOIN payment_order q USING (payment_id)
JOIN operation o ON o.payment_id = q.payment_id AND o.position = q.position
WHERE p.payment_id = ANY(:payment_ids)
ORDER BY p.payment_id, q.position, o.create_time, o.operation_id
""")

_SELECT_RESTING = text("""
SELECT payment_id FROM operation WHERE payment_id = ANY(:payment_ids)
GROUP BY payment_id HAVING bool_and(epoch IS NULL AND NOT delayed AND NOT restart)
""")

# What does not rest for good, through the partial indexes of what is owned, scheduled and
# parked, so that it costs as much as there is of it. The operation's state tells the order's
# where it can; where it can't (an operation of an unknown outcome), the order is asked.
_SELECT_STANDING = text(f"""
WITH moving AS MATERIALIZED (
  SELECT payment_id, position, state, create_time FROM operation WHERE epoch IS NOT NULL
  UNION ALL
  SELECT payment_id, position, state, create_time FROM operation
  WHERE next_attempt_time IS NOT NULL
), standing AS (
  SELECT CASE state WHEN 1 THEN 2 ELSE 5 END AS state, '' AS reason, create_time
  FROM moving WHERE state IN (1, 2)
  UNION ALL
  SELECT q.state, '', q.create_time
  FROM moving m JOIN payment_order q ON q.payment_id = m.payment_id AND q.position = m.position
  WHERE m.state IN (3, 4) AND q.state <> 11
  UNION ALL
  SELECT state, split_part(attention_reason, ':', 1), create_time
  FROM payment_order WHERE attention_reason <> ''
)
SELECT state, reason, count(*) AS orders,
  extract(epoch FROM {DB_NOW} - min(create_time))::float8 AS oldest_s
FROM standing GROUP BY state, reason
""")

# Each finished order leaves a dead entry in those indexes until the next vacuum. An index scan
# marks it when it first meets it and passes over it from then on; a bitmap scan, which the
# planner likes while it has no statistics, looks each of them up in the table each time.
_NO_BITMAPS = text("SET LOCAL enable_bitmapscan = off")

_SELECT_REPLICAS = text(f"""
SELECT count(*) FILTER (WHERE NOT dead) AS living,
  extract(epoch FROM max(lease_until) FILTER (WHERE epoch = :epoch AND NOT dead)
    - {DB_NOW})::float8 AS lease_left_s
FROM replica
""")


_SELECT_UPDATE_TIMES = text(
    "SELECT payment_id, update_time FROM payment WHERE payment_id = ANY(:payment_ids)"
)


async def select_payments(
    connection: AsyncConnection, payment_ids: Sequence[UUID]
) -> dict[UUID, Payment]:
    """The payments with all that is in them, by id; those that are not there are left out."""
    found = await connection.execute(_SELECT_PAYMENTS, {"payment_ids": list(payment_ids)})
    return {
        payment_id: _payment(list(rows))
        for payment_id, rows in groupby(found, key=lambda row: row.payment_id)
    }


async def select_resting(connection: AsyncConnection, payment_ids: Sequence[UUID]) -> set[UUID]:
    """Which of the payments rest, so that their callers need not wait."""
    found = await connection.execute(_SELECT_RESTING, {"payment_ids": list(payment_ids)})
    return {row.payment_id for row in found}


async def select_update_times(
    connection: AsyncConnection, payment_ids: Sequence[UUID]
) -> dict[UUID, datetime]:
    """When each of the payments last changed."""
    found = await connection.execute(_SELECT_UPDATE_TIMES, {"payment_ids": list(payment_ids)})
    return {row.payment_id: row.update_time for row in found}


async def list_payments(
    connection: AsyncConnection, filters: Mapping[str, object], limit: int
) -> list[Listed]:
    """Which payments a list has, newest first.

    filters: any of buyer_id, seller_id, state, create_time_from, create_time_to, and
    after_time with after_id, the last item of the page before.
    """
    found = await connection.execute(_list_statement(filters), {**filters, "limit": limit})
    return [Listed(row.payment_id, row.create_time, row.orders) for row in found]


_CONDITIONS = {
    "buyer_id": "p.buyer_id = :buyer_id",
    "state": "p.state = :state",
    "create_time_from": "{t}.create_time >= :create_time_from",
    "create_time_to": "{t}.create_time < :create_time_to",
    "after_time": "({t}.create_time, {t}.payment_id) < (:after_time, :after_id)",
}


# What does not rest for good is little, and may lie far back: found by the indexes of what is
# owned, scheduled and parked, and not by a walk over all that has ended. Each such order is in
# one of them, which the metrics rely on, too.
_OF_STATE = {
    PaymentState.PROCESSING: """p.payment_id = ANY(ARRAY(
  SELECT payment_id FROM operation WHERE epoch IS NOT NULL
  UNION ALL SELECT payment_id FROM operation WHERE next_attempt_time IS NOT NULL))""",
    PaymentState.NEEDS_ATTENTION: """p.payment_id = ANY(ARRAY(
  SELECT payment_id FROM payment_order WHERE attention_reason <> ''))""",
}


def _list_statement(filters: Mapping[str, object]) -> TextClause:
    # By seller the list walks the seller's index, whose rows are orders: one payment may
    # have several of one seller, so they are made distinct, in the index's order.
    by_seller = "seller_id" in filters
    table = "q" if by_seller else "p"
    conditions = [c.format(t=table) for name, c in _CONDITIONS.items() if name in filters]
    conditions += [c for state, c in _OF_STATE.items() if filters.get("state") == state]
    if not by_seller:
        source = "payment p"
    else:
        source = "payment_order q JOIN payment p USING (payment_id)"
        conditions.append("q.seller_id = :seller_id")
    where = " AND ".join(conditions) or "true"
    return text(
        f"SELECT DISTINCT ON ({table}.create_time, {table}.payment_id)"
        f" {table}.create_time, {table}.payment_id, p.orders FROM {source} WHERE {where}"
        f" ORDER BY {table}.create_time DESC, {table}.payment_id DESC LIMIT :limit"
    )


async def select_standing(connection: AsyncConnection) -> list[Standing]:
    """The orders that do not rest for good, counted by state and reason for attention.

    In a transaction, of which it changes the plans of what follows.
    """
    await connection.execute(_NO_BITMAPS)
    return [
        Standing(OrderState(row.state), row.reason, row.orders, row.oldest_s)
        for row in await connection.execute(_SELECT_STANDING)
    ]


async def select_replicas(connection: AsyncConnection, epoch: int) -> Replicas:
    """How many replicas are not dead, and what is left of the lease of this epoch."""
    row = (await connection.execute(_SELECT_REPLICAS, {"epoch": epoch})).one()
    return Replicas(row.living, row.lease_left_s or 0.0)


def _payment(rows: Sequence[Row[Any]]) -> Payment:
    first = rows[0]
    return Payment(
        payment_id=first.payment_id,
        caller=first.caller,
        request_id=first.request_id,
        buyer_id=first.buyer_id,
        state=PaymentState(first.payment_state),
        failure_policy=first.failure_policy,
        capture_method=first.capture_method,
        metadata=first.metadata,
        create_time=first.create_time,
        update_time=first.update_time,
        orders=[_order(list(group)) for _, group in groupby(rows, key=lambda row: row.position)],
        rests=all(row.rests for row in rows),
    )


def _order(rows: Sequence[Row[Any]]) -> Order:
    first = rows[0]
    return Order(
        order_id=first.order_id,
        seller_id=first.seller_id,
        amount=Money(first.amount_minor, first.currency_code),
        commission_minor=first.commission_minor,
        reference=first.reference,
        state=OrderState(first.state),
        captured_minor=first.captured_minor,
        decline_category=first.decline_category,
        decline_code=first.decline_code,
        attention_reason=first.attention_reason,
        operations=[
            Operation(
                operation_id=row.operation_id,
                kind=row.kind,
                amount=Money(row.operation_minor, row.currency_code),
                state=OperationState(row.operation_state),
                evidence=Evidence(row.evidence),
                psp_reference=row.psp_reference,
                create_time=row.operation_time,
            )
            for row in rows
        ],
    )
