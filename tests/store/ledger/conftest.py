"""The ledger's database for its store tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest
import pytest_asyncio

from mesh.db import Database
from tests.support.databases import superuser_url


@pytest.fixture(scope="package")
def ledger_url(databases: dict[str, str]) -> str:
    """The app role's URL."""
    return databases["ledger"]


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def database(ledger_url: str) -> AsyncIterator[Database]:
    """A pool of the app role."""
    database = Database(ledger_url, application_name="test")
    yield database
    await database.close()


@pytest.fixture
def app(ledger_url: str) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """The app role's own SQL; rolled back in the end."""
    with psycopg.connect(ledger_url) as connection:
        yield connection
        connection.rollback()


@pytest.fixture
def superuser(databases: dict[str, str]) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """The superuser's SQL; rolled back in the end."""
    with psycopg.connect(superuser_url(databases, "ledger")) as connection:
        yield connection
        connection.rollback()
