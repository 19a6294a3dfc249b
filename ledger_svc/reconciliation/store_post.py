"""Findings become journals, breaks and sums: the desired against what stands, set-wise."""

from __future__ import annotations

from sqlalchemy import text

from ledger_svc.domain import AccountKind, JournalKind
from ledger_svc.reconciliation import store_chain, store_day
from ledger_svc.reconciliation.domain import BreakClass as C
from ledger_svc.reconciliation.domain import BreakState as S
from ledger_svc.reconciliation.domain import Resolution
from mesh.money import MAX_AMOUNT_MINOR

_NO_ORDER = "cast('00000000-0000-0000-0000-000000000000' AS uuid)"

# Journals and their entries are one statement, as everywhere in this ledger.
_ENTRIES = """
INSERT INTO entry (
  journal_id, line, account_kind, owner_id, source, currency, direction, amount_minor
)
SELECT new_id, side.line,
       CASE WHEN is_base THEN base_kind ELSE counter_kind END, '',
       CASE WHEN is_base THEN source ELSE counter_source END,
       currency, side.direction, abs(amount_minor)
FROM new
CROSS JOIN (VALUES (0, 1), (1, 2)) AS side (line, direction)
CROSS JOIN LATERAL (SELECT (amount_minor > 0) = (side.direction = 1) AS is_base) AS which
"""

# Of one difference (amount and currency) that an operator saw; another one is asked anew.
_DECIDED = """
EXISTS (
  SELECT FROM break_resolution AS r
  WHERE r.break_id = f.subject_id AND (r.amount_minor, r.currency) = (f.amount_minor, f.currency)
    {which}
)
"""
_APPROVE = text(f"""
UPDATE run_finding AS f SET is_posted = true
WHERE f.run_id = :run_id AND NOT f.is_posted AND f.amount_minor <> 0
  AND f.class NOT IN ({C.CHAIN_BROKEN}, {C.PAYOUT_DIFFERS})
  AND {_DECIDED.format(which=f"AND r.resolution = {Resolution.POST}")}
""")

# What was accepted while nothing was posted for it: no rule posts it later, whatever it becomes.
# What was accepted as it was posted stays wanted.
_KEEP_ACCEPTED = text(f"""
UPDATE run_finding AS f SET is_posted = false
WHERE f.run_id = :run_id AND f.is_posted
  AND {_DECIDED.format(which=f"AND r.resolution = {Resolution.ACCEPT}")}
  AND NOT EXISTS (
    SELECT FROM settlement_booking AS b
    WHERE b.subject_id = f.subject_id
      AND (b.amount_minor, b.currency) = (f.amount_minor, f.currency)
  )
""")
# A line may have the largest amount that there is, and differ from what is booked by more: that
# stays open, for its day must have its run.
_TOO_LARGE = text(f"""
UPDATE run_finding SET is_posted = false
WHERE run_id = :run_id AND is_posted AND abs(amount_minor) > {MAX_AMOUNT_MINOR}
""")
DECIDED = (_APPROVE, _KEEP_ACCEPTED, _TOO_LARGE)
"""Which findings are posted, after the rules of their classes."""

# What stands and is no longer wanted so: the line was corrected, the capture came, the
# difference has another amount. What was missing in the files is gone when it is matched, or
# was itself taken back: a transfer that the PSP corrected.
REVERSE = text(f"""
WITH gone AS (
  SELECT b.*, j.kind, j.operation_id, j.order_id, j.psp_reference
  FROM settlement_booking AS b
  JOIN journal AS j ON j.journal_id = b.journal_id
  WHERE b.source = :source AND b.reversal_id IS NULL AND (
    NOT b.on_ledger_side AND b.settlement_date = :day AND NOT EXISTS (
      SELECT FROM run_finding AS f
      WHERE f.run_id = :run_id AND f.subject_id = b.subject_id AND f.is_posted
        AND (f.amount_minor, f.currency, f.base_kind, f.counter_kind, f.counter_source)
          = (b.amount_minor, b.currency, b.base_kind, b.counter_kind, b.counter_source)
    )
    OR b.on_ledger_side AND EXISTS (
      SELECT FROM settlement_match AS m WHERE m.journal_id = b.subject_journal_id
    )
    OR b.on_ledger_side AND EXISTS (
      SELECT FROM settlement_booking AS k
      WHERE k.journal_id = b.subject_journal_id AND k.reversal_id IS NOT NULL
    )
  )
), new AS (
  SELECT subject_id, revision, journal_id, kind, operation_id, order_id, psp_reference, source,
         base_kind, counter_kind, counter_source, currency, -amount_minor AS amount_minor,
         paymesh_journal_id(
           CASE kind WHEN {JournalKind.SETTLEMENT} THEN 'settlement' ELSE 'adjustment' END,
           subject_id, 2 * revision + 1
         ) AS new_id
  FROM gone
), marked AS (
  UPDATE settlement_booking AS b SET reversal_id = new.new_id
  FROM new WHERE b.subject_id = new.subject_id AND b.revision = new.revision
), written AS (
  INSERT INTO journal (
    journal_id, kind, operation_id, revision, order_id, reverses, psp_reference, line_count
  )
  SELECT new_id, kind, operation_id, 2 * revision + 1, order_id, journal_id, psp_reference, 2
  FROM new
)
{_ENTRIES}
""")

