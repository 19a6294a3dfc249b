"""The SQL that accepts payments and moves their items: set-wise, one round trip a list.

Reads for callers are in store_reads.py.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from itertools import groupby
from typing import Any
from uuid import UUID

from sqlalchemy import Row, TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh import ids
from mesh.clock import DB_NOW
from payment_svc import domain
from payment_svc.domain import (
    Item,
    NewOrder,
    NewPayment,
    NewRetry,
    News,
    OperationState,
    OrderState,
    Progress,
    Trip,
)

# One statement, so that a payment never exists without its orders. Lists travel as one
# JSON value: half the cost of arrays on the Python side. RETURNING gives new rows only.
_INSERT = text(f"""
WITH asked_payment AS (
  SELECT * FROM json_to_recordset(cast(:payments as json)) AS p(
    payment_id uuid, caller text, request_id text, buyer_id text, payment_method text,
    failure_policy smallint, capture_method smallint, metadata json, orders smallint)
), new_payment AS (
  INSERT INTO payment (payment_id, caller, request_id, request_version, buyer_id,
    payment_method, failure_policy, capture_method, metadata, create_time, update_time,
    orders, open_orders)
  SELECT payment_id, caller, request_id, {domain.REQUEST_VERSION}, buyer_id, payment_method,
    failure_policy, capture_method, metadata, {DB_NOW}, {DB_NOW}, orders, orders
  FROM asked_payment
  ON CONFLICT (payment_id) DO NOTHING
  RETURNING payment_id, create_time
), asked_order AS (
  SELECT o.*, n.create_time
  FROM json_to_recordset(cast(:orders as json)) AS o(
    payment_id uuid, position smallint, order_id uuid, operation_id uuid, seller_id text,
    currency_code text, amount_minor bigint, commission_minor bigint, reference text)
  JOIN new_payment n USING (payment_id)
), new_order AS (
  INSERT INTO payment_order (payment_id, position, order_id, seller_id, currency_code,
    amount_minor, commission_minor, reference, create_time, state)
  SELECT payment_id, position, order_id, seller_id, currency_code, amount_minor,
    commission_minor, reference, create_time, {OrderState.PROCESSING.value}
  FROM asked_order
), new_operation AS (
  INSERT INTO operation (payment_id, operation_id, position, kind, amount_minor, state,
    create_time, epoch)
  SELECT payment_id, operation_id, position, {domain.CHARGE}, amount_minor,
    {OperationState.PENDING.value}, create_time, :epoch
  FROM asked_order
)
SELECT payment_id, create_time FROM new_payment
""")

_SELECT_REQUESTS = text("""
SELECT p.payment_id, p.caller, p.request_id, p.buyer_id, p.payment_method, p.failure_policy,
  p.capture_method, CASE WHEN o.position = 0 THEN p.metadata END AS metadata,
  o.seller_id, o.amount_minor, o.currency_code, o.commission_minor, o.reference
