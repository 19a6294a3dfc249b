"""What needs attention is found, by index, and nothing else is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.attention import MOST_IDS, Attention, AttentionKind
from mesh.db import Database
from payment_svc import operations, store_attention
from payment_svc.attention import look
from payment_svc.domain import Item, NewPayment, OrderState, items_of
from tests.support.payments import new_order, new_payment, progress
from tests.support.postgres import PostgresServer

LONG_S = 60.0
NOW = timedelta()


@pytest.fixture
def superuser(payment_url: str, postgres_server: PostgresServer) -> str:
    return f"{postgres_server.admin_url.rpartition('/')[0]}/{make_url(payment_url).database}"


def execute(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement.encode())


async def stored(database: Database, epoch: int, *payments: NewPayment) -> list[Item]:
    await operations.write(database, payments, epoch)
    return [item for payment in payments for item in items_of(payment, epoch)]


async def attentions(database: Database, age: timedelta = NOW) -> list[Attention]:
    return list((await look(database, age)).attentions)


async def test_where_all_is_well_there_is_nothing(database: Database) -> None:
    epoch = await operations.open_epoch(database, "host/1", LONG_S)
    items = await stored(database, epoch, new_payment(), new_payment())
    await operations.write(database, [progress(i, OrderState.SUCCEEDED) for i in items], epoch)
    found = await look(database, NOW)
    assert found.attentions == []
    (lease,) = found.leases
    assert (lease.epoch, lease.process, lease.dead) == (epoch, "host/1", False)
    assert timedelta() < lease.lease_until - datetime.now(UTC) <= timedelta(seconds=LONG_S)


@pytest.mark.parametrize("retry_after_s", [None, 3600.0])
async def test_parked_orders_are_told_at_once_by_their_reason(
    database: Database, retry_after_s: float | None
) -> None:
    """Also those that wait for nothing but a person, and so are neither owned nor scheduled."""
    epoch = await operations.open_epoch(database, "host/1", LONG_S)
    items = await stored(database, epoch, new_payment(new_order(), new_order()), new_payment())
    reasons = ["WRONG_AMOUNT: asked 1, captured 2", "OUTCOME_UNKNOWN: late", "OUTCOME_UNKNOWN: no"]
    await operations.write(
        database,
        [
            progress(
                item,
                OrderState.PARKED,
                attention_reason=reason,
                retry_after_s=retry_after_s,
            )
            for item, reason in zip(items, reasons, strict=True)
        ],
        epoch,
    )
    unknown, wrong = await attentions(database, timedelta(hours=1))
    assert (unknown.kind, unknown.reason) == (AttentionKind.ORDERS_PARKED, "OUTCOME_UNKNOWN")
    assert unknown.count == 2
    assert set(unknown.payment_ids) == {items[1].payment_id, items[2].payment_id}
    assert (wrong.kind, wrong.reason) == (AttentionKind.ORDERS_PARKED, "WRONG_AMOUNT")
    assert (wrong.count, list(wrong.payment_ids)) == (1, [items[0].payment_id])
    assert "payment get" in wrong.advice
    assert "payment retry" in wrong.advice
    assert wrong.advice != unknown.advice
    assert not (await operations.take(database, epoch, 10)).items


async def test_what_was_parked_is_not_told_when_it_came_to_its_end(database: Database) -> None:
    epoch = await operations.open_epoch(database, "host/1", LONG_S)
    (item,) = await stored(database, epoch, new_payment())
    parked = progress(item, OrderState.PARKED, retry_after_s=0.0)
    await operations.write(database, [parked], epoch)
    (again,) = (await operations.take(database, epoch, 10)).items
    assert [a.kind for a in await attentions(database)] == [AttentionKind.ORDERS_PARKED]
    await operations.write(database, [progress(again, OrderState.SUCCEEDED)], epoch)
    assert await attentions(database) == []


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        (OrderState.UNKNOWN, AttentionKind.ORDERS_UNKNOWN),
        (OrderState.CAPTURED, AttentionKind.ORDERS_NOT_BOOKED),
        (OrderState.PROCESSING, AttentionKind.ORDERS_PROCESSING),
    ],
)
async def test_open_orders_are_told_when_they_are_old(
    database: Database, superuser: str, state: OrderState, kind: AttentionKind
) -> None:
    epoch = await operations.open_epoch(database, "host/1", LONG_S)
    items = await stored(database, epoch, new_payment(), new_payment())
    await operations.write(
        database, [progress(i, state, retry_after_s=LONG_S) for i in items], epoch
    )
    execute(
        superuser,
        "UPDATE payment_order SET create_time = create_time - interval '10 minutes'"
        f" WHERE order_id = '{items[0].order_id}'",
    )
    (attention,) = await attentions(database, timedelta(minutes=5))
    assert (attention.kind, attention.reason, attention.count) == (kind, "", 1)
    assert list(attention.payment_ids) == [items[0].payment_id]
    assert attention.oldest_time is not None
    age = datetime.now(UTC) - attention.oldest_time
    assert timedelta(minutes=9) < age < timedelta(minutes=12)
    (both,) = await attentions(database)
    assert both.count == 2
    assert list(both.payment_ids) == [items[0].payment_id, items[1].payment_id]
    assert await attentions(database, timedelta(hours=1)) == []


async def test_what_is_driven_for_long_is_told_too(database: Database) -> None:
    epoch = await operations.open_epoch(database, "host/1", LONG_S)
    (item,) = await stored(database, epoch, new_payment())
    (attention,) = await attentions(database)
    assert attention.kind is AttentionKind.ORDERS_PROCESSING
    assert list(attention.payment_ids) == [item.payment_id]


async def test_what_is_due_and_not_taken(database: Database, superuser: str) -> None:
    epoch = await operations.open_epoch(database, "host/1", LONG_S)
    items = await stored(database, epoch, new_payment(), new_payment())
    await operations.write(
        database,
        [progress(i, OrderState.UNKNOWN, retry_after_s=0.0) for i in items],
        epoch,
    )
    assert await attentions(database, timedelta(hours=1)) == []
    execute(
        superuser,
        "UPDATE operation SET next_attempt_time = next_attempt_time - interval '2 minutes'"
        f" WHERE operation_id = '{items[1].operation_id}'",
    )
    (attention,) = await attentions(database, timedelta(hours=1))
    assert attention.kind is AttentionKind.OPERATIONS_OVERDUE
    assert (attention.count, list(attention.payment_ids)) == (1, [items[1].payment_id])


@pytest.mark.parametrize("declared", [False, True])
async def test_what_the_dead_left_and_nobody_took(
    database: Database, superuser: str, declared: bool
) -> None:
    dead = await operations.open_epoch(database, "host/1", LONG_S)
    (item,) = await stored(database, dead, new_payment())
    idle = await operations.open_epoch(database, "host/2", LONG_S)
    await operations.release_epoch(database, idle)
    if declared:
        await operations.release_epoch(database, dead)
    assert await attentions(database, timedelta(hours=1)) == []
    execute(
        superuser,
        f"UPDATE replica SET lease_until = lease_until - interval '2 minutes' WHERE epoch = {dead}",
    )
    found = await look(database, timedelta(hours=1))
    (attention,) = found.attentions
    assert attention.kind is AttentionKind.OPERATIONS_ORPHANED
    assert (attention.count, list(attention.payment_ids)) == (1, [item.payment_id])
    # The one that gave up its lease and has nothing is of no interest.
    assert [(lease.epoch, lease.dead) for lease in found.leases] == [(dead, declared)]


async def test_many_are_counted_and_a_few_are_named(database: Database) -> None:
    epoch = await operations.open_epoch(database, "host/1", LONG_S)
    payments = [new_payment(*(new_order() for _ in range(20))) for _ in range(MOST_IDS + 2)]
    items = await stored(database, epoch, *payments)
    await operations.write(database, [progress(i, OrderState.PARKED) for i in items], epoch)
    (attention,) = await attentions(database)
    assert attention.count == 20 * (MOST_IDS + 2)
    assert len(set(attention.payment_ids)) == MOST_IDS == len(attention.payment_ids)


@pytest.mark.parametrize(
    "statement",
    [
        store_attention.OPEN_SQL,
        store_attention.OVERDUE_SQL,
        store_attention.ORPHANED_SQL,
        store_attention.LEASES_SQL,
    ],
)
@pytest.mark.parametrize("analyzed", [False, True])
async def test_it_is_read_by_index(
    database: Database, superuser: str, statement: str, analyzed: bool
) -> None:
    """However much there is that came to its end, and whether the planner knows of it."""
    epoch = await operations.open_epoch(database, "host/1", LONG_S)
    payments = [new_payment(*(new_order() for _ in range(100))) for _ in range(20)]
    items = await stored(database, epoch, *payments)
    await operations.write(database, [progress(i, OrderState.SUCCEEDED) for i in items], epoch)
    if analyzed:
        execute(superuser, "VACUUM ANALYZE")
    names = {"age": NOW, "grace": NOW, "most": 10_000, "counted": 10_000}
    parameters = {name: value for name, value in names.items() if f":{name}" in statement}

    async def work(connection: AsyncConnection) -> list[str]:
        await store_attention.without_bitmaps(connection)
        plan = await connection.scalars(text(f"EXPLAIN {statement}"), parameters)
        return list(plan)

    plan = "\n".join(await database.commit("plan", work))
    for scan in ("Seq Scan", "Bitmap", "Hash Join"):
        assert scan not in plan, plan
