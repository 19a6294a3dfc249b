"""The PSP stub through real gRPC, with the whole interceptor chain, on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import time
from uuid import UUID

import psycopg
import pytest
from google.rpc import code_pb2
from paymesh.payment.v1 import payment_pb2

from mesh.errors import Reason
from psp_stub.domain import SCRIPTS
from tests.support.postgres import PostgresServer
from tests.support.psp_stub import (
    charge,
    charge_one,
    error_of,
    eventually,
    item,
    look_up,
    look_up_one,
    messages,
    new_ask,
    own_database,
    serving,
    truth,
)

CAPTURED = ("CAPTURED", 10_000, 320)

# Long enough for a list on a busy machine; a call that hangs costs a test as much.
HANG_S = 1.0


@pytest.fixture(scope="module")
def url(postgres_server: PostgresServer) -> str:
    """The stub's database, shared by these tests."""
    return own_database(postgres_server)


# --- tokens ----------------------------------------------------------------------------


async def test_ok(url: str) -> None:
    ask = new_ask()
    async with serving(url) as stub:
        captured = (await charge_one(stub, ask)).captured
        assert (captured.amount.amount_minor, captured.amount.currency_code) == (10_000, "EUR")
        assert (captured.fee.amount_minor, captured.fee.currency_code) == (320, "EUR")
        assert captured.psp_reference.startswith("stub_")
        assert (await look_up_one(stub, ask)).captured == captured
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "SELECT idempotency_key, operation_id, order_id, psp_reference, amount_minor,"
            " currency, fee_minor, state, create_time <= now() FROM truth"
            " WHERE idempotency_key = %s",
            (ask.idempotency_key,),
        ).fetchall()
    ids = (ask.idempotency_key, UUID(ask.operation_id), UUID(ask.order_id))
    assert rows == [
        (*ids, captured.psp_reference, 10_000, "EUR", 320, "CAPTURED", True),
    ]


@pytest.mark.parametrize(
    ("token", "category", "code"),
    [
        ("tok_declined", payment_pb2.DECLINE_CATEGORY_GENERIC, "card_declined"),
        (
            "tok_insufficient_funds",
            payment_pb2.DECLINE_CATEGORY_INSUFFICIENT_FUNDS,
            "insufficient_funds",
        ),
        ("tok_dispute", payment_pb2.DECLINE_CATEGORY_INVALID_PAYMENT_METHOD, "invalid_token"),
        ("TOK_OK", payment_pb2.DECLINE_CATEGORY_INVALID_PAYMENT_METHOD, "invalid_token"),
        ("nonsense", payment_pb2.DECLINE_CATEGORY_INVALID_PAYMENT_METHOD, "invalid_token"),
    ],
)
async def test_declined(url: str, token: str, category: int, code: str) -> None:
    ask = new_ask(token)
    async with serving(url) as stub:
        declined = (await charge_one(stub, ask)).declined
        assert (declined.category, declined.code) == (category, code)
        assert declined.psp_reference
        assert (await look_up_one(stub, ask)).declined == declined
        assert (await charge_one(stub, ask)).declined == declined
    assert truth(url, ask) == [("DECLINED", 0, 0)]


async def test_slow_holds_up_nobody(url: str) -> None:
    slow, fast = new_ask("tok_slow"), new_ask()
    async with serving(url, slow_ms=600) as stub:
        started = time.monotonic()
        responses = await messages(stub, item(slow), item(fast))
        assert time.monotonic() - started >= 0.6
    keys = [outcome.idempotency_key for response in responses for outcome in response.outcomes]
    assert keys == [fast.idempotency_key, slow.idempotency_key]
    assert responses[-1].outcomes[0].captured.psp_reference


async def test_slow_charges_those_who_gave_up(url: str) -> None:
    ask = new_ask("tok_slow")
    async with serving(url, slow_ms=1_500) as stub:
        assert await charge(stub, ask, timeout_s=0.2) == {}
        assert (await look_up_one(stub, ask)).HasField("not_found")
        assert truth(url, ask) == []
        await eventually(lambda: truth(url, ask) == [CAPTURED])
        assert (await look_up_one(stub, ask)).HasField("captured")


