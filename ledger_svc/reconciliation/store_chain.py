"""A day's statements are a chain, and go on from the chain of the day before.

A day may have several statements of an account, and nothing but their balances tells their
order: names are the source's (S-10 is after S-9). A chain begins with an opening that is no
closing of the day, each closing used once, and ends with a closing that is no opening. A day
that comes back to where it began has neither; then any of its balances may be the one.
"""

from __future__ import annotations

from sqlalchemy import text

from ledger_svc.domain import AccountKind as K
from ledger_svc.reconciliation.domain import BreakClass as C
from ledger_svc.reconciliation.store_findings import INSERT

_BEGINNINGS = """
SELECT account, currency, opening_minor AS minor FROM {day}
EXCEPT ALL SELECT account, currency, closing_minor FROM {day}
"""
_ENDS = """
SELECT account, currency, closing_minor AS minor FROM {day}
EXCEPT ALL SELECT account, currency, opening_minor FROM {day}
"""

TOLD = f"""
current AS (
  SELECT * FROM statement
  WHERE source = :source AND settlement_date = :day AND is_current AND currency <> ''
), beginning AS ({_BEGINNINGS.format(day="current")}
), ending AS ({_ENDS.format(day="current")}
), round AS (
  SELECT DISTINCT ON (account, currency) account, currency, opening_minor AS minor
  FROM current AS c
  WHERE NOT EXISTS (
    SELECT FROM beginning AS b WHERE (b.account, b.currency) = (c.account, c.currency)
  )
  ORDER BY account, currency, length(identity), identity
), told AS (
  SELECT currency,
         CASE WHEN bool_and(opening_minor IS NOT NULL) THEN (
           SELECT sum(minor) FROM (TABLE beginning UNION ALL TABLE round) AS b
           WHERE b.currency = c.currency
         ) END AS opening_minor,
         CASE WHEN bool_and(closing_minor IS NOT NULL) THEN (
           SELECT sum(minor) FROM (TABLE ending UNION ALL TABLE round) AS b
           WHERE b.currency = c.currency
         ) END AS closing_minor
  FROM current AS c
  GROUP BY currency
)
"""
"""What the day's chains began and ended with, by currency: NULL where a statement tells none."""

CHAIN = text(f"""
WITH today AS (
  SELECT * FROM statement
  WHERE source = :source AND settlement_date = :day AND is_current AND opening_minor IS NOT NULL
), before AS (
  SELECT s.account, s.currency, s.opening_minor, s.closing_minor
  FROM (SELECT DISTINCT account, currency FROM today) AS t
  CROSS JOIN LATERAL (
    SELECT max(settlement_date) AS day FROM statement AS s
    WHERE s.source = :source AND s.account = t.account AND s.currency = t.currency
      AND s.is_current AND s.settlement_date < :day AND s.closing_minor IS NOT NULL
  ) AS last
  JOIN statement AS s
    ON s.source = :source AND s.account = t.account AND s.currency = t.currency
   AND s.is_current AND s.settlement_date = last.day AND s.closing_minor IS NOT NULL
), beginning AS ({_BEGINNINGS.format(day="today")}
), last_ending AS ({_ENDS.format(day="before")}
), ending AS (
  TABLE last_ending
  UNION ALL
  SELECT account, currency, closing_minor FROM before AS b
  WHERE NOT EXISTS (
    SELECT FROM last_ending AS e WHERE (e.account, e.currency) = (b.account, b.currency)
  )
), judged AS (
  SELECT t.*,
         EXISTS (
           SELECT FROM ending AS e
           WHERE (e.account, e.currency, e.minor) = (t.account, t.currency, t.opening_minor)
         ) AS goes_on,
         EXISTS (
           SELECT FROM beginning AS b
           WHERE (b.account, b.currency, b.minor) = (t.account, t.currency, t.opening_minor)
         ) AS begins
  FROM today AS t
), chained AS (
  SELECT *, bool_or(begins) OVER of_account AS has_beginning,
         bool_or(goes_on) OVER of_account AS one_goes_on
  FROM judged
  WINDOW of_account AS (PARTITION BY account, currency)
), broken AS (
  SELECT c.*, (
           SELECT minor FROM ending AS e
           WHERE (e.account, e.currency) = (c.account, c.currency)
           ORDER BY abs(minor - c.opening_minor), minor LIMIT 1
         ) AS before_minor
  FROM chained AS c
  WHERE CASE WHEN has_beginning THEN begins AND NOT goes_on ELSE NOT one_goes_on END
)
{INSERT}
SELECT :run_id,
       paymesh_id(
         NULL, 'settlement_finding', :source, 'chain', account, settlement_date::text, identity,
         currency
       ),
       {C.CHAIN_BROKEN}, false, false, {K.PSP_RECEIVABLE}, {K.SUSPENSE}, :source,
       opening_minor - before_minor, currency, file_id, NULL, NULL, NULL, NULL, '', 'CHAIN'
FROM broken
WHERE before_minor IS NOT NULL
""")

# A day that should have a file and has none. Where balances show it too, that is enough.
MISSING_DAY = text(f"""
{INSERT}
SELECT :run_id,
       paymesh_id(NULL, 'settlement_finding', :source, 'missing_day', cast(:day AS text)),
       {C.CHAIN_BROKEN}, false, false, {K.PSP_RECEIVABLE}, {K.SUSPENSE}, :source, 0, currency,
       file_id, NULL, NULL, NULL, NULL, '', 'DAY_MISSING ' || cast(:missing_day AS date)
FROM statement
WHERE source = :source AND settlement_date = :day AND is_current AND NOT EXISTS (
  SELECT FROM run_finding WHERE run_id = :run_id AND class = {C.CHAIN_BROKEN}
)
ORDER BY currency, file_id, number
LIMIT 1
""")
