"""The executor's ladder, against a PSP that does what no honest PSP (nor the stub) would do."""

from __future__ import annotations

import asyncio

import psycopg
import pytest
from google.protobuf import any_pb2
from google.rpc import status_pb2
from paymesh.common.v1 import money_pb2
from paymesh.payment.v1 import payment_pb2
from paymesh.psp.v1 import psp_service_pb2 as psp_pb

from executor_svc import operations
from executor_svc.domain import Operation, State
from executor_svc.operations import MAY_SEND, Intent
from mesh import ids
from mesh.db import Database
from mesh.errors import Code, Reason
from tests.support.executor import (
    new_operation,
    new_operations,
    own_databases,
    row,
    sent_earlier,
    serving,
)
from tests.support.fake_psp import FakePsp, captured, failing, silent
from tests.support.postgres import PostgresServer
from tests.support.psp_stub import eventually


@pytest.fixture(scope="module")
def url(postgres_server: PostgresServer) -> str:
    """The executor's database, shared by these tests."""
    return own_databases(postgres_server)["executor"]


def key(operation: Operation) -> str:
    """The operation's name at the PSP."""
    return ids.psp_key(operation.operation_id).hex


async def killed_before_the_call(url: str, *sent: Operation) -> None:
    """What an executor leaves that was killed between its intents and its call."""
    database = Database(url, application_name="test")
    intents = [Intent(o, ids.psp_key(o.operation_id), "fake") for o in sent]
    assert await operations.write(database, intents) == [MAY_SEND] * len(sent)
    await database.close()


# --- a process that died ---------------------------------------------------------------


async def test_an_operation_of_a_dead_process_is_looked_up_and_then_sent(url: str) -> None:
    operation = new_operation()
    await killed_before_the_call(url, operation)
    psp = FakePsp()
    async with psp.serving() as target, serving(url, target) as client:
        assert (await client.execute_one(operation))[0] == "captured"
    assert psp.calls == [("LookUp", [key(operation)]), ("Charge", [key(operation)])]
    assert (row(url, operation) or {})["send_count"] == 2


async def test_what_a_dead_process_sent_is_found_and_not_sent_again(url: str) -> None:
    operation = new_operation()
    await killed_before_the_call(url, operation)
    psp = FakePsp()
    psp.will_find(key(operation))
    async with psp.serving() as target, serving(url, target) as client:
        name, outcome = await client.execute_one(operation)
    assert name == "captured"
    assert outcome.evidence == payment_pb2.EVIDENCE_SOURCE_PSP_LOOK_UP
    assert psp.charged == []


async def test_what_a_dead_process_left_for_long_is_parked(url: str) -> None:
    operation = new_operation()
    await killed_before_the_call(url, operation)
    sent_earlier(url, operation, "12:00:00")
    psp = FakePsp()
    async with psp.serving() as target, serving(url, target) as client:
        name, parked = await client.execute_one(operation)
    assert (name, parked.poll) == ("parked", True)
    assert psp.charged == []


async def test_what_waits_is_looked_up_in_one_call_and_resent_in_one(url: str) -> None:
    waiting, new = new_operations(40), new_operations(40)
    await killed_before_the_call(url, *waiting)
    psp = FakePsp()
    async with psp.serving() as target, serving(url, target) as client:
        results = await client.execute(*waiting, *new)
    assert {name for name, _ in results} == {"captured"}
    assert sorted(name for name, _ in psp.calls) == ["Charge", "Charge", "LookUp"]


# --- parked and polled -----------------------------------------------------------------


async def test_a_parked_operation_is_polled_and_moved_by_evidence(url: str) -> None:
    operation = new_operation()
    await killed_before_the_call(url, operation)
    sent_earlier(url, operation, "3 days")
    psp = FakePsp()
    async with psp.serving() as target, serving(url, target) as client:
        assert (await client.execute_one(operation))[0] == "parked"
        assert (await client.execute_one(operation))[0] == "parked"
        psp.will_find(key(operation))
        assert (await client.execute_one(operation))[0] == "captured"
        assert (await client.execute_one(operation))[0] == "captured"
    assert len(psp.looked_up) == 3
    assert psp.charged == []
    assert (row(url, operation) or {})["attention_reason"] == ""


async def test_a_psp_that_cannot_be_asked_for_long_parks_until_it_can(url: str) -> None:
    operation = new_operation()
    psp = FakePsp(silent)
    async with psp.serving() as target, serving(url, target, psp_deadline_ms=100) as client:
        assert (await client.execute_one(operation))[0] == "unknown"
        sent_earlier(url, operation, "12:00:00")
        psp.found[key(operation)] = psp_pb.LookUpResult(error=status_pb2.Status(code=14))
        name, parked = await client.execute_one(operation)
        assert (name, parked.poll) == ("parked", True)
        psp.will_find(key(operation))
        assert (await client.execute_one(operation))[0] == "captured"


