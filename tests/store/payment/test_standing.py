"""What does not rest for good is counted through small indexes, and costs the rest nothing."""

from __future__ import annotations

import json

import psycopg
import pytest
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.db import Database
from payment_svc import operations, store_reads
from payment_svc.domain import Item, OperationState, OrderState, items_of
from tests.support.payments import new_order, new_payment, progress
from tests.support.postgres import PostgresServer

S = OrderState


@pytest.fixture
def admin_url(payment_url: str, postgres_server: PostgresServer) -> str:
    """The superuser's URL of the same database."""
    server = postgres_server.admin_url.rpartition("/")[0]
    return f"{server}/{make_url(payment_url).database}"


async def accepted(database: Database, orders: int, epoch: int) -> list[Item]:
    payment = new_payment(*(new_order() for _ in range(orders)))
    await operations.write(database, [payment], epoch)
    return items_of(payment, epoch)


async def counted(database: Database, epoch: int = 0) -> dict[tuple[OrderState, str], int]:
    standing, _ = await operations.standing(database, epoch)
    return {(s.state, s.reason): s.orders for s in standing}


async def test_each_order_counts_in_its_state_until_it_rests(database: Database) -> None:
    epoch = await operations.open_epoch(database, "me", 60)
    items = await accepted(database, 8, epoch)
    assert await counted(database) == {(S.PROCESSING, ""): 8}
    pending = {"operation_state": OperationState.PENDING, "retry_after_s": 60.0}
    await operations.write(
        database,
        [
            progress(items[0], S.SUCCEEDED),
            progress(items[1], S.DECLINED, operation_state=OperationState.FAILED),
            progress(items[2], S.UNKNOWN, retry_after_s=60.0, attention_reason=None),
            progress(items[3], S.CAPTURED, retry_after_s=60.0, delayed=True),
            progress(items[4], S.PARKED, retry_after_s=60.0),
            progress(items[5], S.PARKED, attention_reason="OTHER: with: colons"),
            progress(items[6], S.PROCESSING, **pending),
        ],
        epoch,
    )
    assert await counted(database) == {
        (S.UNKNOWN, ""): 1,
        (S.CAPTURED, ""): 1,
        (S.PROCESSING, ""): 2,
        (S.PARKED, "WHY"): 1,
        (S.PARKED, "OTHER"): 1,
    }


async def test_what_was_parked_and_is_found_counts_no_more(database: Database) -> None:
    epoch = await operations.open_epoch(database, "me", 60)
    (item,) = await accepted(database, 1, epoch)
    await operations.write(database, [progress(item, S.PARKED, retry_after_s=0.0)], epoch)
    (again,) = (await operations.take(database, epoch, 10)).items
    # Under way again, and parked as long as nothing else is known.
    assert await counted(database) == {(S.PARKED, "WHY"): 1}
    await operations.write(database, [progress(again, S.SUCCEEDED)], epoch)
    assert await counted(database) == {}


async def test_the_age_is_that_of_the_oldest(database: Database, admin_url: str) -> None:
    epoch = await operations.open_epoch(database, "me", 60)
    await accepted(database, 2, epoch)
    old = (await accepted(database, 1, epoch))[0]
    with psycopg.connect(admin_url) as connection:
        connection.execute(
            "UPDATE operation SET create_time = create_time - interval '90 s'"
            " WHERE operation_id = %s",
            (old.operation_id,),
        )
    ((standing,), _) = await operations.standing(database, epoch)
    assert (standing.orders, 90 <= standing.oldest_s < 150) == (3, True)


async def test_replicas_that_are_not_dead_and_what_is_left_of_a_lease(database: Database) -> None:
    mine = await operations.open_epoch(database, "me", 40)
    other = await operations.open_epoch(database, "other", 60)
    _, replicas = await operations.standing(database, mine)
    assert (replicas.living, 30 < replicas.lease_left_s <= 40) == (2, True)
    await operations.release_epoch(database, other)
    _, replicas = await operations.standing(database, other)
    assert (replicas.living, replicas.lease_left_s) == (1, 0.0)


async def plan_of(database: Database) -> str:
    async def work(connection: AsyncConnection) -> str:
        await connection.execute(store_reads._NO_BITMAPS)
        explain = text(f"EXPLAIN {store_reads._SELECT_STANDING.text}")
        return "\n".join(await connection.scalars(explain))

    return await database.commit("plan", work)


async def test_it_is_read_by_the_small_indexes(database: Database, admin_url: str) -> None:
    epoch = await operations.open_epoch(database, "me", 60)
    items = [item for _ in range(20) for item in await accepted(database, 100, epoch)]
    await operations.write(database, [progress(i, S.SUCCEEDED) for i in items], epoch)
    without_statistics = await plan_of(database)
    with psycopg.connect(admin_url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")
    for plan in (without_statistics, await plan_of(database)):
        for index in ("operation_owned", "operation_due", "payment_order_parked"):
            assert f"Index Scan using {index}" in plan, plan
        assert "Seq Scan" not in plan
        assert "Bitmap" not in plan


async def test_orders_that_are_never_parked_never_touch_the_index(
    database: Database, admin_url: str
) -> None:
    """Their updates stay updates without index writes."""
    epoch = await operations.open_epoch(database, "me", 60)
    items = [item for _ in range(3) for item in await accepted(database, 100, epoch)]
    await operations.write(database, [progress(i, S.SUCCEEDED) for i in items], epoch)
    await database.close()  # a backend tells its numbers when it ends
    with psycopg.connect(admin_url, autocommit=True) as connection:
        found = None
        for _ in range(100):
            found = connection.execute(
                "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables"
                " WHERE relname = 'payment_order'"
            ).fetchone()
            if found is not None and found[0]:
                break
            connection.execute("SELECT pg_sleep(0.05)")
        assert found == (300, 300), json.dumps(found)
        size = connection.execute("SELECT pg_relation_size('payment_order_parked')").fetchone()
    assert size == (8192,), "the empty index has its first page only"
