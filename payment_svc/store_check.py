"""The SQL of the check: payments in pages, and orders back on the conveyor."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import groupby
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.clock import DB_NOW
from mesh.money import Money
from payment_svc.checked import NOT_ENDED, CheckedOrder, CheckedPayment
from payment_svc.domain import CHARGE, OrderState, PaymentState
from payment_svc.views import Listed

# What is made now may not be seen yet, though it has the older time.
YOUNG_S = 5
# What is driven within this time may change while it is looked at.
SOON_S = 10

_RANGE = text(f"""
SELECT to_time, coalesce(cast(:from_time AS timestamptz),
                         greatest(to_time - interval '24 hours', '0001-01-01 00:00:00+00'))
FROM (SELECT least(cast(:to_time AS timestamptz),
                   {DB_NOW} - make_interval(secs => {YOUNG_S})) AS to_time) AS t
""")

_PAGE = text("""
SELECT payment_id, create_time, orders FROM payment
WHERE create_time >= :from_time AND (create_time, payment_id) < (:before_time, :before_id)
ORDER BY create_time DESC, payment_id DESC
LIMIT :limit
""")

_CHECKED = text(f"""
SELECT p.payment_id, p.create_time, p.state AS payment_state, p.orders,
  q.order_id, q.position, q.seller_id, q.amount_minor, q.currency_code, q.commission_minor,
  q.state, q.captured_minor, q.attention_reason,
  o.operation_id, o.amount_minor AS operation_minor, o.psp_reference, o.attempt,
  EXISTS (SELECT FROM replica r WHERE r.epoch = o.epoch) AS driven,
  o.next_attempt_time IS NOT NULL AS scheduled,
  coalesce(o.next_attempt_time <= {DB_NOW} + make_interval(secs => {SOON_S}), false) AS soon
FROM payment p
LEFT JOIN payment_order q ON q.payment_id = p.payment_id
LEFT JOIN operation o
  ON o.payment_id = q.payment_id AND o.position = q.position AND o.kind = {CHARGE}
WHERE p.payment_id = ANY(:payment_ids)
ORDER BY p.payment_id, q.position
""")

# Conditional on what the check saw: that nobody has driven the operation since, or has it, and
# that its order has not ended. Due at once, so whichever replica looks first takes it.
_PUT_BACK = text(f"""
UPDATE operation o
SET next_attempt_time = {DB_NOW}, epoch = NULL
FROM json_to_recordset(cast(:items AS json)) AS a (
  payment_id uuid, operation_id uuid, attempt integer)
WHERE o.payment_id = a.payment_id AND o.operation_id = a.operation_id AND o.attempt = a.attempt
  AND NOT EXISTS (SELECT FROM replica r WHERE r.epoch = o.epoch)
  AND EXISTS (
    SELECT FROM payment_order q
    WHERE q.payment_id = o.payment_id AND q.position = o.position
      AND q.state IN ({", ".join(str(state.value) for state in sorted(NOT_ENDED))}))
RETURNING o.operation_id
""")


class Place(NamedTuple):
    """Where a page goes on: with what is older than this payment."""

    create_time: datetime
    payment_id: UUID


async def select_range(
    connection: AsyncConnection, from_time: datetime | None, to_time: datetime | None
) -> tuple[datetime, datetime]:
    """From (inclusive) and to (exclusive), with the defaults, by database time."""
    found = await connection.execute(
        _RANGE, {"from_time": from_time, "to_time": to_time or "infinity"}
    )
    to, start = found.one()
    return start, to


async def select_page(
    connection: AsyncConnection, from_time: datetime, before: Place, limit: int
) -> list[Listed]:
    """At most `limit` payments made at or after `from_time`, newest first, before a place."""
    found = await connection.execute(
        _PAGE,
        {
            "from_time": from_time,
            "before_time": before.create_time,
            "before_id": before.payment_id,
            "limit": limit,
        },
    )
    return [Listed(row.payment_id, row.create_time, row.orders) for row in found]


async def select_checked(
    connection: AsyncConnection, payment_ids: Sequence[UUID]
) -> Mapping[UUID, CheckedPayment]:
    """The payments with their orders and charges, from one snapshot."""
    found = await connection.execute(_CHECKED, {"payment_ids": list(payment_ids)})
    return {
        payment_id: _payment(list(rows))
        for payment_id, rows in groupby(found, key=lambda row: row.payment_id)
    }


async def put_back(connection: AsyncConnection, orders: Sequence[CheckedOrder]) -> set[UUID]:
    """Makes operations due that nobody drives; answers which."""
    items = [
        {
            "payment_id": order.payment_id.hex,
            "operation_id": order.operation_id.hex,
            "attempt": order.attempt,
        }
        # In the order in which progress is written, so that nobody waits in a circle.
        for order in sorted(orders, key=lambda order: order.payment_id)
    ]
    found = await connection.execute(_PUT_BACK, {"items": json.dumps(items)})
    return set(found.scalars())


def _payment(rows: Sequence[Row[Any]]) -> CheckedPayment:
    first = rows[0]
    stored = [row for row in rows if row.order_id is not None]
    return CheckedPayment(
        payment_id=first.payment_id,
        create_time=first.create_time,
        state=PaymentState(first.payment_state),
        order_count=first.orders,
        orders=list(_orders(stored)),
        without_operation=sum(row.operation_id is None for row in stored),
    )


def _orders(rows: Sequence[Row[Any]]) -> Iterator[CheckedOrder]:
    for row in rows:
        if row.operation_id is not None:
            yield CheckedOrder(
                payment_id=row.payment_id,
                order_id=row.order_id,
                operation_id=row.operation_id,
                position=row.position,
                seller_id=row.seller_id,
                amount=Money(row.amount_minor, row.currency_code),
                operation_minor=row.operation_minor,
                commission_minor=row.commission_minor,
                state=OrderState(row.state),
                captured_minor=row.captured_minor,
                psp_reference=row.psp_reference,
                attention_reason=row.attention_reason,
                attempt=row.attempt,
                driven=row.driven,
                scheduled=row.scheduled,
                soon=row.soon,
            )
