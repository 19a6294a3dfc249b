"""Which days before one are not done, and their SQL."""

from __future__ import annotations

from datetime import date

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from ledger_svc.reconciliation.domain import FileState

# Days whose files are others than those that their latest run was made from. By the indexes of
# source and day, however many years there are.
_DAYS_BEHIND = text(f"""
SELECT told.day
FROM (
  SELECT settlement_date AS day, array_agg(file_id ORDER BY file_id) AS files
  FROM (
    SELECT settlement_date, file_id FROM settlement_file
    WHERE source = :source AND settlement_date >= cast(:day AS date) - cast(:days AS integer)
      AND settlement_date < :day AND state = {FileState.INGESTED}
    UNION
    SELECT settlement_date, file_id FROM statement
    WHERE source = :source AND settlement_date >= cast(:day AS date) - cast(:days AS integer)
      AND settlement_date < :day AND is_current
  ) AS one
  GROUP BY settlement_date
) AS told
LEFT JOIN LATERAL (
  SELECT files FROM reconciliation_run
  WHERE source = :source AND settlement_date = told.day
  ORDER BY version DESC LIMIT 1
) AS r ON true
WHERE r.files IS DISTINCT FROM told.files
ORDER BY told.day
""")

# Since the first file of the source: what was before it is not ours.
_MISSING_DAYS = text(f"""
SELECT told.day
FROM (
  SELECT cast(:day AS date) - n AS day FROM generate_series(1, cast(:days AS integer)) AS n
) AS told
WHERE told.day > least(
    (SELECT min(settlement_date) FROM settlement_file
     WHERE source = :source AND state = {FileState.INGESTED}),
    (SELECT min(settlement_date) FROM statement WHERE source = :source AND is_current)
  )
  AND NOT EXISTS (
    SELECT FROM settlement_file
    WHERE source = :source AND settlement_date = told.day AND state = {FileState.INGESTED}
  )
  AND NOT EXISTS (
    SELECT FROM statement
    WHERE source = :source AND settlement_date = told.day AND is_current
  )
ORDER BY told.day
""")


async def read_days_behind(
    connection: AsyncConnection, source: str, day: date, days: int
) -> list[date]:
    """Of so many days before this one those not reconciled as their files are now."""
    rows = await connection.execute(_DAYS_BEHIND, {"source": source, "day": day, "days": days})
    return list(rows.scalars())


async def read_missing_days(
    connection: AsyncConnection, source: str, day: date, days: int
) -> list[date]:
    """Of so many days before this one those that no file says something of."""
    rows = await connection.execute(_MISSING_DAYS, {"source": source, "day": day, "days": days})
    return list(rows.scalars())
