"""The services' databases on the tests' PostgreSQL, made once per session.

Tests share them and keep apart by fresh ids: that costs nothing, and the rows of the others
are the best company for a test of a statement that must touch only its own.
"""

from __future__ import annotations

import pytest
from sqlalchemy import make_url

from mesh.migrations import provision
from tests.support.postgres import PostgresServer

ADMIN = "admin"


@pytest.fixture(scope="session")
def databases(postgres_server: PostgresServer) -> dict[str, str]:
    """Service → the URL of its app role; and under "admin" the superuser's."""
    return {**provision(postgres_server.admin_url), ADMIN: postgres_server.admin_url}


def superuser_url(databases: dict[str, str], service: str) -> str:
    """The superuser's URL of a service's database, for what the service itself may not do."""
    database = make_url(databases[service]).database
    url = make_url(databases[ADMIN]).set(drivername="postgresql", database=database)
    return url.render_as_string(hide_password=False)
