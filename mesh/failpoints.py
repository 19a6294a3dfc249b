"""Where a test can make the world fail: in the one wrapper for commits and the one for calls.

A failpoint is named by what it guards: a commit or read by the name that it is given
(`payment.write`), a call by its method. Nothing is installed outside of tests, and then
nothing is asked: a database compares one reference per commit, and a channel is opened as it
is. See docs/faults.md.
"""

from __future__ import annotations

from contextvars import ContextVar, Token
from enum import Enum, auto
from typing import TYPE_CHECKING, Protocol

import grpc
from sqlalchemy.ext.asyncio import AsyncConnection

if TYPE_CHECKING:
    from mesh.db import Database


class Moment(Enum):
    """When in a commit, seen from the server's side."""

    BEFORE = auto()
    """Nothing of it is committed: before COMMIT, or before the one statement that writes."""
    AFTER = auto()
    """It is committed, and nobody was told."""


class Failpoints(Protocol):
    """What one process passes, whatever is decided there."""

    def database(self, database: Database) -> None:
        """A database that was made, whose commits and reads are passed from now on."""

    async def commit(self, name: str, moment: Moment, connection: AsyncConnection) -> None:
        """Passes a moment of a commit. What it raises is taken for what the driver raised."""

    async def read(self, name: str, connection: AsyncConnection) -> None:
        """Passes a read, before its first statement; raises as `commit` does."""

    def channel(self, target: str, channel: grpc.aio.Channel) -> grpc.aio.Channel:
        """The channel that calls are made on instead."""


_installed: ContextVar[Failpoints | None] = ContextVar("failpoints", default=None)


def install(failpoints: Failpoints | None) -> Token[Failpoints | None]:
    """For the databases and channels that this context makes from now on; None: no more.

    What is answered undoes it, by `uninstall`.
    """
    return _installed.set(failpoints)


def uninstall(token: Token[Failpoints | None]) -> None:
    """As it was before `install`."""
    _installed.reset(token)


def installed() -> Failpoints | None:
    """What was installed last in this context."""
    return _installed.get()
