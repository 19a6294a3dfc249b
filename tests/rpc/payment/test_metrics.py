"""The metrics of payment_svc, read by HTTP while it has something to do."""

from __future__ import annotations

import asyncio

from tests.support.fakes import parked, unknown
from tests.support.payment_replica import State
from tests.support.payment_world import World, checkout
from tests.support.ports import free_port
from tests.support.scrape import read, until

SLOW, UNKNOWN, PARKED = 777, 778, 779
FAST_MS = 100


async def test_what_is_under_way_and_what_came_of_it(world: World) -> None:
    port = free_port()
    replica = await world.replica(metrics_port=port, gauges_interval_ms=FAST_MS)
    before = await read(port)
    gate = asyncio.Event()
    world.executor.on(SLOW, gate=gate)
    slow = [asyncio.create_task(replica.create(checkout(SLOW, SLOW))) for _ in range(3)]
    now = await until(port, lambda m: m.value("paymesh_orders", state="PROCESSING") == 6)
    assert now.value("paymesh_orders_carried") == 6
    assert now.value("paymesh_executor_unanswered") == 6
    assert now.value("paymesh_payments_waited_for") == 3
    assert now.value("paymesh_oldest_order_age_seconds", state="PROCESSING") > 0
    assert now.value("paymesh_database_up") == 1
    gate.set()
    await asyncio.gather(*slow)
    for _ in range(4):
        await replica.create(checkout(1000))
    now = await until(port, lambda m: m.value("paymesh_orders", state="PROCESSING") == 0)

    def more(name: str, **labels: str) -> float:
        return now.value(name, **labels) - before.value(name, **labels)

    assert more("paymesh_payments_accepted_total") == 7
    assert more("paymesh_order_trips_total", state="SUCCEEDED") == 10
    assert more("grpc_server_handled_total", grpc_method="CreatePayment", grpc_code="OK") == 7
    assert more("paymesh_stage_list_items_sum", stage="execute") == 10
    assert more("paymesh_stage_list_items_sum", stage="book") == 10
    assert more("paymesh_writer_commit_items_sum", writer="payment") == 17
    assert now.value("paymesh_orders_carried") == 0
    assert now.value("paymesh_oldest_order_age_seconds", state="PROCESSING") == 0
    await world.quiet()


async def test_what_is_unknown_or_parked_is_told_with_its_age_and_reason(world: World) -> None:
    port = free_port()
    replica = await world.replica(
        metrics_port=port,
        gauges_interval_ms=FAST_MS,
        unknown_first_ms=60_000,
        unknown_most_ms=60_000,
    )
    world.executor.on(UNKNOWN, unknown)
    world.executor.on(PARKED, parked(reason="WRONG_AMOUNT: other", poll=False))
    await replica.create(checkout(UNKNOWN, UNKNOWN, PARKED, 1000))
    now = await until(port, lambda m: m.value("paymesh_orders", state="UNKNOWN") == 2)
    assert now.value("paymesh_orders", state="PARKED") == 1
    assert now.value("paymesh_orders_parked", reason="WRONG_AMOUNT") == 1
    world.inside("UPDATE payment_order SET create_time = create_time - interval '1 hour'")
    now = await until(
        port, lambda m: m.value("paymesh_oldest_order_age_seconds", state="UNKNOWN") > 3600
    )
    assert 3600 < now.value("paymesh_oldest_order_age_seconds", state="PARKED") < 3700
    assert now.value("paymesh_oldest_order_age_seconds", state="CAPTURED") == 0


async def test_the_lease_and_the_replicas(world: World) -> None:
    port = free_port()
    first = await world.replica(metrics_port=port, gauges_interval_ms=FAST_MS)
    now = await until(port, lambda m: m.value("paymesh_replicas") == 1)
    assert 0 < now.value("paymesh_lease_remaining_seconds") <= 60
    assert now.value("paymesh_epoch") == first.wired.lease.epoch
    second = await world.replica()
    await until(port, lambda m: m.value("paymesh_replicas") == 2)
    await second.stop()
    await until(port, lambda m: m.value("paymesh_replicas") == 1)


async def test_a_database_that_is_away_is_told_and_nothing_stale_beside_it(world: World) -> None:
    port = free_port()
    replica = await world.replica(metrics_port=port, gauges_interval_ms=FAST_MS)
    request = checkout(1000)
    await replica.create(request)
    await until(port, lambda m: m.value("paymesh_database_up") == 1)
    world.take_database_away()
    now = await until(port, lambda m: m.value("paymesh_database_up") == 0)
    assert now.has("paymesh_database_up")
    for name in ("paymesh_orders", "paymesh_oldest_order_age_seconds", "paymesh_replicas"):
        assert not now.has(name), name
    assert now.has("paymesh_orders_carried"), "what the process knows by itself is told"
    world.bring_database_back()
    now = await until(port, lambda m: m.value("paymesh_database_up") == 1)
    assert now.has("paymesh_orders", state="PARKED")
    await replica.until(request, State.ORDER_STATE_SUCCEEDED)
