"""Runs, matches, breaks, and which journals they booked."""

from __future__ import annotations

from alembic import op

from mesh.migrations import app_role

revision = "0003"
down_revision = "0002"

_JOURNAL_ID = """
CREATE FUNCTION paymesh_journal_id(kind text, operation uuid, revision integer) RETURNS uuid
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
  SELECT paymesh_id(
    left(translate(operation::text, '-', ''), 12),
    'journal', kind, translate(operation::text, '-', ''), revision::text
  )
$$
"""

# The chart has two kinds more: ROUNDING and FX, both with a source.
_ACCOUNTS = """
ALTER TABLE entry
DROP CONSTRAINT entry_account_kind_check,
ADD CONSTRAINT entry_account_kind_check CHECK (account_kind BETWEEN 1 AND 16),
DROP CONSTRAINT entry_source,
ADD CONSTRAINT entry_source
  CHECK ((account_kind IN (1, 7, 8, 10, 11, 14, 15, 16)) = (source <> ''))
"""

_LINE_BY_BATCH = """
CREATE INDEX settlement_line_by_batch ON settlement_line (batch_reference)
WHERE batch_reference <> ''
"""

_RUN = """
CREATE TABLE reconciliation_run (
  run_id uuid PRIMARY KEY,
  source text NOT NULL,
  settlement_date date NOT NULL,
  version integer NOT NULL CHECK (version >= 1),
  state smallint NOT NULL CHECK (state BETWEEN 1 AND 4),
  cut_off_time timestamptz NOT NULL,
  files uuid[] NOT NULL,
  lines bigint NOT NULL,
  matched bigint NOT NULL,
  create_time timestamptz NOT NULL DEFAULT paymesh_now(),
  UNIQUE (source, settlement_date, version)
);
CREATE INDEX reconciliation_run_by_time ON reconciliation_run (create_time, run_id);
CREATE TABLE run_balance (
  run_id uuid NOT NULL,
  currency text NOT NULL,
  opening_minor bigint,
  closing_minor bigint,
  lines_minor bigint NOT NULL,
  ledger_minor bigint NOT NULL,
  breaks_minor bigint NOT NULL,
  difference_minor bigint NOT NULL,
  PRIMARY KEY (run_id, currency)
)
"""

# Both sides at most once: a journal by its key, a line by the unique key, in which its parts
# count from 0: a bank's line may be several transfers, matched with it together.
_MATCH = """
CREATE TABLE settlement_match (
  journal_id uuid PRIMARY KEY,
  file_id uuid NOT NULL,
  sequence bigint NOT NULL,
  rule text NOT NULL,
  run_id uuid NOT NULL,
  part integer NOT NULL DEFAULT 0 CHECK (part >= 0),
  UNIQUE (file_id, sequence, part)
)
"""

# What a run found: the differences, and (class 0) what only the file tells and is booked by
# rule. base_kind is the account that the file is about; amount_minor is its change, signed.
_FINDING = """
CREATE TABLE run_finding (
  run_id uuid NOT NULL,
  subject_id uuid NOT NULL,
  class smallint NOT NULL CHECK (class BETWEEN 0 AND 25),
  on_ledger_side boolean NOT NULL,
  is_posted boolean NOT NULL,
  base_kind smallint NOT NULL,
  counter_kind smallint NOT NULL,
  counter_source text NOT NULL,
  amount_minor bigint NOT NULL,
  currency text NOT NULL,
  file_id uuid,
  sequence bigint,
  journal_id uuid,
  operation_id uuid,
  order_id uuid,
  psp_reference text NOT NULL,
  rule text NOT NULL,
  PRIMARY KEY (run_id, subject_id)
);
CREATE INDEX run_finding_by_class ON run_finding (run_id, class)
"""

