"""The passes of matching: lines of a day meet journals, set-wise, each at most once.

Every statement takes the same parameters, `Day` of store_run.py. What is matched is left
alone by later passes; what two lines could be is given to the one that fits better, and the
other is a difference.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import TextClause, text

from ledger_svc.reconciliation import store_day
from ledger_svc.reconciliation.store_day import CAPTURE_ENTRY
from ledger_svc.register import RegisterState

# The rule that names what the register says.
REGISTER_RULE = f"""
CASE r.state
  {" ".join(f"WHEN {state} THEN 'REGISTER_{state.name}'" for state in RegisterState)}
END
"""

# What was matched with them is kept, by its id alone: of it no later day would tell that it is
# missing again.
FORGET_SUPERSEDED = text("""
WITH freed AS (
  DELETE FROM settlement_match AS m
  USING settlement_line AS l
  JOIN statement AS s ON s.file_id = l.file_id AND s.number = l.statement
  WHERE m.file_id = l.file_id AND m.sequence = l.sequence
    AND s.source = :source AND s.settlement_date = :day AND NOT s.is_current
  RETURNING m.journal_id
)
INSERT INTO open_capture (journal_id) SELECT journal_id FROM freed
""")

_INSERT = """
INSERT INTO settlement_match (journal_id, file_id, sequence, rule, run_id)
"""
# One line for each journal, and one journal for each line: first whose amount is right.
_BEST = """
SELECT DISTINCT ON (file_id, sequence) journal_id, file_id, sequence
FROM (
  SELECT DISTINCT ON (journal_id) *
  FROM pair
  ORDER BY journal_id, fits DESC, came, file_id, sequence
) AS one_line
ORDER BY file_id, sequence, fits DESC, journal_id
"""

# The file repeats our operation: a line has one candidate, which it brings along.
_BY_OPERATION = text("""
INSERT INTO settlement_match (journal_id, file_id, sequence, rule, run_id)
SELECT capture_id, file_id, sequence, 'OPERATION', :run_id
FROM (
  SELECT DISTINCT ON (capture_id) capture_id, file_id, sequence
  FROM day_line AS d
  WHERE capture_id IS NOT NULL
    AND NOT EXISTS (
      SELECT FROM settlement_match AS m WHERE m.file_id = d.file_id AND m.sequence = d.sequence
    )
    AND NOT EXISTS (SELECT FROM settlement_match AS m WHERE m.journal_id = d.capture_id)
  ORDER BY capture_id, (capture_currency, capture_minor) = (currency, gross) DESC, came, file_id,
           sequence
) AS best
""")

# Those that no pass has matched yet.
_STILL_OPEN = """
SELECT * FROM open_line AS d
WHERE d.kind = 'CHARGE' AND NOT EXISTS (
  SELECT FROM settlement_match AS m WHERE m.file_id = d.file_id AND m.sequence = d.sequence
)
"""

_BY_REFERENCE = text(f"""
WITH pair AS (
  SELECT c.journal_id, line.file_id, line.sequence, line.came,
         (c.currency, c.amount_minor) = (line.currency, line.gross) AS fits
  FROM ({_STILL_OPEN}) AS line
  CROSS JOIN LATERAL unnest(ARRAY[line.source_reference, line.related_reference]) AS told (name)
  JOIN open_capture AS c ON c.psp_reference = told.name
  WHERE told.name <> '' AND c.create_time >= cast(:look_back_time AS timestamptz)
)
{_INSERT} SELECT journal_id, file_id, sequence, 'PSP_REFERENCE', :run_id FROM ({_BEST}) AS best
""")

_ONLY_PAIRS = """
SELECT journal_id, file_id, sequence
FROM (
  SELECT *, count(*) OVER (PARTITION BY journal_id) AS lines,
         count(*) OVER (PARTITION BY file_id, sequence) AS journals
  FROM pair
) AS counted
WHERE lines = 1 AND journals = 1
"""

_BY_ORDER = text(f"""
WITH pair AS (
  SELECT j.journal_id, line.file_id, line.sequence
  FROM ({_STILL_OPEN}) AS line
  JOIN journal AS j ON j.order_id = line.order_id AND j.kind = 1
  CROSS JOIN {CAPTURE_ENTRY.format(journal_id="j.journal_id")}
  WHERE line.operation_id IS NULL AND e.account_kind = 1 AND e.source = :source
    AND e.currency = line.currency AND e.amount_minor = line.gross
    AND NOT EXISTS (SELECT FROM settlement_match AS m WHERE m.journal_id = j.journal_id)
)
{_INSERT} SELECT journal_id, file_id, sequence, 'ORDER', :run_id FROM ({_ONLY_PAIRS}) AS single
""")

# By amount and date alone, what no name contradicts: on both sides none that could meet.
NEARBY = """
near AS MATERIALIZED (
  SELECT * FROM open_capture AS c
  WHERE NOT EXISTS (SELECT FROM settlement_match AS m WHERE m.journal_id = c.journal_id)
    AND c.create_time >= cast(:look_back_time AS timestamptz)
    AND c.create_time >= cast(:near_from_time AS timestamptz)
    AND c.create_time < cast(:near_until_time AS timestamptz)
)
"""
_BY_AMOUNT = text(f"""
WITH {NEARBY}, pair AS (
  SELECT n.journal_id, line.file_id, line.sequence
  FROM ({_STILL_OPEN}) AS line
  JOIN near AS n ON n.currency = line.currency AND n.amount_minor = line.gross
  WHERE line.operation_id IS NULL AND line.order_id IS NULL AND n.psp_reference = ''
)
{_INSERT} SELECT journal_id, file_id, sequence, 'AMOUNT_AND_DATE', :run_id
FROM ({_ONLY_PAIRS}) AS single
""")

PASSES: Sequence[TextClause] = (
    FORGET_SUPERSEDED,
    _BY_OPERATION,
    store_day.OPEN_CAPTURE,
    store_day.OPEN_LINE,
    store_day.ANALYZE_OPEN_LINE,
    _BY_REFERENCE,
    _BY_ORDER,
    _BY_AMOUNT,
    store_day.MATCHED,
    store_day.MATCHED_OTHERWISE,
)
"""In this order; each sees what the ones before it matched."""
