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
import select
from collections.abc import AsyncIterator, Awaitable, Callable
from enum import Enum, auto
from functools import partial
from typing import Any, TypeVar, cast

import psycopg
from sqlalchemy import Connection, event, make_url
from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    InterfaceError,
    InvalidatePoolError,
    InvalidRequestError,
    OperationalError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from mesh import failpoints
from mesh.errors import MeshError, Reason
from mesh.failpoints import Failpoints, Moment
from mesh.patience import (
    IDLE_IN_TRANSACTION_TIMEOUT_MS,
    LOCK_TIMEOUT_MS,
    STATEMENT_TIMEOUT_MS,
    WatchedConnection,
    answer_within_s,
)

T = TypeVar("T")

CONNECT_TIMEOUT_S = 2
POOL_TIMEOUT_S = 2
# A server that vanished without a word (its machine, or the network) is noticed so soon
# after the last answer; the default is two hours. For one that hangs see mesh/patience.py.
KEEPALIVE_S = 5

POOL_SIZE = 4
"""Connections at most, of each of a database's two kinds, where it is not said otherwise."""

# Serialization failures and deadlocks pass within milliseconds; five tries with
# jitter outlast any burst that set-wise, sorted statements can cause.
MAX_CONFLICT_TRIES = 5
# A connection may die in the middle. The pool drops all its connections when one is found
# dead, so the second try is on a new one.
MAX_LOST_TRIES = 2

_CONFLICTS = frozenset({"40001", "40P01"})
# Resources, object state (locks), system, and what the server itself calls an internal error:
# above all a file that it can't read or extend for a reason without a code of its own. Nothing
# is stored, and no row is to blame.
_BUSY_CLASSES = frozenset({"53", "55", "58", "XX"})
# Ran out of time; and a server that is a standby now, until the address leads elsewhere.
_BUSY_STATES = frozenset({"57014", "25006"})
_DATA_CLASSES = frozenset({"22", "23", "P0"})  # data, integrity, raised by our triggers
# The primary message of these quotes values; that of class 23 names only the constraint.
_QUOTING_CLASSES = frozenset({"22", "P0"})
# A refused connection carries no SQLSTATE; these are 53300 in words.
_NO_CONNECTION_LEFT = ("too many", "remaining connection slots")


class CommitFailed(MeshError):
    """A commit or read that did not end well; the subclasses tell what may be done."""

    def __init__(self, name: str, cause: BaseException) -> None:
        """`name` is the commit's, `cause` what the driver said (kept out of the message)."""
        super().__init__(self.reason_of_class, f"{name}: {self.meaning}")
        self.commit = name
        # What may be logged: the driver's own text can hold values of the row.
        self.sqlstate: str
        self.constraint: str
        self.said: str
        if isinstance(cause, CommitFailed):
            self.sqlstate, self.constraint, self.said = cause.sqlstate, cause.constraint, cause.said
        else:
            driver_error = getattr(cause, "orig", None)
            diagnosis = getattr(driver_error, "diag", None)
            self.sqlstate = getattr(driver_error, "sqlstate", None) or ""
            self.constraint = getattr(diagnosis, "constraint_name", None) or ""
            self.said = _without_values(driver_error)
        if self.said or self.sqlstate:
            self.add_note(f"PostgreSQL: {self.sqlstate} {self.said}".rstrip())

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


class _Mode(Enum):
    TRANSACTION = auto()
    ONE_WRITE = auto()
    READ = auto()


# Our statements meet their tables by keys that come in lists, so a nested loop over an index
# is the right plan at any size, and is planned once a connection. Left to itself the planner
# would either plan anew each time, which costs as much as a short list, or keep the
# sequential scan that it liked while the table was empty.
_PLAN_ONCE = {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
}
_PLAN_ANEW = {"plan_cache_mode": "force_custom_plan", "jit": "off"}


