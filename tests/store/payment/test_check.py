"""The pages of a check, and what puts orders back on the conveyor."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import make_url

from mesh.db import Database
from payment_svc import operations
from payment_svc.checked import CheckedOrder, CheckedPayment
from payment_svc.domain import NewPayment, OrderState, items_of
from payment_svc.store_check import YOUNG_S, Place
from tests.support.payments import new_order, new_payment, progress
from tests.support.postgres import PostgresServer

LONG_S = 60.0
OLD = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def superuser(payment_url: str, postgres_server: PostgresServer) -> str:
    """The superuser's URL of the database."""
    return f"{postgres_server.admin_url.rpartition('/')[0]}/{make_url(payment_url).database}"


def execute(url: str, statement: str, *values: object) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(statement.encode(), values)


async def accepted_at(
    database: Database, superuser: str, times: list[tuple[NewPayment, datetime]]
) -> None:
    await operations.write(database, [payment for payment, _ in times], 99)
    for payment, time in times:
        execute(
            superuser,
            "UPDATE payment SET create_time = %s WHERE payment_id = %s",
            time,
            payment.payment_id,
        )


async def pages(
    database: Database, start: datetime, end: datetime, most_payments: int, most_orders: int
) -> list[list[UUID]]:
    """The payments of each page, to the end."""
    place, found = Place(end, UUID(int=0)), []
    while page := await operations.check_page(database, start, place, most_payments, most_orders):
        found.append([payment.payment_id for payment in page])
        place = Place(page[-1].create_time, page[-1].payment_id)
        assert len(found) < 100
    return found


def of(size: int) -> NewPayment:
    return new_payment(*(new_order() for _ in range(size)))


