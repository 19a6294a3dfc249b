"""A world for each test. Databases are copies of one that was migrated once: 30 ms, not 400."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator

import psycopg
import pytest
import pytest_asyncio
from psycopg import sql
from sqlalchemy import make_url

from mesh.migrations import provision
from tests.support.payment_world import World, world_of
from tests.support.postgres import PostgresServer


@pytest.fixture(scope="session")
def migrated(postgres_server: PostgresServer) -> str:
    """The app role's URL of a migrated database that nobody connects to."""
    prefix = f"template_{uuid.uuid4().hex[:12]}"
    return provision(postgres_server.admin_url, prefix=prefix, services=["payment"])["payment"]


@pytest_asyncio.fixture
async def world(postgres_server: PostgresServer, migrated: str) -> AsyncIterator[World]:
    """A fresh database and the played services."""
    template = make_url(migrated)
    name = f"payment_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres_server.admin_url, autocommit=True) as connection:
        connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
                sql.Identifier(name), sql.Identifier(str(template.database))
            )
        )
    url = template.set(database=name).render_as_string(hide_password=False)
    admin_url = f"{postgres_server.admin_url.rpartition('/')[0]}/{name}"
    async with world_of(url, admin_url) as world:
        yield world
