"""What a settlement file proves is stored as the outcome; what is known is never replaced."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from paymesh.common.v1 import money_pb2
from paymesh.executor.v1 import executor_service_pb2 as pb
from paymesh.payment.v1 import payment_pb2
from paymesh.psp.v1 import psp_service_pb2 as psp_pb

from executor_svc.domain import Operation, Source, State
from mesh import ids
from mesh.errors import Code, Reason
from tests.support.eventually import eventually
from tests.support.executor import (
    Client,
    error_of,
    item,
    new_operation,
    own_databases,
    row,
    sent_earlier,
    serving,
)
from tests.support.fake_psp import FakePsp, captured, failing, silent
from tests.support.postgres import PostgresServer

SOURCE = "fake"
SILENT = failing(Code.UNAVAILABLE)
REFUSING = failing(Code.INVALID_ARGUMENT, Reason.VALIDATION_FAILED)


@pytest.fixture(scope="module")
def url(postgres_server: PostgresServer) -> str:
    """The executor's database, shared by these tests."""
    return own_databases(postgres_server)["executor"]


def evidence(
    amount_minor: int = 10_000, *, fee_minor: int | None = 320, source: str = SOURCE
) -> pb.SettlementEvidence:
    """A line about a charge in euros."""
    fee = None
    if fee_minor is not None:
        fee = money_pb2.Money(amount_minor=fee_minor, currency_code="EUR")
    return pb.SettlementEvidence(
        amount=money_pb2.Money(amount_minor=amount_minor, currency_code="EUR"),
        psp_reference="settled-1",
        fee=fee,
        source=source,
    )


def key(operation: Operation) -> str:
    """The operation's name at the PSP."""
    return ids.psp_key(operation.operation_id).hex


async def unknown_one(client: Client, psp: FakePsp) -> Operation:
    """An operation that the PSP was asked for and never told of."""
    psp.script = SILENT
    operation = new_operation()
    assert (await client.execute_one(operation))[0] == "unknown"
    return operation


async def test_what_the_psp_never_told_is_captured_by_the_file_and_nothing_is_asked(
    url: str,
) -> None:
    psp = FakePsp()
    async with psp.serving() as target, serving(url, target) as client:
        operation = await unknown_one(client, psp)
        asked = (len(psp.charged), len(psp.looked_up))
        name, outcome = await client.settle(operation, evidence())
        again = await client.execute_one(operation)
    assert name == "captured"
    assert outcome.evidence == payment_pb2.EVIDENCE_SOURCE_SETTLEMENT_FILE
    assert (outcome.psp_reference, outcome.source) == ("settled-1", SOURCE)
    assert outcome.amount.amount_minor == 10_000
    assert outcome.fee == money_pb2.Money(amount_minor=320, currency_code="EUR")
    assert again == (name, outcome)
    assert (len(psp.charged), len(psp.looked_up)) == asked
    stored = row(url, operation) or {}
    assert (stored["state"], stored["evidence"]) == (State.CAPTURED, Source.SETTLEMENT_FILE)
    assert (stored["captured_minor"], stored["fee_minor"]) == (10_000, 320)
    assert stored["unresolved"] is False


async def test_the_file_counts_while_the_psp_is_down(url: str) -> None:
    psp = FakePsp()
    async with psp.serving() as target, serving(url, target) as client:
        operation = await unknown_one(client, psp)
    async with serving(url, "127.0.0.1:1") as client:
        assert (await client.settle(operation, evidence()))[0] == "captured"


async def test_what_is_pending_is_captured_by_the_file_and_nothing_is_asked(url: str) -> None:
    operation = new_operation()
    psp = FakePsp(lambda item, call: psp_pb.ChargeOutcome(pending=psp_pb.ChargePending()))
    async with psp.serving() as target, serving(url, target) as client:
        assert (await client.execute_one(operation))[0] == "pending"
        asked = (len(psp.charged), len(psp.looked_up))
        assert (await client.settle(operation, evidence()))[0] == "captured"
    assert (len(psp.charged), len(psp.looked_up)) == asked


async def test_what_was_parked_as_unknown_is_captured_by_the_file(url: str) -> None:
    psp = FakePsp()
    async with psp.serving() as target, serving(url, target) as client:
        operation = await unknown_one(client, psp)
        sent_earlier(url, operation, "25 hours")
        assert (await client.execute_one(operation))[0] == "parked"
        assert (await client.settle(operation, evidence(fee_minor=None)))[0] == "captured"
    stored = row(url, operation) or {}
    assert stored["fee_minor"] is None
    assert stored["attention_reason"] == ""


async def test_another_amount_in_the_file_is_parked_and_never_captured(url: str) -> None:
    psp = FakePsp()
    async with psp.serving() as target, serving(url, target) as client:
        operation = await unknown_one(client, psp)
        name, parked = await client.settle(operation, evidence(9_999))
        # What the file says is not forgotten for what the PSP does not say.
        assert await client.execute_one(operation) == (name, parked)
    assert name == "parked"
    assert parked.attention_reason == "WRONG_AMOUNT: asked 100.00 EUR, the PSP captured 99.99 EUR"
    assert not parked.poll
    stored = row(url, operation) or {}
    assert (stored["state"], stored["captured_minor"]) == (State.PARKED, 9_999)


def declining(item: psp_pb.ChargeItem, call: int) -> psp_pb.ChargeOutcome:
    """A definite no."""
    return psp_pb.ChargeOutcome(
        declined=psp_pb.ChargeDeclined(category=payment_pb2.DECLINE_CATEGORY_GENERIC, code="51")
    )