async def test_timeout_captured(url: str) -> None:
    ask, neighbour = new_ask("tok_timeout_captured"), new_ask()
    async with serving(url) as stub:
        assert list(await charge(stub, ask, neighbour, timeout_s=HANG_S)) == [
            neighbour.idempotency_key
        ]
        assert truth(url, ask) == [CAPTURED]
        captured = (await look_up_one(stub, ask)).captured
        assert captured.amount.amount_minor == 10_000
        assert (await charge_one(stub, ask)).captured == captured
    assert truth(url, ask) == [CAPTURED]


async def test_timeout_nothing(url: str) -> None:
    ask = new_ask("tok_timeout_nothing")
    async with serving(url) as stub:
        assert await charge(stub, ask, timeout_s=HANG_S) == {}
        assert (await look_up_one(stub, ask)).HasField("not_found")
        assert truth(url, ask) == []
        assert (await charge_one(stub, ask)).HasField("captured")
    assert truth(url, ask) == [CAPTURED]


async def test_error_captured(url: str) -> None:
    ask = new_ask("tok_error_captured")
    async with serving(url) as stub:
        outcome = await charge_one(stub, ask)
        assert outcome.error.code == code_pb2.INTERNAL
        assert error_of(outcome).reason is Reason.UNSPECIFIED
        assert truth(url, ask) == [CAPTURED]
        assert (await look_up_one(stub, ask)).HasField("captured")
        assert (await charge_one(stub, ask)).HasField("captured")
    assert truth(url, ask) == [CAPTURED]


async def test_unavailable_twice(url: str) -> None:
    ask = new_ask("tok_unavailable_twice")
    async with serving(url) as stub:
        for _ in range(2):
            outcome = await charge_one(stub, ask)
            assert outcome.error.code == code_pb2.UNAVAILABLE
            assert error_of(outcome).reason is Reason.UNSPECIFIED
            assert (await look_up_one(stub, ask)).HasField("not_found")
        assert truth(url, ask) == []
        assert (await charge_one(stub, ask)).HasField("captured")
    assert truth(url, ask) == [CAPTURED]


@pytest.mark.parametrize(
    ("token", "final", "taken"),
    [
        ("tok_pending_success", "captured", CAPTURED),
        ("tok_pending_failure", "declined", ("DECLINED", 0, 0)),
    ],
)
async def test_pending(url: str, token: str, final: str, taken: tuple[str, int, int]) -> None:
    ask = new_ask(token)
    async with serving(url, pending_ms=1_500) as stub:
        reference = (await charge_one(stub, ask)).pending.psp_reference
        assert reference
        assert (await look_up_one(stub, ask)).pending.psp_reference == reference
        assert truth(url, ask) == [("PENDING", 0, 0)]
    # The end is a matter of the database's time: no process has to be there for it.
    await asyncio.sleep(1.6)
    assert truth(url, ask) == [taken]
    async with serving(url) as stub:
        found = await look_up_one(stub, ask)
        assert found.WhichOneof("result") == final
        assert getattr(found, final).psp_reference == reference
        assert (await charge_one(stub, ask)).WhichOneof("result") == final


async def test_wrong_amount(url: str) -> None:
    ask, capped = new_ask("tok_wrong_amount"), new_ask("tok_wrong_amount", 10**15 - 1)
    async with serving(url) as stub:
        outcomes = await charge(stub, ask, capped)
        assert outcomes[ask.idempotency_key].captured.amount.amount_minor == 10_001
        assert outcomes[capped.idempotency_key].captured.amount.amount_minor == 10**15 - 2


async def test_silent(url: str) -> None:
    ask = new_ask("tok_silent")
    async with serving(url) as stub:
        for _ in range(2):
            assert await charge(stub, ask, timeout_s=HANG_S) == {}
            assert (await look_up_one(stub, ask)).HasField("not_found")
    assert truth(url, ask) == [CAPTURED]


async def test_every_token_at_once(url: str) -> None:
    asks = [new_ask(token) for token in SCRIPTS]
    async with serving(url, slow_ms=100) as stub:
        outcomes = await charge(stub, *asks, timeout_s=HANG_S)
    answered = {ask.payment_method for ask in asks if ask.idempotency_key in outcomes}
    assert set(SCRIPTS) - answered == {"tok_timeout_captured", "tok_timeout_nothing", "tok_silent"}