class Database:
    """Pools of connections to one service's database."""

    def __init__(
        self,
        url: str,
        *,
        application_name: str,
        pool_size: int = POOL_SIZE,
        by_key: bool = True,
        patience_ms: int | None = None,
    ) -> None:
        """`url` as in libpq (postgresql://role:password@host:port/database).

        pool_size: connections at most, of each of the two kinds (transactions, and
        statements that are one in themselves). by_key: see _PLAN_ONCE. patience_ms: how long
        a statement or a lock may take, for work on whole tables that no payment waits for. A
        server that takes twice as long for an answer is given up (mesh/patience.py).
        """
        settings: dict[str, object] = {
            "timezone": "UTC",
            "lock_timeout": patience_ms or LOCK_TIMEOUT_MS,
            "statement_timeout": patience_ms or STATEMENT_TIMEOUT_MS,
            "idle_in_transaction_session_timeout": IDLE_IN_TRANSACTION_TIMEOUT_MS,
            **(_PLAN_ONCE if by_key else _PLAN_ANEW),
        }
        options = " ".join(f"-c {name}={value}" for name, value in settings.items())
        parsed = make_url(url).set(drivername="postgresql+psycopg")
        self.address = f"{parsed.host or 'localhost'}:{parsed.port or 5432}/{parsed.database}"
        """Host, port and database, for messages; without the password."""
        engine = partial(
            create_async_engine,
            parsed,
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=POOL_TIMEOUT_S,
            hide_parameters=True,  # errors are logged; the values are the callers'
            connect_args={
                "async_creator_fn": WatchedConnection.connect,
                "application_name": application_name,
                "connect_timeout": CONNECT_TIMEOUT_S,
                "tcp_user_timeout": 3_000,
                "keepalives_idle": KEEPALIVE_S,
                "keepalives_interval": 1,
                "options": options,
            },
        )
        self._transactions: AsyncEngine = engine()
        # No BEGIN, no COMMIT and nothing to roll back on return: half the cost of a list.
        self._statements: AsyncEngine = engine(
            isolation_level="AUTOCOMMIT", pool_reset_on_return=None
        )
        self._answer_within_s = answer_within_s(patience_ms or STATEMENT_TIMEOUT_MS)
        for kind in (self._transactions, self._statements):
            event.listen(kind.sync_engine, "checkout", self._taken_out)
        event.listen(self._statements.sync_engine, "after_cursor_execute", _count_statement)
        self._failpoints = failpoints.installed()
        if self._failpoints is not None:
            self._failpoints.database(self)

    async def commit(
        self,
        name: str,
        work: Callable[[AsyncConnection], Awaitable[T]],
        *,
        one_write: bool = False,
    ) -> T:
        """Runs `work` in one transaction and commits it.

        one_write: `work` writes by its first statement, which is then the transaction, and
        only reads after it; the failure of such a read is CommitUnknown.
        Errors: NotCommitted, Busy, CommitUnknown, BadData. Anything that `work` itself
        raises rolls back (if not one_write) and passes through.
        """
        return await self._again(name, work, _Mode.ONE_WRITE if one_write else _Mode.TRANSACTION)

    async def read(self, name: str, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Runs `work`, which only reads, each statement by itself. Errors: NotCommitted, Busy."""
        return await self._again(name, work, _Mode.READ)

    async def close(self) -> None:
        """Closes all connections."""
        await self._transactions.dispose()
        await self._statements.dispose()

    def _taken_out(self, dbapi_connection: Any, *_more: object) -> None:
        _refuse_dead(dbapi_connection)
        dbapi_connection.driver_connection.answer_within_s = self._answer_within_s

    async def _again(
        self, name: str, work: Callable[[AsyncConnection], Awaitable[T]], mode: _Mode
    ) -> T:
        conflicts = lost = 0
        while True:
            try:
                return await self._once(name, work, mode)
            except _Conflict:
                conflicts += 1
                if conflicts >= MAX_CONFLICT_TRIES:
                    raise
                await asyncio.sleep(random.uniform(0, 0.01 * 2**conflicts))
            except _Lost:
                lost += 1
                if lost >= MAX_LOST_TRIES:
                    raise

    async def _once(
        self, name: str, work: Callable[[AsyncConnection], Awaitable[T]], mode: _Mode
    ) -> T:
        engine = self._transactions if mode is _Mode.TRANSACTION else self._statements
        points = self._failpoints
        connected = committing = False
        done = [0]
        try:
            async with engine.connect() as connection:
                connected = True
                if mode is not _Mode.TRANSACTION:
                    connection.info[_DONE] = done
                committing = mode is _Mode.ONE_WRITE  # each statement may be the COMMIT
                if points is not None and mode is not _Mode.TRANSACTION:
                    await _begins(points, name, mode, connection)
                result = await work(connection)
                if mode is _Mode.TRANSACTION:
                    committing = True
                    if points is not None:
                        await points.commit(name, Moment.BEFORE, connection)
                    await connection.commit()
                if points is not None and mode is not _Mode.READ:
                    await points.commit(name, Moment.AFTER, connection)
                return result
        except PoolTimeoutError as error:
            raise Busy(name, error) from None
        except InvalidRequestError as error:
            if connected:
                raise
            # The pool gave up: its new connections were cut, too, before they were used.
            raise _Lost(name, error) from None
        except DBAPIError as error:
            if mode is _Mode.ONE_WRITE and done[0]:
                failed: CommitFailed = CommitUnknown(name, error)  # the write itself went well
            else:
                failed = _classify(name, error, connected=connected, committing=committing)
            # Not `from error`: whatever logs an exception logs its cause, and the driver's
            # text holds values ("Key (reference)=(…) already exists").
            raise failed.with_traceback(error.__traceback__) from None


async def _begins(points: Failpoints, name: str, mode: _Mode, connection: AsyncConnection) -> None:
    if mode is _Mode.READ:
        await points.read(name, connection)
    else:
        await points.commit(name, Moment.BEFORE, connection)


async def copy_in(
    connection: AsyncConnection, statement: str, blocks: AsyncIterator[bytes]
) -> None:
    """Runs a COPY … FROM STDIN within the work of a commit, block by block.

    statement: a constant; no value of anybody's may be part of it.
    """
    raw = await connection.get_raw_connection()
    driver = cast("psycopg.AsyncConnection[Any]", raw.driver_connection)
    try:
        async with driver.cursor() as cursor, cursor.copy(statement.encode()) as copy:
            async for block in blocks:
                await copy.write(block)
    except psycopg.Error as error:
        # As an error of any other statement.
        raise DBAPIError.instance(
            statement, None, error, psycopg.Error, hide_parameters=True
        ) from None


# In the info of a connection: how many statements the server answered, as a list of one.
_DONE = "statements done"


def _count_statement(connection: Connection, *_: object) -> None:
    connection.info[_DONE][0] += 1


def _refuse_dead(dbapi_connection: Any) -> None:
    """Takes no connection out of the pool that the server closed while it lay there.

    After a restart of the server that is all of them, and a statement that is lost with
    its connection may have been carried out. A closed socket tells so beforehand, without
    a round trip.
    """
    try:
        pgconn = dbapi_connection.driver_connection.pgconn
        unread = select.poll()
        unread.register(pgconn.socket, select.POLLIN)
        # The server's farewell, then the end. A living one may have sent a notice.
        for _ in range(3):
            if not unread.poll(0):
                return
            pgconn.consume_input()
    except psycopg.Error as error:
        raise InvalidatePoolError from error


class _Conflict(Busy):
    """A serialization failure or deadlock: the whole transaction again."""


class _Lost(NotCommitted):
    """A connection that had been there was gone before COMMIT: again on a new one."""


def _classify(name: str, error: DBAPIError, *, connected: bool, committing: bool) -> CommitFailed:
    sqlstate: str = getattr(error.orig, "sqlstate", None) or ""
    if sqlstate in _CONFLICTS:
        return _Conflict(name, error)
    if sqlstate in _BUSY_STATES or sqlstate[:2] in _BUSY_CLASSES:
        return Busy(name, error)
    if sqlstate[:2] in _DATA_CLASSES or isinstance(error, DataError):
        return BadData(name, error)
    if isinstance(error, OperationalError | InterfaceError) or error.connection_invalidated:
        if committing:
            return CommitUnknown(name, error)
        if connected:
            return _Lost(name, error)
        refused = str(error.orig)
        full = any(words in refused for words in _NO_CONNECTION_LEFT)
        return Busy(name, error) if full else NotCommitted(name, error)
    return CommitFailed(name, error)


def _without_values(driver_error: BaseException | None) -> str:
    """The first line of what the server said, where it quotes no value of a row."""
    sqlstate: str = getattr(driver_error, "sqlstate", None) or ""
    if sqlstate:
        primary = getattr(getattr(driver_error, "diag", None), "message_primary", None) or ""
        return "" if sqlstate[:2] in _QUOTING_CLASSES else str(primary)
    if isinstance(driver_error, psycopg.OperationalError):  # of a connection: no rows yet
        return (str(driver_error).splitlines() or [""])[0]
    return ""
