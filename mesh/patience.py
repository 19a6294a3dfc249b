"""How long is waited for the database, in the server and on our side.

The timeouts of statements and locks run in the server, and keepalives are answered by its
kernel: neither ends the wait for a server that hangs (a stalled disk, a stopped process)
while its machine lives. So the driver's connection watches each answer by itself.
"""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress
from typing import Any, TypeVar, cast

import psycopg
from psycopg.abc import PQGen
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

T = TypeVar("T")

# deadlock_timeout of the server (1 s by default, so that a deadlock is told as one and
# repeated) < lock timeout < statement timeout < deadlines of calls (3 s and more) < lease (10 s):
# the innermost gives up first, so that nobody waits for one who has given up. A server that
# hangs is given up on (answer_within_s, 4 s) in time to renew a lease on another connection.
LOCK_TIMEOUT_MS = 1_500
STATEMENT_TIMEOUT_MS = 2_000
IDLE_IN_TRANSACTION_TIMEOUT_MS = 5_000


def answer_within_s(statement_timeout_ms: int) -> float:
    """How long to wait for one answer of a server that ends statements after the given time.

    Twice that: before a statement is carried out for the first time by its name, it is
    prepared, which the server counts by itself and may wait for a lock, too.
    """
    return 2 * statement_timeout_ms / 1000


class WatchedConnection(psycopg.AsyncConnection[Any]):
    """A connection that is cut when an answer takes longer than `answer_within_s`.

    What is bounded is one answer, not the work: a transaction may have many statements, and
    whoever feeds a COPY may be slow. Cut is the socket. Cancelling would not do, because the
    driver then asks the server to cancel, and waits for its answer again.
    """

    answer_within_s: float = answer_within_s(STATEMENT_TIMEOUT_MS)

    async def wait(self, gen: PQGen[T], *args: Any, **kwargs: Any) -> T:
        """What each statement, COMMIT and ROLLBACK, and each block of a COPY waits by.

        Errors: OperationalError when it was cut, as of any connection that is lost.
        """
        is_cut = False

        def cut() -> None:
            nonlocal is_cut
            is_cut = True
            _shut_down(self.pgconn.socket)

        timer = asyncio.get_running_loop().call_later(self.answer_within_s, cut)
        try:
            return await super().wait(gen, *args, **kwargs)
        except psycopg.OperationalError as error:
            if is_cut and error.sqlstate is None:  # else it is an answer, of the last moment
                raise psycopg.OperationalError(
                    f"no answer within {self.answer_within_s:g} s; the connection was cut"
                ) from None
            raise
        finally:
            timer.cancel()


def _shut_down(fileno: int) -> None:
    """The driver finds its connection closed by the server, and drops it without a word."""
    # An error is that it was reset just now, which whoever waits is about to learn.
    with socket.socket(fileno=os.dup(fileno)) as same, suppress(OSError):
        same.shutdown(socket.SHUT_RDWR)


async def take_time(connection: AsyncConnection, patience_ms: int) -> None:
    """Lets each statement and lock of this transaction take so long, and waits for it."""
    raw = await connection.get_raw_connection()
    driver = cast("WatchedConnection", raw.driver_connection)
    driver.answer_within_s = answer_within_s(patience_ms)  # until it is taken out of the pool again
    await connection.execute(_TAKE_TIME, {"patience": str(patience_ms)})


_TAKE_TIME = text("""
SELECT set_config('statement_timeout', :patience, true), set_config('lock_timeout', :patience, true)
""")
