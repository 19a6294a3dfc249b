"""ExecutorReadService through real gRPC: rows, and what the PSP says of them."""

from __future__ import annotations

import uuid

import pytest
from paymesh.common.v1.money_pb2 import Money
from paymesh.executor.v1 import executor_read_service_pb2 as pb
from paymesh.payment.v1 import payment_pb2

from mesh import ids
from mesh.errors import Code, Reason
from tests.support.executor import (
    HANG_MS,
    mesh,
    new_operation,
    new_operations,
    own_databases,
    row,
    serving,
)
from tests.support.fake_psp import FakePsp
from tests.support.ports import free_port
from tests.support.postgres import PostgresServer
from tests.support.serving import error_of


@pytest.fixture(scope="module")
def urls(postgres_server: PostgresServer) -> dict[str, str]:
    """The databases of the executor and the stub, shared by these tests."""
    return own_databases(postgres_server)


def euro(amount_minor: int) -> Money:
    return Money(amount_minor=amount_minor, currency_code="EUR")


async def test_operations_are_told_as_they_are_stored(urls: dict[str, str]) -> None:
    captured, declined = new_operation(), new_operation("tok_declined")
    wrong, unknown = new_operation("tok_wrong_amount"), new_operation()
    async with mesh(urls) as client:
        await client.execute(captured, declined, wrong)
        found = await client.find(captured, declined, wrong, unknown, captured)
    assert found.keys() == {o.operation_id for o in (captured, declined, wrong)}
    stored = found[captured.operation_id].stored
    assert not found[captured.operation_id].HasField("look_up")
    assert stored.order_id == captured.order_id.hex
    assert stored.payment_id == captured.payment_id.hex
    assert stored.kind == payment_pb2.OPERATION_KIND_CHARGE
    assert stored.state == pb.EXECUTION_STATE_CAPTURED
    assert (stored.amount, stored.captured, stored.fee) == (euro(10_000), euro(10_000), euro(320))
    assert stored.psp_reference.startswith("stub_")
    assert stored.source == "psp_stub"
    assert stored.evidence == payment_pb2.EVIDENCE_SOURCE_PSP_ANSWER
    assert stored.change_time.seconds
    stored = found[declined.operation_id].stored
    assert stored.state == pb.EXECUTION_STATE_DECLINED
    assert not stored.HasField("captured")
    assert not stored.HasField("fee")
    stored = found[wrong.operation_id].stored
    assert stored.state == pb.EXECUTION_STATE_PARKED
    assert stored.amount == euro(10_000)
    assert stored.captured not in (euro(10_000), Money())


async def test_a_look_up_tells_what_the_psp_says_and_moves_no_row(urls: dict[str, str]) -> None:
    captured, declined = new_operation(), new_operation("tok_declined")
    lost, never = new_operation("tok_timeout_captured"), new_operation()
    async with mesh(urls, psp_deadline_ms=HANG_MS, look_up_deadline_ms=HANG_MS) as client:
        await client.execute(captured, declined, lost)
        before = [row(urls["executor"], o) for o in (captured, declined, lost)]
        found = await client.find(captured, declined, lost, never, look_up=True)
    assert found.keys() == {o.operation_id for o in (captured, declined, lost)}
    told = found[captured.operation_id]
    assert told.look_up.result == pb.PSP_LOOK_UP_RESULT_CAPTURED
    assert told.look_up.captured == euro(10_000)
    assert told.look_up.psp_reference == told.stored.psp_reference
    assert found[declined.operation_id].look_up.result == pb.PSP_LOOK_UP_RESULT_DECLINED
    assert found[lost.operation_id].look_up.result == pb.PSP_LOOK_UP_RESULT_CAPTURED
    assert [row(urls["executor"], o) for o in (captured, declined, lost)] == before


async def test_what_only_the_psp_knows_is_told_without_a_row(urls: dict[str, str]) -> None:
    psp = FakePsp()
    known, unknown = new_operations(2)
    psp.will_find(ids.psp_key(known.operation_id).hex, 700)
    async with psp.serving() as target, serving(urls["executor"], target) as client:
        assert await client.find(known, unknown) == {}
        found = await client.find(known, unknown, look_up=True)
    assert found.keys() == {known.operation_id}
    assert not found[known.operation_id].HasField("stored")
    assert found[known.operation_id].look_up.captured == euro(700)
    assert row(urls["executor"], known) is None


async def test_a_psp_that_is_away_is_an_error_of_a_look_up_only(urls: dict[str, str]) -> None:
    operation = new_operation()
    async with mesh(urls) as client:
        await client.execute(operation)
    away = f"127.0.0.1:{free_port()}"
    async with serving(urls["executor"], away, look_up_deadline_ms=500) as client:
        assert (await client.find(operation)).keys() == {operation.operation_id}
        assert await client.find(look_up=True) == {}
        error = await error_of(client.find(operation, look_up=True))
    assert (error.code, error.reason) == (Code.UNAVAILABLE, Reason.DEPENDENCY_DOWN)
    assert "PSP" in error.message


@pytest.mark.parametrize(
    ("operation_ids", "field"),
    [
        (["x"], "operation_ids[0]"),
        ([uuid.uuid4().hex, ""], "operation_ids[1]"),
        ([uuid.uuid4().hex.upper()], "operation_ids[0]"),
        ([str(uuid.uuid4())], "operation_ids[0]"),
        ([uuid.uuid4().hex] * 1001, "operation_ids"),
    ],
    ids=lambda value: value if isinstance(value, str) else len(value),
)
async def test_bad_ids_are_refused_by_their_place(
    urls: dict[str, str], operation_ids: list[str], field: str
) -> None:
    async with serving(urls["executor"], f"127.0.0.1:{free_port()}") as client:
        assert client._reads is not None
        error = await error_of(
            client._reads.FindOperations(pb.FindOperationsRequest(operation_ids=operation_ids))
        )
    assert error.reason is Reason.VALIDATION_FAILED
    assert [violation.field for violation in error.violations] == [field]
