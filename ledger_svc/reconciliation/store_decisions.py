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
""")
_PUT_CLOSE = text("""
INSERT INTO day_close (run_id, caller, request_id, source, settlement_date, actor)
VALUES (:run_id, :caller, :request_id, :source, :settlement_date, :actor)
ON CONFLICT (run_id) DO NOTHING
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
    """The wish of this key and the run that it closed, None if there is none."""
    row = (
        await connection.execute(_READ_CLOSE, {"caller": caller, "request_id": request_id})
    ).one_or_none()
    if row is None:
        return None
    *close, run_id = row
    return Close(*close), run_id


async def put_close(connection: AsyncConnection, close: Close, run_id: UUID) -> None:
    """Closes the day with this run; one that is closed stays as it is."""
    await connection.execute(_PUT_CLOSE, {**close._asdict(), "run_id": run_id})


async def count_waiting(connection: AsyncConnection, source: str, day: date) -> int:
    """How many breaks of the day's lines wait for an operator."""
    rows = await connection.execute(_WAITING, {"source": source, "settlement_date": day})
    return int(rows.scalar_one())
