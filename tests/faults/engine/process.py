"""One life of a service in this process: wired as its main.py does it, and mortal.

A crash is what a SIGKILL leaves behind as seen from outside: its sockets are closed, and
whatever code of it still runs (Python ends coroutines by an exception) can neither commit nor
read nor call nor answer, because every such way leads through the failpoints of a life that is
over.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Never, Protocol, cast

import grpc
import psycopg
from psycopg import errors as pg
from sqlalchemy import event
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh import failpoints
from mesh.db import Database
from mesh.failpoints import Moment
from mesh.server import Server
from tests.faults.engine.calls import FailingChannel
from tests.faults.engine.faults import AFTER_COMMIT, KILLS, Fault, Kind


class Surroundings(Protocol):
    """What a process needs of its mesh."""

    def at(self, point: str) -> Fault | None:
        """See Passages.at."""

    def died(self, service: str, *, replicas: int) -> None:
        """Starts it again, as so many."""

    def cut_all(self) -> None:
        """Ends every session of every service."""

    def callee(self, target: str) -> str:
        """The service at an address."""

    def sent(self, request: Any) -> Any:
        """What arrives of a request."""

    def pause(self, service: str) -> None:
        """Stops a service for a while."""

    def later(self, work: Callable[[], Awaitable[object]]) -> None:
        """Does something when all is over."""

    def beside(self, work: Awaitable[object]) -> None:
        """Does something in nobody's name."""


class Life:
    """A process from its start to its end: its failpoints, sockets and tasks."""

    def __init__(self, service: str, mesh: Surroundings) -> None:
        self.service = service
        self.mesh = mesh
        self.alive = True
        self.died: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.running = asyncio.Event()
        self.running.set()
        self.server: Server | None = None
        self.databases: list[Database] = []
        self.tasks: set[asyncio.Task[Any]] = set()
        self._channels: list[grpc.aio.Channel] = []
        self._connections: list[psycopg.AsyncConnection[Any]] = []
        self._stopping: asyncio.Task[None] | None = None

    # --- what a service is made of ------------------------------------------------------

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Databases and channels that are made within are this life's, and so are tasks."""
        token = failpoints.install(self)
        try:
            yield
        finally:
            failpoints.uninstall(token)

    def _connected(self, dbapi_connection: Any, _record: object) -> None:
        self._connections.append(dbapi_connection.driver_connection)

    # --- its end ------------------------------------------------------------------------

    def crash(self) -> None:
        """Ends it at once. Nothing it does from here on has an effect."""
        if not self.alive:
            return
        self.alive = False
        self.died.set_result(None)
        self.running.set()
        if self.server is not None:
            self._stopping = asyncio.ensure_future(self.server.grpc.stop(None))
        self.cut()
        self.mesh.beside(self._bury())

    def cut(self) -> None:
        """Closes its connections to PostgreSQL, as a network does it: without a word."""
        connections, self._connections = self._connections, []
        for connection in connections:
            _shut(connection)

    async def _bury(self) -> None:
        """Frees what a real process takes with it."""
        await self.gone()
        for task in list(self.tasks):
            task.cancel()
        await asyncio.sleep(0)
        for database in self.databases:
            await database.close()
        for task in list(self.tasks):
            task.cancel()

    async def forget(self) -> None:
        """Closes its channels: what it sent may have arrived late until now."""
        for channel in self._channels:
            await channel.close()

    async def gone(self) -> None:
        """Returns when its port is free."""
        if self._stopping is not None:
            await asyncio.shield(self._stopping)

    # --- mesh.failpoints.Failpoints -----------------------------------------------------

    def database(self, database: Database) -> None:
        """See Failpoints: its sockets are this life's."""
        self.databases.append(database)
        for engine in (database._transactions, database._statements):
            event.listen(engine.sync_engine, "connect", self._connected)

    async def commit(self, name: str, moment: Moment, connection: AsyncConnection) -> None:
        """See Failpoints."""
        await self.lives()
        if moment is Moment.AFTER:
            fault = connection.info.pop(_FAULT, None)
        else:
            fault = self.mesh.at(name)
            if fault is not None and fault.kind in AFTER_COMMIT:
                connection.info[_FAULT] = fault
                return
        if fault is not None:
            await self._fail(fault.kind, connection)

    async def read(self, name: str, connection: AsyncConnection) -> None:
        """See Failpoints."""
        del name, connection
        await self.lives()

    def channel(self, target: str, channel: grpc.aio.Channel) -> grpc.aio.Channel:
        """See Failpoints."""
        self._channels.append(channel)
        return FailingChannel(channel, self, target)

    async def lives(self) -> None:
        """Goes on, when it is not stopped; never, when it is dead."""
        if not self.running.is_set():
            await self.running.wait()
        if not self.alive:
            await asyncio.get_running_loop().create_future()

    async def _fail(self, kind: Kind, connection: AsyncConnection) -> None:
        if kind in KILLS:
            two = kind in (Kind.TWO_RESUME_BEFORE, Kind.TWO_RESUME_AFTER)
            self.crash()
            self.mesh.died(self.service, replicas=2 if two else 1)
            await self.lives()
        match kind:
            case Kind.SERIALIZATION:
                _raise(pg.SerializationFailure("injected"))
            case Kind.DEADLOCK:
                _raise(pg.DeadlockDetected("injected"))
            case Kind.STATEMENT:
                _raise(pg.DiskFull("injected"))
            case Kind.RESTART:
                self.mesh.cut_all()
            case Kind.CUT_BEFORE:
                await _cut(connection)
            case Kind.CUT_AFTER:
                await _cut(connection)
                _raise(psycopg.OperationalError("injected: the server closed the connection"))
            case _:
                raise AssertionError(f"{kind} is no fault of a commit")


_FAULT = "fault to come"


async def _cut(connection: AsyncConnection) -> None:
    raw = await connection.get_raw_connection()
    _shut(cast("psycopg.AsyncConnection[Any]", raw.driver_connection))


def _shut(connection: psycopg.AsyncConnection[Any]) -> None:
    if connection.closed:
        return  # its number may be another's by now
    shut = socket.socket(fileno=os.dup(connection.pgconn.socket))
    with suppress(OSError):  # the server was faster
        shut.shutdown(socket.SHUT_RDWR)
    shut.close()


def _raise(error: psycopg.Error) -> Never:
    # What SQLAlchemy makes of what the driver raised.
    broken = not error.sqlstate
    raise OperationalError("injected", None, error, connection_invalidated=broken)


def follow_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """Makes every task known to the life whose code started it."""

    def start(loop: asyncio.AbstractEventLoop, work: Any, **more: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, **more)
        owner = failpoints.installed()
        if isinstance(owner, Life):
            owner.tasks.add(task)
            task.add_done_callback(owner.tasks.discard)
        return task

    loop.set_task_factory(start)


def background(owner: Life, work: Sequence[Callable[[], Awaitable[None]]]) -> None:
    """Runs what a service has beside its server."""
    with owner.installed():
        for one in work:
            asyncio.ensure_future(one())  # noqa: RUF006  # kept by follow_tasks
