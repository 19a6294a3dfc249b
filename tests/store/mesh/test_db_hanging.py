"""A server that hangs while its kernel still answers: its sessions are stopped in their tracks."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh import db, patience
from mesh.batching import Writer
from mesh.db import Busy, CommitUnknown, Database, NotCommitted, copy_in
from mesh.patience import take_time
from tests.store.mesh.conftest import Disturber, insert
from tests.support.eventually import eventually
from tests.unit.test_batching import running

PATIENCE_MS = 600
ANSWER_S = 1.2
# Of a machine that is busy; less than the driver itself waits for a query that it cancelled.
LATE_S = 3.0

STORE = text("INSERT INTO item VALUES (1) ON CONFLICT DO NOTHING")
PAUSE = text("SELECT pg_sleep(0.3)")


class Hangs:
    """Sessions of the test's own that were stopped."""

    def __init__(self) -> None:
        self.pids: list[int] = []

    async def stop(self, connection: AsyncConnection) -> None:
        """The server of this connection takes what it is sent, and does nothing."""
        pid = await connection.scalar(text("SELECT pg_backend_pid()"))
        assert isinstance(pid, int)
        self.pids.append(pid)
        os.kill(pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """They wake up, and meet what was sent to them meanwhile."""
        for pid in self.pids:
            os.kill(pid, signal.SIGCONT)
        self.pids.clear()


@pytest.fixture
def hangs(disturber: Disturber) -> Iterator[Hangs]:
    hangs = Hangs()
    yield hangs
    hangs.go_on()


@pytest_asyncio.fixture
async def database(url: str, disturber: Disturber) -> AsyncIterator[Database]:
    database = Database(
        url, application_name=disturber.application_name, patience_ms=PATIENCE_MS, pool_size=1
    )
    yield database
    await database.close()


@asynccontextmanager
async def given_up(tries: int = 1) -> AsyncIterator[None]:
    """After so many answers that did not come, and not much later."""
    started = time.monotonic()
    async with asyncio.timeout(10):
        yield
    assert tries * ANSWER_S <= time.monotonic() - started < tries * ANSWER_S + LATE_S


async def one(connection: AsyncConnection) -> object:
    return await connection.scalar(text("SELECT 1"))


def test_the_innermost_time_is_the_shortest() -> None:
    answer_ms = patience.answer_within_s(patience.STATEMENT_TIMEOUT_MS) * 1000
    assert (
        patience.LOCK_TIMEOUT_MS
        < patience.STATEMENT_TIMEOUT_MS
        < answer_ms
        < patience.IDLE_IN_TRANSACTION_TIMEOUT_MS
    )
    assert patience.STATEMENT_TIMEOUT_MS / 1000 >= db.POOL_TIMEOUT_S
    # A statement is prepared, for which it may wait for a lock, and then carried out.
    assert answer_ms > patience.LOCK_TIMEOUT_MS + patience.STATEMENT_TIMEOUT_MS


async def test_at_commit_it_is_unknown_and_the_next_one_goes_elsewhere(
    database: Database, disturber: Disturber, hangs: Hangs
) -> None:
    async def work(connection: AsyncConnection) -> None:
        await connection.execute(STORE)
        await hangs.stop(connection)

    async with given_up():
        with pytest.raises(CommitUnknown) as caught:
            await database.commit("test", work)
    assert "no answer within 1.2 s" in caught.value.said
    assert disturber.ids() == []
    await database.commit("test", lambda connection: insert(connection, 2))
    assert disturber.ids() == [2]
    # It was not lied about: COMMIT was there all the time, for when the server wakes up.
    hangs.go_on()
    await eventually(lambda: disturber.ids() == [1, 2])


async def test_in_a_statement_it_is_done_on_a_new_connection(
    database: Database, disturber: Disturber, hangs: Hangs
) -> None:
    async def work(connection: AsyncConnection) -> None:
        if not hangs.pids:
            await hangs.stop(connection)
        await connection.execute(STORE)

    async with given_up():
        await database.commit("test", work)
    assert disturber.ids() == [1]


async def test_in_a_statement_again_and_again_nothing_is_stored(
    database: Database, disturber: Disturber, hangs: Hangs
) -> None:
    async def work(connection: AsyncConnection) -> None:
        await hangs.stop(connection)
        await connection.execute(STORE)

    async with given_up(tries=2):
        with pytest.raises(NotCommitted) as caught:
            await database.commit("test", work)
    assert not isinstance(caught.value, Busy)
    hangs.go_on()
    await eventually(lambda: disturber.sessions() == 0)
    assert disturber.ids() == []
    await database.commit("test", one)


async def test_in_the_one_write_it_is_unknown(
    database: Database, disturber: Disturber, hangs: Hangs
) -> None:
    async def work(connection: AsyncConnection) -> None:
        await hangs.stop(connection)
        await connection.execute(STORE)

    async with given_up():
        with pytest.raises(CommitUnknown):
            await database.commit("test", work, one_write=True)
    await database.commit("test", one, one_write=True)
    hangs.go_on()
    await eventually(lambda: disturber.ids() == [1])


async def test_in_a_read_another_connection_is_asked(database: Database, hangs: Hangs) -> None:
    async def work(connection: AsyncConnection) -> object:
        if not hangs.pids:
            await hangs.stop(connection)
        return await one(connection)

    async with given_up():
        assert await database.read("test", work) == 1


async def test_in_the_rollback_the_work_is_done_again(database: Database, hangs: Hangs) -> None:
    async def work(connection: AsyncConnection) -> None:
        if not hangs.pids:
            await hangs.stop(connection)
        raise LookupError("mine")

    async with given_up():
        with pytest.raises(LookupError, match="mine"):
            await database.commit("test", work)
    await database.commit("test", one)


async def test_a_caller_who_is_cancelled_is_not_kept(database: Database, hangs: Hangs) -> None:
    async def work(connection: AsyncConnection) -> None:
        await hangs.stop(connection)
        await connection.execute(STORE)

    task = asyncio.create_task(database.commit("test", work))
    await eventually(lambda: hangs.pids)
    task.cancel()
    async with asyncio.timeout(ANSWER_S + LATE_S):
        with pytest.raises(asyncio.CancelledError):
            await task
    await database.commit("test", one)


async def test_a_copy_that_nobody_takes_is_given_up(
    database: Database, disturber: Disturber, hangs: Hangs
) -> None:
    """More than the sockets hold: it is the sending that waits."""

    async def work(connection: AsyncConnection) -> None:
        async def blocks() -> AsyncIterator[bytes]:
            for _ in range(1_000):
                yield b"1\tnote\t0\t\\N\n" * 10_000

        await hangs.stop(connection)
        await copy_in(connection, "COPY item FROM STDIN", blocks())

    async with given_up(tries=2):
        with pytest.raises(NotCommitted):
            await database.commit("test", work)
    assert disturber.ids() == []


async def test_a_writer_goes_on(database: Database, disturber: Disturber, hangs: Hangs) -> None:
    async def work(connection: AsyncConnection) -> None:
        if not hangs.pids:
            await hangs.stop(connection)
        await connection.execute(STORE)

    async def commit(items: list[int]) -> list[int]:
        await database.commit("test", work, one_write=True)
        return items

    writer: Writer[int, int] = Writer("test", commit)
    async with running(writer.run), given_up():
        assert await writer.write([7], durable=False) == [7]
    assert disturber.ids() == [1]


class TestNotCut:
    async def test_many_statements_that_each_take_their_time(
        self, database: Database, disturber: Disturber
    ) -> None:
        runs = 0

        async def work(connection: AsyncConnection) -> None:
            nonlocal runs
            runs += 1
            await connection.execute(STORE)
            for _ in range(5):
                await connection.execute(PAUSE)

        async with asyncio.timeout(5):
            await database.commit("test", work)
            await database.read("test", work)
        assert (runs, disturber.ids()) == (2, [1])

    async def test_a_copy_whose_source_is_slow(
        self, database: Database, disturber: Disturber
    ) -> None:
        async def blocks() -> AsyncIterator[bytes]:
            for id_ in range(5):
                await asyncio.sleep(0.3)
                yield b"%d\t%d\t0\t\\N\n" % (id_, id_)

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(text("SET LOCAL statement_timeout = '10s'"))
            await copy_in(connection, "COPY item FROM STDIN", blocks())

        await database.commit("test", work)
        assert disturber.ids() == [0, 1, 2, 3, 4]

    async def test_a_transaction_that_said_so(self, database: Database, hangs: Hangs) -> None:
        """The next one on the connection did not."""

        async def long(connection: AsyncConnection) -> object:
            await take_time(connection, 10_000)
            await connection.execute(text("SELECT pg_sleep(:s)"), {"s": ANSWER_S + 0.3})
            return await connection.scalar(text("SHOW lock_timeout"))

        assert await database.commit("test", long) == "10s"

        async def work(connection: AsyncConnection) -> object:
            if not hangs.pids:
                await hangs.stop(connection)
            return await connection.scalar(text("SHOW lock_timeout"))

        async with given_up():
            assert await database.commit("test", work) == "600ms"

    async def test_an_answer_that_was_there_while_our_own_process_slept(
        self, database: Database
    ) -> None:
        runs = 0

        async def work(connection: AsyncConnection) -> None:
            nonlocal runs
            runs += 1
            asked = asyncio.create_task(one_after_a_while(connection))
            await asyncio.sleep(0.1)
            time.sleep(ANSWER_S + 0.2)  # noqa: ASYNC251 - nothing of this process runs
            assert await asked == 1

        async def one_after_a_while(connection: AsyncConnection) -> object:
            return await connection.scalar(text("SELECT 1 FROM pg_sleep(0.3)"))

        await database.read("test", work)
        await database.read("test", one)
        assert runs == 1
