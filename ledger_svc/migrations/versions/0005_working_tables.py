"""The service may make temporary tables: a run keeps its day's lines in some."""

from __future__ import annotations

from alembic import op

from mesh.migrations import app_role

revision = "0005"
down_revision = "0004"

# They vanish with their transaction. The functions of the triggers name their tables with
# the schema, so that no temporary one can take their place.
_GRANT = """
DO $$
BEGIN
  EXECUTE format('GRANT TEMPORARY ON DATABASE %I TO {app}', current_database());
END
$$
"""


def upgrade() -> None:
    op.execute(_GRANT.format(app=app_role().replace("%", "%%").replace("'", "''")))


def downgrade() -> None:
    raise NotImplementedError("migrations go forward only")
