"""The register of operations that are in no journal: memo rows, which move no money."""

from __future__ import annotations

from alembic import op

from mesh.migrations import app_role

revision = "0004"
down_revision = "0003"

# What is CAPTURED (5) or DECLINED (4) stays so, whoever tells otherwise later.
_REGISTER = """
CREATE TABLE operation_register (
  operation_id uuid PRIMARY KEY,
  order_id uuid NOT NULL,
  payment_id uuid NOT NULL,
  create_time timestamptz NOT NULL DEFAULT paymesh_now(),
  update_time timestamptz NOT NULL DEFAULT paymesh_now(),
  amount_minor bigint NOT NULL CHECK (amount_minor BETWEEN 1 AND 999999999999999),
  version integer NOT NULL CHECK (version > 0),
  kind smallint NOT NULL CHECK (kind > 0),
  state smallint NOT NULL CHECK (state BETWEEN 1 AND 5),
  currency text NOT NULL CHECK (length(currency) = 3),
  reason text NOT NULL CHECK (length(reason) <= 63),
  psp_reference text NOT NULL CHECK (length(psp_reference) <= 255)
);
COMMENT ON TABLE operation_register IS
  'What payment_svc told of operations that ended without a capture, or wait.';
CREATE INDEX operation_register_by_reference ON operation_register (psp_reference)
WHERE psp_reference <> ''
"""

_GRANTS = """
GRANT SELECT ON operation_register TO {app};
GRANT INSERT (operation_id, order_id, payment_id, amount_minor, version, kind, state, currency,
              reason, psp_reference)
ON operation_register TO {app};
GRANT UPDATE (version, state, reason, psp_reference, update_time) ON operation_register TO {app};
"""


def upgrade() -> None:
    op.execute(_REGISTER)
    op.execute(_GRANTS.format(app=app_role()))


def downgrade() -> None:
    raise NotImplementedError("migrations go forward only")
