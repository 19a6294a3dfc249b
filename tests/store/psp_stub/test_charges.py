"""Charging and looking up, as transactions."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.db import Database
from mesh.errors import Code, MeshError, Reason
from psp_stub import store
from psp_stub.domain import Charge, DeclineCategory, FeeSchedule, State, decide
from psp_stub.operations import Operations
from tests.store.psp_stub.conftest import make_operations
from tests.support.postgres import PostgresServer
from tests.support.psp_stub import new_ask, own_database, truth


def charge_of(answer: object) -> Charge:
    assert isinstance(answer, Charge), answer
    return answer


def error_of(answer: object) -> MeshError:
    assert isinstance(answer, MeshError), answer
    return answer


async def test_a_list_is_captured(operations: Operations, psp_url: str) -> None:
    asks = [new_ask(amount_minor=100 + number) for number in range(20)]
    charges = [charge_of(answer) for answer in await operations.charge(asks)]
    assert [charge.captured_minor for charge in charges] == [ask.amount_minor for ask in asks]
    assert {charge.state for charge in charges} == {State.CAPTURED}
    assert len({charge.psp_reference for charge in charges}) == len(asks)
    assert len(truth(psp_url, *asks)) == len(asks)
    looked_up = await operations.look_up([ask.idempotency_key for ask in asks])
    assert looked_up == dict(zip((ask.idempotency_key for ask in asks), charges, strict=True))


async def test_an_empty_list(operations: Operations) -> None:
    assert await operations.charge([]) == []
    assert await operations.look_up([]) == {}


async def test_a_replay_takes_nothing(operations: Operations, psp_url: str) -> None:
    asks = [new_ask(), new_ask("tok_declined"), new_ask("tok_wrong_amount")]
    first = await operations.charge(asks)
    assert await operations.charge(list(reversed(asks))) == list(reversed(first))
    assert truth(psp_url, *asks) == [
        ("CAPTURED", 10_000, 320),
        ("CAPTURED", 10_001, 320),
        ("DECLINED", 0, 0),
    ]


async def test_a_list_with_one_key_several_times(operations: Operations, psp_url: str) -> None:
    ask, other = new_ask(), new_ask()
    answers = await operations.charge([ask, other, ask, ask])
    assert answers[0] == answers[2] == answers[3] != answers[1]
    assert len(truth(psp_url, ask, other)) == 2


async def test_calls_in_one_list_are_counted_apart(operations: Operations) -> None:
    ask = new_ask("tok_unavailable_twice")
    first, second, third, fourth = await operations.charge([ask, ask, ask, ask])
    assert error_of(first).code is error_of(second).code is Code.UNAVAILABLE
    assert charge_of(third) == charge_of(fourth)


@pytest.mark.parametrize(
    ("token", "decline"),
    [
        ("tok_declined", (DeclineCategory.GENERIC, "card_declined")),
        ("tok_insufficient_funds", (DeclineCategory.INSUFFICIENT_FUNDS, "insufficient_funds")),
        ("tok_dispute", (DeclineCategory.INVALID_PAYMENT_METHOD, "invalid_token")),
        ("Tok_Ok", (DeclineCategory.INVALID_PAYMENT_METHOD, "invalid_token")),
    ],
)
async def test_declines(operations: Operations, token: str, decline: tuple[Any, str]) -> None:
    ask = new_ask(token)
    (answer,) = await operations.charge([ask])
    charge = charge_of(answer)
    assert (charge.state, charge.captured_minor, charge.decline) == (State.DECLINED, 0, decline)
    assert await operations.look_up([ask.idempotency_key]) == {ask.idempotency_key: charge}


@pytest.mark.parametrize(
    ("token", "unanswered"), [("tok_timeout_nothing", 1), ("tok_unavailable_twice", 2)]
)
async def test_calls_that_do_nothing(
    operations: Operations, psp_url: str, token: str, unanswered: int
) -> None:
    ask = new_ask(token)
    for _ in range(unanswered):
        (answer,) = await operations.charge([ask])
        assert not isinstance(answer, Charge)
        assert await operations.look_up([ask.idempotency_key]) == {}
        assert truth(psp_url, ask) == []
    (answer,) = await operations.charge([ask])
    assert charge_of(answer).state is State.CAPTURED
    assert truth(psp_url, ask) == [("CAPTURED", 10_000, 320)]


@pytest.mark.parametrize("token", ["tok_timeout_captured", "tok_error_captured"])
async def test_captured_and_not_told(operations: Operations, psp_url: str, token: str) -> None:
    ask = new_ask(token)
    (answer,) = await operations.charge([ask])
    assert not isinstance(answer, Charge)
    assert truth(psp_url, ask) == [("CAPTURED", 10_000, 320)]
    found = await operations.look_up([ask.idempotency_key])
    assert found[ask.idempotency_key].state is State.CAPTURED
    assert await operations.charge([ask]) == [found[ask.idempotency_key]]
    assert len(truth(psp_url, ask)) == 1


async def test_silent(operations: Operations, psp_url: str) -> None:
    ask = new_ask("tok_silent")
    assert await operations.charge([ask, ask]) == [None, None]
    assert await operations.charge([ask]) == [None]
    assert await operations.look_up([ask.idempotency_key]) == {}
    assert truth(psp_url, ask) == [("CAPTURED", 10_000, 320)]


@pytest.mark.parametrize(
    ("token", "final", "taken"),
    [
        ("tok_pending_success", State.CAPTURED, ("CAPTURED", 10_000, 320)),
        ("tok_pending_failure", State.DECLINED, ("DECLINED", 0, 0)),
    ],
)
async def test_pending(
    database: Database, psp_url: str, token: str, final: State, taken: tuple[object, ...]
) -> None:
    operations = make_operations(database, pending_s=1.0)
    ask = new_ask(token)
    (answer,) = await operations.charge([ask])
    pending = charge_of(answer)
    assert (pending.state, pending.captured_minor, pending.decline) == (State.PENDING, 0, None)
    assert truth(psp_url, ask) == [("PENDING", 0, 0)]
    assert await operations.look_up([ask.idempotency_key]) == {ask.idempotency_key: pending}
    await asyncio.sleep(1.1)
    assert truth(psp_url, ask) == [taken]
    found = await operations.look_up([ask.idempotency_key])
    assert found[ask.idempotency_key].state is final
    assert found[ask.idempotency_key].psp_reference == pending.psp_reference
    assert await operations.charge([ask]) == [found[ask.idempotency_key]]


async def test_a_key_with_other_fields(operations: Operations, psp_url: str) -> None:
    ask, neighbour = new_ask(), new_ask()
    await operations.charge([ask])
    other = ask._replace(amount_minor=1, order_id=uuid.uuid4().hex)
    answers = await operations.charge([other, neighbour, ask])
    assert error_of(answers[0]).reason is Reason.OPERATION_CONFLICT
    assert error_of(answers[0]).metadata == {"fields": "order_id,amount.amount_minor"}
    assert charge_of(answers[1]).captured_minor == charge_of(answers[2]).captured_minor == 10_000
    assert truth(psp_url, ask) == [("CAPTURED", 10_000, 320)]


async def test_a_new_key_with_different_fields_in_one_list(
    operations: Operations, psp_url: str
) -> None:
    ask = new_ask()
    answers = await operations.charge([ask, ask._replace(currency_code="USD"), ask])
    assert charge_of(answers[0]) == charge_of(answers[2])
    assert error_of(answers[1]).metadata == {"fields": "amount.currency_code"}
    assert len(truth(psp_url, ask)) == 1


async def test_a_conflict_is_no_call(operations: Operations) -> None:
    ask = new_ask("tok_unavailable_twice")
    other = ask._replace(amount_minor=1)
    answers = await operations.charge([ask])
    answers += await operations.charge([other, other])
    answers += await operations.charge([other, ask])
    assert [error_of(answer).code for answer in answers] == [
        Code.UNAVAILABLE,
        Code.ALREADY_EXISTS,
        Code.ALREADY_EXISTS,
        Code.ALREADY_EXISTS,
        Code.UNAVAILABLE,
    ]
    assert charge_of((await operations.charge([ask]))[0]).state is State.CAPTURED


async def test_one_key_in_concurrent_transactions(operations: Operations, psp_url: str) -> None:
    asks = [new_ask() for _ in range(10)]
    lists = [asks[number:] + asks[:number] for number in range(6)]
    results = await asyncio.gather(*(operations.charge(asks) for asks in lists))
    by_key: dict[str, set[object]] = {}
    for asked, answers in zip(lists, results, strict=True):
        for ask, answer in zip(asked, answers, strict=True):
            by_key.setdefault(ask.idempotency_key, set()).add(charge_of(answer))
    assert all(len(charges) == 1 for charges in by_key.values())
    assert len(truth(psp_url, *asks)) == len(asks)


async def test_a_forgotten_key_is_a_new_charge(database: Database, psp_url: str) -> None:
    operations = make_operations(database, key_memory_s=0.8)
    asks = [new_ask(), new_ask("tok_unavailable_twice"), new_ask("tok_error_captured")]
    await operations.charge(asks)
    await asyncio.sleep(0.9)
    assert await operations.look_up([ask.idempotency_key for ask in asks]) == {}
    # Also the calls were forgotten, and that the key ever had other fields.
    asks[0] = asks[0]._replace(amount_minor=5_000)
    answers = await operations.charge(asks)
    assert charge_of(answers[0]).captured_minor == 5_000
    assert error_of(answers[1]).code is Code.UNAVAILABLE
    assert error_of(answers[2]).code is Code.INTERNAL
    assert truth(psp_url, *asks) == [
        ("CAPTURED", 5_000, 175),
        ("CAPTURED", 10_000, 320),
        ("CAPTURED", 10_000, 320),
        ("CAPTURED", 10_000, 320),
    ]
    found = await operations.look_up([asks[0].idempotency_key])
    assert found[asks[0].idempotency_key] == answers[0]


async def test_memory_counts_from_the_first_call(database: Database) -> None:
    operations = make_operations(database, key_memory_s=1.5)
    ask = new_ask()
    first = await operations.charge([ask])
    await asyncio.sleep(0.5)
    assert await operations.charge([ask]) == first
    await asyncio.sleep(1.1)
    assert await operations.look_up([ask.idempotency_key]) == {}
    assert await operations.charge([ask]) != first


async def test_memory_and_pending_are_by_the_databases_time(
    postgres_server: PostgresServer,
) -> None:
    url = own_database(postgres_server)
    asks = [new_ask(), new_ask("tok_pending_success")]
    database = Database(url, application_name="test", by_key=False)
    day = make_operations(database, key_memory_s=86_400)
    _, pending = await day.charge(asks)
    assert charge_of(pending).state is State.PENDING
    await database.close()

    for offset, known in (("23 hours 59 minutes", 2), ("24 hours 1 minute", 0)):
        _set_clock(postgres_server, url, offset)
        database = Database(url, application_name="test", by_key=False)
        day = make_operations(database, key_memory_s=86_400)
        found = await day.look_up([ask.idempotency_key for ask in asks])
        assert len(found) == known
        assert {charge.state for charge in found.values()} <= {State.CAPTURED}
        await database.close()
    assert truth(url, *asks) == [("CAPTURED", 10_000, 320)] * 2


def _set_clock(server: PostgresServer, url: str, offset: str) -> None:
    """For the sessions that begin from now on."""
    with psycopg.connect(server.admin_url, autocommit=True) as connection:
        connection.execute(
            sql.SQL("ALTER DATABASE {} SET paymesh.clock_offset = {}").format(
                sql.Identifier(url.rpartition("/")[2]), sql.Literal(offset)
            )
        )


async def test_the_largest_list_and_amount(operations: Operations) -> None:
    asks = [new_ask(amount_minor=10**15 - 1) for _ in range(1_000)]
    answers = await operations.charge(asks)
    assert {charge_of(answer).captured_minor for answer in answers} == {10**15 - 1}


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE charge SET captured_minor = 1",
        "DELETE FROM charge",
        "TRUNCATE charge",
        "DELETE FROM idempotency",
        "DROP VIEW truth",
    ],
)
def test_the_stub_cannot_change_what_happened(psp_url: str, statement: str) -> None:
    with (
        psycopg.connect(psp_url) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute(statement)


async def test_a_list_is_not_joined_row_by_row(database: Database) -> None:
    asks = sorted(new_ask() for _ in range(500))
    decision = decide(asks[0], FeeSchedule(0, 0))
    parameters = store._parameters([store.Call(ask, 1, 1, decision) for ask in asks])
    parameters.update(key_memory_s=60, pending_s=1)

    async def work(connection: AsyncConnection) -> str:
        plan = await connection.execute(text(f"EXPLAIN {store._CALL.text}"), parameters)
        return "\n".join(line for (line,) in plan)

    # It would cost the square of the list's length.
    assert "Nested Loop" not in await database.read("plan", work)