FROM payment p JOIN payment_order o USING (payment_id)
WHERE p.payment_id = ANY(:payment_ids)
ORDER BY p.payment_id, o.position
""")

# Conditional on the owner's epoch and attempt, and on the state that the owner knew: what
# another replica took over meanwhile, or this one took again, is not written, and RETURNING
# tells. A definite state of an operation (2, 3) is never replaced by an indefinite one.
# A restart that an operator asked for while an older trip was under way is due at once; one
# that could not even ask the executor stays one.
# IS TRUE hides the epoch from the planner: its index looks empty to statistics that were
# made while nothing was under way, and is then read whole for each item.
_RECORD = text(f"""
WITH asked AS (
  SELECT * FROM json_to_recordset(cast(:items as json)) AS i(
    payment_id uuid, operation_id uuid, position smallint, epoch bigint, from_state smallint,
    state smallint, operation_state smallint, evidence smallint, psp_reference text,
    captured_minor bigint, decline_category smallint, decline_code text,
    attention_reason text, attempt integer, retry_after_s float8, delayed boolean,
    restart boolean, news smallint)
), moved AS (
  UPDATE operation o
  SET epoch = NULL,
    state = CASE WHEN o.state IN (2, 3) AND a.operation_state IN (1, 4) THEN o.state
      ELSE coalesce(a.operation_state, o.state) END,
    evidence = coalesce(a.evidence, o.evidence),
    psp_reference = coalesce(a.psp_reference, o.psp_reference),
    attempt = a.attempt + 1, delayed = a.delayed,
    restart = o.restart AND a.state = {OrderState.PARKED.value} AND (a.delayed OR NOT a.restart),
    in_register = o.in_register OR a.news > {News.IF_REGISTERED.value},
    unregistered = o.unregistered OR CASE a.news
      WHEN {News.IF_REGISTERED.value} THEN o.in_register
      WHEN {News.IF_NOT_REGISTERED.value} THEN NOT o.in_register
      ELSE a.news = {News.ALWAYS.value} END,
    next_attempt_time = {DB_NOW} + make_interval(secs =>
      CASE WHEN o.restart AND a.state = {OrderState.PARKED.value} AND NOT a.restart THEN 0
        ELSE a.retry_after_s END)
  FROM asked a
  WHERE o.payment_id = a.payment_id AND o.operation_id = a.operation_id
    AND (o.epoch = a.epoch AND o.attempt = a.attempt) IS TRUE
  RETURNING a.*
), changed AS (
  UPDATE payment_order p
  SET state = m.state, captured_minor = coalesce(m.captured_minor, p.captured_minor),
    decline_category = m.decline_category, decline_code = m.decline_code,
    attention_reason = coalesce(m.attention_reason, p.attention_reason)
  FROM moved m
  WHERE p.payment_id = m.payment_id AND p.position = m.position AND p.state = m.from_state
  RETURNING p.payment_id, old.state AS old_state, new.state AS new_state
), counted AS (
  UPDATE payment p
  SET open_orders = p.open_orders + d.opened, parked_orders = p.parked_orders + d.parked,
    succeeded_orders = p.succeeded_orders + d.succeeded,
    declined_orders = p.declined_orders + d.declined, update_time = {DB_NOW}
  FROM (
    SELECT payment_id,
      sum((new_state IN (1, 2, 3, 5))::int - (old_state IN (1, 2, 3, 5))::int) AS opened,
      sum((new_state = 11)::int - (old_state = 11)::int) AS parked,
      sum((new_state = 6)::int - (old_state = 6)::int) AS succeeded,
      sum((new_state = 7)::int - (old_state = 7)::int) AS declined
    FROM changed GROUP BY payment_id
  ) d
  WHERE p.payment_id = d.payment_id
)
-- An owner that is wrong about an order's state is a bug: the division fails the statement.
SELECT operation_id, epoch, attempt, {DB_NOW} AS update_time,
  1 / (CASE WHEN (SELECT count(*) FROM moved) = (SELECT count(*) FROM changed)
       THEN 1 ELSE 0 END) AS whole
FROM moved
""")

_ITEM_COLUMNS = """
  o.payment_id, q.order_id, o.operation_id, o.position, q.seller_id, o.amount_minor,
  q.currency_code, q.commission_minor, p.payment_method, q.state, o.attempt, o.epoch, o.restart,
  q.captured_minor > 0 AS captured
