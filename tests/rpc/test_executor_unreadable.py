"""A PSP whose messages can't be read: that is no answer, and no bug of the executor."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from paymesh.psp.v1 import psp_service_pb2 as pb
from structlog.testing import capture_logs

from executor_svc.domain import Operation
from mesh import ids
from mesh.errors import Code, Reason
from tests.support.executor import error_of as refusal_of
from tests.support.executor import (
    new_operation,
    new_operations,
    own_databases,
    sent_earlier,
    serving,
)
from tests.support.fake_psp import FakePsp, failing
from tests.support.postgres import PostgresServer
from tests.support.serving import error_of

GARBAGE = b"\xff\xff\xff"

Spoils = Callable[[str, Sequence[str]], bool]
"""Whether the answer to this method for these keys can't be read."""


@pytest.fixture(scope="module")
def url(postgres_server: PostgresServer) -> str:
    """The executor's database, shared by these tests."""
    return own_databases(postgres_server)["executor"]


def key(operation: Operation) -> str:
    """The operation's name at the PSP."""
    return ids.psp_key(operation.operation_id).hex


@asynccontextmanager
async def garbled(psp: FakePsp, spoils: Spoils) -> AsyncIterator[str]:
    """The PSP behind a wire that garbles messages; yields the target."""

    async def charge(request: pb.ChargeRequest, context: Any) -> AsyncIterator[bytes]:
        keys = [item.idempotency_key for item in request.items]
        async for response in psp.Charge(request, context):
            yield GARBAGE if spoils("Charge", keys) else response.SerializeToString()

    async def look_up(request: pb.LookUpRequest, context: Any) -> AsyncIterator[bytes]:
        async for response in psp.LookUp(request, context):
            is_spoilt = spoils("LookUp", request.idempotency_keys)
            yield GARBAGE if is_spoilt else response.SerializeToString()

    async def get_capabilities(
        request: pb.GetCapabilitiesRequest, context: Any
    ) -> pb.GetCapabilitiesResponse | None:
        return (
            None if spoils("GetCapabilities", ()) else await psp.GetCapabilities(request, context)
        )

    handlers: Any = {
        "Charge": grpc.unary_stream_rpc_method_handler(charge, pb.ChargeRequest.FromString),
        "LookUp": grpc.unary_stream_rpc_method_handler(look_up, pb.LookUpRequest.FromString),
        "GetCapabilities": grpc.unary_unary_rpc_method_handler(
            get_capabilities,
            pb.GetCapabilitiesRequest.FromString,
            lambda response: response.SerializeToString() if response else GARBAGE,
        ),
    }
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("paymesh.psp.v1.PspService", handlers)]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


async def test_an_answer_to_a_charge_that_cannot_be_read_is_looked_up(url: str) -> None:
    operation = new_operation()
    psp = FakePsp()
    psp.will_find(key(operation))
    with capture_logs() as logs:
        async with (
            garbled(psp, lambda method, keys: method == "Charge") as target,
            serving(url, target) as client,
        ):
            assert (await client.execute_one(operation))[0] == "captured"
    assert psp.calls == [("Charge", [key(operation)]), ("LookUp", [key(operation)])]
    assert "runner_failed" not in [line["event"] for line in logs]


async def test_what_cannot_be_read_leaves_it_unknown_and_parks_it_in_time(url: str) -> None:
    operation = new_operation()
    psp = FakePsp()
    async with (
        garbled(psp, lambda method, keys: keys != ()) as target,
        serving(url, target) as client,
    ):
        name, unknown = await client.execute_one(operation)
        assert (name, unknown.detail) == ("unknown", "charge: INTERNAL; look-up: INTERNAL")
        sent_earlier(url, operation, "12:00:00")
        name, parked = await client.execute_one(operation)
    assert (name, parked.poll) == ("parked", True)


async def test_one_result_that_cannot_be_read_leaves_its_neighbours_alone(url: str) -> None:
    operations = new_operations(9)
    bad = key(operations[5])
    psp = FakePsp(failing(Code.UNAVAILABLE))
    for operation in operations:
        psp.will_find(key(operation))
    async with (
        garbled(psp, lambda method, keys: method == "LookUp" and bad in keys) as target,
        serving(url, target) as client,
    ):
        results = await client.execute(*operations)
    names = [name for name, _ in results]
    assert names == ["captured"] * 5 + ["unknown"] + ["captured"] * 3
    assert len([method for method, _ in psp.calls if method == "LookUp"]) <= 9


async def test_capabilities_that_cannot_be_read_let_nothing_be_sent(url: str) -> None:
    operation = new_operation()
    psp = FakePsp()
    async with (
        garbled(psp, lambda method, keys: method == "GetCapabilities") as target,
        serving(url, target) as client,
    ):
        error = refusal_of(await client.execute_one(operation))
    assert error.reason is Reason.DEPENDENCY_DOWN
    assert psp.calls == []


async def test_a_read_says_that_the_psp_cannot_be_asked(url: str) -> None:
    operation = new_operation()
    async with (
        garbled(FakePsp(), lambda method, keys: method == "LookUp") as target,
        serving(url, target) as client,
    ):
        error = await error_of(client.find(operation, look_up=True))
    assert error.code is Code.UNAVAILABLE
