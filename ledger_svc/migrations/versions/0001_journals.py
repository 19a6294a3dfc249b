"""Journals and entries, which are only ever added to."""

from __future__ import annotations

from alembic import op

from mesh.clock import CREATE_DB_NOW
from mesh.migrations import app_role

revision = "0001"
down_revision = None

# line_count lets the triggers tell a journal with all its entries from one with some.
_JOURNAL = """
CREATE TABLE journal (
  journal_id uuid PRIMARY KEY,
  operation_id uuid NOT NULL,
  order_id uuid NOT NULL,
  reverses uuid CHECK (reverses <> journal_id),
  create_time timestamptz NOT NULL DEFAULT paymesh_now(),
  revision integer NOT NULL CHECK (revision >= 0),
  kind smallint NOT NULL CHECK (kind > 0),
  line_count smallint NOT NULL CHECK (line_count >= 2)
)
"""

_JOURNAL_BY_ORDER = """
CREATE INDEX journal_by_order ON journal (order_id, create_time, journal_id)
"""

# create_time is the journal's, here once more so that balances need this table only.
# The kinds that have an owner or a source are those of chart.py.
#
# The planner of a young database must not go by statistics of the empty table, and an
# index-only scan needs pages marked as visible: both are vacuum's work, so it comes often.
_ENTRY = """
CREATE TABLE entry (
  journal_id uuid NOT NULL,
  create_time timestamptz NOT NULL DEFAULT paymesh_now(),
  amount_minor bigint NOT NULL CHECK (amount_minor BETWEEN 1 AND 999999999999999),
  line smallint NOT NULL CHECK (line >= 0),
  account_kind smallint NOT NULL CHECK (account_kind BETWEEN 1 AND 14),
  direction smallint NOT NULL CHECK (direction IN (1, 2)),
  currency text NOT NULL CHECK (length(currency) = 3),
  owner_id text NOT NULL CHECK (length(owner_id) <= 255),
  source text NOT NULL CHECK (length(source) <= 63),
  PRIMARY KEY (journal_id, line),
  CONSTRAINT entry_owner CHECK ((account_kind IN (2, 3, 4, 5)) = (owner_id <> '')),
  CONSTRAINT entry_source CHECK ((account_kind IN (1, 7, 8, 10, 11, 14)) = (source <> ''))
) WITH (autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05)
"""

# One index for both questions about an account: its balances, by an index-only scan of
# the range up to a time, and its journals in their order. The currency is not part of the
# range, because an account has few, and a second index, with it, would cost every entry a
# third write.
_ENTRY_BY_ACCOUNT = """
CREATE INDEX entry_by_account
ON entry (account_kind, owner_id, source, create_time, journal_id)
INCLUDE (currency, direction, amount_minor)
"""

_REFUSE_CHANGE = """
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'the ledger is only ever added to: % of % is refused', TG_OP, TG_TABLE_NAME
  USING ERRCODE = 'restrict_violation';
END
$$
"""

# What the two checks below leave no room for: an entry without its journal, a journal
# without entries, an entry added later (all lines of the count are taken), another time
# than the journal's, and debits that differ from credits. One look per statement, where a
# foreign key and a deferred constraint would look once per row.
#
# The names are qualified, so that no temporary table can take their place.
_CHECK_ENTRIES = """
CREATE FUNCTION check_entries() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  bad uuid;
BEGIN
  SELECT n.journal_id INTO bad
  FROM (
    SELECT journal_id, count(*) AS lines, max(line) AS last_line,
           min(create_time) AS first_time, max(create_time) AS last_time
    FROM new_entry
    GROUP BY journal_id
  ) AS n
  LEFT JOIN public.journal AS j ON j.journal_id = n.journal_id
  WHERE j.journal_id IS NULL OR n.lines <> j.line_count OR n.last_line <> j.line_count - 1
     OR n.first_time <> j.create_time OR n.last_time <> j.create_time
  LIMIT 1;
  IF FOUND THEN
    RAISE EXCEPTION 'the entries of journal % are not the ones it was written with', bad
    USING ERRCODE = 'check_violation', CONSTRAINT = 'journal_complete';
  END IF;

  SELECT journal_id INTO bad
  FROM new_entry
  GROUP BY journal_id, currency
  HAVING sum(CASE direction WHEN 1 THEN amount_minor ELSE -amount_minor END) <> 0
  LIMIT 1;
  IF FOUND THEN
    RAISE EXCEPTION 'journal % does not balance', bad
    USING ERRCODE = 'check_violation', CONSTRAINT = 'journal_balanced';
  END IF;
  RETURN NULL;
END
$$
"""

_CHECK_JOURNALS = """
CREATE FUNCTION check_journals() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  bad uuid;
BEGIN
  SELECT n.journal_id INTO bad
  FROM new_journal AS n
  WHERE NOT EXISTS (SELECT FROM public.entry AS e WHERE e.journal_id = n.journal_id)
  LIMIT 1;
  IF FOUND THEN
    RAISE EXCEPTION 'journal % has no entries; both are written by one statement', bad
    USING ERRCODE = 'check_violation', CONSTRAINT = 'journal_has_entries';
  END IF;
  RETURN NULL;
END
$$
"""

_CHECK_TRIGGERS = """
CREATE TRIGGER entry_complete_and_balanced AFTER INSERT ON entry
REFERENCING NEW TABLE AS new_entry FOR EACH STATEMENT EXECUTE FUNCTION check_entries();
CREATE TRIGGER journal_has_entries AFTER INSERT ON journal
REFERENCING NEW TABLE AS new_journal FOR EACH STATEMENT EXECUTE FUNCTION check_journals();
"""

# ALWAYS: also where session_replication_role = replica turns ordinary triggers off.
_APPEND_ONLY = """
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table}
FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
ALTER TABLE {table} ENABLE ALWAYS TRIGGER append_only;
"""

# The service may not say when something was written: create_time is not granted.
_GRANTS = """
GRANT SELECT ON journal, entry TO {app};
GRANT INSERT (journal_id, operation_id, order_id, reverses, revision, kind, line_count)
ON journal TO {app};
GRANT INSERT (journal_id, amount_minor, line, account_kind, direction, currency, owner_id, source)
ON entry TO {app};
"""


def upgrade() -> None:
    for statement in (
        CREATE_DB_NOW,
        _JOURNAL,
        _JOURNAL_BY_ORDER,
        _ENTRY,
        _ENTRY_BY_ACCOUNT,
        _REFUSE_CHANGE,
        _CHECK_ENTRIES,
        _CHECK_JOURNALS,
        _CHECK_TRIGGERS,
        _APPEND_ONLY.format(table="journal"),
        _APPEND_ONLY.format(table="entry"),
        _GRANTS.format(app=app_role()),
    ):
        op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("migrations go forward only")
