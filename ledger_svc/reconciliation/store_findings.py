"""What is left after matching: differences with their class, and what is booked by rule.

Amounts are what the account at the source gains by the file and not by the ledger, signed.
So the findings of a day and what is matched add up to its lines, and a finding that is posted
brings the ledger to the file. A finding's id is computed from its subject, never its class:
a line from its statement's name and its own, a capture from its journal.
"""

from __future__ import annotations

from sqlalchemy import text

from ledger_svc.domain import AccountKind
from ledger_svc.reconciliation.domain import BreakClass as C
from ledger_svc.reconciliation.store_day import CAPTURE_ENTRY, FEE_ENTRY
from ledger_svc.reconciliation.store_match import NEARBY, REGISTER_RULE

K = AccountKind

INSERT = """
INSERT INTO run_finding (
  run_id, subject_id, class, on_ledger_side, is_posted, base_kind, counter_kind, counter_source,
  amount_minor, currency, file_id, sequence, journal_id, operation_id, order_id, psp_reference,
  rule
)
"""

# Of the lines that no capture is matched with: is another one for the same charge?
_IS_DUPLICATE = """
(
  EXISTS (
    SELECT FROM settlement_match AS m
    WHERE m.journal_id = paymesh_journal_id('capture', line.operation_id, 0)
  )
  OR line.source_reference <> '' AND EXISTS (
    SELECT FROM settlement_line AS o
    JOIN statement AS s ON s.file_id = o.file_id AND s.number = o.statement
    LEFT JOIN settlement_match AS m ON m.file_id = o.file_id AND m.sequence = o.sequence
    WHERE o.source_reference = line.source_reference AND o.source_reference <> ''
      AND o.kind = line.kind
      AND s.source = :source AND s.is_current AND o.level = 'ENTRY'
      AND (o.file_id, o.sequence) <> (line.file_id, line.sequence)
      AND (m.journal_id IS NOT NULL OR (o.file_id = line.file_id AND o.sequence < line.sequence))
  )
)
"""

# Of a transfer: is it told a second time, on this day or another one? Its name is its own. That
# of a fee may be its charge's, which has several, some of them equal: they are all booked.
# Both lists are made once, and only if there is a transfer.
_IS_TRANSFER_AGAIN = f"""
line.source_reference <> '' AND (
  (line.file_id, line.sequence) IN (
    SELECT file_id, sequence
    FROM (
      SELECT file_id, sequence, row_number() OVER (
               PARTITION BY kind, source_reference, currency, amount_minor
               ORDER BY file_id, sequence
             ) AS times
      FROM open_line WHERE kind IN ('TRANSFER', 'TRANSFER_RETURN')
    ) AS told
    WHERE times > 1
  )
  OR (line.source_reference, line.currency, line.amount_minor) IN (
    SELECT j.psp_reference, b.currency, b.amount_minor
    FROM settlement_booking AS b
    CROSS JOIN LATERAL (
      SELECT psp_reference FROM journal WHERE journal.journal_id = b.journal_id OFFSET 0
    ) AS j
    WHERE b.counter_kind = {K.BANK_CASH} AND b.counter_source = :bank AND b.source = :source
      AND b.reversal_id IS NULL AND b.settlement_date <> :day
      AND b.settlement_date >= cast(cast(:look_back_time AS timestamptz) AS date)
  )
)
"""

# A source that rounds says so by a line that is about nothing of ours.
_IS_ROUNDING = """
kind = 'ADJUSTMENT' AND op IS NULL AND line.order_id IS NULL AND line.related_reference = ''
AND abs(line.amount_minor) <= cast(:rounding_tolerance_minor AS bigint)
"""

# Classes that post by themselves; the others wait for an operator. A fee only within the
# source's tolerance.
AUTOMATIC = (
    C.NONE, C.NEVER_SETTLED, C.UNKNOWN_TO_US, C.AMOUNT_DIFFERS, C.DUPLICATE_IN_FILE,
    C.REFUND_DIFFERS, C.CHARGEBACK, C.STATUS_DIFFERS, C.FX_DIFFERENCE, C.CLOSING_DIFFERS,
)  # fmt: skip
_IS_AUTOMATIC = f"class IN ({', '.join(str(int(one)) for one in AUTOMATIC)})"

