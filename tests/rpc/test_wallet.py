"""wallet_svc through real gRPC, with the whole interceptor chain, on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import grpc
import psycopg
import pytest
import pytest_asyncio
from paymesh.common.v1.money_pb2 import Money
from paymesh.wallet.v1 import wallet_posting_service_pb2 as posting_pb
from paymesh.wallet.v1 import wallet_service_pb2 as pb
from paymesh.wallet.v1.wallet_posting_service_pb2_grpc import WalletPostingServiceStub
from paymesh.wallet.v1.wallet_service_pb2_grpc import WalletServiceStub

from mesh import ids, paging
from mesh.errors import Code, MeshError, Reason
from mesh.status import from_status
from tests.support.captures import new_seller
from tests.support.ports import free_port
from tests.support.serving import error_of, serving
from wallet_svc.config import Settings
from wallet_svc.main import wire

if TYPE_CHECKING:
    from paymesh.wallet.v1.wallet_posting_service_pb2_grpc import WalletPostingServiceAsyncStub
    from paymesh.wallet.v1.wallet_service_pb2_grpc import WalletServiceAsyncStub


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def channel(databases: dict[str, str]) -> AsyncIterator[grpc.aio.Channel]:
    settings = Settings(port=0, database_url=databases["wallet"], drain_s=0)
    async with serving(wire, settings) as channel:
        yield channel


@pytest.fixture
def wallets(channel: grpc.aio.Channel) -> WalletServiceAsyncStub:
    return WalletServiceStub(channel)


@pytest.fixture
def postings(channel: grpc.aio.Channel) -> WalletPostingServiceAsyncStub:
    return WalletPostingServiceStub(channel)


def item(**change: Any) -> posting_pb.MovementItem:
    """A capture's movement that no other test knows."""
    fields: dict[str, Any] = {
        "operation_id": uuid.uuid4().hex,
        "kind": pb.MOVEMENT_KIND_CAPTURE,
        "seller_id": new_seller(),
        "order_id": uuid.uuid4().hex,
        "amount": Money(amount_minor=90, currency_code="EUR"),
    }
    return posting_pb.MovementItem(**{**fields, **change})


def request(*items: posting_pb.MovementItem) -> posting_pb.ApplyMovementsRequest:
    return posting_pb.ApplyMovementsRequest(movements=items)


def refused(result: posting_pb.MovementResult) -> MeshError:
    assert result.WhichOneof("result") == "error", result
    return from_status(result.error)


async def balances(wallets: WalletServiceAsyncStub, seller_id: str) -> list[pb.Balance]:
    response = await wallets.GetWallet(pb.GetWalletRequest(seller_id=seller_id))
    assert response.wallet.seller_id == seller_id
    return list(response.wallet.balances)


async def test_what_was_captured_in_a_currency_that_is_withdrawn_since_is_credited(
    wallets: WalletServiceAsyncStub, postings: WalletPostingServiceAsyncStub
) -> None:
    asked = item(amount=Money(amount_minor=90, currency_code="DEM"))
    await postings.ApplyMovements(request(asked))
    assert await balances(wallets, asked.seller_id) == [
        pb.Balance(currency_code="DEM", pending_minor=90)
    ]


async def test_a_capture(
    wallets: WalletServiceAsyncStub, postings: WalletPostingServiceAsyncStub
) -> None:
    asked = item()
    yen = item(
        seller_id=asked.seller_id,
        revision=3,
        amount=Money(amount_minor=0, currency_code="JPY"),
    )
    response = await postings.ApplyMovements(request(asked, yen))

    key = ids.movement_id(uuid.UUID(asked.operation_id)).hex
    yen_key = ids.movement_id(uuid.UUID(yen.operation_id), 3).hex
    assert [result.applied for result in response.results] == [
        posting_pb.AppliedMovement(movement_id=key, pending_minor=90),
        posting_pb.AppliedMovement(movement_id=yen_key),
    ]
    assert await balances(wallets, asked.seller_id) == [
        pb.Balance(currency_code="EUR", pending_minor=90),
        pb.Balance(currency_code="JPY"),
    ]
    listed = await wallets.ListMovements(pb.ListMovementsRequest(seller_id=asked.seller_id))
    assert listed.next_page_token == ""
    movements = {movement.movement_id: movement for movement in listed.movements}
    assert set(movements) == {key, yen_key}
    movement = movements[key]
    assert movement.kind == pb.MOVEMENT_KIND_CAPTURE
    assert movement.amount == asked.amount
    assert movement.order_id == asked.order_id
    age = datetime.now(UTC) - movement.create_time.ToDatetime(tzinfo=UTC)
    assert abs(age) < timedelta(minutes=1)


async def test_an_unknown_seller_has_no_balances(wallets: WalletServiceAsyncStub) -> None:
    assert await balances(wallets, new_seller()) == []


