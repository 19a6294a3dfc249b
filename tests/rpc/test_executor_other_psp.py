"""An operation belongs to the PSP that it was sent to: no other one is asked for it, or charged."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from paymesh.common.v1 import money_pb2
from paymesh.executor.v1 import executor_read_service_pb2 as read_pb
from paymesh.executor.v1 import executor_service_pb2 as pb
from paymesh.payment.v1 import payment_pb2
from paymesh.psp.v1 import psp_service_pb2 as psp_pb

from executor_svc import clients, operations
from executor_svc.domain import Operation, State
from executor_svc.operations import MAY_SEND, Intent
from mesh import ids
from mesh.db import Database
from mesh.errors import Code
from tests.support.executor import (
    new_operation,
    own_databases,
    row,
    sent_earlier,
    serving,
)
from tests.support.fake_psp import FakePsp, failing
from tests.support.ports import free_port
from tests.support.postgres import PostgresServer
from tests.support.psp_stub import eventually

SENT_TO = "fake"
UNAVAILABLE = failing(Code.UNAVAILABLE)


@pytest.fixture(scope="module")
def url(postgres_server: PostgresServer) -> str:
    """The executor's database, shared by these tests."""
    return own_databases(postgres_server)["executor"]


def key(operation: Operation) -> str:
    """The operation's name at the PSP."""
    return ids.psp_key(operation.operation_id).hex


def other_psp(script: Any = None) -> FakePsp:
    """Another PSP than the one that everything here was sent to."""
    psp = FakePsp() if script is None else FakePsp(script)
    psp.source = "other"
    return psp


def declining(item: psp_pb.ChargeItem, call: int) -> psp_pb.ChargeOutcome:
    """A definite no."""
    return psp_pb.ChargeOutcome(
        declined=psp_pb.ChargeDeclined(category=payment_pb2.DECLINE_CATEGORY_GENERIC, code="51")
    )


async def sent(url: str) -> Operation:
    """An operation that was sent to the first PSP, whose answer was lost with the process."""
    operation = new_operation()
    database = Database(url, application_name="test")
    intent = Intent(operation, ids.psp_key(operation.operation_id), SENT_TO)
    assert await operations.write(database, [intent]) == [MAY_SEND]
    await database.close()
    return operation


@pytest.mark.parametrize("script", [None, declining], ids=["captures", "declines"])
async def test_another_psp_is_not_asked_and_not_charged(url: str, script: Any) -> None:
    operation = await sent(url)
    psp = other_psp(script)
    async with psp.serving() as target, serving(url, target) as client:
        name, unknown = await client.execute_one(operation)
    assert name == "unknown"
    assert unknown.detail == "look-up: sent to another PSP (fake), not to other"
    assert psp.calls == []
    assert (row(url, operation) or {})["send_count"] == 1


async def test_it_goes_on_when_its_own_psp_is_back(url: str) -> None:
    operation = await sent(url)
    async with other_psp().serving() as target, serving(url, target) as client:
        assert (await client.execute_one(operation))[0] == "unknown"
    own = FakePsp()
    own.will_find(key(operation))
    async with own.serving() as target, serving(url, target) as client:
        name, outcome = await client.execute_one(operation)
    assert (name, outcome.source) == ("captured", SENT_TO)
    assert own.charged == []


async def test_in_time_it_is_parked_with_that_reason_and_still_moved_by_its_psp(url: str) -> None:
    operation = await sent(url)
    sent_earlier(url, operation, "12:00:00")
    psp = other_psp()
    async with psp.serving() as target, serving(url, target) as client:
        name, parked = await client.execute_one(operation)
        assert (name, parked.poll) == ("parked", True)
        assert parked.attention_reason.startswith("OUTCOME_UNKNOWN: sent to another PSP")
        assert (await client.execute_one(operation))[0] == "parked"
    assert psp.calls == []
    own = FakePsp()
    own.will_find(key(operation))
    async with own.serving() as target, serving(url, target) as client:
        assert (await client.execute_one(operation))[0] == "captured"


