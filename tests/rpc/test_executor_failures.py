"""The executor while its database or its PSP is away, and while it starts and stops."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from paymesh.executor.v1.executor_service_pb2_grpc import ExecutorServiceStub
from psycopg import sql

from executor_svc.domain import State
from mesh import ids
from mesh.channel import open_channel
from mesh.errors import Code, Reason
from tests.support.executor import (
    Client,
    error_of,
    new_operation,
    new_operations,
    own_databases,
    row,
    serving,
)
from tests.support.fake_psp import FakePsp, failing
from tests.support.ports import free_port
from tests.support.postgres import PostgresServer
from tests.support.psp_stub import eventually

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def url(postgres_server: PostgresServer) -> str:
    """A database of the test's own: it is taken away."""
    return own_databases(postgres_server)["executor"]


class Outage:
    """Takes one database away and gives it back, as an outage does."""

    def __init__(self, server: PostgresServer, url: str) -> None:
        self._server = server
        self._database = url.rpartition("/")[2]

    def begin(self) -> None:
        """No connection stands and none is made."""
        self._allow(connections=False)
        with psycopg.connect(self._server.admin_url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s",
                (self._database,),
            )

    def end(self) -> None:
        """As before."""
        self._allow(connections=True)

    def _allow(self, *, connections: bool) -> None:
        with psycopg.connect(self._server.admin_url, autocommit=True) as connection:
            connection.execute(
                sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}").format(
                    sql.Identifier(self._database), sql.Literal(connections)
                )
            )


@pytest.fixture
def outage(postgres_server: PostgresServer, url: str) -> Outage:
    """Of the executor's database."""
    return Outage(postgres_server, url)


# --- the database ----------------------------------------------------------------------


async def test_without_its_database_nothing_is_sent_and_it_heals(url: str, outage: Outage) -> None:
    psp, operations = FakePsp(), new_operations(3)
    async with psp.serving() as target, serving(url, target) as client:
        await client.execute_one(new_operation())
        psp.calls.clear()
        outage.begin()
        # A connection that is found dead may have died after the commit that it was sent.
        first = {error_of(result).reason for result in await client.execute(*operations)}
        assert first <= {Reason.DEPENDENCY_DOWN, Reason.OUTCOME_UNKNOWN}
        for result in await client.execute(*operations):
            error = error_of(result)
            assert error.reason is Reason.DEPENDENCY_DOWN
            assert error.code is Code.UNAVAILABLE
        assert psp.calls == []
        outage.end()
        assert {name for name, _ in await client.execute(*operations)} == {"captured"}


async def test_an_outcome_waits_for_its_database_and_is_told_after_it(
    url: str, outage: Outage
) -> None:
    psp, operation = FakePsp(), new_operation()
    psp.open.clear()
    async with (
        psp.serving() as target,
        serving(url, target) as client,
        client.stream() as stream,
    ):
        await stream.send([operation])
        await stream.until(lambda s: s.acknowledged == [1])
        outage.begin()
        psp.open.set()
        await asyncio.sleep(0.5)
        assert not stream.outcomes
        outage.end()
        assert (await stream.results([operation]))[0][0] == "captured"
    assert (row(url, operation) or {})["state"] == State.CAPTURED
    assert len(psp.charged) == 1


async def test_a_database_that_goes_away_after_a_send_leaves_the_money_unknown(
    url: str, outage: Outage
) -> None:
    psp, operation = FakePsp(failing(Code.UNAVAILABLE)), new_operation()
    psp.open.clear()
    async with psp.serving() as target, serving(url, target) as client, client.stream() as stream:
        await stream.send([operation])
        await stream.until(lambda s: s.acknowledged == [1])
        outage.begin()
        psp.open.set()
        error = error_of((await stream.results([operation]))[0])
        assert error.reason is Reason.OUTCOME_UNKNOWN
        outage.end()
        psp.will_find(ids.psp_key(operation.operation_id).hex)
        assert (await client.execute_one(operation))[0] == "captured"
    assert len(psp.charged) == 1


# --- the PSP ---------------------------------------------------------------------------


async def test_a_psp_that_is_away_at_the_start_is_awaited(url: str) -> None:
    psp, operations, port = FakePsp(), new_operations(3), free_port()
    async with serving(url, f"127.0.0.1:{port}") as client:
        for result in await client.execute(*operations):
            assert error_of(result).reason is Reason.DEPENDENCY_DOWN
        assert [row(url, operation) for operation in operations] == [None] * 3
        async with psp.serving(port):
            await client.ask_until(operations[0], "captured")
            assert {name for name, _ in await client.execute(*operations)} == {"captured"}


