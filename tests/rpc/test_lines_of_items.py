"""What is refused of a list has a line of its own with the ids of payment and order."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, MutableMapping
from typing import Any

import pytest
from paymesh.common.v1.money_pb2 import Money
from paymesh.ledger.v1 import ledger_posting_service_pb2 as ledger_pb
from paymesh.ledger.v1.ledger_posting_service_pb2_grpc import LedgerPostingServiceStub
from paymesh.psp.v1 import psp_service_pb2 as psp_pb
from paymesh.psp.v1.psp_service_pb2_grpc import PspServiceStub
from paymesh.wallet.v1 import wallet_posting_service_pb2 as wallet_pb
from paymesh.wallet.v1 import wallet_service_pb2
from paymesh.wallet.v1.wallet_posting_service_pb2_grpc import WalletPostingServiceStub
from structlog.testing import capture_logs

import ledger_svc.config
import ledger_svc.main
import psp_stub.config
import psp_stub.main
import wallet_svc.config
import wallet_svc.main
from tests.support.captures import new_seller, new_source
from tests.support.executor import item as operation_item
from tests.support.executor import mesh as executor_mesh
from tests.support.executor import new_operation, own_databases
from tests.support.postgres import PostgresServer
from tests.support.serving import serving

CARD = "4242424242424242"

Line = MutableMapping[str, Any]


@pytest.fixture
def lines() -> Iterator[list[Line]]:
    with capture_logs() as found:
        yield found


def new_ids() -> dict[str, str]:
    return {f"{name}_id": uuid.uuid4().hex for name in ("payment", "order", "operation")}


def of(lines: list[Line], event: str) -> list[Line]:
    return [line for line in lines if line["event"] == event]


def movement(ids: dict[str, Any], **change: Any) -> wallet_pb.MovementItem:
    fields: dict[str, Any] = {
        "kind": wallet_service_pb2.MOVEMENT_KIND_CAPTURE,
        "seller_id": new_seller(),
        "amount": Money(amount_minor=90, currency_code="EUR"),
    }
    return wallet_pb.MovementItem(**{**fields, **ids, **change})


def capture(ids: dict[str, Any], currency: str = "EUR", amount: int = 90) -> ledger_pb.LedgerEvent:
    return ledger_pb.LedgerEvent(
        capture=ledger_pb.CaptureEvent(
            seller_id=new_seller(),
            source=new_source(),
            captured=Money(amount_minor=amount, currency_code=currency),
            seller_pending_minor=amount,
        ),
        **ids,
    )


async def test_movements(databases: dict[str, str], lines: list[Line]) -> None:
    good, unknown, conflict, strange = (new_ids() for _ in range(4))
    strange["payment_id"] = CARD
    settings = wallet_svc.config.Settings(port=0, database_url=databases["wallet"], drain_s=0)
    async with serving(wallet_svc.main.wire, settings) as channel:
        stub = WalletPostingServiceStub(channel)
        await stub.ApplyMovements(
            wallet_pb.ApplyMovementsRequest(movements=[movement(good), movement(conflict)])
        )
        assert of(lines, "movement_refused") == []
        answer = await stub.ApplyMovements(
            wallet_pb.ApplyMovementsRequest(
                movements=[
                    movement(unknown, amount=Money(amount_minor=1, currency_code="XXQ")),
                    movement(conflict),
                    movement(strange),
                ]
            )
        )
    assert [r.WhichOneof("result") for r in answer.results] == ["error"] * 3
    first, second, third = of(lines, "movement_refused")
    assert {name: first[name] for name in unknown} == unknown
    assert (first["reason"], first["fields"]) == ("UNKNOWN_CURRENCY", ["amount.currency_code"])
    assert {name: second[name] for name in conflict} == conflict
    assert (second["reason"], second["fields"]) == ("OPERATION_CONFLICT", "seller_id")
    assert third["payment_id"] == ""
    assert third["order_id"] == strange["order_id"]
    assert CARD not in str(lines)


async def test_events(databases: dict[str, str], lines: list[Line]) -> None:
    unknown, conflict = new_ids(), new_ids()
    settings = ledger_svc.config.Settings(port=0, database_url=databases["ledger"], drain_s=0)
    async with serving(ledger_svc.main.wire, settings) as channel:
        stub = LedgerPostingServiceStub(channel)
        await stub.PostEvents(ledger_pb.PostEventsRequest(events=[capture(conflict)]))
        assert of(lines, "event_refused") == []
        await stub.PostEvents(
            ledger_pb.PostEventsRequest(events=[capture(unknown, "XXQ"), capture(conflict)])
        )
    first, second = of(lines, "event_refused")
    assert {name: first[name] for name in unknown} == unknown
    assert first["reason"] == "UNKNOWN_CURRENCY"
    assert {name: second[name] for name in conflict} == conflict
    assert second["reason"] == "OPERATION_CONFLICT"


async def test_operations(postgres_server: PostgresServer, lines: list[Line]) -> None:
    good, bad = new_operation(), new_operation()
    wrong = operation_item(bad)
    wrong.amount.currency_code = "XXQ"
    wrong.order_id = CARD
    other = good._replace(amount_minor=good.amount_minor + 1)
    async with executor_mesh(own_databases(postgres_server)) as client:
        assert (await client.execute_one(good))[0] == "captured"
        assert of(lines, "operation_refused") == []
        async with client.stream() as stream:
            await stream.send_items([wrong])
            await stream.results([bad])
        assert (await client.execute_one(other))[0] == "error"
    (refused,) = of(lines, "operation_refused")
    assert refused["payment_id"] == bad.payment_id.hex
    assert refused["operation_id"] == bad.operation_id.hex
    assert refused["order_id"] == ""
    assert refused["reason"] == "VALIDATION_FAILED"
    conflicts = [line for line in of(lines, "operation") if line["state"] == "OPERATION_CONFLICT"]
    assert [line["payment_id"] for line in conflicts] == [good.payment_id.hex]
    assert CARD not in str(lines)


async def test_charges(postgres_server: PostgresServer, lines: list[Line]) -> None:
    ids = new_ids()
    settings = psp_stub.config.Settings(
        port=0, database_url=own_databases(postgres_server)["psp_stub"], drain_s=0
    )
    charge = psp_pb.ChargeItem(
        idempotency_key="key",
        payment_method="tok_ok",
        amount=Money(amount_minor=1, currency_code="XXQ"),
        **ids,
    )
    async with serving(psp_stub.main.wire, settings) as channel:
        told = [
            r async for r in PspServiceStub(channel).Charge(psp_pb.ChargeRequest(items=[charge]))
        ]
    assert told[0].outcomes[0].WhichOneof("result") == "error"
    (refused,) = of(lines, "charge_refused")
    assert {name: refused[name] for name in ids} == ids
