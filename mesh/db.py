"""The one wrapper for commits and reads: every SQL statement of a service goes through it.

A `Database` belongs to one event loop. Work is a coroutine function that takes a
connection; it may run more than once (after a serialization failure, a deadlock or a
connection that was already dead), so it must do nothing but SQL.

What a failure means is told by the type of the error, because what may be done next
depends on it: see `CommitFailed`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from sqlalchemy import make_url
from sqlalchemy.engine import Row
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from mesh.errors import MeshError, Reason

T = TypeVar("T")
Rows = Sequence[Row[Any]]

# lock timeout < statement timeout < deadlines of calls (3 s and more) < lease (10 s):
# the innermost gives up first, so that nobody waits for one who has given up.
LOCK_TIMEOUT_MS = 1_000
STATEMENT_TIMEOUT_MS = 2_000
IDLE_IN_TRANSACTION_TIMEOUT_MS = 5_000
CONNECT_TIMEOUT_S = 2
POOL_TIMEOUT_S = 2

# Serialization failures and deadlocks pass within milliseconds; five tries with
# jitter outlast any burst that set-wise, sorted statements can cause.
MAX_CONFLICT_TRIES = 5
# A pooled connection may have died with the server. The pool drops all its
# connections when one is found dead, so the second try is on a new one.
MAX_CONNECT_TRIES = 2

_CONFLICTS = frozenset({"40001", "40P01"})
_BUSY_CLASSES = frozenset({"53", "55", "58"})  # resources, object state (locks), system
_STATEMENT_TIMEOUT = "57014"
_DATA_CLASSES = frozenset({"22", "23", "P0"})  # data, integrity, raised by our triggers


class CommitFailed(MeshError):
    """A commit or read that did not end well; the subclasses tell what may be done."""

    def __init__(self, name: str, cause: BaseException) -> None:
        """`name` is the commit's, `cause` what the driver said (kept out of the message)."""
        super().__init__(self.reason_of_class, f"{name}: {self.meaning}")
        self.commit = name
        # What may be logged: the driver's own text can hold values of the row.
        driver_error = getattr(cause, "orig", None)
        self.sqlstate: str = getattr(driver_error, "sqlstate", None) or ""
        diagnosis = getattr(driver_error, "diag", None)
        self.constraint: str = getattr(diagnosis, "constraint_name", None) or ""

    reason_of_class = Reason.INTERNAL
    meaning = "the database refused"


class NotCommitted(CommitFailed):
    """Provably nothing was committed: no connection, or lost before COMMIT was sent."""

    reason_of_class = Reason.DEPENDENCY_DOWN
    meaning = "the database can't be reached; nothing was stored"


class Busy(NotCommitted):
    """Rolled back for want of something that comes back: disk, locks, time. Back off."""

    meaning = "the database is too busy or full; nothing was stored"


class CommitUnknown(CommitFailed):
    """The connection was lost while COMMIT was under way: repeat on the same keys."""

    reason_of_class = Reason.OUTCOME_UNKNOWN
    meaning = "the database went away during COMMIT; it is not known whether it was stored"


class BadData(CommitFailed):
    """Some row is wrong (classes 22 and 23): split the list until it stands alone."""

    meaning = "a row was refused by the database"


class Database:
    """A pool of connections to one service's database."""

    def __init__(self, url: str, *, application_name: str, pool_size: int = 6) -> None:
        """`url` as in libpq (postgresql://role:password@host:port/database)."""
        options = " ".join(
            f"-c {name}={value}"
            for name, value in {
                "timezone": "UTC",
                "lock_timeout": LOCK_TIMEOUT_MS,
                "statement_timeout": STATEMENT_TIMEOUT_MS,
                "idle_in_transaction_session_timeout": IDLE_IN_TRANSACTION_TIMEOUT_MS,
                # A generic plan made while a table was empty stays a sequential scan for
                # as long as the connection lives; our lists are worth planning anew.
                "plan_cache_mode": "force_custom_plan",
            }.items()
        )
        parsed = make_url(url).set(drivername="postgresql+psycopg")
        self.address = f"{parsed.host}:{parsed.port or 5432}/{parsed.database}"
        """Host, port and database, for messages; without the password."""
        self._engine: AsyncEngine = create_async_engine(
            parsed,
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=POOL_TIMEOUT_S,
            hide_parameters=True,  # errors are logged; the values are the callers'
            connect_args={
                "application_name": application_name,
                "connect_timeout": CONNECT_TIMEOUT_S,
                "tcp_user_timeout": 3_000,
                "options": options,
            },
        )

    async def commit(self, name: str, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Runs `work` in one transaction and commits it.

        Errors: NotCommitted, Busy, CommitUnknown, BadData. Anything that `work` itself
        raises rolls back and passes through.
        """
        return await self._again(name, work, commit=True)

    async def read(self, name: str, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Runs `work`, which only reads, in one transaction. Errors: NotCommitted, Busy."""
        return await self._again(name, work, commit=False)

    async def close(self) -> None:
        """Closes all connections."""
        await self._engine.dispose()

    async def _again(
        self, name: str, work: Callable[[AsyncConnection], Awaitable[T]], *, commit: bool
    ) -> T:
        conflicts = lost = 0
        while True:
            try:
                return await self._once(name, work, commit=commit)
            except _Conflict as conflict:
                conflicts += 1
                if conflicts >= MAX_CONFLICT_TRIES:
                    raise Busy(name, conflict) from conflict
                await asyncio.sleep(random.uniform(0, 0.01 * 2**conflicts))
            except NotCommitted as failed:
                lost += 1
                if lost >= MAX_CONNECT_TRIES or isinstance(failed, Busy):
                    raise

    async def _once(
        self, name: str, work: Callable[[AsyncConnection], Awaitable[T]], *, commit: bool
    ) -> T:
        committing = False
        try:
            async with self._engine.connect() as connection:
                result = await work(connection)
                if commit:
                    committing = True
                    await connection.commit()
                return result
        except PoolTimeoutError as error:
            raise Busy(name, error) from error
        except DBAPIError as error:
            raise _classify(name, error, committing=committing) from error


class _Conflict(Exception):
    """A serialization failure or deadlock: the whole transaction again."""


def _classify(name: str, error: DBAPIError, *, committing: bool) -> Exception:
    sqlstate: str | None = getattr(error.orig, "sqlstate", None)
    if sqlstate in _CONFLICTS:
        return _Conflict(str(sqlstate))
    if sqlstate == _STATEMENT_TIMEOUT or (sqlstate or "")[:2] in _BUSY_CLASSES:
        # Also "too many connections" (53300): at connect, so nothing was sent.
        return Busy(name, error)
    if (sqlstate or "")[:2] in _DATA_CLASSES:
        return BadData(name, error)
    if isinstance(error, OperationalError | InterfaceError) or error.connection_invalidated:
        return CommitUnknown(name, error) if committing else NotCommitted(name, error)
    return CommitFailed(name, error)