"""

# A conditional update that returns what it won: two replicas that see the same rows get
# each of them once, without row locks that work on one node only. Arrays and IS TRUE leave
# one plan only, by the primary key: usually nothing is found, so the planner expects nothing,
# and of two ways to nothing it may like one that takes a minute when there is something.
_TAKE = """
WITH found AS MATERIALIZED (
  SELECT payment_id, operation_id FROM operation WHERE {found} LIMIT :most
), taken AS (
  UPDATE operation SET epoch = :epoch, next_attempt_time = NULL
  WHERE payment_id = ANY(ARRAY(SELECT payment_id FROM found))
    AND operation_id = ANY(ARRAY(SELECT operation_id FROM found))
    AND ({found}) IS TRUE
  RETURNING *
)
SELECT {columns} FROM taken o
JOIN payment_order q ON q.payment_id = o.payment_id AND q.position = o.position
JOIN payment p ON p.payment_id = o.payment_id
"""

_TAKE_DUE = text(
    _TAKE.format(columns=_ITEM_COLUMNS, found=f"next_attempt_time <= {DB_NOW} AND epoch IS NULL")
)
_TAKE_OF_DEAD = text(
    _TAKE.format(
        columns=_ITEM_COLUMNS,
        found="epoch = ANY(ARRAY(SELECT r.epoch FROM replica r WHERE r.dead))",
    )
)
# Not what an operator's round is about to begin for: that one asks the PSP.
_TAKE_UNKNOWN = text(
    _TAKE.format(
        columns=_ITEM_COLUMNS,
        found="payment_id = ANY(:payment_ids) AND operation_id = ANY(:operation_ids)"
        f" AND state IN ({OperationState.PENDING.value}, {OperationState.UNKNOWN.value})"
        " AND epoch IS NULL AND NOT restart",
    )
)
_SELECT_OWN_IDS = text("SELECT operation_id FROM operation WHERE epoch = :epoch")
_SELECT_OWN = text(f"""
SELECT {_ITEM_COLUMNS} FROM operation o
JOIN payment_order q ON q.payment_id = o.payment_id AND q.position = o.position
JOIN payment p ON p.payment_id = o.payment_id
WHERE o.epoch = :epoch AND o.operation_id = ANY(:operation_ids)
""")

# An order changes only in the statement that moves its operation. So who holds the operations
# sees in the next statement how the orders stand, and they stand so until it commits. Without
# that, _RETRY would wait for a trip that is just ending, and then take the order by what it saw
# before. By key, as they are taken and recorded, so that hardly ever two wait in a circle.
_HOLD = text("""
SELECT FROM operation WHERE payment_id = :payment_id ORDER BY operation_id FOR UPDATE
""")
# Nothing is stored for a payment without a parked order. One whose trip is under way keeps
# its owner, who hears of the restart when that trip ends.
_RETRY = text(f"""
WITH parked AS (
  SELECT position FROM payment_order
  WHERE payment_id = :payment_id AND state = {OrderState.PARKED.value}
), asked AS (
  INSERT INTO payment_retry (payment_id, retry_id, caller, request_id, note, create_time)
  SELECT :payment_id, :retry_id, :caller, :request_id, :note, {DB_NOW}
  WHERE EXISTS (SELECT FROM parked)
  ON CONFLICT (payment_id, retry_id) DO NOTHING
  RETURNING payment_id
), taken AS (
  UPDATE operation o
  SET restart = true, epoch = coalesce(o.epoch, :epoch), next_attempt_time = NULL
  FROM parked q, asked a
  WHERE o.payment_id = a.payment_id AND o.position = q.position
  RETURNING o.*, old.epoch IS NULL AS won
)
SELECT t.won, {_ITEM_COLUMNS.replace("o.", "t.")}
FROM asked a
JOIN taken t ON t.payment_id = a.payment_id
JOIN payment_order q ON q.payment_id = t.payment_id AND q.position = t.position
JOIN payment p ON p.payment_id = t.payment_id
""")
_SELECT_NOTE = text(
    "SELECT note FROM payment_retry WHERE payment_id = :payment_id AND retry_id = :retry_id"
)

_LET_GO = text(f"""
UPDATE operation o SET epoch = NULL, restart = false, delayed = false
WHERE o.payment_id = ANY(:payment_ids) AND o.operation_id = ANY(:operation_ids)
  AND (o.epoch = :epoch) IS TRUE
  AND EXISTS (
    SELECT FROM payment_order q
    WHERE q.payment_id = o.payment_id AND q.position = o.position
      AND q.state IN ({", ".join(str(state.value) for state in sorted(domain.ENDED_STATES))}))
