"""Connections that die: before, in and after a transaction, in COMMIT, and with the server."""

from __future__ import annotations

import asyncio
import socket
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import psycopg
import pytest
import pytest_asyncio
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.db import BadData, Busy, CommitFailed, CommitUnknown, Database, NotCommitted
from mesh.embedded import EmbeddedPostgres
from tests.store.mesh.conftest import TABLE, Disturber, insert
from tests.support.embedded import embedded
from tests.support.eventually import eventually
from tests.support.folders import open_folder
from tests.support.ports import free_port

STORE = text("INSERT INTO item VALUES (1) ON CONFLICT DO NOTHING RETURNING id")


async def store(connection: AsyncConnection) -> None:
    """As services write: a key that is there is a replay."""
    await connection.execute(STORE)


class TestKilled:
    @pytest.mark.parametrize("how", ["commit", "one_write", "read"])
    async def test_in_the_pool_nobody_notices(
        self, database: Database, disturber: Disturber, how: str
    ) -> None:
        runs: list[int] = []

        async def work(connection: AsyncConnection, id_: int) -> None:
            runs.append(id_)
            statement = (
                "SELECT :id, pg_sleep(0.05)"
                if how == "read"
                else "INSERT INTO item(id, note) VALUES (:id, :id)"
            )
            await connection.execute(text(statement), {"id": id_})
            if how == "commit":
                await connection.execute(text("SELECT pg_sleep(0.05)"))

        async def all_four(first: int) -> None:
            calls = [
                database.read("test", lambda c, i=i: work(c, i))  # type: ignore[misc]
                if how == "read"
                else database.commit(
                    "test",
                    lambda c, i=i: work(c, i),  # type: ignore[misc]
                    one_write=how == "one_write",
                )
                for i in range(first, first + 4)
            ]
            await asyncio.gather(*calls)

        for first in (0, 4, 8):
            await all_four(first)
            assert disturber.kill() > 0
        assert sorted(runs) == list(range(12)), "some work ran twice"
        assert len(disturber.ids()) == (0 if how == "read" else 12)

    async def test_in_the_middle_the_transaction_is_repeated(
        self, database: Database, disturber: Disturber
    ) -> None:
        runs = 0

        async def work(connection: AsyncConnection) -> None:
            nonlocal runs
            runs += 1
            await insert(connection, runs)
            if runs == 1:
                disturber.kill()
            await insert(connection, 10 + runs)

        await database.commit("test", work)
        assert disturber.ids() == [2, 12]

    async def test_in_the_middle_again_and_again_nothing_is_stored(
        self, database: Database, disturber: Disturber
    ) -> None:
        runs = 0

        async def work(connection: AsyncConnection) -> None:
            nonlocal runs
            runs += 1
            await insert(connection, runs)
            disturber.kill()
            await insert(connection, 10 + runs)

        with pytest.raises(NotCommitted) as caught:
            await database.commit("test", work)
        assert not isinstance(caught.value, Busy)
        assert (runs, disturber.ids()) == (2, [])

    async def test_before_commit_it_is_unknown_and_the_caller_repeats(
        self, database: Database, disturber: Disturber
    ) -> None:
        """What of COMMIT arrived can't be told; here it never did."""

        async def work(connection: AsyncConnection) -> None:
            await store(connection)
            disturber.kill()

        with pytest.raises(CommitUnknown):
            await database.commit("test", work)
        assert disturber.ids() == []
        await database.commit("test", store)
        assert disturber.ids() == [1]

    async def test_by_the_server_for_idling_in_a_transaction(
        self, database: Database, disturber: Disturber
    ) -> None:
        async def work(connection: AsyncConnection) -> None:
            await connection.execute(text("SET idle_in_transaction_session_timeout = '30ms'"))
            await store(connection)
            await asyncio.sleep(0.2)
            await store(connection)

        with pytest.raises(NotCommitted):
            await database.commit("test", work)
        assert disturber.ids() == []


class TestOneWrite:
    """The write is done with the first statement; what comes after it only reads."""

    @pytest.mark.parametrize(
        "then",
        [
            "SELECT pg_terminate_backend(pg_backend_pid())",
            "SELECT 1/0",
            "SELECT nope",
            "SELECT pg_sleep(5)",
            "DO $$ BEGIN RAISE SQLSTATE '40001'; END $$",
        ],
    )
    async def test_a_read_that_fails_says_not_that_nothing_is_stored(
        self, database: Database, disturber: Disturber, then: str
    ) -> None:
        async def work(connection: AsyncConnection) -> None:
            await store(connection)
            await connection.execute(text(then))

        with pytest.raises(CommitUnknown):
            await database.commit("test", work, one_write=True)
        assert disturber.ids() == [1]

    @pytest.mark.parametrize(
        ("first", "kind"),
        [
            ("SELECT pg_terminate_backend(pg_backend_pid())", CommitUnknown),
            ("INSERT INTO item VALUES (1, '', -1)", BadData),
            ("DO $$ BEGIN RAISE SQLSTATE '40001'; END $$", Busy),
            ("SELECT nope", CommitFailed),
        ],
    )
    async def test_a_write_that_fails(
        self, database: Database, disturber: Disturber, first: str, kind: type[CommitFailed]
    ) -> None:
        async def work(connection: AsyncConnection) -> None:
            await connection.execute(text(first))

        await database.commit("test", store, one_write=True)
        with pytest.raises(CommitFailed) as caught:
            await database.commit("test", work, one_write=True)
        assert isinstance(caught.value, kind)
        assert isinstance(caught.value, CommitUnknown) == (kind is CommitUnknown)
        assert disturber.ids() == [1]

    async def test_a_conflict_is_repeated(self, database: Database, disturber: Disturber) -> None:
        runs = 0

        async def work(connection: AsyncConnection) -> None:
            nonlocal runs
            runs += 1
            if runs < 3:
                await connection.execute(text("DO $$ BEGIN RAISE SQLSTATE '40P01'; END $$"))
            await store(connection)

        await database.commit("test", work, one_write=True)
        assert (runs, disturber.ids()) == (3, [1])


