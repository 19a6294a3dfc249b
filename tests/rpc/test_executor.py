"""The executor through real gRPC, with the whole chain, against the real PSP stub."""

from __future__ import annotations

import asyncio
import time

import pytest
from paymesh.payment.v1 import payment_pb2

from executor_svc.domain import State
from tests.support.executor import (
    HANG_MS,
    LONG_MS,
    captures,
    mesh,
    new_operation,
    new_operations,
    own_databases,
    row,
    sent_earlier,
    serving,
    stub_serving,
)
from tests.support.ports import free_port
from tests.support.postgres import PostgresServer

ANSWER = payment_pb2.EVIDENCE_SOURCE_PSP_ANSWER
LOOK_UP = payment_pb2.EVIDENCE_SOURCE_PSP_LOOK_UP


@pytest.fixture(scope="module")
def urls(postgres_server: PostgresServer) -> dict[str, str]:
    """The databases of the executor and the stub, shared by these tests."""
    return own_databases(postgres_server)


# --- tokens ----------------------------------------------------------------------------


async def test_a_charge_is_captured(urls: dict[str, str]) -> None:
    operation = new_operation()
    async with mesh(urls) as client:
        name, captured = await client.execute_one(operation)
    assert name == "captured"
    assert (captured.amount.amount_minor, captured.amount.currency_code) == (10_000, "EUR")
    assert (captured.fee.amount_minor, captured.fee.currency_code) == (320, "EUR")
    assert captured.psp_reference.startswith("stub_")
    assert captured.source == "psp_stub"
    assert captured.evidence == ANSWER
    assert abs(captured.outcome_time.ToSeconds() - time.time()) < 60
    assert captures(urls["psp_stub"], [operation]) == {operation.operation_id: 1}


@pytest.mark.parametrize(
    ("token", "evidence"),
    [
        ("tok_slow", ANSWER),
        ("tok_timeout_captured", LOOK_UP),
        ("tok_timeout_nothing", ANSWER),
        ("tok_error_captured", LOOK_UP),
    ],
)
async def test_a_lost_answer_is_found_within_the_first_round(
    urls: dict[str, str], token: str, evidence: int
) -> None:
    operation = new_operation(token)
    deadline_ms = HANG_MS if "timeout" in token else LONG_MS
    async with mesh(urls, psp_deadline_ms=deadline_ms) as client:
        name, captured = await client.execute_one(operation)
    assert name == "captured"
    assert captured.evidence == evidence
    assert captures(urls["psp_stub"], [operation]) == {operation.operation_id: 1}


@pytest.mark.parametrize(
    ("token", "category", "code"),
    [
        ("tok_declined", payment_pb2.DECLINE_CATEGORY_GENERIC, "card_declined"),
        (
            "tok_insufficient_funds",
            payment_pb2.DECLINE_CATEGORY_INSUFFICIENT_FUNDS,
            "insufficient_funds",
        ),
        (
            "tok_no_such_token",
            payment_pb2.DECLINE_CATEGORY_INVALID_PAYMENT_METHOD,
            "invalid_token",
        ),
    ],
)
async def test_a_decline_is_definite(
    urls: dict[str, str], token: str, category: int, code: str
) -> None:
    operation = new_operation(token)
    async with mesh(urls) as client:
        name, declined = await client.execute_one(operation)
        again = await client.execute_one(operation)
    assert name == "declined"
    assert (declined.category, declined.code, declined.evidence) == (category, code, ANSWER)
    assert again == (name, declined)
    assert captures(urls["psp_stub"], [operation]) == {}


async def test_a_psp_that_is_unavailable_twice_captures_in_a_later_round(
    urls: dict[str, str],
) -> None:
    operation = new_operation("tok_unavailable_twice")
    async with mesh(urls) as client:
        name, unknown = await client.execute_one(operation)
        assert name == "unknown"
        assert unknown.detail == (
            "charge: UNAVAILABLE; look-up: not found; charge: UNAVAILABLE; look-up: not found"
        )
        assert (await client.execute_one(operation))[0] == "captured"
    assert captures(urls["psp_stub"], [operation]) == {operation.operation_id: 1}
    assert (row(urls["executor"], operation) or {})["send_count"] == 3


@pytest.mark.parametrize(
    ("token", "wanted"),
    [("tok_pending_success", "captured"), ("tok_pending_failure", "declined")],
)
async def test_what_is_pending_is_asked_about_and_never_sent_again(
    urls: dict[str, str], token: str, wanted: str
) -> None:
    operation = new_operation(token)
    async with mesh(urls) as client:
        name, pending = await client.execute_one(operation)
        assert name == "pending"
        assert pending.psp_reference.startswith("stub_")
        outcome = await client.ask_until(operation, wanted)
    assert outcome.evidence == LOOK_UP
    assert (row(urls["executor"], operation) or {})["send_count"] == 1


