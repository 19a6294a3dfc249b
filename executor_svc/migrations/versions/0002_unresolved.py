"""Which operations have no definite outcome, with an index of them, for the metrics."""

from alembic import op

revision = "0002"
down_revision = "0001"

# A flag beside the state, because an index whose condition names a column that each row
# changes would be touched by each of those updates, and take the update without index writes
# (HOT) from the table. Of an operation that ends at its first answer the flag never changes.
# SENT is not in it: what is under way is known to the process, and what died under way is
# driven again by its owner within a lease.
_UNRESOLVED = (
    "ALTER TABLE operation ADD COLUMN unresolved boolean NOT NULL DEFAULT false",
    "UPDATE operation SET unresolved = true WHERE state BETWEEN 2 AND 5",
    "CREATE INDEX operation_unresolved ON operation (first_send_time) WHERE unresolved",
)


def upgrade() -> None:
    for statement in _UNRESOLVED:
        op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("migrations go forward only")