@pytest.fixture(scope="module")
def own_server() -> Iterator[EmbeddedPostgres]:
    """A server that only these tests use, to be stopped and misled."""
    with open_folder(in_memory=True) as folder, embedded(folder / "data") as server:
        with psycopg.connect(server.admin_url, autocommit=True) as connection:
            connection.execute(TABLE.encode())
        yield server


@pytest.fixture
def own(own_server: EmbeddedPostgres) -> Disturber:
    found = Disturber(own_server.admin_url, f"test-{uuid.uuid4().hex}")
    found.ask("TRUNCATE item")
    return found


@pytest_asyncio.fixture
async def own_database(own: Disturber) -> AsyncIterator[Database]:
    database = Database(own.url, application_name=own.application_name)
    yield database
    await database.close()


@contextmanager
def commits_hang(own: Disturber) -> Iterator[None]:
    """COMMIT waits for a standby that does not exist; the transaction is on disk by then."""
    own.ask("ALTER SYSTEM SET synchronous_standby_names = 'ghost'")
    own.ask("SELECT pg_reload_conf()")
    try:
        yield
    finally:
        own.ask("ALTER SYSTEM RESET synchronous_standby_names")
        own.ask("SELECT pg_reload_conf()")


@pytest.mark.parametrize("one_write", [False, True])
async def test_the_answer_to_commit_is_lost(
    own_database: Database, own: Disturber, *, one_write: bool
) -> None:
    await own_database.commit("test", lambda connection: insert(connection, 7))
    waiting = (
        "SELECT 1 FROM pg_stat_activity WHERE application_name = %s AND wait_event = 'SyncRep'"
    )
    with commits_hang(own):
        await asyncio.sleep(0.1)  # the session takes the new setting between two statements
        await own_database.read("test", lambda connection: connection.execute(text("SELECT 1")))
        commit = asyncio.create_task(own_database.commit("test", store, one_write=one_write))
        await eventually(lambda: own.ask(waiting, own.application_name))
        assert not commit.done()
        own.kill()
        with pytest.raises(CommitUnknown):
            await commit
    assert own.ids() == [1, 7], "it is stored all the same"
    await own_database.commit("test", store, one_write=one_write)
    assert own.ids() == [1, 7]


@asynccontextmanager
async def timed(at_least_s: float, at_most_s: float) -> AsyncIterator[None]:
    started = time.monotonic()
    yield
    assert at_least_s <= time.monotonic() - started <= at_most_s


async def test_a_server_that_is_down_and_comes_back(
    own_server: EmbeddedPostgres, own_database: Database, own: Disturber
) -> None:
    await own_database.commit("test", lambda connection: insert(connection, 7))
    await own_database.commit("test", store, one_write=True)
    own_server.stop(immediate=True)
    for one_write in (False, True, False):
        async with timed(0, 2.5):
            with pytest.raises(NotCommitted) as caught:
                await own_database.commit("test", store, one_write=one_write)
        assert "refused" in caught.value.said
    async with timed(0, 2.5):
        with pytest.raises(NotCommitted):
            await own_database.read("test", store)
    own_server.start()
    await own_database.commit("test", lambda connection: insert(connection, 8))
    await own_database.commit("test", lambda connection: insert(connection, 9), one_write=True)
    assert own.ids() == [1, 7, 8, 9]


async def test_a_restart_between_two_commits_is_not_noticed(
    own_server: EmbeddedPostgres, own_database: Database, own: Disturber
) -> None:
    for number in range(3):
        await own_database.commit("test", lambda c, n=number: insert(c, 10 * n))  # type: ignore[misc]
        await own_database.commit(
            "test",
            lambda c, n=number: insert(c, 10 * n + 1),  # type: ignore[misc]
            one_write=True,
        )
        own_server.stop()
        own_server.start()
    assert own.ids() == [0, 1, 10, 11, 20, 21]


async def test_a_server_that_never_answers() -> None:
    """A firewall that swallows everything: one connect timeout, not two."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        database = Database(f"postgresql://role@127.0.0.1:{port}/db", application_name="test")
        async with timed(1.5, 3.5):
            with pytest.raises(NotCommitted):
                await database.commit("test", store)
        await database.close()


async def test_nobody_listens() -> None:
    database = Database(f"postgresql://role@127.0.0.1:{free_port()}/db", application_name="test")
    async with timed(0, 1):
        with pytest.raises(NotCommitted):
            await database.commit("test", store)
    await database.close()