async def test_a_replay_answers_the_same(
    wallets: WalletServiceAsyncStub, postings: WalletPostingServiceAsyncStub
) -> None:
    asked = item()
    responses = await asyncio.gather(
        *(postings.ApplyMovements(request(asked, asked)) for _ in range(16))
    )
    assert all(response == responses[0] for response in responses)
    assert [b.pending_minor for b in await balances(wallets, asked.seller_id)] == [90]


async def test_another_seller_under_the_same_operation(
    wallets: WalletServiceAsyncStub, postings: WalletPostingServiceAsyncStub
) -> None:
    asked, other = item(), new_seller()
    await postings.ApplyMovements(request(asked))
    again = posting_pb.MovementItem()
    again.CopyFrom(asked)
    again.seller_id = other
    response = await postings.ApplyMovements(request(again, asked))

    error = refused(response.results[0])
    assert error.reason is Reason.OPERATION_CONFLICT
    assert error.code is Code.ALREADY_EXISTS
    assert error.metadata == {"fields": "seller_id"}
    assert response.results[1].HasField("applied")
    assert await balances(wallets, other) == []


@pytest.mark.parametrize(
    ("change", "reason", "field"),
    [
        ({"operation_id": ""}, Reason.VALIDATION_FAILED, "operation_id"),
        ({"operation_id": "A" * 32}, Reason.VALIDATION_FAILED, "operation_id"),
        ({"revision": -1}, Reason.VALIDATION_FAILED, "revision"),
        ({"kind": 0}, Reason.VALIDATION_FAILED, "kind"),
        ({"kind": 99}, Reason.VALIDATION_FAILED, "kind"),
        ({"seller_id": ""}, Reason.VALIDATION_FAILED, "seller_id"),
        ({"seller_id": "s" * 256}, Reason.VALIDATION_FAILED, "seller_id"),
        ({"seller_id": "s\0"}, Reason.VALIDATION_FAILED, "seller_id"),
        ({"order_id": "1"}, Reason.VALIDATION_FAILED, "order_id"),
        ({"amount": None}, Reason.VALIDATION_FAILED, "amount"),
        (
            {"amount": Money(amount_minor=-1, currency_code="EUR")},
            Reason.VALIDATION_FAILED,
            "amount.amount_minor",
        ),
        (
            {"amount": Money(amount_minor=10**15, currency_code="EUR")},
            Reason.VALIDATION_FAILED,
            "amount.amount_minor",
        ),
        (
            {"amount": Money(amount_minor=1, currency_code="eur")},
            Reason.VALIDATION_FAILED,
            "amount.currency_code",
        ),
        (
            {"amount": Money(amount_minor=1, currency_code="XXA")},
            Reason.UNKNOWN_CURRENCY,
            "amount.currency_code",
        ),
    ],
)
async def test_a_bad_item_fails_alone(
    wallets: WalletServiceAsyncStub,
    postings: WalletPostingServiceAsyncStub,
    change: dict[str, Any],
    reason: Reason,
    field: str,
) -> None:
    good = [item(), item()]
    response = await postings.ApplyMovements(request(good[0], item(**change), good[1]))

    assert [result.WhichOneof("result") for result in response.results] == [
        "applied",
        "error",
        "applied",
    ]
    error = refused(response.results[1])
    assert error.reason is reason
    assert error.code is Code.INVALID_ARGUMENT
    assert [violation.field for violation in error.violations] == [field]
    for neighbour in good:
        assert len(await balances(wallets, neighbour.seller_id)) == 1


async def test_lists_of_any_length(postings: WalletPostingServiceAsyncStub) -> None:
    assert (await postings.ApplyMovements(request())).results == []
    only_bad = await postings.ApplyMovements(request(item(seller_id="")))
    assert refused(only_bad.results[0]).reason is Reason.VALIDATION_FAILED
    many = [item() for _ in range(1000)]
    response = await postings.ApplyMovements(request(*many))
    assert [result.applied.movement_id for result in response.results] == [
        ids.movement_id(uuid.UUID(one.operation_id)).hex for one in many
    ]
    error = await error_of(postings.ApplyMovements(request(*many, item())))
    assert error.reason is Reason.VALIDATION_FAILED
    assert [violation.field for violation in error.violations] == ["movements"]


@pytest.mark.parametrize("seller_id", ["", "s" * 256, "line\nbreak"])
async def test_a_bad_seller_id(wallets: WalletServiceAsyncStub, seller_id: str) -> None:
    for call in (
        wallets.GetWallet(pb.GetWalletRequest(seller_id=seller_id)),
        wallets.ListMovements(pb.ListMovementsRequest(seller_id=seller_id)),
    ):
        error = await error_of(call)
        assert error.reason is Reason.VALIDATION_FAILED
        assert [violation.field for violation in error.violations] == ["seller_id"]


