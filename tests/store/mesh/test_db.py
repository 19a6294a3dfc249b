"""What becomes of a commit: each failure by its type, which tells what may be done next."""

from __future__ import annotations

import asyncio
import gc
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh import db
from mesh.db import BadData, Busy, CommitFailed, CommitUnknown, Database, NotCommitted
from mesh.errors import Code, Reason
from tests.store.mesh.conftest import Disturber, insert
from tests.support.eventually import eventually

Work = Callable[[AsyncConnection], Awaitable[None]]


def statement(sql: str) -> Work:
    async def work(connection: AsyncConnection) -> None:
        await connection.execute(text(sql))

    return work


async def failure_of(database: Database, work: Work) -> CommitFailed:
    with pytest.raises(CommitFailed) as caught:
        await database.commit("test.write", work)
    return caught.value


async def test_a_commit_and_a_read(database: Database, disturber: Disturber) -> None:
    await database.commit("test.write", lambda connection: insert(connection, 1))
    count = text("SELECT count(*) FROM item")
    assert await database.read("test.read", lambda connection: connection.scalar(count)) == 1
    assert disturber.ids() == [1]


async def test_what_the_work_raises_passes_and_rolls_back(
    database: Database, disturber: Disturber
) -> None:
    async def work(connection: AsyncConnection) -> None:
        await insert(connection, 1)
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        await database.commit("test.write", work)
    assert disturber.ids() == []


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("statement_timeout", "2s"),
        ("lock_timeout", "1500ms"),
        ("idle_in_transaction_session_timeout", "5s"),
        ("TimeZone", "UTC"),
        ("transaction_isolation", "read committed"),
        ("synchronous_commit", "on"),
    ],
)
async def test_settings_of_a_session(database: Database, setting: str, value: str) -> None:
    show = text(f"SHOW {setting}")
    assert await database.read("test.read", lambda connection: connection.scalar(show)) == value


def test_the_address_has_no_password() -> None:
    database = Database("postgresql://role:s3cret@db.example/books", application_name="test")
    assert database.address == "db.example:5432/books"


@pytest.mark.parametrize(
    ("work", "sqlstate", "constraint"),
    [
        (lambda c: insert(c, 7), "23505", "item_pkey"),
        (lambda c: insert(c, 1, amount=-1), "23514", "amount_not_negative"),
        (lambda c: insert(c, 1, parent=99), "23503", "parent_exists"),  # at COMMIT
        (lambda c: insert(c, 2**63), "22003", ""),
        (lambda c: insert(c, 1, note="a\0b"), "", ""),  # found by the driver, not the server
        (statement("INSERT INTO item VALUES (1, NULL)"), "23502", ""),
        (statement("SELECT cast('x' AS uuid)"), "22P02", ""),
        (statement("DO $$ BEGIN RAISE EXCEPTION 'no'; END $$"), "P0001", ""),
    ],
)
async def test_a_row_that_is_refused(
    database: Database, disturber: Disturber, work: Work, sqlstate: str, constraint: str
) -> None:
    await database.commit("test.write", lambda connection: insert(connection, 7))
    failed = await failure_of(database, work)
    assert type(failed) is BadData
    assert (failed.commit, failed.sqlstate, failed.constraint) == (
        "test.write",
        sqlstate,
        constraint,
    )
    assert disturber.ids() == [7]


@pytest.mark.parametrize(
    ("sql", "sqlstate", "said"),
    [
        ("SELECT nope", "42703", 'column "nope" does not exist'),
        ("SELEC 1", "42601", 'syntax error at or near "SELEC"'),
        ("SELECT * FROM nope", "42P01", 'relation "nope" does not exist'),
    ],
)
async def test_a_bug_in_the_sql_is_told_to_the_log_only(
    database: Database, sql: str, sqlstate: str, said: str
) -> None:
    failed = await failure_of(database, statement(sql))
    assert type(failed) is CommitFailed
    assert (failed.reason, failed.code) == (Reason.INTERNAL, Code.INTERNAL)
    assert (failed.sqlstate, failed.said) == (sqlstate, said)
    assert said not in str(failed)
    assert failed.__notes__ == [f"PostgreSQL: {sqlstate} {said}"]


