"""A day's working tables: temporary, filled once a run, gone with its transaction.

begin_day() of the migrations makes them, for the service itself may make no table.

Every pass would else read the day's lines anew and look up each one's journals by a computed
id; a million lines would take minutes. What is in them, in their order:

day_line: the lines that count. A PSP's without their texts, but with the capture that their
    operation names (capture_*), and what its fee journal says (told_fee_*), from the entries.
registered: what the register says of lines without such a capture.
open_capture: the captures at the source that no line is matched with after the first pass; and,
    by their id alone, those that a line was matched with that a correction took away.
open_line: the lines of which more is to be said after the first pass: those that no capture is
    matched with, or not the one that they name, or that are not as it was booked. All others
    are plain: their sums alone are needed.
matched: the open lines that are matched after all passes, and what the ledger booked for
    them, from the entries.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import TextClause, text

# The planner sees these tables as they are, and sorts and hashes of a day stay in memory.
_BEGIN_BANK = text("SELECT set_config('work_mem', '128MB', true), begin_day()")

# A superseded statement has no lines.
_FROM = """
FROM statement AS s
JOIN settlement_line AS l ON l.file_id = s.file_id AND l.statement = s.number
JOIN settlement_file AS f ON f.file_id = s.file_id
WHERE s.source = :source AND s.settlement_date = :day AND s.is_current AND l.level = 'ENTRY'
"""

# The first entry of a capture is its debit at the source, the second of a fee its credit
# there. Looked up by key whatever the planner believes of a young table: the fence (OFFSET 0)
# keeps the conditions on the account from leading it to the account's whole history.
CAPTURE_ENTRY = """
LATERAL (
  SELECT * FROM entry WHERE entry.journal_id = {journal_id} AND entry.line = 0 OFFSET 0
) AS e
"""
FEE_ENTRY = """
LATERAL (
  SELECT * FROM entry
  WHERE entry.journal_id = paymesh_journal_id('psp_fee', {operation_id}, {revision})
    AND entry.line = 1
  OFFSET 0
) AS fee
"""

# By the hash join of a function, for it may use all processors; see its migration.
_BEGIN_PSP = text("""
SELECT set_config('work_mem', '128MB', true),
       begin_psp_day(
         :source, :day, cast(:from_time AS timestamptz),
         cast(:cut_off_time AS timestamptz) + interval '1 day'
       )
""")
# By our own id a capture is found however long ago it was, or late.
_PSP_LATE = text(f"""
UPDATE day_line AS d
SET capture_id = e.journal_id, capture_currency = e.currency, capture_minor = e.amount_minor,
    told_fee_currency = fee.currency, told_fee_minor = fee.amount_minor
