"""What a service says when it can't serve from its database."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import psycopg
import pytest
from sqlalchemy import make_url

from mesh import migrations
from mesh.db import Database
from mesh.migrations import head_revision
from mesh.server import CannotStartError
from mesh.start import require_database
from tests.support.ports import free_port
from tests.support.postgres import PostgresServer
from tests.support.psp_stub import own_database

SERVICE = "psp_stub"


@pytest.fixture(scope="module")
def migrated(postgres_server: PostgresServer) -> str:
    """The app role's URL."""
    return own_database(postgres_server)


@asynccontextmanager
async def pool(url: str) -> AsyncIterator[Database]:
    database = Database(url, application_name="test")
    yield database
    await database.close()


async def refusal(url: str) -> str:
    async with pool(url) as database:
        with pytest.raises(CannotStartError) as caught:
            await require_database(database, SERVICE)
        message = str(caught.value)
        assert database.address in message
        assert "\n" not in message
        assert str(make_url(url).password) not in message
        return message


@contextmanager
def revision(server: PostgresServer, url: str, found: str) -> Iterator[None]:
    """Another revision than the real one, for a while."""
    superuser = f"{server.admin_url.rpartition('/')[0]}/{make_url(url).database}"
    with psycopg.connect(superuser, autocommit=True) as connection:
        connection.execute("UPDATE alembic_version SET version_num = %s", (found,))
        yield
        connection.execute("UPDATE alembic_version SET version_num = %s", (head_revision(SERVICE),))


async def test_a_migrated_database(migrated: str) -> None:
    async with pool(migrated) as database:
        await require_database(database, SERVICE)


async def test_a_schema_that_is_newer_than_the_code(
    postgres_server: PostgresServer, migrated: str
) -> None:
    """While a new version is rolled out, the old one goes on."""
    with revision(postgres_server, migrated, "9999"):
        async with pool(migrated) as database:
            await require_database(database, SERVICE)


async def test_a_schema_that_is_older(postgres_server: PostgresServer, migrated: str) -> None:
    with revision(postgres_server, migrated, "0000"):
        message = await refusal(migrated)
    assert f"at revision 0000 and this code needs {head_revision(SERVICE)}" in message
    assert "run `paymesh migrate`" in message


async def test_an_empty_database(postgres_server: PostgresServer) -> None:
    message = await refusal(postgres_server.create_database())
    assert "at revision none" in message
    assert "run `paymesh migrate`" in message


async def test_a_server_that_is_too_old(migrated: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrations, "_OLDEST_SERVER", 99)
    assert "Paymesh needs 99 or newer" in await refusal(migrated)


async def test_a_server_that_is_down() -> None:
    started = time.monotonic()
    message = await refusal(f"postgresql://role:s3cret@127.0.0.1:{free_port()}/db")
    assert "refused" in message
    assert time.monotonic() - started < 2


async def test_a_wrong_password(migrated: str) -> None:
    url = make_url(migrated).set(password="s3cret")
    message = await refusal(url.render_as_string(hide_password=False))
    assert "password authentication failed" in message


async def test_a_database_that_does_not_exist(postgres_server: PostgresServer) -> None:
    url = postgres_server.admin_url.rpartition("/")[0] + f"/no{uuid.uuid4().hex}"
    assert "does not exist" in await refusal(url)


async def test_a_role_that_may_not_look(postgres_server: PostgresServer, migrated: str) -> None:
    role = f"r{uuid.uuid4().hex}"
    with psycopg.connect(postgres_server.admin_url, autocommit=True) as connection:
        database = make_url(migrated).database
        connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 's3cret'".encode())
        connection.execute(f'GRANT CONNECT ON DATABASE "{database}" TO {role}'.encode())
        url = make_url(migrated).set(username=role, password="s3cret")
        message = await refusal(url.render_as_string(hide_password=False))
        connection.execute(f'REVOKE ALL ON DATABASE "{database}" FROM {role}'.encode())
        connection.execute(f"DROP ROLE {role}".encode())
    assert "permission denied" in message or "at revision none" in message
