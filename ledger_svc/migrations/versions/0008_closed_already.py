"""Requests to close a day that was closed already."""

from __future__ import annotations

from alembic import op

from mesh.migrations import app_role

revision = "0008"
down_revision = "0007"

# Of those that closed a day there is one a run, in day_close. These are kept for their replays
# alone, which must not close what came since.
_REPEAT = """
CREATE TABLE day_close_repeat (
  caller text NOT NULL,
  request_id text NOT NULL,
  source text NOT NULL,
  settlement_date date NOT NULL,
  actor text NOT NULL,
  run_id uuid NOT NULL,
  create_time timestamptz NOT NULL DEFAULT paymesh_now(),
  PRIMARY KEY (caller, request_id)
)
"""
_GRANTS = "GRANT SELECT, INSERT ON day_close_repeat TO {app}"


def upgrade() -> None:
    op.execute(_REPEAT)
    op.execute(_GRANTS.format(app=app_role()))


def downgrade() -> None:
    raise NotImplementedError("migrations go forward only")