LINES = text(f"""
WITH {NEARBY}, choice AS (
  SELECT currency, amount_minor FROM near
  GROUP BY currency, amount_minor HAVING count(*) > 1 OR bool_or(psp_reference = '')
), told AS MATERIALIZED (
  SELECT d.*, m.journal_id AS matched, m.rule, m.booked_currency, m.booked_minor,
         CASE WHEN m.fee_currency = d.currency THEN m.fee_minor ELSE 0 END AS booked_fee,
         m.fee_currency IS NOT NULL AS has_fee,
         translate(d.operation_id::text, '-', '') AS op
  FROM open_line AS d
  LEFT JOIN matched AS m ON m.file_id = d.file_id AND m.sequence = d.sequence
  WHERE m.journal_id IS NULL OR m.booked_currency <> d.currency OR m.booked_minor <> d.gross
     OR d.fee <> CASE WHEN m.fee_currency = d.currency THEN m.fee_minor ELSE 0 END
), counted AS (
  SELECT l.file_id, l.sequence, row_number() OVER (
           PARTITION BY s.account, s.identity, l.currency, l.kind, l.source_reference,
                        l.operation_id
           ORDER BY l.file_id, l.sequence
         ) AS occurrence
  FROM statement AS s
  JOIN settlement_line AS l ON l.file_id = s.file_id AND l.statement = s.number
  WHERE s.source = :source AND s.settlement_date = :day AND s.is_current AND l.level = 'ENTRY'
    AND (l.kind, l.source_reference) IN (SELECT kind, source_reference FROM told)
), line AS MATERIALIZED (
  SELECT told.*, counted.occurrence FROM told JOIN counted USING (file_id, sequence)
), met AS (
  SELECT line.*, j.operation_id AS booked_operation, j.order_id AS booked_order,
         CASE
           WHEN booked_currency <> currency THEN {C.CURRENCY_DIFFERS}
           WHEN booked_minor <> gross THEN {C.AMOUNT_DIFFERS}
         END AS class
  FROM line
  JOIN journal AS j ON j.journal_id = line.matched
), other_fee AS (
  SELECT met.*,
         CASE
           WHEN has_fee OR abs(
             fee - coalesce(
               round(gross * cast(:fee_basis_points AS numeric) / 10000)
               + cast(:fee_fixed_minor AS bigint), fee
             )
           ) > cast(:fee_tolerance_minor AS bigint) THEN {C.FEE_DIFFERS}
           ELSE {C.NONE}
         END AS fee_class
  FROM met
  WHERE class IS DISTINCT FROM {C.CURRENCY_DIFFERS} AND fee <> booked_fee
), unmet AS (
  SELECT line.*, r.operation_id AS registered, r.order_id AS registered_order,
         {REGISTER_RULE} AS register_rule,
         CASE
           WHEN kind = 'CHARGE' THEN
             CASE
               WHEN {_IS_DUPLICATE} THEN {C.DUPLICATE_IN_FILE}
               WHEN r.operation_id IS NOT NULL THEN {C.STATUS_DIFFERS}
               WHEN choice.currency IS NOT NULL AND op IS NULL AND line.order_id IS NULL
                 THEN {C.AMBIGUOUS}
               ELSE {C.UNKNOWN_TO_US}
             END
           WHEN kind = 'FEE' THEN {C.NONE}
           WHEN kind IN ('TRANSFER', 'TRANSFER_RETURN') THEN
             CASE WHEN {_IS_TRANSFER_AGAIN} THEN {C.DUPLICATE_IN_FILE} ELSE {C.NONE} END
           WHEN kind = 'REFUND' THEN {C.REFUND_DIFFERS}
           WHEN kind IN ('DISPUTE', 'DISPUTE_REVERSAL') THEN {C.CHARGEBACK}
           WHEN kind IN ('CHARGE_REVERSAL', 'REFUND_REVERSAL', 'PAYOUT_RETURN')
             THEN {C.REVERSAL_OR_RETURN}
           WHEN kind = 'FX' THEN {C.FX_DIFFERENCE}
           WHEN kind IN (
             'RESERVE_HOLD', 'RESERVE_RELEASE', 'BALANCE_TRANSFER', 'INVOICE_DEDUCTION'
           ) THEN {C.RESERVE_OR_TRANSFER}
           WHEN {_IS_ROUNDING} THEN {C.CLOSING_DIFFERS}
           ELSE {C.UNKNOWN_TO_US}
         END AS class
  FROM line
  LEFT JOIN registered AS r ON r.file_id = line.file_id AND r.sequence = line.sequence
  LEFT JOIN choice ON choice.currency = line.currency AND choice.amount_minor = line.gross
  WHERE line.matched IS NULL
), found AS (
  SELECT 'principal' AS aspect, class,
         CASE class
           WHEN {C.AMOUNT_DIFFERS} THEN gross - booked_minor
           ELSE amount_minor + booked_fee
         END AS amount,
         {K.SUSPENSE} AS counter_kind, cast(:source AS text) AS counter_source,
         {_IS_AUTOMATIC} AS is_posted, rule, matched, booked_operation, booked_order, account,
         identity, currency, kind, source_reference, op, occurrence, file_id, sequence
  FROM met WHERE class IS NOT NULL
  UNION ALL
  SELECT 'fee', fee_class, booked_fee - fee, {K.PSP_FEE_EXPENSE}, :source,
         fee_class = {C.NONE} OR abs(fee - booked_fee) <= cast(:fee_tolerance_minor AS bigint),
         rule, matched, booked_operation, booked_order, account, identity, currency, kind,
         source_reference, op, occurrence, file_id, sequence
  FROM other_fee
  UNION ALL
  SELECT 'principal', class,
         CASE WHEN class = {C.CHARGEBACK} THEN amount_minor + fee ELSE amount_minor END,
         CASE
           WHEN kind = 'FEE' THEN {K.PSP_FEE_EXPENSE}
           WHEN class = {C.NONE} THEN {K.BANK_CASH}
           WHEN class = {C.CHARGEBACK} THEN {K.DISPUTE_RECEIVABLE}
           WHEN class = {C.FX_DIFFERENCE} THEN {K.FX}
           WHEN class = {C.CLOSING_DIFFERS} THEN {K.ROUNDING}
           ELSE {K.SUSPENSE}
         END,
         CASE WHEN class = {C.NONE} AND kind <> 'FEE' THEN cast(:bank AS text) ELSE :source END,
         {_IS_AUTOMATIC},
         CASE class WHEN {C.STATUS_DIFFERS} THEN register_rule ELSE 'LEFT_OVER' END, matched,
         coalesce(operation_id, registered), coalesce(order_id, registered_order), account,
         identity, currency, kind, source_reference, op, occurrence, file_id, sequence
  FROM unmet
  UNION ALL
  SELECT 'dispute_fee', {C.NONE}, -fee, {K.DISPUTE_FEE_EXPENSE}, :source, true, 'LEFT_OVER',
         matched, operation_id, order_id, account, identity, currency, kind, source_reference, op,
         occurrence, file_id, sequence
  FROM unmet WHERE class = {C.CHARGEBACK} AND fee <> 0
)
{INSERT}
SELECT :run_id,
       paymesh_id(
         left(op, 12), 'settlement_finding', :source, aspect, account, cast(:day AS text),
         identity, currency, kind, source_reference, coalesce(op, ''), occurrence::text
       ),
       class, false, is_posted AND amount <> 0, {K.PSP_RECEIVABLE}, counter_kind, counter_source,
       amount, currency, file_id, sequence, matched, booked_operation, booked_order,
       source_reference, rule
FROM found
""")

