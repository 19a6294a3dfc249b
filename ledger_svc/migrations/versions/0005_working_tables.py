"""A run's working tables: temporary, and made by a function, for the service may make none."""

from __future__ import annotations

from alembic import op

from mesh.migrations import app_role

revision = "0005"
down_revision = "0004"

# A service that may make temporary tables may make one named `journal`, which would be seen in
# place of the ledger's. So their owner makes these, under these names and no others, and they
# are gone with the transaction. See reconciliation/store_day.py for what they hold.
_FUNCTION = """
CREATE FUNCTION begin_day() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  CREATE TEMPORARY TABLE day_line (
    file_id uuid, sequence bigint, kind text, currency text, amount_minor bigint,
    operation_id uuid, order_id uuid, source_reference text, related_reference text,
    batch_reference text, account text, identity text, came timestamptz, gross bigint, fee bigint,
    capture_id uuid, capture_currency text, capture_minor bigint, told_fee_currency text,
    told_fee_minor bigint, more jsonb
  ) ON COMMIT DROP;
  CREATE TEMPORARY TABLE registered (
    file_id uuid, sequence bigint, operation_id uuid, order_id uuid, state smallint
  ) ON COMMIT DROP;
  CREATE TEMPORARY TABLE open_capture (
    journal_id uuid, psp_reference text, currency text, amount_minor bigint,
    create_time timestamptz
  ) ON COMMIT DROP;
  CREATE TEMPORARY TABLE open_line (
    file_id uuid, sequence bigint, came timestamptz, currency text, gross bigint,
    operation_id uuid, order_id uuid, source_reference text, related_reference text
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
_GRANTS = """
REVOKE ALL ON FUNCTION begin_day() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION begin_day() TO {app}
"""


def upgrade() -> None:
    op.execute(_FUNCTION.format(app=app_role()))
    op.execute(_GRANTS.format(app=app_role()))


def downgrade() -> None:
    raise NotImplementedError("migrations go forward only")
