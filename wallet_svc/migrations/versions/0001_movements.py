"""Movements and balances."""

from __future__ import annotations

from alembic import op

from mesh.clock import CREATE_DB_NOW
from mesh.migrations import app_role

revision = "0001"
down_revision = None

# movement_id is the whole primary key, although wallets would be spread by seller: a
# retry that names another seller must meet the row that is there and be refused. With
# (seller_id, movement_id) it would be a second row, and the order credited twice. So the
# movements would be spread by movement_id, and a list's one transaction over both tables
# is then the distributed database's to keep.
#
# The CHECKs are the second belt; the rules are in domain.py. The caps leave room: a
# balance holds a thousand of the largest movements and is a tenth of what a bigint holds.
_MOVEMENT = """
CREATE TABLE movement (
  movement_id uuid PRIMARY KEY,
  operation_id uuid NOT NULL,
  order_id uuid NOT NULL,
  create_time timestamptz NOT NULL DEFAULT paymesh_now(),
  amount_minor bigint NOT NULL CHECK (amount_minor BETWEEN 0 AND 999999999999999),
  pending_minor bigint NOT NULL,
  available_minor bigint NOT NULL,
  debt_minor bigint NOT NULL,
  revision integer NOT NULL CHECK (revision >= 0),
  kind smallint NOT NULL CHECK (kind > 0),
  currency text NOT NULL CHECK (length(currency) = 3),
  seller_id text NOT NULL CHECK (length(seller_id) BETWEEN 1 AND 255),
  CONSTRAINT movement_capture_is_pending CHECK (
    kind <> 1 OR (pending_minor = amount_minor AND available_minor = 0 AND debt_minor = 0)
  )
)
"""

_MOVEMENT_BY_SELLER = """
CREATE INDEX movement_by_seller
ON movement (seller_id, create_time DESC, movement_id DESC)
"""

# Room on each page, so that an update stays on it and touches no index.
_BALANCE = """
CREATE TABLE balance (
  pending_minor bigint NOT NULL DEFAULT 0,
  available_minor bigint NOT NULL DEFAULT 0,
  reserved_minor bigint NOT NULL DEFAULT 0,
  debt_minor bigint NOT NULL DEFAULT 0,
  currency text NOT NULL CHECK (length(currency) = 3),
  seller_id text NOT NULL CHECK (length(seller_id) BETWEEN 1 AND 255),
  PRIMARY KEY (seller_id, currency),
  CONSTRAINT balance_pending CHECK (pending_minor BETWEEN 0 AND 999999999999999999),
  CONSTRAINT balance_available CHECK (available_minor BETWEEN 0 AND 999999999999999999),
  CONSTRAINT balance_reserved CHECK (reserved_minor BETWEEN 0 AND 999999999999999999),
  CONSTRAINT balance_debt CHECK (debt_minor BETWEEN 0 AND 999999999999999999)
) WITH (fillfactor = 70)
"""


def upgrade() -> None:
    app = app_role()
    for statement in (
        CREATE_DB_NOW,
        _MOVEMENT,
        _MOVEMENT_BY_SELLER,
        _BALANCE,
        f"GRANT SELECT, INSERT ON movement TO {app}",
        f"GRANT SELECT, INSERT, UPDATE ON balance TO {app}",
    ):
        op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("migrations go forward only")
