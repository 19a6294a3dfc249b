"""The stub's tables: SQL for lists, in the caller's transaction.

`idempotency` is what the PSP remembers of a key, `charge` is what it did: see the first
migration. Lists come sorted by key, so that concurrent transactions lock in one order.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import text
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from psp_stub.domain import Ask, Charge, Decision, Decline, DeclineCategory, State


class Known(NamedTuple):
    """What the PSP remembers of a key, this call included.

    generation: counts, from 1, how often the key was new to the PSP.
    calls: in this generation, with these fields.
    ask: the fields of its first call in this generation.
    """

    generation: int
    calls: int
    ask: Ask


# A conflict of fields is no call. The ON CONFLICT row is locked and read as it is now, also
# where a concurrent transaction has just inserted it, so RETURNING gives every key.
_MEET = text("""
INSERT INTO idempotency AS known (
  idempotency_key, calls, first_seen_time,
  operation_id, order_id, payment_method, amount_minor, currency_code)
SELECT asked.idempotency_key, asked.calls, paymesh_now(),
       operation_id, order_id, payment_method, amount_minor, currency_code
FROM unnest(
  cast(:keys as text[]), cast(:calls as integer[]),
  cast(:operation_ids as uuid[]), cast(:order_ids as uuid[]), cast(:payment_methods as text[]),
  cast(:amounts_minor as bigint[]), cast(:currency_codes as text[]))
  AS asked (idempotency_key, calls, operation_id, order_id, payment_method, amount_minor,
            currency_code)
ON CONFLICT (idempotency_key) DO UPDATE SET
  (generation, calls, first_seen_time,
   operation_id, order_id, payment_method, amount_minor, currency_code) = (
    SELECT known.generation + 1, excluded.calls, excluded.first_seen_time,
           excluded.operation_id, excluded.order_id, excluded.payment_method,
           excluded.amount_minor, excluded.currency_code
    WHERE known.first_seen_time <= excluded.first_seen_time
          - make_interval(secs => cast(:key_memory_s as double precision))
    UNION ALL
    SELECT known.generation,
           CASE WHEN (known.operation_id, known.order_id, known.payment_method,
                      known.amount_minor, known.currency_code)
                   = (excluded.operation_id, excluded.order_id, excluded.payment_method,
                      excluded.amount_minor, excluded.currency_code)
                THEN known.calls + excluded.calls ELSE known.calls END,
           known.first_seen_time, known.operation_id, known.order_id, known.payment_method,
           known.amount_minor, known.currency_code
    WHERE known.first_seen_time > excluded.first_seen_time
          - make_interval(secs => cast(:key_memory_s as double precision))
  )
RETURNING idempotency_key, generation, calls,
          operation_id, order_id, payment_method, amount_minor, currency_code
""")

_TAKE = text("""
INSERT INTO charge (
  idempotency_key, generation, operation_id, order_id, payment_method, asked_minor,
  currency_code, final_state, captured_minor, fee_minor, decline_category, decline_code,
  final_time)
SELECT idempotency_key, generation, operation_id, order_id, payment_method, asked_minor,
       currency_code,
       CASE WHEN decline_code IS NULL THEN 'CAPTURED' ELSE 'DECLINED' END,
       captured_minor, fee_minor, decline_category, decline_code,
       paymesh_now() + make_interval(secs => pending_s)
FROM unnest(
  cast(:keys as text[]), cast(:generations as integer[]),
  cast(:operation_ids as uuid[]), cast(:order_ids as uuid[]), cast(:payment_methods as text[]),
  cast(:asked_minor as bigint[]), cast(:currency_codes as text[]),
  cast(:captured_minor as bigint[]), cast(:fees_minor as bigint[]),
  cast(:decline_categories as text[]), cast(:decline_codes as text[]),
  cast(:pending_s as double precision[]))
  AS asked (idempotency_key, generation, operation_id, order_id, payment_method, asked_minor,
            currency_code, captured_minor, fee_minor, decline_category, decline_code, pending_s)
ON CONFLICT (idempotency_key, generation) DO NOTHING
RETURNING idempotency_key, psp_reference
""")

_READ = text("""
SELECT idempotency_key, state, amount_minor, currency, fee_minor,
       decline_category, decline_code, psp_reference
