"""What a list reads is bounded, however large its payments are."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.db import Database
from payment_svc import operations, store_reads
from tests.support.payments import new_order, new_payment


async def test_metadata_is_read_once_a_payment_and_not_once_an_order(database: Database) -> None:
    metadata = {str(n): "x" * 500 for n in range(20)}
    payments = [new_payment(*[new_order()] * 100, metadata=metadata) for _ in range(2)]
    await operations.write(database, payments, 1)
    keys = [payment.payment_id for payment in payments]

    async def rows(connection: AsyncConnection) -> list[Any]:
        return list(await connection.execute(store_reads._SELECT_PAYMENTS, {"payment_ids": keys}))

    read = await database.read("rows", rows)
    assert len(read) == 200
    assert sum(row.metadata is not None for row in read) == 2
    found = await operations.payments(database, keys)
    assert [found[key].metadata for key in keys] == [metadata, metadata]
    assert [len(found[key].orders) for key in keys] == [100, 100]


@pytest.mark.parametrize(
    ("by", "index"),
    [
        ({}, "payment_newest"),
        ({"buyer_id": "buyer"}, "payment_of_buyer"),
        ({"seller_id": "seller"}, "payment_order_of_seller"),
    ],
)
async def test_a_list_is_told_how_many_orders_each_payment_has_in_its_indexs_order(
    database: Database, by: dict[str, str], index: str
) -> None:
    payments = [new_payment(*[new_order()] * (1 + n)) for n in range(5)]
    for payment in payments:
        await operations.write(database, [payment], 1)
    listed = await operations.list_payments(database, by, 4)
    assert [(one.payment_id, one.order_count) for one in listed] == [
        (payment.payment_id, len(payment.orders)) for payment in payments[:0:-1]
    ]
    statement = f"EXPLAIN {store_reads._list_statement(by).text}"
    plan = await database.read(
        "plan",
        partial(AsyncConnection.scalars, statement=text(statement), parameters={**by, "limit": 4}),
    )
    lines = "\n".join(plan)
    assert index in lines
    assert "Sort" not in lines
    assert "Hash" not in lines
