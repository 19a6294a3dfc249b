"""What a service makes sure of before it serves: its database is there and migrated."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.db import CommitFailed, Database
from mesh.migrations import head_revision, refusal_of_server
from mesh.server import CannotStartError

_UNDEFINED_TABLE = "42P01"
_LOOK = text(
    "SELECT version_num, current_setting('server_version_num')::integer AS server"
    " FROM alembic_version"
)


async def require_database(database: Database, service: str) -> None:
    """CannotStartError, in a sentence, unless the database can be served from.

    service: as in mesh.migrations.PACKAGES. A schema newer than this code is fine:
    migrations expand first, so that old code runs while the new one is rolled out.
    """
    try:
        found, refusal = await database.read("start.look", _look)
    except CommitFailed as failed:
        if failed.sqlstate != _UNDEFINED_TABLE:
            raise CannotStartError(
                f"the database at {database.address} can't be used: {failed.said or failed}"
            ) from failed
        # Of a server that is too old `paymesh migrate` says so.
        found = refusal = None
    if refusal is not None:
        raise CannotStartError(f"the database at {database.address} can't be used: {refusal}")
    needed = head_revision(service)
    if found is None or found < needed:
        raise CannotStartError(
            f"the database at {database.address} is at revision {found or 'none'} and this code"
            f" needs {needed}: run `paymesh migrate`"
        )


async def _look(connection: AsyncConnection) -> tuple[str | None, str | None]:
    """The schema's revision, and why the server won't do."""
    row = (await connection.execute(_LOOK)).one_or_none()
    return (None, None) if row is None else (row.version_num, refusal_of_server(row.server))