FROM (
  SELECT ctid AS place, unmet_operation_id AS operation_id FROM day_line
  WHERE kind = 'CHARGE' AND unmet_operation_id IS NOT NULL AND capture_id IS NULL
) AS l
CROSS JOIN {CAPTURE_ENTRY.format(journal_id="paymesh_journal_id('capture', l.operation_id, 0)")}
LEFT JOIN {FEE_ENTRY.format(operation_id="l.operation_id", revision="0")} ON true
WHERE d.ctid = l.place AND e.account_kind = 1 AND e.source = :source
""")
_ANALYZE_DAY_LINE = text("ANALYZE day_line")
# What the register says of a line's operation, by our id or else by the PSP's reference, as
# long as the ledger has no capture of it: then the journal tells the rest.
_REGISTERED = text("""
INSERT INTO registered (file_id, sequence, operation_id, order_id, state)
WITH line AS MATERIALIZED (
  SELECT file_id, sequence, l.operation_id, l.source_reference
  FROM day_line AS d JOIN settlement_line AS l USING (file_id, sequence)
  WHERE d.kind = 'CHARGE' AND d.capture_id IS NULL
), named AS MATERIALIZED (
  SELECT file_id, sequence, r.operation_id, r.order_id, r.state
  FROM line JOIN operation_register AS r ON r.operation_id = line.operation_id
  UNION ALL
  SELECT file_id, sequence, r.operation_id, r.order_id, r.state
  FROM line JOIN operation_register AS r ON r.psp_reference = line.source_reference
  WHERE line.operation_id IS NULL AND r.psp_reference <> ''
)
SELECT DISTINCT ON (file_id, sequence) *
FROM named
WHERE NOT EXISTS (
  SELECT FROM journal AS j
  WHERE j.journal_id = paymesh_journal_id('capture', named.operation_id, 0)
)
ORDER BY file_id, sequence, operation_id
""")
_BANK_DAY_LINE = text(f"""
INSERT INTO day_line (
  file_id, sequence, kind, currency, amount_minor, source_reference, batch_reference, account,
  identity, came, more
)
SELECT l.file_id, l.sequence, l.kind, l.currency, l.amount_minor, l.source_reference,
       l.batch_reference, s.account, s.identity, f.create_time, l.more
{_FROM}
""")

BEGIN_PSP: Sequence[TextClause] = (_BEGIN_PSP, _PSP_LATE, _ANALYZE_DAY_LINE, _REGISTERED)
BEGIN_BANK: Sequence[TextClause] = (_BEGIN_BANK, _BANK_DAY_LINE, _ANALYZE_DAY_LINE)
"""What begins a run, before its inputs are read."""

# As far back as a line may find it by the PSP's reference, or as the day is.
OPEN_CAPTURE = text("""
INSERT INTO open_capture (journal_id, psp_reference, currency, amount_minor, create_time)
SELECT e.journal_id, j.psp_reference, e.currency, e.amount_minor, e.create_time
FROM (
  SELECT journal_id, currency, amount_minor, create_time
  FROM entry
  WHERE account_kind = 1 AND owner_id = '' AND source = :source AND direction = 1
    AND create_time >= least(
      cast(:look_back_time AS timestamptz), cast(:from_time AS timestamptz)
    )
    AND NOT EXISTS (SELECT FROM settlement_match AS m WHERE m.journal_id = entry.journal_id)
  OFFSET 0
) AS e
CROSS JOIN LATERAL (
  SELECT * FROM journal WHERE journal.journal_id = e.journal_id OFFSET 0
) AS j
WHERE j.kind = 1
""")
OPEN_LINE = text("""
INSERT INTO open_line (
  file_id, sequence, kind, currency, amount_minor, operation_id, order_id, source_reference,
  related_reference, batch_reference, account, identity, came, gross, fee, capture_id,
  capture_currency, capture_minor, told_fee_currency, told_fee_minor
)
SELECT d.file_id, d.sequence, d.kind, d.currency, d.amount_minor, l.operation_id, l.order_id,
       l.source_reference, l.related_reference, l.batch_reference, s.account, s.identity, d.came,
       d.gross, d.fee, d.capture_id, d.capture_currency, d.capture_minor, d.told_fee_currency,
       d.told_fee_minor
FROM (
  SELECT d.*
  FROM day_line AS d
  LEFT JOIN settlement_match AS m ON m.file_id = d.file_id AND m.sequence = d.sequence
  WHERE m.journal_id IS NULL OR m.journal_id IS DISTINCT FROM d.capture_id
     OR d.capture_currency <> d.currency OR d.capture_minor <> d.gross
     OR d.fee <> CASE WHEN d.told_fee_currency = d.currency THEN d.told_fee_minor ELSE 0 END
  OFFSET 0
) AS d
CROSS JOIN LATERAL (
  SELECT * FROM settlement_line AS l
  WHERE l.file_id = d.file_id AND l.sequence = d.sequence
  OFFSET 0
) AS l
JOIN statement AS s ON s.file_id = l.file_id AND s.number = l.statement
""")
ANALYZE_OPEN_LINE = text("ANALYZE open_line")
MATCHED = text("""
INSERT INTO matched (
  file_id, sequence, currency, journal_id, rule, is_named, booked_currency, booked_minor,
  fee_currency, fee_minor
)
SELECT d.file_id, d.sequence, d.currency, m.journal_id, m.rule,
       m.journal_id IS NOT DISTINCT FROM d.capture_id AS is_named,
       d.capture_currency AS booked_currency, d.capture_minor AS booked_minor,
       d.told_fee_currency AS fee_currency, d.told_fee_minor AS fee_minor
FROM open_line AS d
JOIN settlement_match AS m ON m.file_id = d.file_id AND m.sequence = d.sequence
""")
# Of those that were met by another name than our operation.
MATCHED_OTHERWISE = text(f"""
UPDATE matched AS d
SET booked_currency = e.currency, booked_minor = e.amount_minor,
    fee_currency = fee.currency, fee_minor = fee.amount_minor
FROM (SELECT ctid AS place, journal_id FROM matched WHERE NOT is_named) AS l
JOIN journal AS j ON j.journal_id = l.journal_id
CROSS JOIN {CAPTURE_ENTRY.format(journal_id="j.journal_id")}
LEFT JOIN {FEE_ENTRY.format(operation_id="j.operation_id", revision="j.revision")} ON true
WHERE d.ctid = l.place
""")

PLAIN = """
SELECT * FROM day_line AS d
WHERE NOT EXISTS (
  SELECT FROM open_line AS o WHERE o.file_id = d.file_id AND o.sequence = d.sequence
)
"""
"""The lines of which nothing more is to be said."""
