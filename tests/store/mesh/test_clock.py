"""The time that decides: the database's, which only tests offset."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

import psycopg
import pytest

from mesh.clock import CREATE_DB_NOW, DB_NOW
from tests.support.postgres import PostgresServer

Connection = psycopg.Connection[tuple[datetime, datetime]]


@pytest.fixture(scope="module")
def connection(postgres_server: PostgresServer) -> Iterator[Connection]:
    with psycopg.connect(postgres_server.create_database(), autocommit=True) as connection:
        connection.execute(CREATE_DB_NOW.encode())
        yield connection


def ahead(connection: Connection) -> timedelta:
    """How far the deciding time is ahead of the server's."""
    row = connection.execute(f"SELECT {DB_NOW}, statement_timestamp()".encode()).fetchone()
    assert row is not None
    return row[0] - row[1]


def test_it_is_the_databases_own_time(connection: Connection) -> None:
    assert ahead(connection) == timedelta()


@pytest.mark.parametrize(
    ("offset", "expected"),
    [
        ("1 hour", timedelta(hours=1)),
        ("-2 days", timedelta(days=-2)),
        ("0", timedelta()),
        ("", timedelta()),
    ],
)
def test_tests_offset_it(connection: Connection, offset: str, expected: timedelta) -> None:
    connection.execute("SELECT set_config('paymesh.clock_offset', %s, false)", (offset,))
    assert ahead(connection) == expected
    connection.execute("RESET paymesh.clock_offset")
    assert ahead(connection) == timedelta()


def test_it_stands_still_within_a_statement_and_goes_on_in_a_transaction(
    connection: Connection,
) -> None:
    with connection.transaction():
        first, again = connection.execute(
            f"SELECT {DB_NOW}, (SELECT {DB_NOW} FROM pg_sleep(0.01))".encode()
        ).fetchall()[0]
        later, _ = connection.execute(f"SELECT {DB_NOW}, {DB_NOW}".encode()).fetchall()[0]
    assert first == again < later