POST = text(f"""
WITH wanted AS (
  SELECT f.*, coalesce(
           (SELECT max(b.revision) + 1 FROM settlement_booking AS b
            WHERE b.subject_id = f.subject_id), 0
         ) AS revision,
         CASE f.class WHEN {C.NONE} THEN {JournalKind.SETTLEMENT}
                      ELSE {JournalKind.ADJUSTMENT} END AS kind
  FROM run_finding AS f
  WHERE f.run_id = :run_id AND f.is_posted AND NOT EXISTS (
    SELECT FROM settlement_booking AS b
    WHERE b.subject_id = f.subject_id AND b.reversal_id IS NULL
  )
), new AS (
  SELECT w.*, cast(:source AS text) AS source,
         paymesh_journal_id(
           CASE kind WHEN {JournalKind.SETTLEMENT} THEN 'settlement' ELSE 'adjustment' END,
           subject_id, 2 * revision
         ) AS new_id
  FROM wanted AS w
), written AS (
  INSERT INTO journal (
    journal_id, kind, operation_id, revision, order_id, psp_reference, line_count
  )
  SELECT new_id, kind, coalesce(operation_id, subject_id), 2 * revision,
         coalesce(order_id, {_NO_ORDER}), psp_reference, 2
  FROM new
), booked AS (
  INSERT INTO settlement_booking (
    subject_id, revision, journal_id, source, settlement_date, on_ledger_side,
    subject_journal_id, file_id, sequence, base_kind, counter_kind, counter_source, amount_minor,
    currency
  )
  SELECT subject_id, revision, new_id, source, :day, on_ledger_side, journal_id, file_id,
         sequence, base_kind, counter_kind, counter_source, amount_minor, currency
  FROM new
)
{_ENTRIES}
""")

_FINAL = f"{C.FEE_DIFFERS}, {C.FX_DIFFERENCE}, {C.CLOSING_DIFFERS}"

# What a run finds is posted if the run wants it so; a capture, which is no day's, also if an
# earlier run did.
_STANDS = """
(
  f.is_posted OR f.on_ledger_side AND EXISTS (
    SELECT FROM settlement_booking AS k
    WHERE k.subject_id = f.subject_id AND k.reversal_id IS NULL
  )
)
"""
# Posted to suspense is not resolved, whoever posted it; posted to where it belongs is. What an
# operator resolved stays so while it is the same difference.
PUT_BREAKS = text(f"""
INSERT INTO settlement_break AS b (
  break_id, source, settlement_date, class, state, on_ledger_side, last_run_id, base_kind,
  counter_kind, counter_source, amount_minor, currency, file_id, sequence, journal_id,
  operation_id, order_id, psp_reference, rule
)
SELECT subject_id, :source, :day, class,
       CASE
         WHEN {_DECIDED.format(which=f"AND r.resolution = {Resolution.ACCEPT}")}
           THEN {S.RESOLVED}
         WHEN {_STANDS} AND counter_kind = {AccountKind.SUSPENSE} THEN {S.POSTED}
         WHEN is_posted AND class IN ({_FINAL}) THEN {S.RESOLVED}
         WHEN {_DECIDED.format(which="")} THEN {S.RESOLVED}
         WHEN is_posted THEN {S.POSTED}
         WHEN class = {C.AMBIGUOUS} THEN {S.SUGGESTED}
         ELSE {S.OPEN}
       END,
       on_ledger_side, run_id, base_kind, counter_kind, counter_source, amount_minor, currency,
       file_id, sequence, journal_id, operation_id, order_id, psp_reference, rule
FROM run_finding AS f
WHERE run_id = :run_id AND class > 0
ON CONFLICT (break_id) DO UPDATE
SET class = excluded.class, last_run_id = excluded.last_run_id, update_time = paymesh_now(),
    counter_kind = excluded.counter_kind, amount_minor = excluded.amount_minor,
    currency = excluded.currency, file_id = excluded.file_id, sequence = excluded.sequence,
    journal_id = excluded.journal_id, operation_id = excluded.operation_id,
    order_id = excluded.order_id, psp_reference = excluded.psp_reference, rule = excluded.rule,
    state = excluded.state
""")

