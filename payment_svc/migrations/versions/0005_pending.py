"""A settlement file is asked about what is pending, too.

operation_pending holds the operations without an outcome that wait for their next attempt. One
that succeeds at once is never in it.
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# 1 is PENDING.
TABLES = """
CREATE INDEX operation_pending ON operation (create_time, operation_id)
WHERE state = 1 AND next_attempt_time IS NOT NULL
"""


def upgrade() -> None:
    """Adds the index."""
    op.execute(TABLES)


def downgrade() -> None:
    """Money tables are never taken back."""
    raise NotImplementedError("migrations go forward only")
