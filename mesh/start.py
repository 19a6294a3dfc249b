"""What a service makes sure of before it serves: its database is there and migrated."""

from __future__ import annotations

from sqlalchemy import text

from mesh.db import CommitFailed, Database
from mesh.migrations import head_revision
from mesh.server import CannotStartError

_UNDEFINED_TABLE = "42P01"


async def require_database(database: Database, service: str) -> None:
    """CannotStartError, in a sentence, unless the database can be served from.

    service: as in mesh.migrations.PACKAGES. A schema newer than this code is fine:
    migrations expand first, so that old code runs while the new one is rolled out.
    """
    try:
        found = await database.read(
            "start.revision",
            lambda connection: connection.scalar(text("SELECT version_num FROM alembic_version")),
        )
    except CommitFailed as failed:
        if failed.sqlstate != _UNDEFINED_TABLE:
            raise CannotStartError(
                f"the database at {database.address} can't be used: {failed.said or failed}"
            ) from failed
        found = None
    needed = head_revision(service)
    if found is None or found < needed:
        raise CannotStartError(
            f"the database at {database.address} is at revision {found or 'none'} and this code"
            f" needs {needed}: run `paymesh migrate`"
        )
