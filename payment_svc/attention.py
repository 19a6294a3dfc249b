"""What needs attention in payment_svc, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.attention import MOST_COUNTED, MOST_IDS, Attention, AttentionKind, Found, Lease
from mesh.db import Database
from payment_svc import store_attention
from payment_svc.domain import OrderState

# Replicas look for what is due and for the dead several times a second.
GRACE = timedelta(seconds=30)
_MOST_REPLICAS = 100

_KINDS: Mapping[OrderState, AttentionKind] = {
    OrderState.PARKED: AttentionKind.ORDERS_PARKED,
    OrderState.UNKNOWN: AttentionKind.ORDERS_UNKNOWN,
    OrderState.CAPTURED: AttentionKind.ORDERS_NOT_BOOKED,
    OrderState.PROCESSING: AttentionKind.ORDERS_PROCESSING,
    OrderState.NOT_STARTED: AttentionKind.ORDERS_PROCESSING,
}

_SHOWS = "`paymesh payment get ID` shows"
_RETRY = "then `paymesh payment retry ID --note TEXT`"

_ADVICE: Mapping[AttentionKind, str] = {
    AttentionKind.ORDERS_PARKED: f"{_SHOWS} the reason: settle it, {_RETRY}.",
    AttentionKind.ORDERS_UNKNOWN: "The PSP is asked again by itself, and nothing is charged "
    f"twice. If it stays silent, ask its support; {_SHOWS} the order.",
    AttentionKind.ORDERS_NOT_BOOKED: "The money is taken, and wallet or ledger can't be reached: "
    "bring them back, and it is credited and booked by itself.",
    AttentionKind.ORDERS_PROCESSING: "The executor can't be reached, or the PSP says that it will "
    f"tell later: see whether both are up. It goes on by itself; {_SHOWS} how it stands.",
    AttentionKind.OPERATIONS_OVERDUE: "No replica of payment_svc takes what is due: all are down, "
    "stopped or full. See their logs, and start them.",
    AttentionKind.OPERATIONS_ORPHANED: "No replica of payment_svc takes over what dead ones left: "
    "all are down, stopped or full. See their logs, and start them.",
}

_ADVICE_FOR_PARKED: Mapping[str, str] = {
    "OUTCOME_UNKNOWN": "Ask the PSP's support whether it took the money; it is also asked by "
    f"itself now and then. {_SHOWS} the order. When the PSP knows, {_RETRY}.",
    "WRONG_AMOUNT": f"The PSP took another amount than asked; {_SHOWS} both. If its adapter "
    f"was wrong, mend it, {_RETRY}; not after a refund.",
    "PSP_REFUSED_REQUEST": "The PSP takes the request for wrong and did nothing; "
    f"{_SHOWS} why. Correct the adapter, {_RETRY}.",
    "CONTRADICTED": "The PSP said captured, and later declined: ask its support which is true. "
    f"{_SHOWS} the order. A retry books it if the capture is told again, and changes nothing else.",
    "BOOKING_REFUSED": "The money is taken, and wallet or ledger refuse it for good; "
    f"{_SHOWS} why, and so do their logs. Correct it, {_RETRY}.",
}


async def look(database: Database, age: timedelta) -> Found:
    """What is parked, what is open for at least `age`, and what nobody drives.

    Errors: those of Database.commit.
    """

    async def work(connection: AsyncConnection) -> Found:
        await store_attention.without_bitmaps(connection)
        found = [
            _of_orders(row)
            for row in await store_attention.select_open(connection, age, MOST_COUNTED)
        ]
        overdue = await store_attention.select_overdue(connection, GRACE, MOST_COUNTED)
        found += _of_operations(AttentionKind.OPERATIONS_OVERDUE, overdue)
        orphaned = await store_attention.select_orphaned(connection, GRACE, MOST_COUNTED)
        found += _of_operations(AttentionKind.OPERATIONS_ORPHANED, orphaned)
        leases = [
            Lease(row.epoch, row.name, row.lease_until, row.dead)
            for row in await store_attention.select_leases(connection, _MOST_REPLICAS, MOST_COUNTED)
        ]
        return Found(found, leases)

    # It writes nothing: a transaction for the setting that ends with it.
    return await database.commit("payment.attention", work)


def _of_orders(row: Row[Any]) -> Attention:
    kind = _KINDS[OrderState(row.state)]
    advice = _ADVICE_FOR_PARKED.get(row.reason, _ADVICE[kind])
    return _attention(kind, row, advice, row.reason)


def _of_operations(kind: AttentionKind, row: Row[Any]) -> list[Attention]:
    return [_attention(kind, row, _ADVICE[kind])] if row.orders else []


def _attention(kind: AttentionKind, row: Row[Any], advice: str, reason: str = "") -> Attention:
    payment_ids = list(dict.fromkeys(row.payment_ids))[:MOST_IDS]
    return Attention(kind, row.orders, advice, reason, row.oldest_time, payment_ids)
