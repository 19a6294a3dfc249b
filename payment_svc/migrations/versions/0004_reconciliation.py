"""What the reconciliation is asked and told of operations.

- operation_unknown holds the operations whose outcome only evidence can tell: a settlement
  file is asked about them.
- unregistered says that the ledger's register of what is in no journal has something to be
  told of the operation; in_register, that it was told of it before or is about to be.

Each trip changes an operation's epoch, which is indexed, so no update of a trip was one
without index writes (HOT): conditions on columns that change cost the table nothing more. An
operation that succeeds at once is in neither index at any time.
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# 3 is FAILED, 4 UNKNOWN: what is there already, and what a replica of an earlier release
# still writes, is told by its state.
TABLES = """
ALTER TABLE operation
  ADD COLUMN unregistered boolean NOT NULL DEFAULT false,
  ADD COLUMN in_register boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN operation.unregistered IS
  'The register of the ledger has something to be told of it.';
COMMENT ON COLUMN operation.in_register IS
  'The register of the ledger was told of it, or is about to be.';
CREATE INDEX operation_unknown ON operation (create_time, operation_id) WHERE state = 4;
CREATE INDEX operation_unregistered ON operation (create_time, operation_id)
WHERE unregistered OR (state IN (3, 4) AND NOT in_register)
"""


def upgrade() -> None:
    """Adds what is needed for both."""
    op.execute(TABLES)


def downgrade() -> None:
    """Money tables are never taken back."""
    raise NotImplementedError("migrations go forward only")
