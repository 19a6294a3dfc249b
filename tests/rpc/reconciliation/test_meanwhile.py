"""What comes into the ledger while a run is on."""

from __future__ import annotations

import asyncio

import psycopg
import pytest
from paymesh.reconciliation.v1 import reconciliation_service_pb2 as pb

from tests.support.databases import superuser_url
from tests.support.eventually import eventually
from tests.support.reconciliation import DayFile, ingest
from tests.support.reconciliation_world import SUSPENSE, World, charge_cells, counts


@pytest.mark.parametrize("held", ["settlement_match", "run_finding"])
async def test_a_capture_that_its_line_led_to_meanwhile_is_not_missing(
    world: World, databases: dict[str, str], held: str
) -> None:
    """The run waits where it first writes into the table, and the capture is booked then."""
    cells = charge_cells()
    [(today,)] = world.sql.execute("SELECT (paymesh_now() AT TIME ZONE 'UTC')::date").fetchall()
    day = str(today)
    await ingest(
        world.reconciliation, DayFile(day=day).line(500, 5, **cells).content(), world.source
    )
    with psycopg.connect(superuser_url(databases, "ledger")) as other:
        other.execute(f"LOCK TABLE {held} IN SHARE MODE".encode())
        running = asyncio.create_task(world.run(day))
        waiting = "SELECT FROM pg_locks WHERE NOT granted"
        await eventually(lambda: other.execute(waiting).fetchall(), timeout_s=30)
        await world.capture(500, 5, cells=cells)
        other.rollback()
        first = await running
    assert pb.BREAK_CLASS_TIMING not in counts(first)
    assert first.balances[0].difference_minor == 0

    again = await world.run(day)
    assert again.state == pb.RUN_STATE_BALANCED
    assert await world.balance(SUSPENSE) == 0
    await world.assert_sums_to_zero()
