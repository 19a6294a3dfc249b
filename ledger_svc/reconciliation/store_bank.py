"""A bank's day: its lines meet the transfers that PSPs' files told, several in one line.

A transfer is the standing booking of a PSP's line against this bank; its journal is what a bank
line is matched with. Amounts are what the account at the bank gains, signed.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import TextClause, text

from ledger_svc.domain import AccountKind as K
from ledger_svc.reconciliation.domain import BreakClass as C
from ledger_svc.reconciliation.store_findings import INSERT
from ledger_svc.reconciliation.store_match import FORGET_SUPERSEDED

_TRANSFER = f"""
transfer AS MATERIALIZED (
  SELECT k.journal_id, k.currency, -k.amount_minor AS amount, k.settlement_date,
         l.batch_reference, l.source_reference
  FROM settlement_booking AS k
  LEFT JOIN settlement_line AS l ON l.file_id = k.file_id AND l.sequence = k.sequence
  WHERE k.counter_kind = {K.BANK_CASH} AND k.counter_source = :source AND k.reversal_id IS NULL
    AND k.settlement_date <= cast(:near_until_day AS date)
    AND NOT EXISTS (SELECT FROM settlement_match AS m WHERE m.journal_id = k.journal_id)
)
"""

REVERSED = f"""
k.counter_kind = {K.BANK_CASH} AND k.counter_source = :source AND k.reversal_id IS NOT NULL
"""
"""Of bookings: transfers to this bank that were taken back."""

_UNMATCHED = f"""
line AS MATERIALIZED (
  SELECT * FROM day_line AS d
  WHERE NOT EXISTS (
    SELECT FROM settlement_match AS m WHERE m.file_id = d.file_id AND m.sequence = d.sequence
  )
), {_TRANSFER}
"""

# A transfer that was taken back is matched with nothing, and those that were one line with it
# are that line no more. Of lines of this day alone: what the lines of another day were matched
# with tells that it has to be run again (store_late.py).
_FORGET_REVERSED = text(f"""
DELETE FROM settlement_match AS m
USING settlement_booking AS k, settlement_match AS gone, settlement_line AS l, statement AS s
WHERE {REVERSED} AND gone.journal_id = k.journal_id
  AND l.file_id = gone.file_id AND l.sequence = gone.sequence
  AND s.file_id = l.file_id AND s.number = l.statement
  AND s.source = :source AND s.settlement_date = :day
  AND m.file_id = gone.file_id AND m.sequence = gone.sequence
""")

# Where a bank repeats what a transfer is called: in its references, or as a word of a text.
_WORDS = r"""
word AS (
  SELECT DISTINCT file_id, sequence, came, currency, amount_minor, name
  FROM line
  CROSS JOIN LATERAL (
    SELECT line.source_reference UNION ALL
    SELECT line.batch_reference UNION ALL
    SELECT one ->> 1 FROM jsonb_array_elements(coalesce(line.more -> 'references', '[]')) AS r (one)
    UNION ALL
    SELECT regexp_split_to_table(told, '[^[:alnum:]_.-]+')
    FROM jsonb_array_elements_text(coalesce(line.more -> 'texts', '[]')) AS t (told)
  ) AS names (name)
  WHERE name <> ''
)
"""


def _by(column: str) -> TextClause:
    """All transfers of one name together are the line that names it, by their sum."""
    return text(f"""
WITH {_UNMATCHED}, {_WORDS}, batch AS (
  SELECT {column} AS name, currency, sum(amount) AS amount
  FROM transfer WHERE {column} <> '' GROUP BY {column}, currency
), one_line AS (
  SELECT DISTINCT ON (b.name, b.currency) b.name, b.currency, w.file_id, w.sequence
  FROM batch AS b
  JOIN word AS w ON w.name = b.name AND w.currency = b.currency AND w.amount_minor = b.amount
  ORDER BY b.name, b.currency, w.came, w.file_id, w.sequence
), one_batch AS (
  SELECT DISTINCT ON (file_id, sequence) * FROM one_line ORDER BY file_id, sequence, name
)
INSERT INTO settlement_match (journal_id, file_id, sequence, rule, run_id, part)
SELECT t.journal_id, o.file_id, o.sequence, 'TRANSFER_REFERENCE', :run_id,
       row_number() OVER (PARTITION BY o.file_id, o.sequence ORDER BY t.journal_id) - 1
FROM one_batch AS o
JOIN transfer AS t ON t.{column} = o.name AND t.currency = o.currency
""")


_NEAR = """
near AS MATERIALIZED (
  SELECT * FROM transfer WHERE settlement_date >= cast(:near_from_day AS date)
)
"""
_BY_AMOUNT = text(f"""
WITH {_UNMATCHED}, {_NEAR}, pair AS (
  SELECT n.journal_id, line.file_id, line.sequence,
         count(*) OVER (PARTITION BY n.journal_id) AS lines,
         count(*) OVER (PARTITION BY line.file_id, line.sequence) AS journals
  FROM line JOIN near AS n ON n.currency = line.currency AND n.amount = line.amount_minor
)
INSERT INTO settlement_match (journal_id, file_id, sequence, rule, run_id)
SELECT journal_id, file_id, sequence, 'AMOUNT_AND_DATE', :run_id
FROM pair WHERE lines = 1 AND journals = 1
""")

PASSES: Sequence[TextClause] = (
    FORGET_SUPERSEDED,
    _FORGET_REVERSED,
    _by("batch_reference"),
    _by("source_reference"),
    _BY_AMOUNT,
)
"""In this order; each sees what the ones before it matched."""

LINES = text(f"""
WITH {_UNMATCHED}, {_NEAR}, choice AS (
  SELECT currency, amount, count(*) AS transfers FROM near GROUP BY currency, amount
), numbered AS (
  SELECT d.file_id, d.sequence, row_number() OVER (
           PARTITION BY account, identity, currency, source_reference, amount_minor
           ORDER BY d.file_id, d.sequence
         ) AS occurrence
  FROM day_line AS d
)
{INSERT}
SELECT :run_id,
       paymesh_id(
         NULL, 'settlement_finding', :source, 'bank', account, cast(:day AS text), identity,
         line.currency, source_reference, amount_minor::text, occurrence::text
       ),
       CASE WHEN choice.transfers > 0 THEN {C.AMBIGUOUS} ELSE {C.BANK_LINE_WITHOUT_PAYOUT} END,
       false, false, {K.BANK_CASH}, {K.SUSPENSE}, :source, amount_minor, line.currency,
       line.file_id, line.sequence, NULL, NULL, NULL, source_reference, 'LEFT_OVER'
FROM line
JOIN numbered USING (file_id, sequence)
LEFT JOIN choice ON choice.currency = line.currency AND choice.amount = line.amount_minor
""")

LEDGER = text(f"""
WITH {_TRANSFER}
{INSERT}
SELECT :run_id,
       paymesh_id(
         left(translate(journal_id::text, '-', ''), 12), 'settlement_finding', :source, 'ledger',
         translate(journal_id::text, '-', '')
       ),
       {C.PAYOUT_WITHOUT_BANK_LINE}, true, false, {K.BANK_CASH}, {K.SUSPENSE}, :source, -amount,
       currency, NULL, NULL, journal_id, NULL, NULL,
       coalesce(nullif(batch_reference, ''), source_reference, ''), 'NOT_AT_BANK'
FROM transfer
WHERE settlement_date <= :day
""")