CLEAR_BREAKS = text(f"""
UPDATE settlement_break AS b
SET state = {S.CLEARED}, update_time = paymesh_now(), last_run_id = :run_id
WHERE b.source = :source AND b.state <> {S.CLEARED} AND (
  NOT b.on_ledger_side AND b.settlement_date = :day AND NOT EXISTS (
    SELECT FROM run_finding AS f WHERE f.run_id = :run_id AND f.subject_id = b.break_id
  )
  OR b.on_ledger_side AND EXISTS (
    SELECT FROM settlement_match AS m WHERE m.journal_id = b.journal_id
  )
  OR b.on_ledger_side AND EXISTS (
    SELECT FROM settlement_booking AS k
    WHERE k.journal_id = b.journal_id AND k.reversal_id IS NOT NULL
  )
)
""")

# The proof. What the ledger gained by this day is summed from the entries themselves, not
# from what a finding says that it booked; what the working tables say was booked was read from
# the entries.
_BALANCES = f"""
WITH booked AS (
  SELECT b.journal_id, b.currency
  FROM settlement_booking AS b
  WHERE b.source = :source AND b.settlement_date = :day AND NOT b.on_ledger_side
    AND b.reversal_id IS NULL
  {{more_booked}}
), gained AS (
  SELECT e.currency, CASE e.direction WHEN 1 THEN e.amount_minor ELSE -e.amount_minor END
         AS amount
  FROM booked AS b
  CROSS JOIN LATERAL (
    SELECT * FROM entry WHERE entry.journal_id = b.journal_id OFFSET 0
  ) AS e
  WHERE e.account_kind = {{base_kind}} AND e.source = :source AND e.currency = b.currency
  {{more_gained}}
), ledger AS (
  SELECT currency, sum(amount) AS amount FROM gained GROUP BY currency
), line AS (
  SELECT currency, sum(amount_minor) AS amount FROM day_line GROUP BY currency
), open_break AS (
  SELECT currency, sum(amount_minor) AS amount
  FROM run_finding
  WHERE run_id = :run_id AND NOT is_posted AND NOT on_ledger_side
    AND class NOT IN ({C.CHAIN_BROKEN}, {C.PAYOUT_DIFFERS}, {C.CLOSING_DIFFERS})
  GROUP BY currency
), {store_chain.TOLD}
INSERT INTO run_balance (
  run_id, currency, opening_minor, closing_minor, lines_minor, ledger_minor, breaks_minor,
  difference_minor
)
SELECT :run_id, t.currency, opening_minor, closing_minor, coalesce(l.amount, 0),
       coalesce(g.amount, 0), coalesce(o.amount, 0),
       coalesce(l.amount, 0) - coalesce(g.amount, 0) - coalesce(o.amount, 0)
FROM told AS t
LEFT JOIN line AS l USING (currency)
LEFT JOIN ledger AS g USING (currency)
LEFT JOIN open_break AS o USING (currency)
"""
BALANCES = text(
    _BALANCES.format(
        base_kind=int(AccountKind.PSP_RECEIVABLE),
        more_booked="",
        more_gained=f"""
  UNION ALL SELECT currency, booked_minor FROM matched WHERE booked_currency = currency
  UNION ALL SELECT currency, -fee_minor FROM matched WHERE fee_currency = currency
  UNION ALL
  SELECT currency,
         sum(capture_minor)
         - coalesce(sum(told_fee_minor) FILTER (WHERE told_fee_currency = currency), 0)
  FROM ({store_day.PLAIN}) AS plain
  GROUP BY currency
""",
    )
)
BANK_BALANCES = text(
    _BALANCES.format(
        base_kind=int(AccountKind.BANK_CASH),
        more_booked="""
  UNION ALL
  SELECT m.journal_id, d.currency
  FROM day_line AS d
  JOIN settlement_match AS m ON m.file_id = d.file_id AND m.sequence = d.sequence
""",
        more_gained="",
    )
)

FORGET_BALANCES = text("DELETE FROM run_balance WHERE run_id = :run_id")
