"""One embedded PostgreSQL for all tests of a session.

tests/conftest.py makes it known by `pytest_plugins = ["tests.support.postgres"]`.
"""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from mesh.embedded import (
    EmbeddedConfig,
    EmbeddedPostgres,
    EmbeddedPostgresError,
    EmbeddedPostgresReason,
)
from tests.support.folders import open_folder
from tests.support.ports import free_port, free_port_base

__all__ = ["PostgresServer", "free_port", "free_port_base", "postgres_server", "started"]

_ATTEMPTS = 5
# Memory is scarcer than a disk.
_SETTINGS = {"max_wal_size": "512MB", "scram_iterations": "1"}


@dataclass(frozen=True)
class PostgresServer:
    """A running PostgreSQL. `admin_url` is the superuser's, with its password."""

    admin_url: str

    @property
    def port(self) -> int:
        """The TCP port on 127.0.0.1."""
        return int(str(conninfo_to_dict(self.admin_url)["port"]))

    def create_database(self) -> str:
        """The superuser's URL of a new, empty database, which lives as long as the server."""
        name = f"test_{uuid.uuid4().hex}"
        with psycopg.connect(self.admin_url, autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return f"{self.admin_url.rpartition('/')[0]}/{name}"


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL as `paymesh up` starts it, its data in memory where there is some."""
    with open_folder(in_memory=True) as folder:
        server = started(folder / "data")
        try:
            yield PostgresServer(server.admin_url)
        finally:
            server.stop(immediate=True)


def started(data_dir: Path) -> EmbeddedPostgres:
    """A server on the folder and a free port. Raises EmbeddedPostgresError."""
    for attempt in range(1, _ATTEMPTS + 1):
        server = EmbeddedPostgres(EmbeddedConfig(data_dir, free_port(), settings=_SETTINGS))
        try:
            server.start()
        except EmbeddedPostgresError as error:
            # Another test session on this machine was faster.
            if error.reason is not EmbeddedPostgresReason.PORT_IN_USE or attempt == _ATTEMPTS:
                raise
        else:
            return server
    raise AssertionError("unreachable")