async def test_a_wrong_amount_is_parked_and_never_captured(urls: dict[str, str]) -> None:
    operation = new_operation("tok_wrong_amount")
    async with mesh(urls) as client:
        name, parked = await client.execute_one(operation)
        again = await client.execute_one(operation)
    assert name == "parked"
    assert parked.attention_reason == (
        "WRONG_AMOUNT: asked 100.00 EUR, the PSP captured 100.01 EUR"
    )
    assert not parked.poll
    assert parked.psp_reference.startswith("stub_")
    assert again == (name, parked)


async def test_a_silent_psp_is_unknown_and_then_parked(urls: dict[str, str]) -> None:
    operation = new_operation("tok_silent")
    async with mesh(urls, psp_deadline_ms=300) as client:
        assert (await client.execute_one(operation))[0] == "unknown"
        sent_earlier(urls["executor"], operation, "11:59:00")
        assert (await client.execute_one(operation))[0] == "unknown"
        sent_earlier(urls["executor"], operation, "00:01:00")
        name, parked = await client.execute_one(operation)
        assert name == "parked"
        assert parked.attention_reason.startswith("OUTCOME_UNKNOWN: ")
        assert parked.poll
        assert await client.execute_one(operation) == (name, parked)
    assert captures(urls["psp_stub"], [operation]) == {operation.operation_id: 1}
    # First, resent in the first round, resent in the second; the third was too late.
    assert (row(urls["executor"], operation) or {})["send_count"] == 3


@pytest.mark.parametrize("token", ["tok_silent", "tok_timeout_captured", "tok_ok"])
async def test_a_psp_that_forgets_within_two_seconds_captures_once_all_the_same(
    urls: dict[str, str], token: str
) -> None:
    operation = new_operation(token)
    async with mesh(urls, stub={"key_memory_s": 2.0}, psp_deadline_ms=400) as client:
        results = []
        started = time.monotonic()
        while time.monotonic() - started < 3:
            results.append((await client.execute_one(operation))[0])
            await asyncio.sleep(0.1)
    assert captures(urls["psp_stub"], [operation]) == {operation.operation_id: 1}
    assert "declined" not in results
    assert results[-1] == ("parked" if token == "tok_silent" else "captured")


# --- asking again ----------------------------------------------------------------------


async def test_a_captured_operation_is_answered_from_its_row(urls: dict[str, str]) -> None:
    operation = new_operation()
    async with mesh(urls) as client:
        first = await client.execute_one(operation)
    nowhere = f"127.0.0.1:{free_port()}"
    async with serving(urls["executor"], nowhere) as client:
        assert await client.execute_one(operation) == first


async def test_many_at_once_ask_for_one_charge(urls: dict[str, str]) -> None:
    operation = new_operation("tok_slow")
    async with mesh(urls) as client:
        results = await asyncio.gather(*(client.execute_one(operation) for _ in range(20)))
    assert all(result == results[0] for result in results)
    assert results[0][0] == "captured"
    assert captures(urls["psp_stub"], [operation]) == {operation.operation_id: 1}
    assert (row(urls["executor"], operation) or {})["send_count"] == 1


async def test_two_executors_that_drive_one_operation_charge_once(urls: dict[str, str]) -> None:
    operations = [
        new_operation(token)
        for token in ("tok_ok", "tok_slow", "tok_timeout_nothing", "tok_error_captured")
        for _ in range(10)
    ]
    async with (
        stub_serving(urls["psp_stub"], slow_ms=300) as target,
        serving(urls["executor"], target, psp_deadline_ms=HANG_MS) as one,
        serving(urls["executor"], target, psp_deadline_ms=HANG_MS) as other,
    ):
        first, second = await asyncio.gather(
            one.execute(*operations), other.execute(*reversed(operations))
        )
    assert {name for name, _ in [*first, *second]} == {"captured"}
    references = [captured.psp_reference for _, captured in first]
    assert references == [captured.psp_reference for _, captured in reversed(second)]
    assert captures(urls["psp_stub"], operations) == {o.operation_id: 1 for o in operations}


# --- lists -----------------------------------------------------------------------------


async def test_a_slow_card_never_holds_up_its_neighbours(urls: dict[str, str]) -> None:
    fast, slow = new_operations(50), new_operation("tok_slow")
    hanging = new_operation("tok_silent")
    async with (
        mesh(urls, stub={"slow_ms": 3_000}, psp_deadline_ms=6_000) as client,
        client.stream() as stream,
    ):
        await stream.send([slow, hanging, *fast])
        results = await stream.results(fast)
        assert {name for name, _ in results} == {"captured"}
        assert len(stream.outcomes) == len(fast)
        assert (await stream.results([slow]))[0][0] == "captured"


async def test_the_outcome_is_stored_before_it_is_told(urls: dict[str, str]) -> None:
    operations = new_operations(20)
    async with mesh(urls) as client, client.stream() as stream:
        await stream.send(operations)
        for operation in operations:
            await stream.results([operation])
            assert (row(urls["executor"], operation) or {})["state"] == State.CAPTURED
