"""GetStatus of payment_svc: its leases, what it parks, and a database that is away."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from google.protobuf.duration_pb2 import Duration
from paymesh.operations.v1 import status_service_pb2 as pb
from paymesh.operations.v1.status_service_pb2_grpc import StatusServiceStub

from mesh.channel import open_channel
from mesh.migrations import head_revision
from mesh.status_service import process_name
from tests.support.fakes import captured, parked, unknown
from tests.support.payment_replica import Replica, State
from tests.support.payment_world import World, checkout

PARKED = State.ORDER_STATE_PARKED


async def status_of(replica: Replica, age_s: int = 0) -> pb.GetStatusResponse:
    request = pb.GetStatusRequest(attention_age=Duration(seconds=age_s))
    async with open_channel(f"127.0.0.1:{replica.wired.server.port}", retries=False) as channel:
        return await StatusServiceStub(channel).GetStatus(request, timeout=10)


async def test_replicas_and_their_leases(world: World) -> None:
    replicas = [await world.replica() for _ in range(2)]
    await replicas[0].create(checkout(1000))
    for replica in replicas:
        status = await status_of(replica)
        assert status.service == "payment"
        assert status.database.reachable
        assert status.database.revision == head_revision("payment")
        assert [(lease.epoch, lease.process, lease.dead) for lease in status.leases] == [
            (replica.wired.lease.epoch, process_name(), False) for replica in reversed(replicas)
        ]
        for lease in status.leases:
            assert lease.lease_until_time.ToDatetime(UTC) > datetime.now(UTC)
        assert not status.attentions
    await replicas[0].stop()
    (lease,) = (await status_of(replicas[1])).leases
    assert lease.epoch == replicas[1].wired.lease.epoch


async def test_parked_and_unknown_orders_with_their_ids(world: World) -> None:
    replica = await world.replica(unknown_first_ms=60_000, unknown_most_ms=60_000)
    world.executor.on(60, unknown)
    world.executor.on(61, parked(poll=False, reason="WRONG_AMOUNT: 1 and 2"), captured)
    payment = await replica.create(checkout(60, 61, 5))
    status = await status_of(replica)
    told = {(a.kind, a.reason): list(a.payment_ids) for a in status.attentions}
    assert told == {
        (pb.ATTENTION_KIND_ORDERS_PARKED, "WRONG_AMOUNT"): [payment.payment_id],
        (pb.ATTENTION_KIND_ORDERS_UNKNOWN, ""): [payment.payment_id],
    }
    assert all(a.count == 1 and a.advice and a.HasField("oldest_time") for a in status.attentions)
    # What is parked is told at any age, and nobody drives it.
    assert [a.reason for a in (await status_of(replica, 3600)).attentions] == ["WRONG_AMOUNT"]
    assert world.executor.asked.total() == 3


async def test_a_database_that_went_away_and_came_back(world: World) -> None:
    replica = await world.replica()
    await replica.create(checkout(1000))
    world.take_database_away()
    started = time.monotonic()
    status = await status_of(replica)
    assert time.monotonic() - started < 6
    assert not status.database.reachable
    assert status.database.problem
    assert not status.leases
    world.bring_database_back()
    status = await status_of(replica)
    assert status.database.reachable
    assert status.database.problem == ""
    assert status.leases
