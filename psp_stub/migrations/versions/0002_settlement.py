"""Settlement days: what their files hold, and what they say otherwise by order."""

from __future__ import annotations

from alembic import op

from mesh.migrations import app_role

revision = "0002"
down_revision = "0001"

# The closed days. Each names the day before, once, so days are a chain without a fork and
# without a gap; the first one alone names none.
_DAY = """
CREATE TABLE settlement_day (
  settlement_date date PRIMARY KEY,
  previous_date date UNIQUE NULLS NOT DISTINCT REFERENCES settlement_day,
  end_time timestamptz NOT NULL,
  close_time timestamptz NOT NULL,
  CHECK (previous_date = settlement_date - 1)
)
"""

# What was sent of a day: revision 0 when it is closed, 1 when it is sent again.
_REVISION = """
CREATE TABLE settlement_revision (
  settlement_date date NOT NULL REFERENCES settlement_day,
  revision integer NOT NULL CHECK (revision BETWEEN 0 AND 1),
  create_time timestamptz NOT NULL,
  is_missing boolean NOT NULL,
  PRIMARY KEY (settlement_date, revision)
)
"""

# The truth: which day each capture belongs to, once. Written set-wise at closing, so that a
# charge costs nothing more than before. Without foreign keys, which would be checked row by
# row: one statement writes it, from charges, which are never removed.
_LINE = """
CREATE TABLE settlement_line (
  settlement_date date NOT NULL,
  currency_code text NOT NULL,
  line_no integer NOT NULL CHECK (line_no >= 1),
  idempotency_key text NOT NULL,
  generation integer NOT NULL,
  PRIMARY KEY (settlement_date, currency_code, line_no),
  UNIQUE (idempotency_key, generation)
)
"""

# What a revision tells of one currency. Sums are of what its lines say. batch: the lines that
# the next transfer pays, its number and their sum so far.
_STATEMENT = """
CREATE TABLE settlement_statement (
  settlement_date date NOT NULL,
  revision integer NOT NULL,
  currency_code text NOT NULL CHECK (currency_code ~ '^[A-Z]{3}$'),
  account text NOT NULL,
  captures integer NOT NULL CHECK (captures >= 0),
  opening_minor bigint NOT NULL,
  gross_minor bigint NOT NULL,
  fee_minor bigint NOT NULL,
  lines_batch integer NOT NULL CHECK (lines_batch >= 1),
  transfer_batch integer,
  transfer_minor bigint NOT NULL CHECK (transfer_minor >= 0),
  returned_minor bigint NOT NULL CHECK (returned_minor >= 0),
  closing_minor bigint NOT NULL
    CHECK (closing_minor
           = opening_minor + gross_minor - fee_minor - transfer_minor + returned_minor),
  batch_number integer NOT NULL CHECK (batch_number >= 1),
  batch_minor bigint NOT NULL,
  bank_opening_minor bigint NOT NULL,
  bank_closing_minor bigint NOT NULL,
  closing_error_minor bigint NOT NULL,
  lacks_last_page boolean NOT NULL,
  PRIMARY KEY (settlement_date, revision, currency_code),
  FOREIGN KEY (settlement_date, revision) REFERENCES settlement_revision,
  CHECK ((transfer_batch IS NULL) = (transfer_minor = 0))
)
"""

_BANK_LINE = """
CREATE TABLE settlement_bank_line (
  settlement_date date NOT NULL,
  revision integer NOT NULL,
  currency_code text NOT NULL,
  line_no integer NOT NULL CHECK (line_no >= 1),
  amount_minor bigint NOT NULL CHECK (amount_minor <> 0),
  bank_reference text NOT NULL,
  end_to_end_id text NOT NULL,
  is_reversal boolean NOT NULL,
  description text NOT NULL,
  PRIMARY KEY (settlement_date, revision, currency_code, line_no),
  FOREIGN KEY (settlement_date, revision, currency_code) REFERENCES settlement_statement
)
"""

# What was ordered to be wrong.
_FAULT = """
CREATE TABLE settlement_fault (
  settlement_date date NOT NULL,
  kind text NOT NULL,
  currency_code text NOT NULL CHECK (currency_code ~ '^[A-Z]{3}$'),
  ordered integer NOT NULL CHECK (ordered >= 0),
  amount_minor bigint NOT NULL CHECK (amount_minor >= 1),
  applied integer CHECK (applied BETWEEN 0 AND ordered),
  PRIMARY KEY (settlement_date, kind, currency_code)
)
"""

# What a revision says in the place of a line (its number), or after all lines (higher numbers).
# Without a kind: nothing at all.
_ALTERED = """
CREATE TABLE settlement_altered_line (
  settlement_date date NOT NULL,
  revision integer NOT NULL,
  currency_code text NOT NULL,
  line_no integer NOT NULL CHECK (line_no >= 1),
  part integer NOT NULL CHECK (part >= 0),
  kind text,
  psp_reference text NOT NULL,
  related_psp_reference text NOT NULL,
  idempotency_key text NOT NULL,
  operation_id text NOT NULL,
  order_id text NOT NULL,
  create_time timestamptz NOT NULL,
  gross_minor bigint NOT NULL,
  fee_minor bigint NOT NULL,
  original_amount_minor bigint,
  original_currency_code text NOT NULL,
  exchange_rate text NOT NULL,
  description text NOT NULL,
  PRIMARY KEY (settlement_date, revision, currency_code, line_no, part),
  FOREIGN KEY (settlement_date, revision, currency_code) REFERENCES settlement_statement
)
"""

_APPENDED = (
    "settlement_day",
    "settlement_revision",
    "settlement_line",
    "settlement_statement",
    "settlement_bank_line",
    "settlement_altered_line",
)


def upgrade() -> None:
    for statement in (_DAY, _REVISION, _LINE, _STATEMENT, _BANK_LINE, _FAULT, _ALTERED):
        op.execute(statement)
    app = app_role()
    # Nothing of a closed day is ever changed: its files have the same bytes for ever.
    op.execute(f"GRANT SELECT, INSERT ON {', '.join(_APPENDED)} TO {app}")
    # Orders can be changed; and only who may change a table may lock it (store_days.lock).
    op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON settlement_fault TO {app}")


def downgrade() -> None:
    raise NotImplementedError("migrations only go forward")
