"""The executor's own database for its store tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from mesh.db import Database
from tests.support.executor import own_databases
from tests.support.postgres import PostgresServer


@pytest.fixture(scope="package")
def executor_url(postgres_server: PostgresServer) -> str:
    """The app role's URL of a migrated database."""
    return own_databases(postgres_server)["executor"]


@pytest_asyncio.fixture
async def database(executor_url: str) -> AsyncIterator[Database]:
    """A pool of the app role."""
    database = Database(executor_url, application_name="test")
    yield database
    await database.close()
