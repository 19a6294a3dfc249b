"""A payment database for each test: what one test leaves due, another must not take."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from mesh.db import Database
from mesh.migrations import provision
from tests.support.postgres import PostgresServer


@pytest.fixture
def payment_url(postgres_server: PostgresServer) -> str:
    """The app role's URL of a fresh database."""
    prefix = f"p{uuid.uuid4().hex[:12]}"
    return provision(postgres_server.admin_url, prefix=prefix, services=["payment"])["payment"]


@pytest_asyncio.fixture
async def database(payment_url: str) -> AsyncIterator[Database]:
    """A pool of the app role."""
    database = Database(payment_url, application_name="test")
    yield database
    await database.close()