async def test_a_psp_that_goes_away_leaves_the_outcome_unknown_until_it_is_back(url: str) -> None:
    psp, operations, port = FakePsp(), new_operations(3), free_port()
    async with serving(url, target := f"127.0.0.1:{port}") as client:
        async with psp.serving(port) as served:
            assert served == target
            await client.execute_one(new_operation())
        results = await client.execute(*operations)
        assert {name for name, _ in results} == {"unknown"}
        assert {o.detail for _, o in results} == {"charge: UNAVAILABLE; look-up: UNAVAILABLE"}
        async with psp.serving(port):
            await client.ask_until(operations[0], "captured")
            assert {name for name, _ in await client.execute(*operations)} == {"captured"}


async def test_a_psp_that_is_cut_off_within_a_list_is_looked_up(url: str) -> None:
    psp, operations, port = FakePsp(), new_operations(20), free_port()
    psp.open.clear()
    async with serving(url, f"127.0.0.1:{port}") as client, client.stream() as stream:
        async with psp.serving(port):
            await stream.send(operations)
            await eventually(lambda: len(psp.charged) == 20)
        assert {name for name, _ in await stream.results(operations)} == {"unknown"}
        psp.open.set()
        for operation in operations:
            psp.will_find(ids.psp_key(operation.operation_id).hex)
        async with psp.serving(port):
            await client.ask_until(operations[0], "captured")
            assert {name for name, _ in await client.execute(*operations)} == {"captured"}
    assert len(psp.charged) == 20


# --- the process -----------------------------------------------------------------------


@contextmanager
def process(url: str, psp_target: str, port: int) -> Iterator[subprocess.Popen[str]]:
    """`python -m executor_svc`; killed in the end if it still runs."""
    settings = {
        "DATABASE_URL": url,
        "PORT": str(port),
        "PSP_TARGET": psp_target,
        "PSP_DEADLINE_MS": "5000",
    }
    running = subprocess.Popen(
        [sys.executable, "-m", "executor_svc"],
        cwd=REPOSITORY,
        env={**os.environ, **{f"PAYMESH_EXECUTOR_{name}": v for name, v in settings.items()}},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield running
    finally:
        running.kill()
        running.wait()
        assert running.stderr is not None
        running.stderr.close()


async def test_a_killed_executor_is_followed_by_one_that_looks_up_first(url: str) -> None:
    psp, operations, port = FakePsp(), new_operations(10), free_port()
    psp.open.clear()
    async with psp.serving() as target, open_channel(f"127.0.0.1:{port}") as channel:
        client = Client(ExecutorServiceStub(channel), wait_for_ready=True)
        with process(url, target, port) as killed:
            async with client.stream() as stream:
                await stream.send(operations)
                await stream.until(lambda s: s.acknowledged == [1])
                await eventually(lambda: len(psp.charged) == 10)
                killed.send_signal(signal.SIGKILL)
                await stream.until(lambda s: s.ended)
        psp.open.set()
        for operation in operations[:5]:
            psp.will_find(ids.psp_key(operation.operation_id).hex)
        with process(url, target, port):
            results = await client.execute(*operations)
    assert {name for name, _ in results} == {"captured"}
    names = [name for name, _ in psp.calls]
    assert names == ["Charge", "LookUp", "Charge"]
    assert [len(keys) for _, keys in psp.calls] == [10, 10, 5]


async def test_a_stopping_executor_answers_what_it_has_and_ends_its_streams(url: str) -> None:
    psp, operations, port = FakePsp(), new_operations(5), free_port()
    psp.open.clear()
    async with psp.serving() as target, open_channel(f"127.0.0.1:{port}") as channel:
        client = Client(ExecutorServiceStub(channel), wait_for_ready=True)
        with process(url, target, port) as stopped:
            async with client.stream() as idle, client.stream() as busy:
                await idle.send([])
                await idle.until(lambda s: s.acknowledged == [1])
                await busy.send(operations)
                await busy.until(lambda s: s.acknowledged == [1])
                started = time.monotonic()
                stopped.send_signal(signal.SIGTERM)
                await idle.until(lambda s: s.ended)
                psp.open.set()
                await busy.until(lambda s: s.ended)
                assert {name for name, _ in await busy.results(operations)} == {"captured"}
                assert busy.error is None
            assert await asyncio.to_thread(stopped.wait, 8) == 0
            assert time.monotonic() - started < 8


def test_a_missing_database_is_a_sentence_and_no_traceback() -> None:
    with process(f"postgresql://nobody@127.0.0.1:{free_port()}/nothing", "127.0.0.1:1", 0) as it:
        _, said = it.communicate(timeout=30)
    assert it.returncode == 3
    assert "Traceback" not in said
    assert "database" in said


def test_a_bad_setting_is_named(url: str) -> None:
    with process(url, "", 0) as it:
        _, said = it.communicate(timeout=30)
    assert it.returncode == 2
    assert "PAYMESH_EXECUTOR_PSP_TARGET" in said
    assert "Traceback" not in said