async def test_in_time_it_is_parked_also_if_its_psp_said_that_it_is_pending(url: str) -> None:
    operation = new_operation()
    own = FakePsp(lambda item, call: psp_pb.ChargeOutcome(pending=psp_pb.ChargePending()))
    async with own.serving() as target, serving(url, target) as client:
        assert (await client.execute_one(operation))[0] == "pending"
    async with other_psp().serving() as target, serving(url, target) as client:
        # While its own PSP may come back, it stays what that one said.
        assert (await client.execute_one(operation))[0] == "pending"
        sent_earlier(url, operation, "12:00:00")
        name, parked = await client.execute_one(operation)
    assert (name, parked.poll) == ("parked", True)
    assert parked.attention_reason.startswith("OUTCOME_UNKNOWN: sent to another PSP")


async def test_the_settlement_file_of_its_own_psp_still_moves_it(url: str) -> None:
    operation = await sent(url)
    settled = pb.SettlementEvidence(
        amount=money_pb2.Money(amount_minor=10_000, currency_code="EUR"),
        psp_reference="settled-1",
        source=SENT_TO,
    )
    psp = other_psp()
    async with psp.serving() as target, serving(url, target) as client:
        assert (await client.execute_one(operation))[0] == "unknown"
        assert (await client.settle(operation, settled))[0] == "captured"
    assert psp.calls == []


async def test_an_operator_s_restart_does_not_take_it_to_another_psp(url: str) -> None:
    operation = await sent(url)
    psp = other_psp()
    async with psp.serving() as target, serving(url, target) as client:
        assert (await client.restart(operation))[0] == "unknown"
    assert psp.calls == []


async def test_what_is_new_goes_to_the_new_psp_while_the_old_waits(url: str) -> None:
    old, new = await sent(url), new_operation()
    psp = other_psp()
    async with psp.serving() as target, serving(url, target) as client:
        results = await client.execute(old, new)
    assert [name for name, _ in results] == ["unknown", "captured"]
    assert psp.calls == [("Charge", [key(new)])]
    assert (row(url, new) or {})["source"] == "other"


async def test_an_adapter_exchanged_behind_its_address_is_not_sent_the_key_again(url: str) -> None:
    """Between the call and its resend: the executor still knows the old name."""
    operation = new_operation()
    psp = FakePsp(UNAVAILABLE)
    async with psp.serving() as target, serving(url, target, ladder_backoff_ms=1_000) as client:
        asked = asyncio.create_task(client.execute_one(operation))
        await eventually(lambda: len(psp.charged) == 1)
        psp.source, psp.script = "other", declining
        name, unknown = await asked
    assert name == "unknown"
    assert unknown.detail.endswith("resend: sent to another PSP (fake), not to other")
    assert psp.charged == [key(operation)]
    stored = row(url, operation) or {}
    assert (stored["source"], stored["state"]) == (SENT_TO, State.UNKNOWN)


async def test_a_name_that_is_too_old_is_asked_for_again_before_it_is_stored(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "REFRESH_S", 0.0)
    first, second = new_operation(), new_operation()
    psp = FakePsp()
    async with psp.serving() as target, serving(url, target) as client:
        await client.execute_one(first)
        psp.source = "other"
        await client.execute_one(second)
    assert [(row(url, o) or {})["source"] for o in (first, second)] == ["fake", "other"]


async def test_after_a_call_that_found_nobody_the_name_is_asked_for_again(url: str) -> None:
    port = free_port()
    before, after = FakePsp(), other_psp()
    async with serving(url, f"127.0.0.1:{port}") as client:
        async with before.serving(port):
            assert (await client.execute_one(new_operation()))[0] == "captured"
        assert (await client.execute_one(new_operation()))[0] == "unknown"
        source = ""
        # Much less than the minute for which the name would be remembered otherwise. Until the
        # channel has a connection again nobody can be asked for it.
        async with after.serving(port), asyncio.timeout(20):
            while source != "other":
                operation = new_operation()
                await client.execute_one(operation)
                source = (row(url, operation) or {})["source"]


async def test_a_read_does_not_ask_another_psp_either(url: str) -> None:
    operation, unstored = await sent(url), new_operation()
    psp = other_psp()
    for one in (operation, unstored):
        psp.will_find(key(one))
    async with psp.serving() as target, serving(url, target) as client:
        found = await client.find(operation, unstored, look_up=True)
    told = found[operation.operation_id]
    assert told.stored.source == SENT_TO
    assert told.look_up.result == read_pb.PSP_LOOK_UP_RESULT_NO_ANSWER
    # Of what has no row nobody knows where it was sent.
    assert found[unstored.operation_id].look_up.result == read_pb.PSP_LOOK_UP_RESULT_CAPTURED
    assert psp.looked_up == [key(unstored)]
