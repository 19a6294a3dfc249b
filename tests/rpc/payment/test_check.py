"""CheckMesh where there is nothing to compare, nobody to ask, or no time left."""

from __future__ import annotations

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from paymesh.payment.v1 import check_mesh_pb2 as pb

from mesh.errors import Code, MeshError, Reason
from mesh.status import from_rpc_error
from payment_svc.servicer import PaymentServicer
from tests.support.payment_replica import Replica
from tests.support.payment_world import World, checkout

AGE = "UPDATE {} SET create_time = create_time - interval '1 hour'"


async def check(replica: Replica, **request: object) -> list[pb.CheckMeshResponse]:
    asked = pb.CheckMeshRequest(**request)  # type: ignore[arg-type]
    return [response async for response in replica.stub.CheckMesh(asked, timeout=10)]


async def refused(replica: Replica, **request: object) -> MeshError:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await check(replica, **request)
    return from_rpc_error(error.value)


async def test_what_was_just_made_is_left_out(world: World) -> None:
    replica = await world.replica()
    await replica.create(checkout())
    (response,) = await check(replica, repair=True, look_up=True)
    assert (response.payments, response.orders, list(response.findings)) == (0, 0, [])
    length_s = response.checked_to_time.seconds - response.checked_from_time.seconds
    assert length_s == 24 * 3_600


async def test_services_that_can_not_be_asked_are_an_error(world: World) -> None:
    """These played ones are of an earlier release, and don't know the question."""
    replica = await world.replica()
    await replica.create(checkout())
    world.inside(AGE.format("payment"))
    error = await refused(replica)
    assert (error.code, error.reason) == (Code.UNAVAILABLE, Reason.DEPENDENCY_DOWN)
    assert "can't be asked: UNIMPLEMENTED" in error.message  # they are asked at once


async def test_a_database_that_is_away_is_an_error(world: World) -> None:
    replica = await world.replica()
    world.take_database_away()
    try:
        error = await refused(replica)
    finally:
        world.bring_database_back()
    assert (error.code, error.reason) == (Code.UNAVAILABLE, Reason.DEPENDENCY_DOWN)


async def test_a_service_that_stops_checks_no_further(world: World) -> None:
    replica = await world.replica()
    servicer = replica.wired.server._servicer  # type: ignore[attr-defined]
    assert isinstance(servicer, PaymentServicer)
    servicer.drain()
    error = await refused(replica)
    assert (error.code, error.reason) == (Code.UNAVAILABLE, Reason.DEPENDENCY_DOWN)
    assert "check again" in error.message


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        ({"create_time_from": Timestamp(seconds=2_000), "create_time_to": Timestamp(seconds=1)},
         "create_time_to"),
        ({"create_time_from": Timestamp(seconds=1), "create_time_to": Timestamp(seconds=1)},
         "create_time_to"),
        ({"create_time_from": Timestamp(seconds=1 << 60)}, "create_time_from"),
        ({"create_time_to": Timestamp(seconds=-(1 << 60))}, "create_time_to"),
        ({"create_time_from": Timestamp(seconds=1, nanos=-1)}, "create_time_from"),
        ({"create_time_from": Timestamp(seconds=32_503_680_000)}, "create_time_from"),
    ],
)  # fmt: skip
async def test_a_range_that_is_none_is_refused(
    world: World, request_: dict[str, object], field: str
) -> None:
    error = await refused(await world.replica(), **request_)
    assert error.reason is Reason.VALIDATION_FAILED
    assert [violation.field for violation in error.violations] == [field]


async def test_a_range_may_be_as_old_as_time(world: World) -> None:
    replica = await world.replica()
    first = Timestamp(seconds=-62_135_596_800)
    assert (await check(replica, create_time_from=first))[-1].payments == 0
    assert (await check(replica, create_time_to=first))[-1].payments == 0
    (response,) = await check(
        replica, create_time_from=first, create_time_to=Timestamp(seconds=1 << 37)
    )
    assert response.checked_from_time == first
