"""The stub's tables: SQL for lists, in the caller's transaction.

`idempotency` is what the PSP remembers of a key, `charge` is what it did: see the first
migration. Lists come sorted by key, so that concurrent transactions lock in one order.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from sqlalchemy import text
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from psp_stub.domain import Ask, Charge, Decision, Decline, DeclineCategory, State


class Call(NamedTuple):
    """A call to be counted.

    ask: what it asks for. decision: what becomes of that if this is the call to bring it
    about, the one of number processed_at_call. times: how often it came at once.
    """

    ask: Ask
    times: int
    processed_at_call: int
    decision: Decision


class Met(NamedTuple):
    """What the stub makes of a call.

    calls: those with these fields that it remembers, this one included.
    new_reference: the PSP's reference of the charge that this call brought about, if it did.
    """

    calls: int
    new_reference: str | None


# One statement, for one round trip: a key and its charge are of one transaction anyway.
# The row of a conflict is locked and read as it is now, also where a concurrent transaction
# has just inserted it, so each key is answered; of a charge that such a transaction has made,
# nothing is seen yet, so it is read by another statement. A forgotten key starts anew.
# is_same is a column and no join condition: by the planner's rule of thumb six equalities
# leave one row, and it would join the charges by a nested loop.
_CALL = text("""
WITH moment AS MATERIALIZED (
  SELECT paymesh_now() AS now,
         paymesh_now() - make_interval(secs => cast(:key_memory_s as double precision))
           AS forgotten_until,
         paymesh_now() + make_interval(secs => cast(:pending_s as double precision))
           AS pending_until
),
asked AS MATERIALIZED (
  SELECT * FROM unnest(
    cast(:keys as text[]), cast(:operation_ids as uuid[]), cast(:order_ids as uuid[]),
    cast(:payment_methods as text[]), cast(:amounts_minor as bigint[]),
    cast(:currency_codes as text[]), cast(:times as integer[]),
    cast(:processed_at_calls as integer[]), cast(:captured_minor as bigint[]),
    cast(:fees_minor as bigint[]), cast(:decline_categories as text[]),
    cast(:decline_codes as text[]), cast(:pending as boolean[]))
  AS asked (idempotency_key, operation_id, order_id, payment_method, amount_minor,
            currency_code, calls, processed_at_call, captured_minor, fee_minor,
            decline_category, decline_code, is_pending)
),
met AS (
  INSERT INTO idempotency AS known (
    idempotency_key, calls, first_seen_time,
    operation_id, order_id, payment_method, amount_minor, currency_code)
  SELECT idempotency_key, calls, (SELECT now FROM moment),
         operation_id, order_id, payment_method, amount_minor, currency_code
  FROM asked
  ON CONFLICT (idempotency_key) DO UPDATE SET
    (generation, calls, first_seen_time,
     operation_id, order_id, payment_method, amount_minor, currency_code) = (
      SELECT known.generation + 1, excluded.calls, excluded.first_seen_time,
             excluded.operation_id, excluded.order_id, excluded.payment_method,
             excluded.amount_minor, excluded.currency_code
      FROM moment WHERE known.first_seen_time <= forgotten_until
      UNION ALL
      SELECT known.generation,
             CASE WHEN (known.operation_id, known.order_id, known.payment_method,
                        known.amount_minor, known.currency_code)
                     = (excluded.operation_id, excluded.order_id, excluded.payment_method,
                        excluded.amount_minor, excluded.currency_code)
                  THEN known.calls + excluded.calls ELSE known.calls END,
             known.first_seen_time, known.operation_id, known.order_id, known.payment_method,
             known.amount_minor, known.currency_code
      FROM moment WHERE known.first_seen_time > forgotten_until
    )
  RETURNING idempotency_key, generation, calls,
            operation_id, order_id, payment_method, amount_minor, currency_code
),
heard AS (
  SELECT asked.*, met.generation, met.calls AS calls_so_far,
         (met.operation_id, met.order_id, met.payment_method, met.amount_minor,
          met.currency_code)
       = (asked.operation_id, asked.order_id, asked.payment_method, asked.amount_minor,
          asked.currency_code) AS is_same
  FROM met JOIN asked USING (idempotency_key)
),
taken AS (
  INSERT INTO charge (
    idempotency_key, generation, operation_id, order_id, payment_method, asked_minor,
    currency_code, final_state, captured_minor, fee_minor, decline_category, decline_code,
    create_time, final_time)
  SELECT idempotency_key, generation, operation_id, order_id, payment_method, amount_minor,
         currency_code, CASE WHEN decline_code IS NULL THEN 'CAPTURED' ELSE 'DECLINED' END,
         captured_minor, fee_minor, decline_category, decline_code,
         (SELECT now FROM moment),
         CASE WHEN is_pending THEN (SELECT pending_until FROM moment)
              ELSE (SELECT now FROM moment) END
  FROM heard
  WHERE is_same AND calls_so_far >= processed_at_call
  ON CONFLICT (idempotency_key, generation) DO NOTHING
  RETURNING idempotency_key, psp_reference
)
SELECT idempotency_key, calls_so_far, psp_reference
FROM heard LEFT JOIN taken USING (idempotency_key)
WHERE is_same
""")

_READ_CHARGES = text("""
SELECT idempotency_key, state, truth.amount_minor, currency, fee_minor,
       decline_category, decline_code, psp_reference