@pytest.mark.parametrize(
    ("sql", "sqlstate"),
    [
        ("SET LOCAL statement_timeout = '20ms'; SELECT pg_sleep(5)", "57014"),
        ("SET TRANSACTION READ ONLY; DELETE FROM item", "25006"),
        ("DO $$ BEGIN RAISE SQLSTATE '53100' USING MESSAGE = 'disk full'; END $$", "53100"),
        ("DO $$ BEGIN RAISE SQLSTATE '53200' USING MESSAGE = 'no memory'; END $$", "53200"),
        ("DO $$ BEGIN RAISE SQLSTATE '58030' USING MESSAGE = 'I/O error'; END $$", "58030"),
        # What a file that can't be extended comes as, where the cause has no code of its own.
        ("DO $$ BEGIN RAISE SQLSTATE 'XX000' USING MESSAGE = 'File too large'; END $$", "XX000"),
    ],
)
async def test_what_comes_back_later(database: Database, sql: str, sqlstate: str) -> None:
    runs = 0

    async def work(connection: AsyncConnection) -> None:
        nonlocal runs
        runs += 1
        for part in sql.split("; ", maxsplit=1) if sql.startswith("SET") else [sql]:
            await connection.execute(text(part))

    failed = await failure_of(database, work)
    assert type(failed) is Busy
    assert (failed.reason, failed.code) == (Reason.DEPENDENCY_DOWN, Code.UNAVAILABLE)
    assert (failed.sqlstate, runs) == (sqlstate, 1)


async def test_a_lock_that_another_holds(database: Database, disturber: Disturber) -> None:
    await database.commit("test.write", lambda connection: insert(connection, 1))

    async def work(connection: AsyncConnection) -> None:
        await connection.execute(text("SET LOCAL lock_timeout = '20ms'"))
        await connection.execute(text("UPDATE item SET amount = 1 WHERE id = 1"))

    with psycopg.connect(disturber.url) as other:
        other.execute("SELECT 1 FROM item WHERE id = 1 FOR UPDATE")
        failed = await failure_of(database, work)
    assert (type(failed), failed.sqlstate) == (Busy, "55P03")
    await database.commit("test.write", work)


async def test_all_connections_in_use(
    url: str, disturber: Disturber, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db, "POOL_TIMEOUT_S", 0.05)
    database = Database(url, application_name=disturber.application_name, pool_size=1)
    busy = asyncio.create_task(database.commit("test.write", statement("SELECT pg_sleep(0.5)")))
    await asyncio.sleep(0.2)
    assert type(await failure_of(database, statement("SELECT 1"))) is Busy
    await busy
    await database.commit("test.write", statement("SELECT 1"))
    await database.close()


async def test_the_server_has_no_connection_left(url: str, disturber: Disturber) -> None:
    role = f"r{uuid.uuid4().hex}"
    disturber.ask(f"CREATE ROLE {role} LOGIN PASSWORD 's3cret' CONNECTION LIMIT 0")
    _, _, address = url.rpartition("@")
    database = Database(f"postgresql://{role}:s3cret@{address}", application_name="test")
    failed = await failure_of(database, statement("SELECT 1"))
    assert type(failed) is Busy
    assert "too many connections" in failed.said
    assert "s3cret" not in failed.said
    await database.close()
    disturber.ask(f"DROP ROLE {role}")


async def test_a_deadlock_is_repeated_as_a_whole(database: Database, disturber: Disturber) -> None:
    disturber.ask("INSERT INTO item VALUES (1, 'a'), (2, 'b')")
    disturber.ask(
        "ALTER DATABASE current_database SET deadlock_timeout = '50ms'".replace(
            "current_database", disturber.url.rpartition("/")[2]
        )
    )
    both_hold_one = asyncio.Barrier(2)
    runs: list[int] = []

    async def add(first: int, second: int) -> None:
        runs_before = len(runs)

        async def work(connection: AsyncConnection) -> None:
            runs.append(first)
            update = text("UPDATE item SET amount = amount + 1 WHERE id = :id")
            await connection.execute(update, {"id": first})
            if len(runs) <= 2:
                await both_hold_one.wait()
            await connection.execute(update, {"id": second})

        assert runs_before == 0
        await database.commit("test.write", work)

    await asyncio.gather(add(1, 2), add(2, 1))
    assert len(runs) == 3
    assert disturber.ask("SELECT amount FROM item") == [(2,), (2,)]


