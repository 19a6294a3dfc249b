"""Accepting: once per request_id, compared by stored fields, all or nothing."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from sqlalchemy import text

from mesh.batching import Writer
from mesh.db import Database
from mesh.errors import MeshError, Reason
from payment_svc import operations
from payment_svc.domain import NewPayment, OrderState, PaymentState, Progress
from payment_svc.operations import Accepted, Written
from tests.support.payments import new_order, new_payment


async def accept(database: Database, *payments: NewPayment, epoch: int = 1) -> list[Written]:
    return await operations.write(database, payments, epoch)


async def count(database: Database, table: str) -> int:
    return int(
        await database.read("count", lambda c: c.scalar(text(f"SELECT count(*) FROM {table}"))) or 0
    )


async def test_a_new_payment_is_stored_with_its_orders_and_operations(database: Database) -> None:
    payment = new_payment(new_order(300, "a", commission_minor=30), new_order(700, "b"))
    (accepted,) = await accept(database, payment)
    assert isinstance(accepted, Accepted)
    assert accepted.new

    stored = (await operations.payments(database, [payment.payment_id]))[payment.payment_id]
    assert stored.state is PaymentState.PROCESSING
    assert [(o.seller_id, o.amount.amount_minor, o.commission_minor) for o in stored.orders] == [
        ("a", 300, 30),
        ("b", 700, 0),
    ]
    assert {o.state for o in stored.orders} == {OrderState.PROCESSING}
    assert [len(o.operations) for o in stored.orders] == [1, 1]
    assert not stored.rests


async def test_the_same_request_again_is_a_replay_and_stores_nothing(database: Database) -> None:
    payment = new_payment(new_order(), new_order())
    await accept(database, payment)
    assert await accept(database, payment, epoch=2) == [Accepted(payment, None)]
    assert [await count(database, t) for t in ("payment", "payment_order", "operation")] == [
        1,
        2,
        2,
    ]


async def test_another_request_under_the_same_id_is_refused_by_field(database: Database) -> None:
    payment = new_payment(new_order(100))
    await accept(database, payment)
    (refusal,) = await accept(database, replace(payment, orders=[new_order(101)]))
    assert isinstance(refusal, MeshError)
    assert refusal.reason is Reason.REQUEST_ID_REUSED
    assert refusal.metadata == {"fields": "orders[0].amount.amount_minor"}
    assert await count(database, "payment_order") == 1


async def test_one_key_many_times_in_one_list_makes_one_payment(database: Database) -> None:
    payment = new_payment()
    other = replace(payment, buyer_id="somebody else")
    first, second, third = await accept(database, payment, payment, other)
    assert isinstance(first, Accepted)
    assert first.new
    assert second == Accepted(payment, None)
    assert isinstance(third, MeshError)
    assert third.metadata == {"fields": "buyer_id"}
    assert await count(database, "payment_order") == 1


async def test_one_key_on_many_connections_at_once_makes_one_payment(database: Database) -> None:
    payment = new_payment()
    answers = await asyncio.gather(*(accept(database, payment, new_payment()) for _ in range(20)))
    news = [first.new for first, _ in answers if isinstance(first, Accepted)]
    assert sorted(news) == [False] * 19 + [True]
    assert await count(database, "payment") == 21


async def test_text_comes_back_as_it_was_sent(database: Database) -> None:
    strange = 'quote " backslash \\ percent % brace { colon :x 😀 日本'
    payment = new_payment(
        new_order(reference=strange, seller_id=strange),
        buyer_id=strange,
        metadata={strange[:40]: strange},
    )
    await accept(database, payment)
    assert await accept(database, payment) == [Accepted(payment, None)]


async def test_a_row_that_the_database_refuses_fails_alone(database: Database) -> None:
    async def commit(items: list[NewPayment | Progress]) -> list[Written]:
        return await operations.write(database, items, 1)

    writer: Writer[NewPayment | Progress, Written] = Writer("test", commit)
    running = asyncio.create_task(writer.run())
    bad = new_payment(new_order(0))  # no domain accepts it: the CHECK is the second belt
    good = [new_payment() for _ in range(6)]
    answers = await asyncio.gather(
        *(writer.write([p], durable=False) for p in [*good[:3], bad, *good[3:]])
    )
    running.cancel()
    refused = [a for (a,) in answers if isinstance(a, MeshError)]
    assert [r.reason for r in refused] == [Reason.INTERNAL]
    assert await count(database, "payment") == 6


@pytest.mark.parametrize("table", ["payment", "payment_order", "operation"])
async def test_the_service_can_delete_nothing(database: Database, table: str) -> None:
    with pytest.raises(MeshError):
        await database.commit("delete", lambda c: c.execute(text(f"DELETE FROM {table}")))