FROM idempotency JOIN truth USING (idempotency_key, generation)
WHERE idempotency_key = ANY (cast(:keys as text[]))
""")

_READ_ASKS = text("""
SELECT idempotency_key, operation_id, order_id, payment_method, amount_minor, currency_code
FROM idempotency WHERE idempotency_key = ANY (cast(:keys as text[]))
""")

_LOOK_UP = text("""
SELECT idempotency_key, state, truth.amount_minor, currency, fee_minor,
       decline_category, decline_code, psp_reference, truth.payment_method
FROM idempotency AS known JOIN truth USING (idempotency_key, generation)
WHERE known.idempotency_key = ANY (cast(:keys as text[]))
  AND known.first_seen_time > paymesh_now()
      - make_interval(secs => cast(:key_memory_s as double precision))
""")


async def call(
    connection: AsyncConnection, calls: Sequence[Call], *, key_memory_s: float, pending_s: float
) -> dict[str, Met]:
    """Counts the calls and stores the charges that they bring about; by key.

    calls: sorted, no two with one key. A key that was first seen longer than key_memory_s
    ago is forgotten: it is new again, in its next generation. A key that is remembered with
    other fields is left out, and nothing is stored.
    """
    parameters = _parameters(calls)
    parameters.update(key_memory_s=key_memory_s, pending_s=pending_s)
    rows = await connection.execute(_CALL, parameters)
    return {key: Met(calls_so_far, reference) for key, calls_so_far, reference in rows}


async def read_charges(connection: AsyncConnection, keys: Collection[str]) -> dict[str, Charge]:
    """By key, how the charge of its last generation stands now."""
    rows = await connection.execute(_READ_CHARGES, {"keys": list(keys)})
    return {row.idempotency_key: _charge(row) for row in rows}


async def read_asks(connection: AsyncConnection, keys: Collection[str]) -> dict[str, Ask]:
    """By key, the fields with which it is remembered."""
    rows = await connection.execute(_READ_ASKS, {"keys": list(keys)})
    return {
        key: Ask(key, operation_id.hex, order_id.hex, *fields)
        for key, operation_id, order_id, *fields in rows
    }


async def look_up(
    connection: AsyncConnection, keys: Collection[str], *, key_memory_s: float
) -> dict[str, tuple[str, Charge]]:
    """By key, the payment method and how the charge stands.

    Keys that the PSP never saw, has forgotten or did nothing for are left out.
    """
    rows = await connection.execute(_LOOK_UP, {"keys": list(keys), "key_memory_s": key_memory_s})
    return {row.idempotency_key: (row.payment_method, _charge(row)) for row in rows}


def _parameters(calls: Sequence[Call]) -> dict[str, Any]:
    keys, operation_ids, order_ids, payment_methods, amounts, currencies = zip(
        *(call.ask for call in calls), strict=True
    )
    captured, fees, declines, pending = zip(*(call.decision for call in calls), strict=True)
    return {
        "keys": list(keys),
        "operation_ids": list(operation_ids),
        "order_ids": list(order_ids),
        "payment_methods": list(payment_methods),
        "amounts_minor": list(amounts),
        "currency_codes": list(currencies),
        "times": [call.times for call in calls],
        "processed_at_calls": [call.processed_at_call for call in calls],
        "captured_minor": list(captured),
        "fees_minor": list(fees),
        "decline_categories": [decline and decline.category.value for decline in declines],
        "decline_codes": [decline and decline.code for decline in declines],
        "pending": list(pending),
    }


def _charge(row: Row[Any]) -> Charge:
    decline = None
    if row.decline_code is not None:
        decline = Decline(DeclineCategory(row.decline_category), row.decline_code)
    return Charge(
        State(row.state),
        row.amount_minor,
        row.currency,
        row.fee_minor,
        decline,
        row.psp_reference,
    )
