"""What is told of a database that answers, that is too busy for a read, or that is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from prometheus_client.core import GaugeMetricFamily, Metric
from sqlalchemy import text
from structlog.testing import capture_logs

from mesh.db import Busy, Database
from mesh.gauges import DatabaseGauges
from tests.store.mesh.conftest import Disturber
from tests.support.eventually import eventually
from tests.support.ports import free_port

FAST_S = 0.02


def told(gauges: DatabaseGauges) -> dict[str, float]:
    return {metric.name: metric.samples[0].value for metric in gauges.collect()}


@asynccontextmanager
async def running(gauges: DatabaseGauges) -> AsyncIterator[None]:
    task = asyncio.create_task(gauges.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class Numbers:
    """A gauge that takes so long to read."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.takes_s = 0.0

    async def read(self) -> Sequence[Metric]:
        sleep = text("SELECT pg_sleep(:takes_s)")
        await self.database.read(
            "test.gauges", lambda c: c.execute(sleep, {"takes_s": self.takes_s})
        )
        return [GaugeMetricFamily("test_number", "Of the database.", value=7)]


async def test_a_read_that_takes_too_long_is_left_out_and_the_database_is_up(
    url: str, disturber: Disturber
) -> None:
    database = Database(url, application_name=disturber.application_name, patience_ms=100)
    numbers = Numbers(database)
    gauges = DatabaseGauges(database, numbers.read, interval_s=FAST_S)
    with capture_logs() as logs:
        async with running(gauges):
            await eventually(lambda: told(gauges) == {"paymesh_database_up": 1, "test_number": 7})
            numbers.takes_s = 5.0
            await eventually(lambda: "test_number" not in told(gauges))
            for _ in range(10):
                assert told(gauges) == {"paymesh_database_up": 1}
                await asyncio.sleep(0.03)
            numbers.takes_s = 0.0
            await eventually(lambda: told(gauges) == {"paymesh_database_up": 1, "test_number": 7})
    await database.close()
    assert [line["event"] for line in logs] == ["gauges_left_out", "gauges_back"]


async def test_a_database_that_can_do_nothing_at_all_is_not_up() -> None:
    away = Database(f"postgresql://none@127.0.0.1:{free_port()}/none", application_name="test")

    async def read() -> Sequence[Metric]:
        raise Busy("test.gauges", TimeoutError())

    gauges = DatabaseGauges(away, read, interval_s=FAST_S)
    with capture_logs() as logs:
        async with running(gauges):
            await eventually(lambda: any(line["event"] == "database_away" for line in logs))
            assert told(gauges) == {"paymesh_database_up": 0}
    await away.close()
