"""Settlement files, their statements and lines; what a capture is called at the PSP.

Journals and entries stay what they are: only added to. The tables here are working tables:
what they say may be corrected by the source, so it may change.
"""

from __future__ import annotations

from alembic import op

from mesh.migrations import app_role

revision = "0002"
down_revision = "0001"

# mesh/ids.py in SQL, so that thousands of lines meet their journals in one statement: the
# id of what `fields` (the first is the kind) cause. lead: the first 12 hex digits; NULL takes
# the 48 bits of the hash after the 74 that are used anyway. A test compares the two.
_ID = """
CREATE FUNCTION paymesh_id(lead text, VARIADIC fields text[]) RETURNS uuid
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
  given bytea := convert_to('paymesh/1', 'UTF8');
  field text;
  h text;
BEGIN
  FOREACH field IN ARRAY fields LOOP
    given := given || int4send(octet_length(field)) || convert_to(field, 'UTF8');
  END LOOP;
  h := encode(sha256(given), 'hex');
  IF lead IS NULL THEN
    lead := lpad(
      to_hex(substring(('x' || substr(h, 19, 13))::bit(52) FROM 3 FOR 48)::bigint), 12, '0'
    );
  END IF;
  RETURN (
    lead || '8' || substr(h, 1, 3)
    || to_hex(
      (B'10' || substring(('x' || substr(h, 4, 16))::bit(64) FROM 1 FOR 62))::bit(64)::bigint
    )
  )::uuid;
END
$$
"""

_JOURNAL = """
ALTER TABLE journal
ADD COLUMN psp_reference text NOT NULL DEFAULT '' CHECK (length(psp_reference) <= 255)
"""

# One row a source, which is locked by whoever changes what its settlement says: an ingest
# that is ready, and a run. What they write has its own keys beside that.
_SOURCE = """
CREATE TABLE settlement_source (
  source text PRIMARY KEY CHECK (length(source) BETWEEN 1 AND 63),
  changes bigint NOT NULL DEFAULT 0
)
"""

_FILE = """
CREATE TABLE settlement_file (
  file_id uuid PRIMARY KEY,
  source text NOT NULL CHECK (length(source) BETWEEN 1 AND 63),
  settlement_date date,
  sha256 bytea NOT NULL CHECK (octet_length(sha256) = 32),
  file_name text NOT NULL CHECK (length(file_name) <= 255),
  format text NOT NULL,
  size_bytes bigint NOT NULL CHECK (size_bytes >= 0),
  lines bigint NOT NULL CHECK (lines >= 0),
  state smallint NOT NULL CHECK (state BETWEEN 1 AND 4),
  problem_class smallint NOT NULL CHECK (problem_class BETWEEN 0 AND 25),
  problem text NOT NULL,
  problem_place text NOT NULL,
  create_time timestamptz NOT NULL DEFAULT paymesh_now(),
  UNIQUE NULLS NOT DISTINCT (source, settlement_date, sha256)
)
"""

# explained_minor: by how much opening + lines misses closing, where value dates explain it.
_STATEMENT = """
CREATE TABLE statement (
  file_id uuid NOT NULL,
  number integer NOT NULL CHECK (number >= 0),
  source text NOT NULL CHECK (length(source) BETWEEN 1 AND 63),
  account text NOT NULL,
  currency text NOT NULL CHECK (length(currency) IN (0, 3)),
  settlement_date date,
  identity text NOT NULL,
  revision bigint NOT NULL,
  opening_minor bigint,
  closing_minor bigint,
  explained_minor bigint NOT NULL,
  entries bigint NOT NULL,
  credits_minor bigint NOT NULL,
  debits_minor bigint NOT NULL,
  ties boolean,
  problem text NOT NULL,
  is_current boolean NOT NULL CHECK (NOT is_current OR settlement_date IS NOT NULL),
  PRIMARY KEY (file_id, number)
)
"""

# Of the statements with one identity only one counts; by day, and back along an account.
_STATEMENT_CURRENT = """
CREATE UNIQUE INDEX statement_current
ON statement (source, settlement_date, account, currency, identity) WHERE is_current;
CREATE INDEX statement_chain
ON statement (source, account, currency, settlement_date) WHERE is_current
"""

# Filled by COPY alone, whose rows don't tell their file: it is the same for all of them.
_LINE = """
CREATE TABLE settlement_line (
  file_id uuid NOT NULL DEFAULT current_setting('paymesh.file_id')::uuid,
  sequence bigint NOT NULL CHECK (sequence >= 1),
  statement integer NOT NULL CHECK (statement >= 0),
  number bigint NOT NULL,
  amount_minor bigint,
  gross_minor bigint,
  fee_minor bigint,
  original_amount_minor bigint,
  operation_id uuid,
  order_id uuid,
  create_time timestamptz,
  booking_date date,
  value_date date,
  level text NOT NULL CHECK (level IN ('ENTRY', 'DETAIL', 'TOTAL')),
  is_reversal boolean NOT NULL,
  currency text NOT NULL,
  kind text NOT NULL,
  source_reference text NOT NULL,
  related_reference text NOT NULL,
  batch_reference text NOT NULL,
  idempotency_key text NOT NULL,
  original_currency text NOT NULL,
  exchange_rate text NOT NULL,
  place text NOT NULL,
  more jsonb NOT NULL,
  PRIMARY KEY (file_id, sequence)
) WITH (autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05);
COMMENT ON COLUMN settlement_line.more IS 'Further references [[name, text]…] and free texts.'
"""

_LINE_INDEXES = """
CREATE INDEX settlement_line_by_operation ON settlement_line (operation_id)
WHERE operation_id IS NOT NULL;
CREATE INDEX settlement_line_by_reference ON settlement_line (source_reference)
WHERE source_reference <> ''
"""

_GRANTS = """
GRANT INSERT (psp_reference) ON journal TO {app};
GRANT SELECT, INSERT, UPDATE (changes) ON settlement_source TO {app};
GRANT SELECT, INSERT ON settlement_file, statement, settlement_line TO {app};
GRANT UPDATE (format, lines, state, problem_class, problem, problem_place)
ON settlement_file TO {app};
GRANT UPDATE (is_current) ON statement TO {app};
GRANT DELETE ON statement TO {app};
"""


def upgrade() -> None:
    for statement in (
        _ID,
        _JOURNAL,
        _SOURCE,
        _FILE,
        _STATEMENT,
        _STATEMENT_CURRENT,
        _LINE,
        _LINE_INDEXES,
        _GRANTS.format(app=app_role()),
    ):
        op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("migrations go forward only")
