"""A settlement file may be where a state is known from: evidence 3."""

from alembic import op

revision = "0003"
down_revision = "0002"

# NOT VALID: every row keeps the narrower rule that goes, so none has to be read for this,
# under a lock that nobody gets past.
_EVIDENCE = """
ALTER TABLE operation DROP CONSTRAINT operation_evidence_check;
ALTER TABLE operation ADD CONSTRAINT operation_evidence_check
CHECK (evidence BETWEEN 0 AND 3) NOT VALID
"""


def upgrade() -> None:
    op.execute(_EVIDENCE)


def downgrade() -> None:
    raise NotImplementedError("migrations go forward only")