RETURNING o.operation_id
""")

_NEW_REPLICA = text(f"""
INSERT INTO replica (name, lease_until)
VALUES (:name, {DB_NOW} + make_interval(secs => :lease_s)) RETURNING epoch
""")
_RENEW = text(f"""
UPDATE replica SET lease_until = {DB_NOW} + make_interval(secs => :lease_s)
WHERE epoch = :epoch AND NOT dead RETURNING epoch
""")
_DECLARE_DEAD = text(
    f"UPDATE replica SET dead = true WHERE lease_until < {DB_NOW} AND NOT dead RETURNING epoch"
)
_RELEASE = text("UPDATE replica SET dead = true WHERE epoch = :epoch")


async def insert_payments(
    connection: AsyncConnection, payments: Sequence[NewPayment], epoch: int
) -> dict[UUID, datetime]:
    """Inserts payments that are not there yet, owned by `epoch`; answers the new ones' times.

    The payment_ids must differ.
    """
    rows = [
        {
            "payment_id": p.payment_id.hex,
            "caller": p.caller,
            "request_id": p.request_id,
            "buyer_id": p.buyer_id,
            "payment_method": p.payment_method,
            "failure_policy": p.failure_policy,
            "capture_method": p.capture_method,
            "metadata": dict(p.metadata),
            "orders": len(p.orders),
        }
        for p in payments
    ]
    orders = [
        _order_row(p.payment_id, position, o)
        for p in payments
        for position, o in enumerate(p.orders)
    ]
    found = await connection.execute(
        _INSERT, {"payments": json.dumps(rows), "orders": json.dumps(orders), "epoch": epoch}
    )
    return {row.payment_id: row.create_time for row in found}


async def select_requests(
    connection: AsyncConnection, payment_ids: Sequence[UUID]
) -> dict[UUID, NewPayment]:
    """The stored requests, for comparison with a replay."""
    found = await connection.execute(_SELECT_REQUESTS, {"payment_ids": list(payment_ids)})
    requests = {}
    for payment_id, group in groupby(found, key=lambda row: row.payment_id):
        rows = list(group)
        first = rows[0]
        requests[payment_id] = NewPayment(
            payment_id=payment_id,
            caller=first.caller,
            request_id=first.request_id,
            buyer_id=first.buyer_id,
            payment_method=first.payment_method,
            failure_policy=domain.FailurePolicy(first.failure_policy),
            capture_method=domain.CaptureMethod(first.capture_method),
            metadata=first.metadata,
            orders=[
                NewOrder(
                    r.seller_id, r.amount_minor, r.currency_code, r.commission_minor, r.reference
                )
                for r in rows
            ],
        )
    return requests


async def record(connection: AsyncConnection, progress: Sequence[Progress]) -> dict[Trip, datetime]:
    """Writes what the owner learnt; answers when, by the trips that were still its own.

    A division by zero (BadData) if an owned item's order is in another state than its
    owner knew: a bug, and nothing is written.
    """
    items = [_progress_row(p) for p in sorted(progress, key=lambda p: p.item.payment_id)]
    found = await connection.execute(_RECORD, {"items": json.dumps(items)})
    return {(row.operation_id, row.epoch, row.attempt): row.update_time for row in found}


async def take_due(connection: AsyncConnection, epoch: int, most: int) -> list[Item]:
    """Takes operations whose next attempt is due, at most `most`."""
    return await _take(connection, _TAKE_DUE, epoch, most)


async def take_of_dead(connection: AsyncConnection, epoch: int, most: int) -> list[Item]:
    """Takes operations of replicas that are dead, at most `most`."""
    return await _take(connection, _TAKE_OF_DEAD, epoch, most)


async def take_unknown(
    connection: AsyncConnection, epoch: int, operations: Sequence[tuple[UUID, UUID]]
) -> list[Item]:
    """Takes those of the operations that are unknown or pending and that nobody drives.

    operations: each (payment_id, operation_id).
    """
    asked = {
        "epoch": epoch,
        "most": len(operations),
        "payment_ids": [payment_id for payment_id, _ in operations],
        "operation_ids": [operation_id for _, operation_id in operations],
    }
    return [_item(row) for row in await connection.execute(_TAKE_UNKNOWN, asked)]


async def select_own_ids(connection: AsyncConnection, epoch: int) -> list[UUID]:
    """The operations that this epoch owns."""
    found = await connection.execute(_SELECT_OWN_IDS, {"epoch": epoch})
    return [row.operation_id for row in found]


async def select_own(
    connection: AsyncConnection, epoch: int, operation_ids: Sequence[UUID]
) -> list[Item]:
    """Those of the operations that this epoch owns."""
    asked = {"epoch": epoch, "operation_ids": list(operation_ids)}
    return [_item(row) for row in await connection.execute(_SELECT_OWN, asked)]


async def insert_retry(
    connection: AsyncConnection, retry: NewRetry, epoch: int
) -> list[Item] | None:
    """Stores the retry and takes the payment's parked operations that nobody drives.

    None if nothing was stored: it was there already, or nothing is parked. In a transaction:
    what it decides by must not change before it commits.
    """
    await connection.execute(_HOLD, {"payment_id": retry.payment_id})
    rows = list(
        await connection.execute(
            _RETRY,
            {
                "payment_id": retry.payment_id,
                "retry_id": retry.retry_id,
                "caller": retry.caller,
                "request_id": retry.request_id,
                "note": retry.note,
                "epoch": epoch,
            },
        )
    )
    return [_item(row) for row in rows if row.won] if rows else None


async def select_note(connection: AsyncConnection, retry: NewRetry) -> str | None:
    """The note that is stored for the retry's key, if there is one."""
    found = await connection.execute(
        _SELECT_NOTE, {"payment_id": retry.payment_id, "retry_id": retry.retry_id}
    )
    return found.scalar_one_or_none()


