"""The PostgreSQL that mesh and pgbench share, asked as its superuser."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import psycopg
from sqlalchemy import make_url

from bench.problem import BenchError

# A session reports its commits at the latest so long after it fell idle (PostgreSQL's
# PGSTAT_IDLE_INTERVAL), with a little on top.
_STATISTICS_DELAY_S = 10.5
_STATEMENT_TIMEOUT_MS = 120_000

_COMMITS = "SELECT xact_commit FROM pg_stat_database WHERE datname = %s"


@dataclass(frozen=True)
class WritePosition:
    """How much the whole server has written. wal: bytes; writers: transactions with writes."""

    wal: int
    writers: int


class Server:
    """An administrative session. As a context, closed in the end."""

    def __init__(self, admin_url: str, database_urls: Mapping[str, str]) -> None:
        """database_urls: service → its URL."""
        self._admin_url = make_url(admin_url)
        self._databases = {
            service: str(make_url(url).database) for service, url in database_urls.items()
        }
        self._session = self._connect("postgres")
        self.busy_until = 0.0
        """When the last load on the mesh ended, by time.monotonic()."""

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

    def position(self) -> WritePosition:
        """The server's position now; exact, unlike the statistics."""
        row = self._session.execute(
            "SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn,"
            " pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
        ).fetchone()
        return WritePosition(*_integers(row))

    def commits(self) -> dict[str, int]:
        """Commits so far by service, once its sessions have reported all of them.

        Waits for that, up to ten seconds after the last load. Transactions that only read
        are rolled back by the services, and so are not among them.
        """
        wait_s = self.busy_until + _STATISTICS_DELAY_S - time.monotonic()
        time.sleep(max(0.0, wait_s))
        return {
            service: _integers(self._session.execute(_COMMITS, (name,)).fetchone())[0]
            for service, name in self._databases.items()
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
