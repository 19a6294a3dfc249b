"""Operations without a definite outcome are counted through an index of them alone."""

from __future__ import annotations

import psycopg
import pytest
from sqlalchemy import make_url, text

from executor_svc import operations, store
from executor_svc.domain import Outcome, State
from executor_svc.operations import Found
from mesh.db import Database
from tests.store.executor.writes import finding_of, intended, write_one
from tests.support.executor import own_databases, sent_earlier
from tests.support.postgres import PostgresServer

UNRESOLVED = (State.UNKNOWN, State.PENDING, State.PARKED_UNKNOWN, State.PARKED)


@pytest.fixture
def executor_url(postgres_server: PostgresServer) -> str:
    """A database of its own for each test: what is counted is all that there is."""
    return own_databases(postgres_server)["executor"]


async def counted(database: Database) -> dict[State, int]:
    return {s.state: s.operations for s in await operations.unresolved(database)}


async def test_each_counts_in_its_state_until_it_is_resolved(database: Database) -> None:
    for state in State:
        await intended(database, state=state)
    assert await counted(database) == dict.fromkeys(UNRESOLVED, 1)
    unknown = await intended(database, state=State.UNKNOWN)
    assert (await counted(database))[State.UNKNOWN] == 2
    await write_one(database, Found(unknown, finding_of(unknown, Outcome.PENDING)))
    assert await counted(database) == {**dict.fromkeys(UNRESOLVED, 1), State.PENDING: 2}
    await write_one(database, Found(unknown, finding_of(unknown, Outcome.CAPTURED)))
    assert await counted(database) == dict.fromkeys(UNRESOLVED, 1)


async def test_the_age_is_that_of_the_first_send_of_the_oldest(
    database: Database, executor_url: str
) -> None:
    await intended(database, state=State.UNKNOWN)
    sent_earlier(executor_url, await intended(database, state=State.UNKNOWN), "2 hours")
    (standing,) = await operations.unresolved(database)
    assert 7200 <= standing.oldest_s < 7300


async def test_the_oldest_are_counted_and_no_more_than_a_bound(
    database: Database, executor_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "MOST_COUNTED", 3)
    for state in (State.PENDING, State.UNKNOWN, State.UNKNOWN, State.PARKED, State.PARKED):
        await intended(database, state=state)
    assert await counted(database) == {State.PENDING: 1, State.UNKNOWN: 2}


async def test_what_an_earlier_release_resolved_does_not_count(
    database: Database, executor_url: str
) -> None:
    """It moves the state and does not know of the flag."""
    operation = await intended(database, state=State.PARKED)
    with psycopg.connect(executor_url) as connection:
        connection.execute(
            "UPDATE operation SET state = 3 WHERE operation_id = %s", (operation.operation_id,)
        )
    assert await counted(database) == {State.PENDING: 1}
    captured = await intended(database, state=State.CAPTURED)
    with psycopg.connect(executor_url) as connection:
        connection.execute(
            "UPDATE operation SET unresolved = true WHERE operation_id = %s",
            (captured.operation_id,),
        )
    assert await counted(database) == {State.PENDING: 1}


async def test_it_is_read_by_the_index(
    database: Database, executor_url: str, postgres_server: PostgresServer
) -> None:
    for _ in range(50):
        await intended(database, state=State.CAPTURED)
    server = postgres_server.admin_url.rpartition("/")[0]
    with psycopg.connect(
        f"{server}/{make_url(executor_url).database}", autocommit=True
    ) as connection:
        connection.execute("VACUUM ANALYZE")
    found = await database.read(
        "plan", lambda c: c.scalars(text(f"EXPLAIN {store._READ_UNRESOLVED.text}"), {"most": 10})
    )
    plan = "\n".join(found)
    assert "operation_unresolved" in plan
    assert "Seq Scan" not in plan


async def test_what_ends_at_its_first_answer_never_touches_the_index(
    database: Database, executor_url: str
) -> None:
    for _ in range(40):
        await intended(database, state=State.CAPTURED)
    await database.close()  # a backend tells its numbers when it ends
    with psycopg.connect(executor_url, autocommit=True) as connection:
        found = None
        for _ in range(100):
            found = connection.execute(
                "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables"
                " WHERE relname = 'operation'"
            ).fetchone()
            if found is not None and found[0]:
                break
            connection.execute("SELECT pg_sleep(0.05)")
    assert found == (40, 40)
