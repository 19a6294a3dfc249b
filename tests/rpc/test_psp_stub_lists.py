"""Lists, latency and faults of the PSP stub, through real gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import psycopg
import pytest
from google.rpc import code_pb2
from paymesh.psp.v1 import psp_service_pb2 as pb
from psycopg import sql
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.db import CommitUnknown, Database
from mesh.errors import Reason
from tests.support.postgres import PostgresServer
from tests.support.psp_stub import (
    charge,
    charge_one,
    error_of,
    eventually,
    item,
    look_up_one,
    messages,
    new_ask,
    own_database,
    serving,
    truth,
)

T = TypeVar("T")

CAPTURED = ("CAPTURED", 10_000, 320)


@pytest.fixture(scope="module")
def url(postgres_server: PostgresServer) -> str:
    """The stub's database, shared by these tests."""
    return own_database(postgres_server)


# --- lists -----------------------------------------------------------------------------


class CountingDatabase(Database):
    """Counts commits, and makes the next one fail as it is told."""

    commits = 0
    lost = 0

    async def commit(
        self,
        name: str,
        work: Callable[[AsyncConnection], Awaitable[T]],
        *,
        one_write: bool = False,
    ) -> T:
        self.commits += 1
        result = await super().commit(name, work, one_write=one_write)
        if self.lost:
            self.lost -= 1
            raise CommitUnknown(name, ConnectionResetError())
        return result


async def test_a_list_costs_one_commit_and_one_message(url: str) -> None:
    database = CountingDatabase(url, application_name="test")
    asks = [new_ask() for _ in range(500)]
    async with serving(url, database=database) as stub:
        (response,) = await messages(stub, *map(item, asks))
    assert database.commits == 1
    assert len(response.outcomes) == 500
    assert len(truth(url, *asks)) == 500


async def test_outcomes_come_as_they_are_known(url: str) -> None:
    asks = [new_ask() for _ in range(40)]
    async with serving(url, latency_median_ms=200, latency_p99_ms=800) as stub:
        responses = await messages(stub, *map(item, asks))
    assert len(responses) > 5
    keys = [outcome.idempotency_key for response in responses for outcome in response.outcomes]
    assert sorted(keys) == sorted(ask.idempotency_key for ask in asks)


async def test_thousands_wait_at_once(url: str) -> None:
    database = CountingDatabase(url, application_name="test")
    lists = [[new_ask() for _ in range(500)] for _ in range(6)]
    async with serving(url, database=database, latency_median_ms=500) as stub:
        results = await asyncio.gather(*(charge(stub, *asks) for asks in lists))
    assert [len(outcomes) for outcomes in results] == [500] * 6
    assert database.commits <= 6


# --- callers and databases that go away ------------------------------------------------


async def test_a_caller_that_goes_away_is_charged_all_the_same(url: str) -> None:
    asks = [new_ask() for _ in range(20)]
    async with serving(url, latency_median_ms=300, latency_p99_ms=600) as stub:
        call = stub.Charge(pb.ChargeRequest(items=[item(ask) for ask in asks]))
        await asyncio.sleep(0.1)
        call.cancel()
        await eventually(lambda: truth(url, *asks) == [CAPTURED] * 20)


async def test_an_unknown_commit_is_told_as_such(url: str) -> None:
    database = CountingDatabase(url, application_name="test")
    ask = new_ask()
    async with serving(url, database=database) as stub:
        database.lost = 2  # the writer repeats what it does not know, once
        outcome = await charge_one(stub, ask)
        assert outcome.error.code == code_pb2.ABORTED
        assert error_of(outcome).reason is Reason.OUTCOME_UNKNOWN
        assert (await charge_one(stub, ask)).HasField("captured")
    assert truth(url, ask) == [CAPTURED]


async def test_a_database_that_goes_away_and_comes_back(postgres_server: PostgresServer) -> None:
    url = own_database(postgres_server)
    before, during = new_ask(), new_ask()
    async with serving(url) as stub:
        assert (await charge_one(stub, before)).HasField("captured")
        _allow_connections(postgres_server, url, allowed=False)
        # The session may be ended while the first statement is on its way.
        first = {error_of(o).reason for o in (await charge(stub, during, before)).values()}
        assert first <= {Reason.DEPENDENCY_DOWN, Reason.OUTCOME_UNKNOWN}
        outcomes = await charge(stub, during, before)
        for outcome in outcomes.values():
            assert outcome.error.code == code_pb2.UNAVAILABLE
            assert error_of(outcome).reason is Reason.DEPENDENCY_DOWN
        result = await look_up_one(stub, before)
        assert error_of(result).reason is Reason.DEPENDENCY_DOWN
        _allow_connections(postgres_server, url, allowed=True)
        assert truth(url, during) == []
        assert len(await charge(stub, during, before)) == 2
    assert truth(url, before) == truth(url, during) == [CAPTURED]


def _allow_connections(server: PostgresServer, url: str, *, allowed: bool) -> None:
    name = url.rpartition("/")[2]
    with psycopg.connect(server.admin_url, autocommit=True) as connection:
        connection.execute(
            sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}").format(
                sql.Identifier(name), sql.Literal(allowed)
            )
        )
        if not allowed:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
                (name,),
            )
