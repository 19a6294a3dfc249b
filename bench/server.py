"""The PostgreSQL that mesh and pgbench share, asked as its superuser."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import psycopg
from sqlalchemy import make_url

from bench.problem import BenchError

_STATEMENT_TIMEOUT_MS = 120_000

# The statistics' xact_commit counts what only reads as well, and comes seconds late.
_WRITERS = """
SELECT count(DISTINCT xid::text) FROM pg_get_wal_block_info(%s, %s, false)
WHERE xid <> '0' AND reldatabase = (SELECT oid FROM pg_database WHERE datname = %s)
"""


@dataclass(frozen=True)
class WalPosition:
    """A place in the write-ahead log. lsn: PostgreSQL's name for it; at: in bytes."""

    lsn: str
    at: int


class Server:
    """An administrative session. As a context, closed in the end."""

    def __init__(self, admin_url: str, database_urls: Mapping[str, str]) -> None:
        """database_urls: service → its URL."""
        self._admin_url = make_url(admin_url)
        self._databases = {
            service: str(make_url(url).database) for service, url in database_urls.items()
        }
        self._session = self._connect("postgres")
        self._can_read_wal = False
        # An extension that comes with the server, but with some only as a package of its own.
        with suppress(psycopg.errors.FeatureNotSupported, psycopg.errors.UndefinedFile):
            self._session.execute("CREATE EXTENSION pg_walinspect")
            self._can_read_wal = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._session.close()

    def checkpoint(self) -> None:
        """So that no round pays for pages that another one made dirty."""
        self._session.execute("CHECKPOINT")

    def position(self) -> WalPosition:
        """Where the write-ahead log of the whole server ends now."""
        row = self._session.execute(
            "SELECT lsn::text, lsn - '0/0'::pg_lsn FROM pg_current_wal_flush_lsn() AS lsn"
        ).fetchone()
        if row is None:
            raise BenchError("the server has no position")
        return WalPosition(str(row[0]), int(str(row[1])))

    def writers(self, since: WalPosition, until: WalPosition) -> dict[str, int]:
        """By service, its transactions that wrote between two positions.

        Counted in the log itself, so exactly, and without those that only read. Empty if
        this server cannot read its log.
        """
        if not self._can_read_wal:
            return {}
        return {
            service: _integers(
                self._session.execute(_WRITERS, (since.lsn, until.lsn, database)).fetchone()
            )[0]
            for service, database in self._databases.items()
        }

    def ask(self, service: str, question: str) -> list[int]:
        """The integers in the one row that the service's database answers."""
        with self._connect(self._databases[service]) as session:
            return _integers(session.execute(question.encode()).fetchone())

    def make_database(self, name: str) -> None:
        """A new, empty database."""
        self._session.execute(f"CREATE DATABASE {name}".encode())

    def run(self, database: str, statement: str) -> None:
        """Runs a statement in a database."""
        with self._connect(database) as session:
            session.execute(statement.encode())

    def environment(self) -> dict[str, str]:
        """What PostgreSQL's own client programs need to log in as the superuser."""
        url = self._admin_url
        return {
            "PGHOST": str(url.host),
            "PGPORT": str(url.port),
            "PGUSER": str(url.username),
            "PGPASSWORD": str(url.password),
        }

    def _connect(self, database: str) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(
            self._admin_url.set(database=database).render_as_string(hide_password=False),
            autocommit=True,
            connect_timeout=5,
            application_name="paymesh-bench",
            options=f"-c statement_timeout={_STATEMENT_TIMEOUT_MS}",
        )


def _integers(row: tuple[object, ...] | None) -> list[int]:
    if row is None:
        raise BenchError("the database answered without a row")
    return [int(str(value)) for value in row]