# The captures of the days since the run before, and those that were missing already, which
# age; and those that a correction took the line of, which are of any day that had its run. A
# journal on which a later one for its order is matched is there twice.
LEDGER = text(f"""
WITH fresh AS MATERIALIZED (
  SELECT journal_id, bool_or(is_freed) AS is_freed
  FROM (
    SELECT journal_id, create_time IS NULL AS is_freed FROM open_capture
    WHERE create_time IS NULL
       OR create_time >= cast(:from_time AS timestamptz)
      AND create_time < cast(:cut_off_time AS timestamptz)
    UNION ALL
    SELECT b.journal_id, false
    FROM settlement_break AS b
    WHERE b.source = :source AND b.on_ledger_side AND b.state IN (1, 2, 3)
  ) AS told
  WHERE NOT EXISTS (SELECT FROM settlement_match AS m WHERE m.journal_id = told.journal_id)
  GROUP BY journal_id
), missing AS (
  SELECT j.*, e.currency, e.amount_minor - coalesce(fee.amount_minor, 0) AS net,
         (
           -- Less the settlement day that it came on, as Source.day_end ends days.
           cast(:as_of_day AS date) - 1
           - cast((j.create_time AT TIME ZONE :zone) - cast(:ends_after AS interval) AS date)
         ) AS days
  FROM fresh
  JOIN journal AS j ON j.journal_id = fresh.journal_id AND j.kind = 1
  CROSS JOIN {CAPTURE_ENTRY.format(journal_id="j.journal_id")}
  LEFT JOIN {FEE_ENTRY.format(operation_id="j.operation_id", revision="j.revision")}
    ON fee.currency = e.currency
  WHERE fresh.is_freed OR j.create_time < cast(:cut_off_time AS timestamptz)
), judged AS (
  SELECT missing.*,
         CASE
           WHEN EXISTS (
             SELECT FROM journal AS o
             JOIN settlement_match AS m ON m.journal_id = o.journal_id
             WHERE o.order_id = missing.order_id AND o.kind = 1
           ) THEN {C.DUPLICATE_IN_LEDGER}
           WHEN days >= cast(:settle_days AS integer) THEN {C.NEVER_SETTLED}
           ELSE {C.TIMING}
         END AS class
  FROM missing
  WHERE days >= 0
)
{INSERT}
SELECT :run_id,
       paymesh_id(
         left(translate(journal_id::text, '-', ''), 12), 'settlement_finding', :source, 'ledger',
         translate(journal_id::text, '-', '')
       ),
       class, true, {_IS_AUTOMATIC} AND net <> 0, {K.PSP_RECEIVABLE}, {K.SUSPENSE}, :source, -net,
       currency, NULL, NULL, journal_id, operation_id, order_id, psp_reference,
       'NOT_IN_FILE'
FROM judged
""")