FROM unnest(cast(:keys as text[]), cast(:generations as integer[]))
  AS asked (idempotency_key, generation)
JOIN truth USING (idempotency_key, generation)
""")

_LOOK_UP = text("""
SELECT idempotency_key, state, truth.amount_minor, currency, fee_minor,
       decline_category, decline_code, psp_reference, truth.payment_method
FROM idempotency AS known JOIN truth USING (idempotency_key, generation)
WHERE known.idempotency_key = ANY (cast(:keys as text[]))
  AND known.first_seen_time > paymesh_now()
      - make_interval(secs => cast(:key_memory_s as double precision))
""")


async def meet(
    connection: AsyncConnection, asks: Mapping[Ask, int], *, key_memory_s: float
) -> dict[str, Known]:
    """Counts calls, and tells by key what the PSP remembers.

    asks: how many calls of each; no two with one key. A key that was first seen longer
    than key_memory_s ago is forgotten: it is new again, in its next generation.
    """
    ordered = sorted(asks)
    keys, operation_ids, order_ids, payment_methods, amounts, currencies = _columns(ordered)
    rows = await connection.execute(
        _MEET,
        {
            "keys": keys,
            "calls": [asks[ask] for ask in ordered],
            "operation_ids": operation_ids,
            "order_ids": order_ids,
            "payment_methods": payment_methods,
            "amounts_minor": amounts,
            "currency_codes": currencies,
            "key_memory_s": key_memory_s,
        },
    )
    return {
        key: Known(generation, calls, Ask(key, *fields)) for key, generation, calls, *fields in rows
    }


async def take(
    connection: AsyncConnection, decisions: Sequence[Decision], *, pending_s: float
) -> dict[str, Charge]:
    """Stores the charges that are new; by key, how each of them stands, new or not."""
    if not decisions:
        return {}
    asks = [decision.ask for decision in decisions]
    keys, operation_ids, order_ids, payment_methods, amounts, currencies = _columns(asks)
    declines = [decision.decline for decision in decisions]
    rows = await connection.execute(
        _TAKE,
        {
            "keys": keys,
            "generations": [decision.generation for decision in decisions],
            "operation_ids": operation_ids,
            "order_ids": order_ids,
            "payment_methods": payment_methods,
            "asked_minor": amounts,
            "currency_codes": currencies,
            "captured_minor": [decision.captured_minor for decision in decisions],
            "fees_minor": [decision.fee_minor for decision in decisions],
            "decline_categories": [decline and decline.category.value for decline in declines],
            "decline_codes": [decline and decline.code for decline in declines],
            "pending_s": [pending_s if decision.pending else 0.0 for decision in decisions],
        },
    )
    references = {row.idempotency_key: row.psp_reference for row in rows}
    charges: dict[str, Charge] = {}
    others: list[Decision] = []
    for decision in decisions:
        reference = references.get(decision.ask.idempotency_key)
        if reference is None or decision.pending:
            others.append(decision)
        else:
            charges[decision.ask.idempotency_key] = _new(decision, reference)
    if others:
        rows = await connection.execute(
            _READ,
            {
                "keys": [decision.ask.idempotency_key for decision in others],
                "generations": [decision.generation for decision in others],
            },
        )
        charges.update((row.idempotency_key, _charge(row)) for row in rows)
    return charges


async def look_up(
    connection: AsyncConnection, keys: Collection[str], *, key_memory_s: float
) -> dict[str, tuple[str, Charge]]:
    """By key, the payment method and how the charge stands.

    Keys that the PSP never saw, has forgotten or did nothing for are left out.
    """
    rows = await connection.execute(_LOOK_UP, {"keys": list(keys), "key_memory_s": key_memory_s})
    return {row.idempotency_key: (row.payment_method, _charge(row)) for row in rows}


def _columns(asks: Sequence[Ask]) -> list[list[Any]]:
    return [list(column) for column in zip(*asks, strict=True)]


def _new(decision: Decision, psp_reference: str) -> Charge:
    state = State.CAPTURED if decision.decline is None else State.DECLINED
    return Charge(
        state,
        decision.captured_minor,
        decision.ask.currency_code,
        decision.fee_minor,
        decision.decline,
        psp_reference,
    )


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
