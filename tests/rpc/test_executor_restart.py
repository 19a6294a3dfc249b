"""A round that an operator asked for: what is parked is found out about, none forgotten."""

from __future__ import annotations

import pytest
from paymesh.common.v1 import money_pb2
from paymesh.payment.v1 import payment_pb2
from paymesh.psp.v1 import psp_service_pb2 as psp_pb

from executor_svc.domain import Operation, State
from mesh import ids
from mesh.errors import Code, Reason
from tests.support.executor import new_operation, own_databases, row, sent_earlier, serving
from tests.support.fake_psp import FakePsp, captured, failing
from tests.support.postgres import PostgresServer

REFUSING = failing(Code.INVALID_ARGUMENT, Reason.VALIDATION_FAILED)


@pytest.fixture(scope="module")
def url(postgres_server: PostgresServer) -> str:
    """The executor's database, shared by these tests."""
    return own_databases(postgres_server)["executor"]


def key(operation: Operation) -> str:
    """The operation's name at the PSP."""
    return ids.psp_key(operation.operation_id).hex


def taking(amount_minor: int) -> FakePsp:
    """A PSP that takes this, whatever was asked, and says so of look-ups too."""
    amount = money_pb2.Money(amount_minor=amount_minor, currency_code="EUR")
    taken = psp_pb.ChargeCaptured(amount=amount, psp_reference="x")
    return FakePsp(lambda item, call: psp_pb.ChargeOutcome(captured=taken))


async def test_what_the_psp_refused_is_looked_up_and_sent_again_under_the_same_key(
    url: str,
) -> None:
    operation = new_operation()
    psp = FakePsp(REFUSING)
    async with psp.serving() as target, serving(url, target) as client:
        assert (await client.execute_one(operation))[0] == "parked"
        psp.script = captured
        assert (await client.execute_one(operation))[0] == "parked"
        assert (await client.restart(operation))[0] == "captured"
        assert (await client.execute_one(operation))[0] == "captured"
    assert psp.charged == [key(operation)] * 2
    assert psp.looked_up == [key(operation)]
    assert (row(url, operation) or {})["send_count"] == 2


async def test_what_is_refused_again_is_unknown_and_not_forgotten(url: str) -> None:
    operation = new_operation()
    psp = FakePsp(REFUSING)
    async with psp.serving() as target, serving(url, target) as client:
        await client.execute_one(operation)
        assert (await client.restart(operation))[0] == "unknown"
        psp.will_find(key(operation))
        assert (await client.execute_one(operation))[0] == "captured"


async def test_a_refusal_is_not_sent_again_when_the_psp_may_have_forgotten_the_key(
    url: str,
) -> None:
    operation = new_operation()
    psp = FakePsp(REFUSING)
    async with psp.serving() as target, serving(url, target) as client:
        before = await client.execute_one(operation)
        sent_earlier(url, operation, "25 hours")
        psp.script = captured
        assert await client.restart(operation) == before
    assert psp.charged == [key(operation)]
    assert (row(url, operation) or {})["state"] == State.PARKED


async def test_a_wrong_amount_that_the_psp_put_right_is_captured(url: str) -> None:
    operation = new_operation()
    psp = taking(10_001)
    async with psp.serving() as target, serving(url, target) as client:
        assert (await client.execute_one(operation))[0] == "parked"
        psp.will_find(key(operation))
        assert (await client.restart(operation))[0] == "captured"
    assert psp.charged == [key(operation)]


@pytest.mark.parametrize(
    "told",
    [
        psp_pb.LookUpResult(not_found=psp_pb.NotFound()),
        psp_pb.LookUpResult(
            declined=psp_pb.ChargeDeclined(category=payment_pb2.DECLINE_CATEGORY_GENERIC, code="51")
        ),
        psp_pb.LookUpResult(pending=psp_pb.ChargePending(psp_reference="x")),
    ],
    ids=["not found", "declined", "pending"],
)
async def test_a_wrong_amount_is_not_forgotten_for_what_the_psp_says_later(
    url: str, told: psp_pb.LookUpResult
) -> None:
    operation = new_operation()
    psp = taking(10_001)
    async with psp.serving() as target, serving(url, target) as client:
        before = await client.execute_one(operation)
        psp.found[key(operation)] = told
        assert await client.restart(operation) == before
    stored = row(url, operation) or {}
    assert (stored["state"], stored["captured_minor"]) == (State.PARKED, 10_001)
    assert psp.charged == [key(operation)]


async def test_a_wrong_amount_that_the_psp_changed_is_told_anew(url: str) -> None:
    operation = new_operation()
    psp = taking(10_001)
    async with psp.serving() as target, serving(url, target) as client:
        await client.execute_one(operation)
        psp.will_find(key(operation), amount_minor=9_999)
        name, parked = await client.restart(operation)
    assert name == "parked"
    assert parked.attention_reason == "WRONG_AMOUNT: asked 100.00 EUR, the PSP captured 99.99 EUR"


async def test_what_is_not_parked_is_answered_as_in_any_round(url: str) -> None:
    taken, unknown = new_operation(), new_operation()
    psp = FakePsp()
    async with psp.serving() as target, serving(url, target) as client:
        assert await client.execute_one(taken) == await client.restart(taken)
        psp.script = failing(Code.UNAVAILABLE)
        assert (await client.execute_one(unknown))[0] == "unknown"
        psp.script = captured
        assert (await client.restart(unknown))[0] == "captured"
    assert psp.charged.count(key(taken)) == 1
