"""Numbers that only the database knows, read at an interval and never when they are asked.

Whoever reads the metrics, and however often, costs the database nothing. While it is away
the numbers are left out and `paymesh_database_up` is 0: nothing stale is told. While it
answers, and only the numbers take it too long, they alone are left out.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence

import structlog
from prometheus_client.core import GaugeMetricFamily, Metric
from sqlalchemy import text

from mesh import metrics
from mesh.db import Busy, CommitFailed, Database

log = structlog.get_logger()

Read = Callable[[], Awaitable[Sequence[Metric]]]

# A read that comes so much later than it should tells of nothing any more: the event loop
# hangs, or the database takes its time.
LATE_S = 5.0


class DatabaseGauges:
    """What was last read, if that was lately."""

    def __init__(self, database: Database, read: Read | None, *, interval_s: float) -> None:
        """`read` makes the gauges; without it only whether the database answers is told.

        Errors of `read`: those of Database.read.
        """
        self._database = database
        self._read = read or self._answers
        self._interval_s = interval_s
        self._last: tuple[float, Sequence[Metric]] | None = None
        self._is_up = True
        self._is_complete = True

    def publish(self) -> None:
        """Has it asked whenever the metrics are read."""
        metrics.ask("database", self.collect)

    async def run(self) -> None:
        """Reads until cancelled."""
        while True:
            try:
                found = await self._found()
            except CommitFailed as failed:
                self._last = None
                self._say(is_up=False, cause=str(failed))
            except Exception:
                # A bug in what is only for looking on must not end a process.
                self._last = None
                log.exception("gauges_failed")
            else:
                self._last = (time.monotonic(), found)
                self._say(is_up=True)
            await asyncio.sleep(self._interval_s)

    async def _found(self) -> Sequence[Metric]:
        """What is read. Nothing if the database has no time or room for it, and yet answers."""
        try:
            found = await self._read()
        except Busy as busy:
            await self._answers()
            self._say_complete(is_complete=False, cause=str(busy))
            return ()
        self._say_complete(is_complete=True)
        return found

    def collect(self) -> Iterable[Metric]:
        """In another thread: what was read, and whether it is not too old."""
        last = self._last
        if last is not None and time.monotonic() - last[0] > self._interval_s + LATE_S:
            last = None
        yield GaugeMetricFamily(
            "paymesh_database_up",
            "1 if the database answered when it was last read for the metrics.",
            value=int(last is not None),
        )
        if last is not None:
            yield from last[1]

    def _say(self, *, is_up: bool, cause: str = "") -> None:
        if is_up is not self._is_up:
            self._is_up = is_up
            if is_up:
                log.info("database_back")
            else:
                log.warning("database_away", cause=cause)

    def _say_complete(self, *, is_complete: bool, cause: str = "") -> None:
        if is_complete is not self._is_complete:
            self._is_complete = is_complete
            if is_complete:
                log.info("gauges_back")
            else:
                log.warning("gauges_left_out", cause=cause)

    async def _answers(self) -> Sequence[Metric]:
        await self._database.read(
            "gauges.alive", lambda connection: connection.execute(text("SELECT 1"))
        )
        return ()
