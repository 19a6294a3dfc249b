"""An index of the orders that are parked, for the metrics.

By the attention_reason, which an order has exactly while it is parked, and not by the state:
an index whose condition names a column that each order changes would be touched by each of
those updates, and take the one without index writes (HOT) from all others of the table.
Of an order that is never parked, the reason never changes, so it costs a comparison.
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

INDEX = """
CREATE INDEX payment_order_parked ON payment_order (create_time) WHERE attention_reason <> ''
"""


def upgrade() -> None:
    """Makes the index."""
    op.execute(INDEX)


def downgrade() -> None:
    """Money tables are never taken back."""
    raise NotImplementedError("migrations go forward only")
