"""A settlement file has one key; of a run's lines only the open ones are written twice."""

from __future__ import annotations

from alembic import op

from mesh.migrations import app_role

revision = "0006"
down_revision = "0005"

# The id of a file is made of its source, date and content. With a second unique key on these, of
# two who bring one file at once the later could be refused by that key, which
# ON CONFLICT (file_id) doesn't wait for.
_ONE_KEY = """
ALTER TABLE settlement_file
DROP CONSTRAINT settlement_file_source_settlement_date_sha256_key;
CREATE INDEX settlement_file_by_day ON settlement_file (source, settlement_date)
"""

# Captures of which no PSP reference is known are few, and asked for by each run.
_NAMELESS = """
CREATE INDEX journal_nameless ON journal (create_time) WHERE kind = 1 AND psp_reference = ''
"""

# As in 0005, but that an open line has all that a day's line has.
_FUNCTION = """
CREATE OR REPLACE FUNCTION begin_day() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  CREATE TEMPORARY TABLE day_line (
    file_id uuid, sequence bigint, kind text, currency text, amount_minor bigint,
    operation_id uuid, order_id uuid, source_reference text, related_reference text,
    batch_reference text, account text, identity text, came timestamptz, gross bigint, fee bigint,
    capture_id uuid, capture_currency text, capture_minor bigint, told_fee_currency text,
    told_fee_minor bigint, more jsonb
  ) ON COMMIT DROP;
  CREATE TEMPORARY TABLE open_line (LIKE day_line) ON COMMIT DROP;
  CREATE TEMPORARY TABLE registered (
    file_id uuid, sequence bigint, operation_id uuid, order_id uuid, state smallint
  ) ON COMMIT DROP;
  CREATE TEMPORARY TABLE open_capture (
    journal_id uuid, psp_reference text, currency text, amount_minor bigint,
    create_time timestamptz
  ) ON COMMIT DROP;
  CREATE TEMPORARY TABLE matched (
    file_id uuid, sequence bigint, currency text, journal_id uuid, rule text, is_named boolean,
    booked_currency text, booked_minor bigint, fee_currency text, fee_minor bigint
  ) ON COMMIT DROP;
  GRANT SELECT, INSERT, UPDATE, MAINTAIN
  ON day_line, registered, open_capture, open_line, matched TO {app};
END
$$
"""


def upgrade() -> None:
    op.execute(_ONE_KEY)
    op.execute(_NAMELESS)
    op.execute(_FUNCTION.format(app=app_role()))


def downgrade() -> None:
    raise NotImplementedError("migrations go forward only")