@pytest.mark.parametrize(
    ("script", "state"),
    [(declining, State.DECLINED), (captured, State.CAPTURED), (REFUSING, State.PARKED)],
    ids=["declined", "captured", "refused"],
)
async def test_what_is_definite_or_waits_for_an_operator_is_answered_as_it_is(
    url: str, script: Any, state: State
) -> None:
    operation = new_operation()
    psp = FakePsp(script)
    async with psp.serving() as target, serving(url, target) as client:
        before = await client.execute_one(operation)
        stored = row(url, operation)
        assert await client.settle(operation, evidence()) == before
    assert row(url, operation) == stored
    assert (stored or {})["state"] == state
    assert psp.charged == [key(operation)]


async def test_the_file_of_another_source_is_no_evidence_and_the_psp_is_asked(url: str) -> None:
    psp = FakePsp()
    async with psp.serving() as target, serving(url, target) as client:
        operation = await unknown_one(client, psp)
        looked_up = len(psp.looked_up)
        assert (await client.settle(operation, evidence(source="a_bank")))[0] == "unknown"
        assert len(psp.looked_up) > looked_up
        psp.will_find(key(operation))
        assert (await client.settle(operation, evidence(source="a_bank")))[0] == "captured"
    stored = row(url, operation) or {}
    assert (stored["state"], stored["evidence"]) == (State.CAPTURED, Source.PSP_LOOK_UP)


async def test_an_operation_whose_row_is_lost_is_captured_and_not_sent(url: str) -> None:
    operation = new_operation()
    psp = FakePsp()
    async with psp.serving() as target, serving(url, target) as client:
        assert (await client.settle(operation, evidence()))[0] == "captured"
        assert (await client.execute_one(operation))[0] == "captured"
    assert not psp.charged
    assert (row(url, operation) or {})["source"] == SOURCE


async def test_two_replicas_that_are_told_at_once_answer_the_same(url: str) -> None:
    psp = FakePsp()
    async with (
        psp.serving() as target,
        serving(url, target) as one,
        serving(url, target) as two,
    ):
        operation = await unknown_one(one, psp)
        answers = await asyncio.gather(
            *(client.settle(operation, evidence()) for client in (one, two) * 4)
        )
    assert {name for name, _ in answers} == {"captured"}
    assert len({outcome.outcome_time.ToJsonString() for _, outcome in answers}) == 1


async def test_what_is_under_way_is_settled_beside_that_and_all_are_told(url: str) -> None:
    operation = new_operation()
    psp = FakePsp(silent)
    async with psp.serving() as target, serving(url, target) as client, client.stream() as first:
        await first.send([operation])
        await first.until(lambda stream: stream.acknowledged)
        await eventually(lambda: psp.charged)
        settled = await client.settle(operation, evidence(), timeout_s=5)
        assert settled[0] == "captured"
        assert await first.results([operation], 5) == [settled]


async def test_what_is_under_way_goes_on_where_the_file_proves_nothing(url: str) -> None:
    operation = new_operation()
    psp = FakePsp(silent)
    async with (
        psp.serving() as target,
        serving(url, target, psp_deadline_ms=800) as client,
        client.stream() as first,
    ):
        await first.send([operation])
        await first.until(lambda stream: stream.acknowledged)
        psp.will_find(key(operation))
        assert (await client.settle(operation, evidence(source="a_bank")))[0] == "captured"
        ((_, outcome),) = await first.results([operation])
    assert outcome.evidence == payment_pb2.EVIDENCE_SOURCE_PSP_LOOK_UP


async def test_other_fields_than_stored_are_a_conflict(url: str) -> None:
    psp = FakePsp()
    async with psp.serving() as target, serving(url, target) as client:
        operation = await unknown_one(client, psp)
        other = operation._replace(amount_minor=9_999)
        error = error_of(await client.settle(other, evidence(9_999)))
    assert error.reason is Reason.OPERATION_CONFLICT
    assert (row(url, operation) or {})["state"] == State.UNKNOWN


def _usd(settled: pb.SettlementEvidence) -> None:
    settled.amount.currency_code = "USD"


@pytest.mark.parametrize(
    ("spoil", "field"),
    [
        (lambda s: s.ClearField("amount"), "settled.amount"),
        (lambda s: setattr(s.amount, "amount_minor", 0), "settled.amount.amount_minor"),
        (lambda s: setattr(s.amount, "amount_minor", -1), "settled.amount.amount_minor"),
        (_usd, "settled.amount.currency_code"),
        (lambda s: setattr(s.fee, "amount_minor", -1), "settled.fee.amount_minor"),
        (lambda s: setattr(s.fee, "currency_code", "ZZZ"), "settled.fee.currency_code"),
        (lambda s: setattr(s, "source", ""), "settled.source"),
        (lambda s: setattr(s, "source", "x" * 64), "settled.source"),
        (lambda s: setattr(s, "psp_reference", "x" * 256), "settled.psp_reference"),
        (lambda s: setattr(s, "psp_reference", "a\0b"), "settled.psp_reference"),
    ],
)
async def test_bad_evidence_is_refused_and_changes_nothing(
    url: str, spoil: Callable[[pb.SettlementEvidence], None], field: str
) -> None:
    operation, neighbour = new_operation(), new_operation()
    settled = evidence()
    spoil(settled)
    psp = FakePsp()
    async with psp.serving() as target, serving(url, target) as client, client.stream() as stream:
        await stream.send_items([item(operation, settled=settled), item(neighbour)])
        result, other = await stream.results([operation, neighbour])
    assert error_of(result).reason is Reason.VALIDATION_FAILED
    assert [v.field for v in error_of(result).violations] == [field]
    assert other[0] == "captured"
    assert row(url, operation) is None
    assert psp.charged == [key(neighbour)]