# --- the key window --------------------------------------------------------------------


async def test_a_psp_that_forgets_sooner_than_it_said_is_not_sent_the_key_again(url: str) -> None:
    operation = new_operation()
    psp = FakePsp(failing(Code.UNAVAILABLE))
    async with psp.serving() as target, serving(url, target, ladder_backoff_ms=1_000) as client:
        asked = asyncio.create_task(client.execute_one(operation))
        await eventually(lambda: len(psp.charged) == 1)
        psp.key_window_s = 0.1
        assert (await asked)[0] in ("parked", "unknown")
        assert (await client.execute_one(operation))[0] == "parked"
    assert psp.charged == [key(operation)]


async def test_our_own_window_is_used_if_it_is_smaller(url: str) -> None:
    operation = new_operation()
    psp = FakePsp(failing(Code.UNAVAILABLE))
    async with (
        psp.serving() as target,
        serving(url, target, key_window_s=2.0, ladder_backoff_ms=1_500) as client,
    ):
        assert (await client.execute_one(operation))[0] == "parked"
    assert psp.charged == [key(operation)]


@pytest.mark.parametrize(
    ("source", "window_s"),
    [("", 3600.0), ("f" * 64, 3600.0), ("fa\nke", 3600.0), ("fake\x85", 3600.0), ("fake", 0.0)],
)
async def test_an_adapter_that_breaks_its_contract_is_sent_nothing(
    url: str, source: str, window_s: float
) -> None:
    operation = new_operation()
    psp = FakePsp()
    psp.source, psp.key_window_s = source, window_s
    async with psp.serving() as target, serving(url, target) as client:
        assert (await client.execute_one(operation))[0] == "error"
    assert psp.calls == []
    assert row(url, operation) is None


# --- refusals --------------------------------------------------------------------------


@pytest.mark.parametrize("reason", [Reason.VALIDATION_FAILED, Reason.OPERATION_CONFLICT])
async def test_a_request_that_the_psp_refuses_waits_for_an_operator(
    url: str, reason: Reason
) -> None:
    operation = new_operation()
    psp = FakePsp(failing(Code.INVALID_ARGUMENT, reason))
    async with psp.serving() as target, serving(url, target) as client:
        name, parked = await client.execute_one(operation)
        assert name == "parked"
        assert parked.attention_reason == f"PSP_REFUSED_REQUEST: {reason}"
        assert not parked.poll
        assert await client.execute_one(operation) == (name, parked)
    assert psp.calls == [("Charge", [key(operation)])]


async def test_a_refused_resend_does_not_settle_the_first_send(url: str) -> None:
    operation = new_operation()
    unavailable = failing(Code.UNAVAILABLE)
    refused = failing(Code.INVALID_ARGUMENT, Reason.VALIDATION_FAILED)
    psp = FakePsp(lambda item, call: (unavailable if call == 1 else refused)(item, call))
    async with psp.serving() as target, serving(url, target) as client:
        name, unknown = await client.execute_one(operation)
    assert name == "unknown"
    assert unknown.detail.endswith("charge: VALIDATION_FAILED; look-up: not found")


@pytest.mark.parametrize(
    "code",
    [
        Code.UNKNOWN,
        Code.INVALID_ARGUMENT,
        Code.DEADLINE_EXCEEDED,
        Code.NOT_FOUND,
        Code.PERMISSION_DENIED,
        Code.RESOURCE_EXHAUSTED,
        Code.FAILED_PRECONDITION,
        Code.ABORTED,
        Code.INTERNAL,
        Code.UNAVAILABLE,
        Code.UNAUTHENTICATED,
    ],
)
async def test_an_error_without_a_reason_is_no_decline(url: str, code: Code) -> None:
    operation = new_operation()
    psp = FakePsp(failing(code))
    async with psp.serving() as target, serving(url, target) as client:
        assert (await client.execute_one(operation))[0] == "unknown"
        psp.script = captured
        assert (await client.execute_one(operation))[0] == "captured"


# --- odd answers -----------------------------------------------------------------------


async def test_another_currency_is_a_wrong_amount(url: str) -> None:
    operation = new_operation()
    yen = money_pb2.Money(amount_minor=10_000, currency_code="JPY")
    taken = psp_pb.ChargeCaptured(amount=yen, psp_reference="x")
    psp = FakePsp(lambda item, call: psp_pb.ChargeOutcome(captured=taken))
    async with psp.serving() as target, serving(url, target) as client:
        name, parked = await client.execute_one(operation)
    assert name == "parked"
    assert parked.attention_reason == ("WRONG_AMOUNT: asked 100.00 EUR, the PSP captured 10000 JPY")


async def test_a_wrong_amount_found_by_look_up_is_parked_as_well(url: str) -> None:
    operation = new_operation()
    await killed_before_the_call(url, operation)
    psp = FakePsp()
    psp.will_find(key(operation), amount_minor=1)
    async with psp.serving() as target, serving(url, target) as client:
        name, parked = await client.execute_one(operation)
    assert (name, parked.poll) == ("parked", False)
    assert parked.attention_reason.startswith("WRONG_AMOUNT: ")


