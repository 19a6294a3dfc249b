"""The stub's own database for its store tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from mesh.db import Database
from psp_stub.domain import FeeSchedule
from psp_stub.operations import Operations, Rules
from tests.support.postgres import PostgresServer
from tests.support.psp_stub import own_database


@pytest.fixture(scope="package")
def psp_url(postgres_server: PostgresServer) -> str:
    """The app role's URL of a migrated database."""
    return own_database(postgres_server)


@pytest_asyncio.fixture
async def database(psp_url: str) -> AsyncIterator[Database]:
    """A pool of the app role."""
    database = Database(psp_url, application_name="test", by_key=False)
    yield database
    await database.close()


@pytest.fixture
def operations(database: Database) -> Operations:
    """With a memory and a pending time that no test outlives."""
    return make_operations(database)


def make_operations(
    database: Database, *, key_memory_s: float = 3_600, pending_s: float = 3_600
) -> Operations:
    """The transactions with other rules."""
    return Operations(database, Rules(FeeSchedule(290, 30), key_memory_s, pending_s))
