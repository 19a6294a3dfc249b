"""Retries of parked orders that operators asked for.

- operation.restart is stored, so that whoever takes the operation over from a dead replica
  drives it as the operator asked.
- payment_retry says who asked, and why; its key makes the same request again a replay.
"""

from alembic import op

from mesh.migrations import app_role

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TABLES = """
ALTER TABLE operation ADD COLUMN restart boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN operation.restart IS
  'An operator asked for a round from the first rung, and it has not ended yet.';

CREATE TABLE payment_retry (
  payment_id  uuid NOT NULL,
  retry_id    uuid NOT NULL,
  caller      text NOT NULL,
  request_id  text NOT NULL,
  note        text NOT NULL,
  create_time timestamptz NOT NULL,
  PRIMARY KEY (payment_id, retry_id)
);
COMMENT ON TABLE payment_retry IS 'Who had parked orders driven again, and why.';
"""


def upgrade() -> None:
    """Adds retries."""
    op.execute(TABLES)
    op.execute(f"GRANT SELECT, INSERT ON payment_retry TO {app_role()}")


def downgrade() -> None:
    """Money tables are never taken back."""
    raise NotImplementedError("migrations go forward only")
