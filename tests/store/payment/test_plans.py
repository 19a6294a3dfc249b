"""The plans of the statements that run all the time, on statistics of a quiet hour.

Plans are made once a connection, and while nothing is under way the indexes of what is owned
and due look empty: a plan that is good for nothing found must be good for thousands, too.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import UUID

import psycopg
import pytest
import pytest_asyncio
from sqlalchemy import TextClause, make_url, text
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.db import Database
from payment_svc import operations, store, store_check, store_reads, store_reconciliation
from payment_svc.domain import OrderState, PaymentState, items_of
from tests.support.payments import new_order, new_payment, progress
from tests.support.postgres import PostgresServer

LONG_S = 60.0
ORDERS = 4_000


@pytest_asyncio.fixture
async def quiet(
    database: Database, payment_url: str, postgres_server: PostgresServer
) -> AsyncIterator[str]:
    """The superuser's URL of a database full of finished orders, analyzed as it is."""
    payments = [new_payment(*(new_order() for _ in range(100))) for _ in range(ORDERS // 100)]
    await operations.write(database, payments, 1)
    items = [item for payment in payments for item in items_of(payment, 1)]
    await operations.write(database, [progress(i, OrderState.SUCCEEDED) for i in items], 1)
    url = f"{postgres_server.admin_url.rpartition('/')[0]}/{make_url(payment_url).database}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")
    yield url


def execute(url: str, statement: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(statement.encode())


@pytest.mark.parametrize("found", ["due", "dead"])
async def test_thousands_that_wait_are_taken_in_no_time(
    database: Database, quiet: str, found: str
) -> None:
    mine = await operations.open_epoch(database, "me", LONG_S)
    dead = await operations.open_epoch(database, "dead", LONG_S)
    await operations.release_epoch(database, dead)
    for _ in range(6):  # from the fifth on the driver has it prepared
        assert not (await operations.take(database, mine, 500)).items
    change = f"epoch = {dead}" if found == "dead" else "next_attempt_time = now()"
    execute(quiet, f"UPDATE operation SET {change}")
    started = time.monotonic()
    taken = await operations.take(database, mine, 500)
    assert len(taken.items) == 500
    assert time.monotonic() - started < 1.5


async def test_progress_is_found_by_key_however_much_is_owned(
    database: Database, quiet: str
) -> None:
    plan = await database.read(
        "plan",
        lambda c: c.scalars(text(f"EXPLAIN {store._RECORD.text}"), {"items": json.dumps([])}),
    )
    lines = "\n".join(plan)
    assert "operation_pkey" in lines
    assert "operation_owned" not in lines


@pytest.mark.parametrize(
    ("statement", "index"),
    [
        (store_reconciliation.UNKNOWN_SQL, "operation_unknown"),
        (store_reconciliation.PENDING_SQL, "operation_pending"),
        (store_reconciliation.UNREGISTERED_SQL, "operation_unregistered"),
    ],
)
async def test_what_the_reconciliation_is_asked_and_told_is_read_in_its_indexs_order(
    database: Database, quiet: str, statement: str, index: str
) -> None:
    parameters = {"after_time": "-infinity", "after_id": uuid.UUID(int=0), "most": 500}
    plan = await database.read(
        "plan", lambda c: c.scalars(text(f"EXPLAIN {statement}"), parameters)
    )
    lines = "\n".join(plan)
    assert f"Index Scan using {index}" in lines
    for other in ("Seq Scan", "Bitmap", "Sort", "Hash"):
        assert other not in lines, lines


async def test_what_was_told_is_noted_by_key(database: Database, quiet: str) -> None:
    plan = await database.read(
        "plan",
        lambda c: c.scalars(
            text(f"EXPLAIN {store_reconciliation.MARK_REGISTERED_SQL}"), {"told": json.dumps([])}
        ),
    )
    lines = "\n".join(plan)
    assert "operation_pkey" in lines
    assert "Seq Scan" not in lines


async def test_thousands_that_are_unknown_are_paged_through_and_taken_in_no_time(
    database: Database, quiet: str
) -> None:
    mine = await operations.open_epoch(database, "me", LONG_S)
    for _ in range(6):  # from the fifth on the driver has it prepared
        assert not [page async for page in operations.unknown(database, 500)]
        assert not await operations.take_unknown(database, [(uuid.uuid4(), uuid.uuid4())], mine)
    execute(quiet, "UPDATE operation SET state = 4, next_attempt_time = now()")
    execute(quiet, "UPDATE payment_order SET state = 3, captured_minor = 0")
    started = time.monotonic()
    pages = [page async for page in operations.unknown(database, 500)]
    assert [len(page) for page in pages] == [500] * (ORDERS // 500)
    assert len({one.operation_id for page in pages for one in page}) == ORDERS
    wanted = [(one.payment_id, one.operation_id) for one in pages[3]]
    assert len(await operations.take_unknown(database, wanted, mine)) == 500
    assert await operations.take_unknown(database, wanted, mine) == []
    assert time.monotonic() - started < 2.5


async def test_a_check_walks_by_the_indexes_and_reads_by_key(
    database: Database, quiet: str
) -> None:
    time_ = datetime(2026, 1, 1, tzinfo=UTC)
    page = {"from_time": time_, "before_time": time_, "before_id": UUID(int=0), "limit": 500}
    asked: list[tuple[TextClause, dict[str, Any], list[str]]] = [
        (store_check._PAGE, page, ["payment_newest"]),
        (
            store_check._CHECKED,
            {"payment_ids": [UUID(int=0)]},
            ["payment_pkey", "payment_order_pkey", "operation_pkey", "replica_pkey"],
        ),
        (store_check._PUT_BACK, {"items": json.dumps([])}, ["operation_pkey"]),
    ]
    for statement, values, wanted in asked:
        plan = await database.read(
            "plan", partial(_explained, statement=f"EXPLAIN {statement.text}", values=values)
        )
        assert all(index in plan for index in wanted), plan
        assert "Seq Scan" not in plan
        assert "operation_owned" not in plan


@pytest.mark.parametrize(
    ("state", "wanted"),
    [
        (PaymentState.PROCESSING, ["operation_owned", "operation_due"]),
        (PaymentState.NEEDS_ATTENTION, ["payment_order_parked"]),
    ],
)
async def test_lists_of_what_is_under_way_or_parked_walk_by_what_there_is_of_it(
    database: Database, quiet: str, state: PaymentState, wanted: list[str]
) -> None:
    filters = {"state": state.value, "create_time_from": datetime(2026, 1, 1, tzinfo=UTC)}
    statement = store_reads._list_statement(filters)
    plan = await database.read(
        "plan",
        partial(
            _explained,
            statement=f"EXPLAIN {statement.text}",
            values={**filters, "limit": 51},
        ),
    )
    assert all(index in plan for index in wanted), plan
    assert "payment_pkey" in plan, plan
    assert "Seq Scan" not in plan
    assert "payment_newest" not in plan


async def _explained(connection: AsyncConnection, *, statement: str, values: dict[str, Any]) -> str:
    return "\n".join(await connection.scalars(text(statement), values))