# A transfer that is not the sum of the lines that name it. It moves nothing of its own.
BATCHES = text(f"""
WITH paid AS (
  SELECT batch_reference, currency, sum(amount_minor) AS amount,
         (array_agg(file_id ORDER BY file_id, sequence))[1] AS file_id,
         (array_agg(sequence ORDER BY file_id, sequence))[1] AS sequence
  FROM open_line
  WHERE kind = 'TRANSFER' AND batch_reference <> ''
  GROUP BY batch_reference, currency
), listed AS (
  SELECT p.batch_reference, p.currency, sum(l.amount_minor) AS amount
  FROM paid AS p
  JOIN settlement_line AS l
    ON l.batch_reference = p.batch_reference AND l.batch_reference <> ''
   AND l.currency = p.currency AND l.kind <> 'TRANSFER' AND l.level = 'ENTRY'
  JOIN statement AS s
    ON s.file_id = l.file_id AND s.number = l.statement AND s.is_current AND s.source = :source
  GROUP BY p.batch_reference, p.currency
)
{INSERT}
SELECT :run_id,
       paymesh_id(
         NULL, 'settlement_finding', :source, 'batch', p.batch_reference, p.currency
       ),
       {C.PAYOUT_DIFFERS}, false, false, {K.PSP_RECEIVABLE}, {K.SUSPENSE}, :source,
       p.amount + l.amount, p.currency, p.file_id, p.sequence, NULL, NULL, NULL, p.batch_reference,
       'BATCH_SUM'
FROM paid AS p JOIN listed AS l USING (batch_reference, currency)
WHERE p.amount + l.amount <> 0
""")

# What still misses after all that: an error of ours or of the source, never silence.
_CLOSING = f"""
{INSERT}
SELECT run_id,
       paymesh_id(
         NULL, 'settlement_finding', :source, 'closing', cast(:day AS text), currency
       ),
       {C.CLOSING_DIFFERS}, false,
       abs(difference_minor) <= cast(:rounding_tolerance_minor AS bigint),
       {{base_kind}}, {K.ROUNDING}, :source, difference_minor, currency, NULL, NULL, NULL,
       NULL, NULL, '', 'EQUATION'
FROM run_balance WHERE run_id = :run_id AND difference_minor <> 0
"""
CLOSING = text(_CLOSING.format(base_kind=int(K.PSP_RECEIVABLE)))
BANK_CLOSING = text(_CLOSING.format(base_kind=int(K.BANK_CASH)))