_BREAK = """
CREATE TABLE settlement_break (
  break_id uuid PRIMARY KEY,
  source text NOT NULL,
  settlement_date date NOT NULL,
  class smallint NOT NULL CHECK (class BETWEEN 1 AND 25),
  state smallint NOT NULL CHECK (state BETWEEN 1 AND 5),
  on_ledger_side boolean NOT NULL,
  last_run_id uuid NOT NULL,
  create_time timestamptz NOT NULL DEFAULT paymesh_now(),
  update_time timestamptz NOT NULL DEFAULT paymesh_now(),
  base_kind smallint NOT NULL,
  counter_kind smallint NOT NULL,
  counter_source text NOT NULL,
  amount_minor bigint NOT NULL,
  currency text NOT NULL,
  file_id uuid,
  sequence bigint,
  journal_id uuid,
  operation_id uuid,
  order_id uuid,
  psp_reference text NOT NULL,
  rule text NOT NULL
);
CREATE INDEX settlement_break_unresolved
ON settlement_break (source, settlement_date) WHERE state IN (1, 2, 3);
CREATE INDEX settlement_break_by_journal
ON settlement_break (journal_id) WHERE on_ledger_side
"""

# Of a subject's bookings at most one stands; the others are reversed, and named so.
_BOOKING = """
CREATE TABLE settlement_booking (
  subject_id uuid NOT NULL,
  revision integer NOT NULL CHECK (revision >= 0),
  journal_id uuid NOT NULL UNIQUE,
  reversal_id uuid UNIQUE,
  source text NOT NULL,
  settlement_date date NOT NULL,
  on_ledger_side boolean NOT NULL,
  subject_journal_id uuid,
  file_id uuid,
  sequence bigint,
  base_kind smallint NOT NULL,
  counter_kind smallint NOT NULL,
  counter_source text NOT NULL,
  amount_minor bigint NOT NULL CHECK (amount_minor <> 0),
  currency text NOT NULL,
  PRIMARY KEY (subject_id, revision)
);
CREATE UNIQUE INDEX settlement_booking_stands
ON settlement_booking (subject_id) WHERE reversal_id IS NULL;
CREATE INDEX settlement_booking_by_day
ON settlement_booking (source, settlement_date) WHERE reversal_id IS NULL;
CREATE INDEX settlement_booking_to_bank
ON settlement_booking (counter_source, settlement_date) WHERE counter_kind = 8
"""

# What operators decided, for the difference as it was when they saw it.
_DECISIONS = """
CREATE TABLE break_resolution (
  break_id uuid NOT NULL,
  caller text NOT NULL,
  request_id text NOT NULL,
  resolution smallint NOT NULL CHECK (resolution IN (1, 2)),
  actor text NOT NULL,
  note text NOT NULL,
  amount_minor bigint NOT NULL,
  currency text NOT NULL,
  create_time timestamptz NOT NULL DEFAULT paymesh_now(),
  PRIMARY KEY (caller, request_id)
);
CREATE INDEX break_resolution_by_break ON break_resolution (break_id);
CREATE TABLE day_close (
  run_id uuid NOT NULL UNIQUE,
  caller text NOT NULL,
  request_id text NOT NULL,
  source text NOT NULL,
  settlement_date date NOT NULL,
  actor text NOT NULL,
  create_time timestamptz NOT NULL DEFAULT paymesh_now(),
  PRIMARY KEY (caller, request_id)
)
"""

# A run begins with ANALYZE: what came in a minute ago is planned for what it is, before
# autovacuum has seen it. MAINTAIN changes no row.
_GRANTS = """
GRANT MAINTAIN ON journal, entry, settlement_file, statement, settlement_line,
  settlement_match, settlement_booking TO {app};
GRANT SELECT, INSERT ON reconciliation_run, run_balance, run_finding TO {app};
GRANT UPDATE (is_posted) ON run_finding TO {app};
GRANT SELECT, INSERT ON break_resolution, day_close TO {app};
GRANT UPDATE (state, matched) ON reconciliation_run TO {app};
GRANT DELETE ON run_balance TO {app};
GRANT SELECT, INSERT, DELETE ON settlement_match TO {app};
GRANT SELECT, INSERT, UPDATE ON settlement_break TO {app};
GRANT SELECT, INSERT, UPDATE (reversal_id) ON settlement_booking TO {app};
"""


def upgrade() -> None:
    for statement in (
        _JOURNAL_ID,
        _ACCOUNTS,
        _LINE_BY_BATCH,
        _RUN,
        _MATCH,
        _FINDING,
        _BREAK,
        _BOOKING,
        _DECISIONS,
        _GRANTS.format(app=app_role()),
    ):
        op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("migrations go forward only")