async def test_each_payment_of_the_range_is_on_one_page_newest_first(
    database: Database, superuser: str
) -> None:
    payments = sorted((of(1) for _ in range(9)), key=lambda p: p.payment_id, reverse=True)
    # Three of each minute: the pages go on in the middle of a time.
    times = [(p, OLD - timedelta(minutes=n // 3)) for n, p in enumerate(payments)]
    outside = [(of(1), OLD + HOUR), (of(1), OLD - HOUR)]
    await accepted_at(database, superuser, [*times, *outside])
    end = OLD + HOUR
    for most, counts in ((2, [2, 2, 2, 2, 1]), (100, [9]), (3, [3, 3, 3])):
        found = await pages(database, OLD - timedelta(minutes=2), end, most, 1000)
        assert [len(page) for page in found] == counts
        assert [key for page in found for key in page] == [p.payment_id for p in payments]
    assert await pages(database, OLD, OLD, 10, 10) == []


async def test_a_page_holds_no_more_orders_than_it_may_or_one_payment(
    database: Database, superuser: str
) -> None:
    sizes = [3, 2, 100, 1, 4, 1]
    payments = [of(size) for size in sizes]
    times = [(p, OLD - timedelta(minutes=n)) for n, p in enumerate(payments)]
    await accepted_at(database, superuser, times)
    found = await pages(database, OLD - HOUR, OLD + HOUR, 10, 5)
    assert [len(page) for page in found] == [2, 1, 2, 1]


async def test_the_range_is_the_last_day_without_the_youngest(database: Database) -> None:
    now = datetime.now(UTC)
    start, end = await operations.check_range(database, None, None)
    assert timedelta(seconds=YOUNG_S - 1) < now - end < timedelta(seconds=YOUNG_S + 30)
    assert end - start == timedelta(days=1)
    start, end = await operations.check_range(database, OLD, None)
    assert (start, end > now - HOUR) == (OLD, True)
    assert await operations.check_range(database, None, OLD) == (OLD - timedelta(days=1), OLD)
    start, end = await operations.check_range(database, OLD, now + HOUR)
    assert (start, end < now) == (OLD, True)


# --- back on the conveyor ----------------------------------------------------------------


async def checked(database: Database, payment: NewPayment) -> CheckedPayment:
    place = Place(datetime.now(UTC) + HOUR, UUID(int=0))
    page = await operations.check_page(database, OLD, place, 500, 500)
    (found,) = [p for p in page if p.payment_id == payment.payment_id]
    return found


async def one(database: Database, payment: NewPayment) -> CheckedOrder:
    (order,) = (await checked(database, payment)).orders
    return order


async def test_an_order_is_read_as_it_stands(database: Database) -> None:
    mine = await operations.open_epoch(database, "me", LONG_S)
    payment = new_payment(new_order(500, "ada", commission_minor=50), of(1).orders[0])
    await operations.write(database, [payment], mine)
    found = await checked(database, payment)
    (first, second), items = found.orders, items_of(payment, mine)
    assert (found.order_count, found.without_operation) == (2, 0)
    assert [o.order_id for o in (first, second)] == [item.order_id for item in items]
    assert [o.operation_id for o in (first, second)] == [item.operation_id for item in items]
    assert (first.seller_id, str(first.amount), first.commission_minor) == ("ada", "5.00 EUR", 50)
    assert (first.driven, first.scheduled, first.soon, first.under_way) == (
        True,
        False,
        False,
        True,
    )
    waits = [
        progress(items[0], OrderState.UNKNOWN, retry_after_s=3_600.0),
        progress(items[1], OrderState.UNKNOWN, retry_after_s=1.0),
    ]
    await operations.write(database, waits, mine)
    first, second = (await checked(database, payment)).orders
    assert (first.driven, first.scheduled, first.soon, first.under_way) == (
        False,
        True,
        False,
        False,
    )
    assert (second.driven, second.scheduled, second.under_way) == (False, True, True)
    assert (first.state, first.attempt) == (OrderState.UNKNOWN, 1)


async def test_an_order_that_nobody_drives_is_taken_next(database: Database) -> None:
    mine = await operations.open_epoch(database, "me", LONG_S)
    payment = new_payment()
    await operations.write(database, [payment], 99)  # an epoch that there never was
    order = await one(database, payment)
    assert not order.driven
    assert (await operations.take(database, mine, 10)).items == []
    assert await operations.put_back(database, [order]) == {order.operation_id}
    assert (await operations.take(database, mine, 10)).items == items_of(payment, mine)


@pytest.mark.parametrize("state", [OrderState.PARKED, OrderState.UNKNOWN])
async def test_an_order_that_waits_for_long_is_taken_next(
    database: Database, state: OrderState
) -> None:
    mine = await operations.open_epoch(database, "me", LONG_S)
    payment = new_payment()
    await operations.write(database, [payment], mine)
    (item,) = items_of(payment, mine)
    await operations.write(database, [progress(item, state, retry_after_s=3_600.0)], mine)
    order = await one(database, payment)
    assert await operations.put_back(database, [order]) == {order.operation_id}
    (taken,) = (await operations.take(database, mine, 10)).items
    assert taken == replace(item, state=state, attempt=1)


async def test_what_is_driven_is_left_to_its_driver(database: Database) -> None:
    mine = await operations.open_epoch(database, "me", LONG_S)
    payment = new_payment()
    await operations.write(database, [payment], mine)
    order = await one(database, payment)
    assert await operations.put_back(database, [order]) == set()
    assert await operations.own_items(database, mine) == items_of(payment, mine)


async def test_what_has_moved_since_is_left_alone(database: Database) -> None:
    mine = await operations.open_epoch(database, "me", LONG_S)
    payment = new_payment()
    await operations.write(database, [payment], mine)
    order = await one(database, payment)
    (item,) = items_of(payment, mine)
    await operations.write(
        database, [progress(item, OrderState.UNKNOWN, retry_after_s=3_600.0)], mine
    )
    assert await operations.put_back(database, [order]) == set()
    assert (await operations.take(database, mine, 10)).items == []


@pytest.mark.parametrize("state", [OrderState.SUCCEEDED, OrderState.DECLINED])
async def test_an_order_that_has_ended_stays_so(database: Database, state: OrderState) -> None:
    mine = await operations.open_epoch(database, "me", LONG_S)
    payment = new_payment()
    await operations.write(database, [payment], mine)
    (item,) = items_of(payment, mine)
    await operations.write(database, [progress(item, state)], mine)
    order = await one(database, payment)
    assert await operations.put_back(database, [order]) == set()
    assert (await operations.take(database, mine, 10)).items == []


async def test_rows_that_are_gone_are_counted(database: Database, superuser: str) -> None:
    payment = of(3)
    await operations.write(database, [payment], 99)
    execute(superuser, "DELETE FROM payment_order WHERE position = 0")
    execute(superuser, "DELETE FROM operation WHERE position = 1")
    found = await checked(database, payment)
    assert (found.order_count, len(found.orders), found.without_operation) == (3, 1, 1)
    assert [order.position for order in found.orders] == [2]