@pytest.mark.parametrize(
    ("amount_minor", "currency", "kept"),
    [
        (0, "EUR", True),
        (7, "EUR", True),
        (7, "USD", False),  # no line of the capture's own statement could be compared with it
        (-1, "EUR", False),
        (1, "XXX", False),
        (1, "", False),
    ],
)
async def test_a_fee_that_cannot_be_booked_is_left_out(
    url: str, amount_minor: int, currency: str, kept: bool
) -> None:
    def with_fee(item: psp_pb.ChargeItem, call: int) -> psp_pb.ChargeOutcome:
        outcome = captured(item)
        outcome.captured.fee.amount_minor = amount_minor
        outcome.captured.fee.currency_code = currency
        return outcome

    async with FakePsp(with_fee).serving() as target, serving(url, target) as client:
        name, outcome = await client.execute_one(new_operation())
    assert name == "captured"
    assert outcome.HasField("fee") is kept


async def test_texts_of_the_psp_are_cut_to_what_can_be_stored(url: str) -> None:
    def wordy(item: psp_pb.ChargeItem, call: int) -> psp_pb.ChargeOutcome:
        declined = psp_pb.ChargeDeclined(
            category=99,  # type: ignore[arg-type]  # from a newer contract
            code="no\0" * 200,
            psp_reference="\0",
        )
        return psp_pb.ChargeOutcome(declined=declined)

    async with FakePsp(wordy).serving() as target, serving(url, target) as client:
        name, declined = await client.execute_one(new_operation())
    assert name == "declined"
    assert declined.category == payment_pb2.DECLINE_CATEGORY_GENERIC
    assert declined.code == "no" * 85
    assert declined.psp_reference == ""


async def test_what_was_stored_with_control_characters_is_told_without(url: str) -> None:
    """By an earlier release; the ledger would never take it."""
    operation = new_operation()
    psp = FakePsp()
    async with psp.serving() as target, serving(url, target) as client:
        before = await client.execute_one(operation)
        with psycopg.connect(url) as connection:
            connection.execute(
                "UPDATE operation SET psp_reference = psp_reference || E'\\n\\u0085',"
                " source = source || E'\\t' WHERE operation_id = %s",
                (operation.operation_id,),
            )
        assert await client.execute_one(operation) == before
    assert psp.charged == [key(operation)]


async def test_what_nobody_asked_for_is_ignored_and_the_rest_looked_up(url: str) -> None:
    stranger = new_operation()

    def odd(item: psp_pb.ChargeItem, call: int) -> psp_pb.ChargeOutcome:
        if item.payment_method == "tok_stranger":
            outcome = captured(item)
            outcome.idempotency_key = key(stranger)
            return outcome
        if item.payment_method == "tok_empty":
            return psp_pb.ChargeOutcome()
        if item.payment_method == "tok_garbled":
            detail = any_pb2.Any(
                type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff\xff"
            )
            return psp_pb.ChargeOutcome(error=status_pb2.Status(code=3, details=[detail]))
        return captured(item)

    asked = [new_operation(f"tok_{name}") for name in ("ok", "stranger", "empty", "garbled")]
    psp = FakePsp(odd)
    async with psp.serving() as target, serving(url, target) as client:
        results = await client.execute(*asked)
    assert [name for name, _ in results] == ["captured", "unknown", "unknown", "unknown"]
    assert row(url, stranger) is None
    assert set(map(key, asked[1:])) == set(psp.looked_up)


async def test_a_stream_that_ends_early_leaves_the_rest_unknown(url: str) -> None:
    answered, lost = new_operation(), new_operation("tok_lost")
    psp = FakePsp(lambda item, call: None if item.payment_method == "tok_lost" else captured(item))
    async with (
        psp.serving() as target,
        serving(url, target) as client,
        client.stream() as stream,
    ):
        await stream.send([answered, lost])
        assert (await stream.results([answered]))[0][0] == "captured"
        psp.will_find(key(lost))
        psp.cut()
        assert (await stream.results([lost], timeout_s=15))[0][0] == "captured"
    assert psp.charged.count(key(lost)) == 1


async def test_a_psp_that_contradicts_itself_changes_nothing(url: str) -> None:
    operation = new_operation()
    await killed_before_the_call(url, operation)
    psp = FakePsp()
    psp.will_find(key(operation))
    async with psp.serving() as target, serving(url, target) as one, serving(url, target) as other:
        psp.open.clear()
        first = await one.execute_one(operation)
        psp.found[key(operation)] = psp_pb.LookUpResult(declined=psp_pb.ChargeDeclined(code="no"))
        assert await other.execute_one(operation) == first
    assert (row(url, operation) or {})["state"] == State.CAPTURED
