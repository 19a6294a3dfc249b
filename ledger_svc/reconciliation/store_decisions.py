"""What operators decided, and its SQL."""

from __future__ import annotations

from datetime import date
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from ledger_svc.reconciliation.domain import (
    Break,
    BreakState,
    Close,
    Decision,
    Resolution,
)

_READ_DECISION = text("""
SELECT caller, request_id, break_id, resolution, actor, note
FROM break_resolution WHERE caller = :caller AND request_id = :request_id
""")
_PUT_DECISION = text("""
INSERT INTO break_resolution (
  caller, request_id, break_id, resolution, actor, note, amount_minor, currency
) VALUES (
  :caller, :request_id, :break_id, :resolution, :actor, :note, :amount_minor, :currency
)
""")

_READ_CLOSE = text("""
SELECT caller, request_id, source, settlement_date, actor, run_id
FROM day_close WHERE caller = :caller AND request_id = :request_id
UNION ALL
SELECT caller, request_id, source, settlement_date, actor, run_id
FROM day_close_repeat WHERE caller = :caller AND request_id = :request_id
LIMIT 1
""")
_PUT_CLOSE = text("""
WITH asked AS (
  SELECT cast(:run_id AS uuid) AS run_id, :caller AS caller, :request_id AS request_id,
         :source AS source, cast(:settlement_date AS date) AS settlement_date, :actor AS actor
), closed AS (
  INSERT INTO day_close (run_id, caller, request_id, source, settlement_date, actor)
  SELECT * FROM asked
  ON CONFLICT (run_id) DO NOTHING
  RETURNING run_id
)
INSERT INTO day_close_repeat (run_id, caller, request_id, source, settlement_date, actor)
SELECT * FROM asked WHERE NOT EXISTS (SELECT FROM closed)
""")
# What waits for time alone does not hold up its day.
_WAITING = text(f"""
SELECT count(*) FROM settlement_break
WHERE source = :source AND settlement_date = :settlement_date AND NOT on_ledger_side
  AND state IN ({BreakState.OPEN}, {BreakState.SUGGESTED})
""")


async def read_decision(
    connection: AsyncConnection, caller: str, request_id: str
) -> Decision | None:
    """The decision of this key, None if there is none."""
    row = (
        await connection.execute(_READ_DECISION, {"caller": caller, "request_id": request_id})
    ).one_or_none()
    if row is None:
        return None
    stored = Decision(*row)
    return stored._replace(resolution=Resolution(stored.resolution))


async def put_decision(connection: AsyncConnection, decision: Decision, about: Break) -> None:
    """Stores the decision, for the difference as it is now."""
    await connection.execute(
        _PUT_DECISION,
        {
            **decision._asdict(),
            "resolution": int(decision.resolution),
            "amount_minor": about.amount_minor,
            "currency": about.currency,
        },
    )


async def read_close(
    connection: AsyncConnection, caller: str, request_id: str
) -> tuple[Close, UUID] | None:
    """The wish of this key and the run that it closed or met closed, None if there is none."""
    row = (
        await connection.execute(_READ_CLOSE, {"caller": caller, "request_id": request_id})
    ).one_or_none()
    if row is None:
        return None
    *close, run_id = row
    return Close(*close), run_id


async def put_close(connection: AsyncConnection, close: Close, run_id: UUID) -> None:
    """Closes the day with this run; one that is closed stays as it is, and the wish is kept."""
    await connection.execute(_PUT_CLOSE, {**close._asdict(), "run_id": run_id})


async def count_waiting(connection: AsyncConnection, source: str, day: date) -> int:
    """How many breaks of the day's lines wait for an operator."""
    rows = await connection.execute(_WAITING, {"source": source, "settlement_date": day})
    return int(rows.scalar_one())