# --- keys ------------------------------------------------------------------------------


@pytest.mark.parametrize("latency_ms", [0, 300])
async def test_one_key_in_concurrent_lists(url: str, latency_ms: int) -> None:
    shared = new_ask()
    async with serving(url, latency_median_ms=latency_ms) as stub:
        results = await asyncio.gather(*(charge(stub, shared, new_ask()) for _ in range(16)))
    assert all(len(outcomes) == 2 for outcomes in results)
    first = results[0][shared.idempotency_key]
    assert first.HasField("captured")
    assert all(outcomes[shared.idempotency_key] == first for outcomes in results)
    assert truth(url, shared) == [CAPTURED]


async def test_a_key_twice_in_one_list(url: str) -> None:
    ask = new_ask()
    async with serving(url) as stub:
        (response,) = await messages(stub, item(ask), item(ask))
        assert response.outcomes[0] == response.outcomes[1]
    assert truth(url, ask) == [CAPTURED]


async def test_other_fields(url: str) -> None:
    ask, neighbour = new_ask(), new_ask()
    other = new_ask("tok_slow", 1, "USD")._replace(idempotency_key=ask.idempotency_key)
    async with serving(url, slow_ms=0) as stub:
        first = await charge_one(stub, ask)
        outcomes = await charge(stub, other, neighbour)
        error = error_of(outcomes[ask.idempotency_key])
        assert outcomes[ask.idempotency_key].error.code == code_pb2.ALREADY_EXISTS
        assert error.reason is Reason.OPERATION_CONFLICT
        assert error.metadata["fields"].split(",") == [
            "operation_id",
            "order_id",
            "payment_method",
            "amount.amount_minor",
            "amount.currency_code",
        ]
        assert outcomes[neighbour.idempotency_key].HasField("captured")
        assert await charge_one(stub, ask) == first
    assert truth(url, ask) == [CAPTURED]


@pytest.mark.parametrize(
    ("token", "heard_before"),
    [
        ("tok_ok", "captured"),
        ("tok_timeout_captured", None),
        ("tok_error_captured", "error"),
    ],
)
async def test_a_restart_forgets_nothing(url: str, token: str, heard_before: str | None) -> None:
    ask, unavailable = new_ask(token), new_ask("tok_unavailable_twice")
    async with serving(url) as stub:
        before = await charge(stub, ask, unavailable, timeout_s=HANG_S)
        heard = before.get(ask.idempotency_key)
        assert (heard and heard.WhichOneof("result")) == heard_before
    async with serving(url) as stub:
        outcomes = await charge(stub, ask, unavailable)
        assert outcomes[unavailable.idempotency_key].HasField("error")
        captured = outcomes[ask.idempotency_key].captured
        assert captured.psp_reference
        if heard_before == "captured":
            assert before[ask.idempotency_key].captured == captured
    async with serving(url) as stub:
        assert (await charge_one(stub, unavailable)).HasField("captured")
    assert truth(url, ask, unavailable) == [CAPTURED, CAPTURED]


async def test_a_forgotten_key_is_charged_again(url: str) -> None:
    ask = new_ask()
    async with serving(url, key_memory_s=1.0) as stub:
        first = (await charge_one(stub, ask)).captured
        await asyncio.sleep(1.1)
        assert (await look_up_one(stub, ask)).HasField("not_found")
        second = (await charge_one(stub, ask)).captured
        assert second.psp_reference != first.psp_reference
        assert (await look_up_one(stub, ask)).captured == second
    assert truth(url, ask) == [CAPTURED, CAPTURED]


async def test_look_up(url: str) -> None:
    asks = [new_ask() for _ in range(3)]
    unknown = new_ask().idempotency_key
    async with serving(url) as stub:
        outcomes = await charge(stub, *asks)
        results = await look_up(stub, unknown, *outcomes, "x" * 255)
        assert results.pop(unknown).HasField("not_found")
        assert results.pop("x" * 255).HasField("not_found")
        assert {key: result.captured for key, result in results.items()} == {
            key: outcome.captured for key, outcome in outcomes.items()
        }
        assert await look_up(stub) == {}