async def let_go(connection: AsyncConnection, items: Sequence[Item], epoch: int) -> set[UUID]:
    """Gives up operations of this epoch whose orders have ended; answers which."""
    asked = {
        "epoch": epoch,
        "payment_ids": [item.payment_id for item in items],
        "operation_ids": [item.operation_id for item in items],
    }
    return set((await connection.execute(_LET_GO, asked)).scalars())


async def insert_replica(connection: AsyncConnection, name: str, lease_s: float) -> int:
    """A new epoch with a lease."""
    found = await connection.execute(_NEW_REPLICA, {"name": name, "lease_s": lease_s})
    return int(found.scalar_one())


async def renew(connection: AsyncConnection, epoch: int, lease_s: float) -> bool:
    """Renews the lease; False if the epoch was declared dead."""
    found = await connection.execute(_RENEW, {"epoch": epoch, "lease_s": lease_s})
    return found.first() is not None


async def declare_dead(connection: AsyncConnection) -> list[int]:
    """Declares all epochs dead whose lease has run out; answers which."""
    return [row.epoch for row in await connection.execute(_DECLARE_DEAD)]


async def release(connection: AsyncConnection, epoch: int) -> None:
    """Gives up an epoch, so that others need not wait for its lease."""
    await connection.execute(_RELEASE, {"epoch": epoch})


async def _take(
    connection: AsyncConnection, statement: TextClause, epoch: int, most: int
) -> list[Item]:
    found = await connection.execute(statement, {"epoch": epoch, "most": most})
    return [_item(row) for row in found]


def _order_row(payment_id: UUID, position: int, order: NewOrder) -> dict[str, object]:
    order_id = ids.order_id(payment_id, position)
    return {
        "payment_id": payment_id.hex,
        "position": position,
        "order_id": order_id.hex,
        "operation_id": ids.first_charge_id(order_id).hex,
        "seller_id": order.seller_id,
        "currency_code": order.currency_code,
        "amount_minor": order.amount_minor,
        "commission_minor": order.commission_minor,
        "reference": order.reference,
    }


def _progress_row(progress: Progress) -> dict[str, object]:
    item = progress.item
    return {
        "payment_id": item.payment_id.hex,
        "operation_id": item.operation_id.hex,
        "position": item.position,
        "epoch": item.epoch,
        "from_state": item.state,
        "state": progress.state,
        "operation_state": progress.operation_state,
        "evidence": progress.evidence,
        "psp_reference": progress.psp_reference,
        "captured_minor": progress.captured_minor,
        "decline_category": progress.decline_category,
        "decline_code": progress.decline_code,
        "attention_reason": progress.attention_reason,
        "attempt": item.attempt,
        "retry_after_s": progress.retry_after_s,
        "delayed": progress.delayed,
        "restart": item.restart,
        "news": progress.news,
    }


def _item(row: Row[Any]) -> Item:
    return Item(
        payment_id=row.payment_id,
        order_id=row.order_id,
        operation_id=row.operation_id,
        position=row.position,
        seller_id=row.seller_id,
        amount_minor=row.amount_minor,
        currency_code=row.currency_code,
        commission_minor=row.commission_minor,
        payment_method=row.payment_method,
        state=OrderState(row.state),
        attempt=row.attempt,
        epoch=row.epoch,
        restart=row.restart,
        captured=row.captured,
    )
