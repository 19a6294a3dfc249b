"""What a run depends on: read first, so that the same run is found again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from ledger_svc.reconciliation import store_day

Parameters = Mapping[str, object]


class Inputs(NamedTuple):
    """What a run's result depends on, beside the settings."""

    files: tuple[UUID, ...]
    lines: int
    captures: int
    """Captures in the ledger up to the cut-off that this run may miss in the files."""
    met: int
    """Lines whose capture is there; more when one comes late."""
    taken: int
    """Captures that the lines name and that other days' lines are matched with: a sum of hashes."""
    nameless: int
    """Captures around the day of which the ledger knows no PSP reference."""
    registered: int
    """What the register says of lines' operations that are in no journal: a sum of hashes."""
    decisions: int
    """What operators decided about breaks of the day."""
    transfers: int
    """To the bank, booked or reversed."""
    before: str
    """The statements that this day goes on from."""


# Nothing here looks at matches of the day or at breaks: a run must not change its own inputs.
_INPUTS = """
WITH {ctes} day AS (SELECT count(*) AS lines, count({met}) AS met FROM day_line)
SELECT (SELECT lines FROM day) AS lines, {of_captures},
       (SELECT count(*)
        FROM break_resolution AS r JOIN settlement_break AS b ON b.break_id = r.break_id
        WHERE b.source = :source AND b.settlement_date = :day) AS decisions,
       (SELECT count(*) + count(reversal_id)
        FROM settlement_booking
        WHERE counter_kind = 8 AND counter_source = :source AND source <> :source
          AND settlement_date <= cast(:near_until_time AS timestamptz)::date) AS transfers,
       (SELECT coalesce(string_agg(s.file_id::text, ',' ORDER BY s.file_id, s.number), '')
        FROM statement AS s
        WHERE s.source = :source AND s.is_current AND s.settlement_date = (
          SELECT max(settlement_date) FROM statement
          WHERE source = :source AND is_current AND settlement_date < :day
        )) AS before
"""
_BANK_INPUTS = text(
    _INPUTS.format(
        ctes="",
        met="*",
        of_captures="0 AS captures, 0 AS met, 0 AS taken, 0 AS nameless, 0 AS registered",
    )
)
_PSP_INPUTS = text(
    _INPUTS.format(
        ctes="""
unmet AS MATERIALIZED (
  SELECT l.order_id, ARRAY[l.source_reference, l.related_reference] AS names
  FROM day_line AS d JOIN settlement_line AS l USING (file_id, sequence)
  WHERE d.kind = 'CHARGE' AND d.capture_id IS NULL
), name AS MATERIALIZED (
  SELECT j.psp_reference, j.journal_id
  FROM (SELECT DISTINCT unnest(names) AS name FROM unmet) AS told
  JOIN journal AS j ON j.psp_reference = told.name AND j.psp_reference <> '' AND j.kind = 1
  JOIN entry AS e ON e.journal_id = j.journal_id AND e.line = 0
  WHERE e.account_kind = 1 AND e.source = :source
    AND e.create_time >= cast(:look_back_time AS timestamptz)
), named AS (
  SELECT capture_id AS journal_id, file_id, sequence FROM day_line WHERE capture_id IS NOT NULL
  UNION ALL SELECT journal_id, NULL, NULL FROM name
  UNION ALL
  SELECT j.journal_id, NULL, NULL
  FROM unmet JOIN journal AS j ON j.order_id = unmet.order_id AND j.kind = 1
), elsewhere AS (
  SELECT named.journal_id
  FROM named JOIN settlement_match AS m ON m.journal_id = named.journal_id
  WHERE (m.file_id, m.sequence) IS DISTINCT FROM (named.file_id, named.sequence) AND NOT EXISTS (
    SELECT FROM settlement_line AS l
    JOIN statement AS s ON s.file_id = l.file_id AND s.number = l.statement
    WHERE l.file_id = m.file_id AND l.sequence = m.sequence
      AND s.source = :source AND s.settlement_date = :day
  )
),
""",
        met="capture_id",
        of_captures="""
       (SELECT count(*)
        FROM entry AS e
        WHERE e.account_kind = 1 AND e.owner_id = '' AND e.source = :source AND e.direction = 1
          AND e.create_time >= cast(:from_time AS timestamptz)
          AND e.create_time < cast(:cut_off_time AS timestamptz)
          AND NOT EXISTS (SELECT FROM settlement_booking AS b WHERE b.journal_id = e.journal_id)
          AND NOT EXISTS (SELECT FROM settlement_booking AS b WHERE b.reversal_id = e.journal_id)
       ) AS captures,
       (SELECT met FROM day)
       + (SELECT count(*) FROM unmet WHERE
            EXISTS (SELECT FROM journal AS j WHERE j.order_id = unmet.order_id AND j.kind = 1)
            OR names && ARRAY(SELECT psp_reference FROM name)
         ) AS met,
       (SELECT coalesce(sum(hashtextextended(journal_id::text, 0)), 0) FROM elsewhere) AS taken,
       (SELECT count(*)
        FROM journal AS j JOIN entry AS e ON e.journal_id = j.journal_id AND e.line = 0
        WHERE j.kind = 1 AND j.psp_reference = '' AND e.account_kind = 1 AND e.source = :source
          AND j.create_time >= cast(:near_from_time AS timestamptz)
          AND j.create_time < cast(:near_until_time AS timestamptz)) AS nameless,
       (SELECT coalesce(sum(hashtextextended(operation_id::text, state)), 0)
        FROM registered) AS registered
""",
    )
)


async def begin(
    connection: AsyncConnection, files: tuple[UUID, ...], day: Parameters, *, is_bank: bool
) -> Inputs:
    """Makes the day's working tables, and reads what the result of a run depends on.

    Once in a transaction, before `run`.
    """
    for statement in store_day.BEGIN_BANK if is_bank else store_day.BEGIN_PSP:
        await connection.execute(statement, day)
    row = (await connection.execute(_BANK_INPUTS if is_bank else _PSP_INPUTS, day)).one()
    return Inputs(files, *row)