async def test_a_serialization_failure_is_repeated_as_a_whole(
    database: Database, disturber: Disturber
) -> None:
    disturber.ask("INSERT INTO item VALUES (1, 'a')")
    runs = 0

    async def work(connection: AsyncConnection) -> None:
        nonlocal runs
        runs += 1
        await connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        amount = await connection.scalar(text("SELECT amount FROM item WHERE id = 1"))
        if runs < 3:
            disturber.ask("UPDATE item SET amount = amount + 10 WHERE id = 1")
        await connection.execute(
            text("UPDATE item SET amount = :amount WHERE id = 1"), {"amount": (amount or 0) + 1}
        )

    await database.commit("test.write", work)
    assert runs == 3
    assert disturber.ask("SELECT amount FROM item") == [(21,)]


@pytest.mark.parametrize("sqlstate", ["40001", "40P01"])
async def test_conflicts_without_end(database: Database, sqlstate: str) -> None:
    runs = 0

    async def work(connection: AsyncConnection) -> None:
        nonlocal runs
        runs += 1
        await connection.execute(text(f"DO $$ BEGIN RAISE SQLSTATE '{sqlstate}'; END $$"))

    failed = await failure_of(database, work)
    assert isinstance(failed, Busy)
    assert (failed.sqlstate, runs) == (sqlstate, db.MAX_CONFLICT_TRIES)


async def test_a_conflict_that_shows_at_commit(database: Database, disturber: Disturber) -> None:
    """SERIALIZABLE tells the second of two only when it commits."""
    disturber.ask("INSERT INTO item VALUES (1, 'a', 0), (2, 'b', 0)")
    both_have_read = asyncio.Barrier(2)
    runs: list[int] = []

    async def write(id_: int) -> None:
        async def work(connection: AsyncConnection) -> None:
            runs.append(id_)
            await connection.execute(text("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE"))
            await connection.execute(text("SELECT sum(amount) FROM item"))
            if len(runs) <= 2:
                await both_have_read.wait()
            await connection.execute(text("UPDATE item SET amount = 1 WHERE id = :id"), {"id": id_})

        await database.commit("test.write", work)

    await asyncio.gather(write(1), write(2))
    assert len(runs) == 3
    assert disturber.ask("SELECT sum(amount) FROM item")[0][0] == 2


@pytest.mark.parametrize("how", ["commit", "one_write", "read"])
@pytest.mark.parametrize("after_s", [0, 0.001, 0.005, 0.03, 0.1])
async def test_a_caller_who_is_cancelled_spoils_no_connection(
    url: str, disturber: Disturber, how: str, after_s: float
) -> None:
    """Whether it was being opened, at work, or idle just then."""
    database = Database(url, application_name=disturber.application_name, pool_size=1)

    async def work(connection: AsyncConnection) -> None:
        await connection.execute(text("SELECT 1"))
        await connection.execute(text("SELECT pg_sleep(0.5)"))
        await insert(connection, 1)

    def call(work: Work) -> Coroutine[Any, Any, None]:
        if how == "read":
            return database.read("test.read", work)
        return database.commit("test.write", work, one_write=how == "one_write")

    for _ in range(3):
        task = asyncio.create_task(call(work))
        await asyncio.sleep(after_s)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(2):
            await call(statement("SELECT 1"))
    assert disturber.ids() == []

    # A session whose client gave up while it was being opened ends when what is left of the
    # attempt is collected: the error that ended it and its frames hold each other.
    def one_at_most() -> bool:
        gc.collect()
        return disturber.sessions() <= 1

    await eventually(one_at_most)
    await database.close()


def test_what_may_be_done_next_is_told_by_the_type() -> None:
    assert issubclass(Busy, NotCommitted)
    for other in (CommitUnknown, BadData):
        assert not issubclass(other, NotCommitted)
    reasons = {kind: kind("test", ValueError()).reason for kind in (NotCommitted, CommitUnknown)}
    assert reasons == {
        NotCommitted: Reason.DEPENDENCY_DOWN,
        CommitUnknown: Reason.OUTCOME_UNKNOWN,
    }
