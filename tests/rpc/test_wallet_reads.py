"""WalletReadService through real gRPC, on a real PostgreSQL."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator

import grpc
import pytest
import pytest_asyncio
from paymesh.common.v1.money_pb2 import Money
from paymesh.wallet.v1 import wallet_posting_service_pb2 as posting_pb
from paymesh.wallet.v1 import wallet_read_service_pb2 as pb
from paymesh.wallet.v1 import wallet_service_pb2
from paymesh.wallet.v1.wallet_posting_service_pb2_grpc import WalletPostingServiceStub
from paymesh.wallet.v1.wallet_read_service_pb2_grpc import WalletReadServiceStub

from mesh import ids
from mesh.errors import Reason
from tests.support.captures import new_seller
from tests.support.serving import error_of, serving
from wallet_svc.config import Settings
from wallet_svc.main import wire


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def channel(databases: dict[str, str]) -> AsyncIterator[grpc.aio.Channel]:
    settings = Settings(port=0, database_url=databases["wallet"], drain_s=0)
    async with serving(wire, settings) as channel:
        yield channel


def new_item(*, revision: int = 0, operation_id: str = "") -> posting_pb.MovementItem:
    return posting_pb.MovementItem(
        operation_id=operation_id or uuid.uuid4().hex,
        revision=revision,
        kind=wallet_service_pb2.MOVEMENT_KIND_CAPTURE,
        seller_id=new_seller(),
        order_id=uuid.uuid4().hex,
        amount=Money(amount_minor=90, currency_code="JPY"),
    )


async def test_first_movements_are_found_by_their_operations(channel: grpc.aio.Channel) -> None:
    item, other, later = new_item(), new_item(), new_item(revision=1)
    second = new_item(revision=1, operation_id=item.operation_id)
    await WalletPostingServiceStub(channel).ApplyMovements(
        posting_pb.ApplyMovementsRequest(movements=[item, other, later, second])
    )
    asked = [item.operation_id, later.operation_id, uuid.uuid4().hex, item.operation_id]
    response = await WalletReadServiceStub(channel).FindMovements(
        pb.FindMovementsRequest(operation_ids=asked)
    )
    assert list(response.movements) == [
        pb.FoundMovement(
            movement_id=ids.movement_id(uuid.UUID(item.operation_id)).hex,
            operation_id=item.operation_id,
            kind=wallet_service_pb2.MOVEMENT_KIND_CAPTURE,
            seller_id=item.seller_id,
            order_id=item.order_id,
            amount=item.amount,
            pending_minor=90,
        )
    ]


async def test_a_thousand_are_one_call_and_none_is_none(channel: grpc.aio.Channel) -> None:
    items = [new_item() for _ in range(1000)]
    await WalletPostingServiceStub(channel).ApplyMovements(
        posting_pb.ApplyMovementsRequest(movements=items)
    )
    reads = WalletReadServiceStub(channel)
    asked = [item.operation_id for item in items]
    response = await reads.FindMovements(pb.FindMovementsRequest(operation_ids=asked))
    assert {found.operation_id for found in response.movements} == set(asked)
    assert not (await reads.FindMovements(pb.FindMovementsRequest())).movements


@pytest.mark.parametrize(
    ("operation_ids", "field"),
    [
        (["0" * 31], "operation_ids[0]"),
        ([uuid.uuid4().hex, "g" * 32], "operation_ids[1]"),
        ([uuid.uuid4().hex] * 1001, "operation_ids"),
    ],
    ids=["short", "no_hex", "too_many"],
)
async def test_bad_ids_are_refused_by_their_place(
    channel: grpc.aio.Channel, operation_ids: list[str], field: str
) -> None:
    request = pb.FindMovementsRequest(operation_ids=operation_ids)
    error = await error_of(WalletReadServiceStub(channel).FindMovements(request))
    assert error.reason is Reason.VALIDATION_FAILED
    assert [violation.field for violation in error.violations] == [field]
