"""Lists walk much; what accepts payments never waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from paymesh.payment.v1 import payment_pb2
from paymesh.payment.v1 import payment_service_pb2 as pb
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.paging import MAX_PAGE_BYTES
from payment_svc import store_reads
from tests.support.fakes import parked, unknown
from tests.support.payment_replica import State, states_of
from tests.support.payment_world import World, checkout

SUCCEEDED = State.ORDER_STATE_SUCCEEDED


async def test_slow_lists_never_keep_a_payment_waiting(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = await world.replica()
    await replica.create(checkout(1000))
    real = store_reads.list_payments

    async def slow(connection: AsyncConnection, filters: Mapping[str, object], limit: int) -> Any:
        await connection.execute(text("SELECT pg_sleep(0.7)"))
        return await real(connection, filters, limit)

    monkeypatch.setattr(store_reads, "list_payments", slow)
    lists = [
        asyncio.ensure_future(replica.stub.ListPayments(pb.ListPaymentsRequest(), timeout=20))
        for _ in range(12)
    ]
    await asyncio.sleep(0.2)
    for _ in range(5):
        assert states_of(await replica.create(checkout(1000), timeout_s=0.5)) == [SUCCEEDED]
    assert not all(call.done() for call in lists)
    for answer in await asyncio.gather(*lists):
        assert answer.payments
    await world.quiet()


async def test_a_page_is_read_in_parts_and_no_further_than_it_goes(world: World) -> None:
    replica = await world.replica()
    long = "𝄞" * 250
    paid = []
    for _ in range(25):
        large = checkout(*[100] * 100, sellers=[long] * 100)
        for order in large.orders:
            order.reference = long
        large.metadata.update({str(n): long for n in range(20)})
        paid.append(await replica.create(large))
    rows: list[int] = []

    def executed(_: object, cursor: Any, *__: object) -> None:
        rows.append(cursor.rowcount)

    event.listen(replica.database._statements.sync_engine, "after_cursor_execute", executed)
    request = pb.ListPaymentsRequest(page_size=1000, buyer_id="buyer")
    found: list[payment_pb2.Payment] = []
    pages: list[int] = []
    while not pages or request.page_token:
        rows.clear()
        answer = await replica.stub.ListPayments(request, timeout=10)
        assert max(rows) <= 500
        assert sum(rows) <= 26 + 100 * len(answer.payments) + 500
        found += answer.payments
        pages.append(answer.ByteSize())
        request.page_token = answer.next_page_token
    assert found == paid[::-1]
    assert len(pages) > 2
    assert all(MAX_PAGE_BYTES * 0.8 < size < MAX_PAGE_BYTES + 1024 for size in pages[:-1])


async def test_what_is_under_way_or_needs_attention_is_listed_by_its_state(world: World) -> None:
    replica = await world.replica()
    gate = asyncio.Event()
    world.executor.on(777, gate=gate)
    world.executor.on(60, unknown)
    world.executor.on(61, parked(poll=False))
    world.executor.on(62, parked(poll=True))
    driven = checkout(777, 61, 62)
    call = asyncio.create_task(replica.create(driven))
    await replica.until(
        driven, State.ORDER_STATE_PROCESSING, State.ORDER_STATE_PARKED, State.ORDER_STATE_PARKED
    )
    for amounts in ((5,), (5, 60), (5, 61), (61, 62), (62, 5)):
        await replica.create(checkout(*amounts))

    async def listed(state: payment_pb2.PaymentState.ValueType, **more: str) -> list[str]:
        request = pb.ListPaymentsRequest(state=state, page_size=2, **more)  # type: ignore[arg-type]
        found: list[str] = []
        while True:
            answer = await replica.stub.ListPayments(request, timeout=5)
            assert {payment.state for payment in answer.payments} <= {state}
            found += [payment.payment_id for payment in answer.payments]
            if not answer.next_page_token:
                return found
            request.page_token = answer.next_page_token

    stored = "SELECT replace(payment_id::text, '-', '') FROM payment WHERE state = {}"
    newest = " ORDER BY create_time DESC, payment_id DESC"
    for state, count in (
        (payment_pb2.PAYMENT_STATE_PROCESSING, 2),
        (payment_pb2.PAYMENT_STATE_NEEDS_ATTENTION, 3),
        (payment_pb2.PAYMENT_STATE_SUCCEEDED, 1),
    ):
        expected = [key for (key,) in world.rows(stored.format(state) + newest)]
        assert len(expected) == count
        assert await listed(state) == expected
    seller = driven.orders[1].seller_id
    (key,) = await listed(payment_pb2.PAYMENT_STATE_PROCESSING, seller_id=seller)
    assert await listed(payment_pb2.PAYMENT_STATE_PROCESSING, buyer_id="nobody") == []
    gate.set()
    assert (await call).payment_id == key
    assert await listed(payment_pb2.PAYMENT_STATE_NEEDS_ATTENTION, seller_id=seller) == [key]
