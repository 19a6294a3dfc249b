"""Days that have to be run again: what lines waited for has come, or what they met is gone."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from ledger_svc.domain import AccountKind as K
from ledger_svc.domain import JournalKind
from ledger_svc.reconciliation.domain import BreakClass as C
from ledger_svc.reconciliation.domain import BreakState as S
from ledger_svc.reconciliation.store_bank import REVERSED
from ledger_svc.reconciliation.store_day import CAPTURE_ENTRY
from ledger_svc.reconciliation.store_match import REGISTER_RULE

_BREAK = """
SELECT b.settlement_date, b.class, b.rule, b.operation_id, b.file_id, b.sequence, b.update_time
FROM settlement_break AS b
WHERE b.source = :source AND b.settlement_date <> :day AND NOT b.on_ledger_side
"""
_BY_NAME = (C.UNKNOWN_TO_US, C.STATUS_DIFFERS, C.DUPLICATE_IN_FILE, C.AMBIGUOUS)
_NAMED = ", ".join(str(int(one)) for one in _BY_NAME)

# At this source, as a capture is that a line may be matched with.
_HERE = f"e.account_kind = {K.PSP_RECEIVABLE} AND e.source = :source"
_FREE = "NOT EXISTS (SELECT FROM settlement_match AS m WHERE m.journal_id = {journal_id})"

# A day is named only if its run will come to something else, as far as can be told here, for
# else it would be named each night. So the ways of waiting are those of the passes of matching.
# What an operator resolved is few, and the table of decisions leads to it; it waits for its
# capture, too: what was accepted has its suspense still.
# A line that was one too many has its capture once a correction has taken it from the other.
_LATE_DAYS = text(f"""
WITH waiting AS MATERIALIZED (
  {_BREAK} AND b.state IN ({S.OPEN}, {S.POSTED}, {S.SUGGESTED})
    AND b.class IN ({C.CHAIN_BROKEN}, {C.BANK_LINE_WITHOUT_PAYOUT}, {_NAMED})
  UNION ALL
  {_BREAK} AND b.state = {S.RESOLVED} AND b.class IN ({C.BANK_LINE_WITHOUT_PAYOUT}, {_NAMED})
    AND b.break_id = ANY (ARRAY(SELECT break_id FROM break_resolution))
), line AS MATERIALIZED (
  SELECT w.*, l.operation_id AS told_operation_id, l.order_id, l.source_reference,
         l.related_reference, l.currency,
         coalesce(l.gross_minor, l.amount_minor + coalesce(l.fee_minor, 0)) AS gross
  FROM waiting AS w
  JOIN settlement_line AS l ON l.file_id = w.file_id AND l.sequence = w.sequence
  WHERE w.class IN ({_NAMED}) AND l.kind = 'CHARGE'
), by_operation AS (
  SELECT settlement_date
  FROM line
  CROSS JOIN {
    CAPTURE_ENTRY.format(journal_id="paymesh_journal_id('capture', line.operation_id, 0)")
}
  WHERE line.class = {C.STATUS_DIFFERS}
     OR {_HERE} AND (
       line.class <> {C.DUPLICATE_IN_FILE} OR {_FREE.format(journal_id="e.journal_id")}
     )
), by_reference AS (
  SELECT settlement_date
  FROM line
  CROSS JOIN LATERAL unnest(ARRAY[source_reference, related_reference]) AS told (name)
  JOIN journal AS j
    ON j.psp_reference = told.name AND j.psp_reference <> '' AND j.kind = {JournalKind.CAPTURE}
  CROSS JOIN {CAPTURE_ENTRY.format(journal_id="j.journal_id")}
  WHERE {_HERE} AND {_FREE.format(journal_id="j.journal_id")}
    AND j.create_time >= line.settlement_date - cast(:look_back AS interval)
), by_order AS (
  SELECT min(line.settlement_date) AS settlement_date
  FROM line
  JOIN journal AS j ON j.order_id = line.order_id AND j.kind = {JournalKind.CAPTURE}
  CROSS JOIN {CAPTURE_ENTRY.format(journal_id="j.journal_id")}
  WHERE {_HERE} AND {_FREE.format(journal_id="j.journal_id")}
    AND line.told_operation_id IS NULL
    AND (e.currency, e.amount_minor) = (line.currency, line.gross)
  GROUP BY line.file_id, line.sequence
  HAVING count(*) = 1
), by_register AS (
  SELECT line.settlement_date
  FROM line
  CROSS JOIN LATERAL (
    SELECT r.* FROM operation_register AS r WHERE r.operation_id = line.operation_id
    UNION ALL
    SELECT r.* FROM operation_register AS r
    WHERE line.operation_id IS NULL AND r.psp_reference = line.source_reference
      AND r.psp_reference <> ''
  ) AS r
  WHERE line.class IN ({C.UNKNOWN_TO_US}, {C.STATUS_DIFFERS}) AND line.rule <> {REGISTER_RULE}
    AND NOT EXISTS (
      SELECT FROM journal AS j
      WHERE j.journal_id = paymesh_journal_id('capture', r.operation_id, 0)
    )
), transfer AS MATERIALIZED (
  SELECT k.settlement_date, k.currency, -k.amount_minor AS amount, j.create_time,
         ARRAY[l.batch_reference, l.source_reference] AS names
  FROM settlement_booking AS k
  JOIN journal AS j ON j.journal_id = k.journal_id
  LEFT JOIN settlement_line AS l ON l.file_id = k.file_id AND l.sequence = k.sequence
  WHERE k.counter_kind = {K.BANK_CASH} AND k.counter_source = :source AND k.source <> :source
    AND k.reversal_id IS NULL AND {_FREE.format(journal_id="k.journal_id")}
), by_transfer AS (
  -- Of those that its run did not see. The dates are of business days, and near enough.
  SELECT w.settlement_date
  FROM waiting AS w
  JOIN settlement_line AS l ON l.file_id = w.file_id AND l.sequence = w.sequence
  JOIN transfer AS t
    ON t.currency = l.currency AND t.create_time > w.update_time - cast(:overlap AS interval)
   AND t.settlement_date <= w.settlement_date + cast(:near_days AS integer)
  WHERE w.class IN ({C.BANK_LINE_WITHOUT_PAYOUT}, {C.AMBIGUOUS}) AND (
    t.amount = l.amount_minor
    AND t.settlement_date >= w.settlement_date - cast(:near_days AS integer)
    OR EXISTS (
      SELECT FROM unnest(t.names) AS told (name)
      WHERE name <> '' AND (
        name IN (l.source_reference, l.batch_reference) OR strpos(l.more::text, name) > 0
      )
    )
  )
), by_reversal AS (
  -- The run of a day forgets such matches, and so names it once.
  SELECT s.settlement_date
  FROM settlement_booking AS k
  JOIN settlement_match AS m ON m.journal_id = k.journal_id
  JOIN settlement_line AS l ON l.file_id = m.file_id AND l.sequence = m.sequence
  JOIN statement AS s ON s.file_id = l.file_id AND s.number = l.statement
  WHERE {REVERSED} AND s.source = :source AND s.settlement_date <> :day
)
SELECT settlement_date FROM waiting WHERE class = {C.CHAIN_BROKEN}
UNION SELECT settlement_date FROM by_operation
UNION SELECT settlement_date FROM by_reference
UNION SELECT settlement_date FROM by_order
UNION SELECT settlement_date FROM by_register
UNION SELECT settlement_date FROM by_transfer
UNION SELECT settlement_date FROM by_reversal
ORDER BY settlement_date
""")


async def read_late_days(
    connection: AsyncConnection, source: str, day: date, around: Mapping[str, object]
) -> list[date]:
    """Days but this one that have to be reconciled again, for what came late."""
    rows = await connection.execute(_LATE_DAYS, {"source": source, "day": day, **around})
    return list(rows.scalars())