async def test_the_longest_seller_id(
    wallets: WalletServiceAsyncStub, postings: WalletPostingServiceAsyncStub
) -> None:
    seller_id = uuid.uuid4().hex + "\N{SNOWMAN}" * 223
    response = await postings.ApplyMovements(request(item(seller_id=seller_id)))
    assert response.results[0].HasField("applied")
    assert len(await balances(wallets, seller_id)) == 1


async def test_pages(
    wallets: WalletServiceAsyncStub, postings: WalletPostingServiceAsyncStub
) -> None:
    seller = new_seller()
    await postings.ApplyMovements(request(*(item(seller_id=seller) for _ in range(120))))

    async def page(size: int, token: str = "") -> pb.ListMovementsResponse:
        return await wallets.ListMovements(
            pb.ListMovementsRequest(seller_id=seller, page_size=size, page_token=token)
        )

    everything = await page(5000)
    assert len(everything.movements) == 120
    assert everything.next_page_token == ""
    assert len((await page(0)).movements) == 50
    listed: list[pb.Movement] = []
    token = ""
    while token or not listed:
        response = await page(40, token)
        assert len(response.movements) == 40
        listed += response.movements
        token = response.next_page_token
    assert listed == list(everything.movements)
    assert len({movement.movement_id for movement in listed}) == 120


async def test_a_page_ends_before_its_bytes(
    wallets: WalletServiceAsyncStub,
    postings: WalletPostingServiceAsyncStub,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seller = new_seller()
    await postings.ApplyMovements(request(*(item(seller_id=seller) for _ in range(10))))
    monkeypatch.setattr(paging, "MAX_PAGE_BYTES", 350)
    listed: list[str] = []
    token = ""
    while token or not listed:
        response = await wallets.ListMovements(
            pb.ListMovementsRequest(seller_id=seller, page_token=token)
        )
        assert len(response.movements) in {1, 3}
        listed += [movement.movement_id for movement in response.movements]
        token = response.next_page_token
    assert len(listed) == len(set(listed)) == 10


async def test_a_page_token_from_elsewhere(
    wallets: WalletServiceAsyncStub, postings: WalletPostingServiceAsyncStub
) -> None:
    seller = new_seller()
    await postings.ApplyMovements(request(item(seller_id=seller), item(seller_id=seller)))
    first = await wallets.ListMovements(pb.ListMovementsRequest(seller_id=seller, page_size=1))
    token = first.next_page_token
    for seller_id, given in ((new_seller(), token), (seller, "nonsense"), (seller, token[:-4])):
        error = await error_of(
            wallets.ListMovements(pb.ListMovementsRequest(seller_id=seller_id, page_token=given))
        )
        assert error.reason is Reason.VALIDATION_FAILED
        assert [violation.field for violation in error.violations] == ["page_token"]


async def test_a_negative_page_size(wallets: WalletServiceAsyncStub) -> None:
    error = await error_of(
        wallets.ListMovements(pb.ListMovementsRequest(seller_id="s", page_size=-1))
    )
    assert [violation.field for violation in error.violations] == ["page_size"]


async def test_a_database_that_is_down() -> None:
    url = f"postgresql://nobody:secret@127.0.0.1:{free_port()}/nothing"
    async with serving(wire, Settings(port=0, database_url=url, drain_s=0)) as channel:
        postings, wallets = WalletPostingServiceStub(channel), WalletServiceStub(channel)
        for call in (
            postings.ApplyMovements(request(item(), item())),
            wallets.GetWallet(pb.GetWalletRequest(seller_id="s")),
            wallets.ListMovements(pb.ListMovementsRequest(seller_id="s")),
        ):
            error = await error_of(call)
            assert error.reason is Reason.DEPENDENCY_DOWN
            assert error.code is Code.UNAVAILABLE
            assert "secret" not in str(error)
        # What is wrong with an item is known without a database.
        response = await postings.ApplyMovements(request(item(seller_id=""), item()))
        assert [refused(result).reason for result in response.results] == [
            Reason.VALIDATION_FAILED,
            Reason.DEPENDENCY_DOWN,
        ]


async def test_connections_that_are_cut_heal(
    databases: dict[str, str],
    wallets: WalletServiceAsyncStub,
    postings: WalletPostingServiceAsyncStub,
) -> None:
    asked = item()
    await postings.ApplyMovements(request(asked))
    with psycopg.connect(databases["admin"], autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname LIKE '%wallet' AND application_name = 'test'"
        )
    response = await postings.ApplyMovements(request(asked, item(seller_id=asked.seller_id)))
    assert all(result.HasField("applied") for result in response.results)
    assert [b.pending_minor for b in await balances(wallets, asked.seller_id)] == [180]
