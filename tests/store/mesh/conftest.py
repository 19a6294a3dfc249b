"""A database with one table, its pool, and the superuser who disturbs both."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import psycopg
import pytest
import pytest_asyncio
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.db import Database
from tests.support.embedded import wait_until
from tests.support.postgres import PostgresServer

TABLE = """
CREATE TABLE item (
  id bigint PRIMARY KEY,
  note text NOT NULL DEFAULT '' UNIQUE,
  amount bigint NOT NULL DEFAULT 0 CONSTRAINT amount_not_negative CHECK (amount >= 0),
  parent bigint CONSTRAINT parent_exists REFERENCES item DEFERRABLE INITIALLY DEFERRED
)
"""


@dataclass(frozen=True)
class Disturber:
    """What else happens to a database."""

    url: str
    application_name: str

    def ask(self, question: str, *values: object) -> list[tuple[object, ...]]:
        """Runs a statement as the superuser; its rows, if it has any."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(question.encode(), values)
            return cursor.fetchall() if cursor.description else []

    def kill(self) -> int:
        """Ends the sessions of the pool, as a restart would; how many there were."""
        return len(
            self.ask(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE application_name = %s",
                self.application_name,
            )
        )

    def sessions(self) -> int:
        """How many sessions the pool has."""
        return len(
            self.ask(
                "SELECT pid FROM pg_stat_activity WHERE application_name = %s",
                self.application_name,
            )
        )

    def ids(self) -> list[int]:
        """What is stored."""
        return [int(str(row[0])) for row in self.ask("SELECT id FROM item ORDER BY id")]


async def insert(
    connection: AsyncConnection,
    id_: int,
    *,
    note: str | None = None,
    amount: int = 0,
    parent: int | None = None,
) -> None:
    """Inserts a row."""
    await connection.execute(
        text("INSERT INTO item VALUES (:id, :note, :amount, :parent)"),
        {"id": id_, "note": note or uuid.uuid4().hex, "amount": amount, "parent": parent},
    )


@pytest.fixture(scope="package")
def url(postgres_server: PostgresServer) -> str:
    """The superuser's URL of a database of our own."""
    url = postgres_server.create_database()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(TABLE.encode())
    return url


@pytest.fixture
def disturber(url: str) -> Iterator[Disturber]:
    """On an empty table."""
    disturber = Disturber(url, f"test-{uuid.uuid4().hex}")
    disturber.ask("TRUNCATE item")
    yield disturber
    # Sessions end a moment after their connections.
    wait_until(lambda: disturber.sessions() == 0, timeout_s=5)


@pytest_asyncio.fixture
async def database(url: str, disturber: Disturber) -> AsyncIterator[Database]:
    """A pool that the disturber knows."""
    database = Database(url, application_name=disturber.application_name)
    yield database
    await database.close()
