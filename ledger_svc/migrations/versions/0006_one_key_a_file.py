"""A settlement file has one key; captures without a PSP reference are found by an index."""

from __future__ import annotations

from alembic import op

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


def upgrade() -> None:
    op.execute(_ONE_KEY)
    op.execute(_NAMELESS)


def downgrade() -> None:
    raise NotImplementedError("migrations go forward only")
