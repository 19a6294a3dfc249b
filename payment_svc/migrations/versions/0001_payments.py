"""Payments, their orders, the operations on the conveyor, and the replicas that own them.

Notes on the shape:
- Every primary key contains payment_id, the column by which the tables could be spread.
- No foreign keys: a payment, its orders and operations are inserted by one statement and
  never deleted, and a check per row would cost more than the insert.
- No statistics of small tables: plans are made once a connection, and of a few rows any
  index seems as good as the primary key, for as long as the connection lives.
- Updates of payment and payment_order touch no indexed column and their pages keep room
  for the one that each row gets, so it touches no index (HOT). What is indexed by the state
  of the work is in operation alone.
"""

from alembic import op

from mesh.clock import CREATE_DB_NOW
from mesh.migrations import app_role

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = """
CREATE TABLE replica (
  epoch       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name        text NOT NULL,
  start_time  timestamptz NOT NULL DEFAULT paymesh_now(),
  lease_until timestamptz NOT NULL,
  dead        boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE replica IS
  'One row a start of a process. Items belong to an epoch; a dead epoch''s are taken over.';

CREATE TABLE payment (
  payment_id      uuid PRIMARY KEY,
  caller          text NOT NULL,
  request_id      text NOT NULL,
  request_version smallint NOT NULL,
  buyer_id        text NOT NULL,
  payment_method  text NOT NULL,
  failure_policy  smallint NOT NULL,
  capture_method  smallint NOT NULL,
  metadata        json NOT NULL,
  create_time     timestamptz NOT NULL,
  update_time     timestamptz NOT NULL,
  orders            smallint NOT NULL CHECK (orders BETWEEN 1 AND 100),
  open_orders       smallint NOT NULL CHECK (open_orders >= 0),
  parked_orders     smallint NOT NULL DEFAULT 0 CHECK (parked_orders >= 0),
  authorized_orders smallint NOT NULL DEFAULT 0 CHECK (authorized_orders >= 0),
  succeeded_orders  smallint NOT NULL DEFAULT 0 CHECK (succeeded_orders >= 0),
  declined_orders   smallint NOT NULL DEFAULT 0 CHECK (declined_orders >= 0),
  CHECK (open_orders + parked_orders + authorized_orders + succeeded_orders
         + declined_orders <= orders),
  -- The table of the contract; domain.payment_state says the same.
  state smallint NOT NULL GENERATED ALWAYS AS (
    CASE
      WHEN open_orders > 0 THEN 1
      WHEN parked_orders > 0 THEN 2
      WHEN authorized_orders > 0 THEN 3
      WHEN succeeded_orders = orders THEN 4
      WHEN succeeded_orders > 0 THEN 5
      WHEN declined_orders > 0 THEN 6
      ELSE 7
    END) STORED
) WITH (fillfactor = 50, autovacuum_analyze_threshold = 5000);
COMMENT ON TABLE payment IS
  'One checkout. The counts are changed by what an update of orders returned, so that '
  'concurrent finishes add up, and the state follows from them.';
CREATE INDEX payment_newest ON payment (create_time DESC, payment_id DESC);
CREATE INDEX payment_of_buyer ON payment (buyer_id, create_time DESC, payment_id DESC);

CREATE TABLE payment_order (
  payment_id       uuid NOT NULL,
  position         smallint NOT NULL,
  order_id         uuid NOT NULL,
  seller_id        text NOT NULL,
  currency_code    text NOT NULL,
  amount_minor     bigint NOT NULL CHECK (amount_minor BETWEEN 1 AND 999999999999999),
  commission_minor bigint NOT NULL CHECK (commission_minor BETWEEN 0 AND amount_minor),
  reference        text NOT NULL,
  create_time      timestamptz NOT NULL,
  state            smallint NOT NULL CHECK (state BETWEEN 1 AND 11),
  captured_minor   bigint NOT NULL DEFAULT 0 CHECK (captured_minor IN (0, amount_minor)),
  decline_category smallint NOT NULL DEFAULT 0,
  decline_code     text NOT NULL DEFAULT '',
  attention_reason text NOT NULL DEFAULT '',
  PRIMARY KEY (payment_id, position),
  -- SUCCEEDED means captured; DECLINED means not.
  CHECK (state <> 6 OR captured_minor = amount_minor),
  CHECK (state <> 7 OR captured_minor = 0)
) WITH (fillfactor = 50, autovacuum_analyze_threshold = 5000);
CREATE INDEX payment_order_of_seller
  ON payment_order (seller_id, create_time DESC, payment_id DESC);

CREATE TABLE operation (
  payment_id        uuid NOT NULL,
  operation_id      uuid NOT NULL,
  position          smallint NOT NULL,
  kind              smallint NOT NULL,
  amount_minor      bigint NOT NULL,
  state             smallint NOT NULL CHECK (state BETWEEN 1 AND 4),
  evidence          smallint NOT NULL DEFAULT 0,
  psp_reference     text NOT NULL DEFAULT '',
  create_time       timestamptz NOT NULL,
  attempt           integer NOT NULL DEFAULT 0,
  epoch             bigint,
  next_attempt_time timestamptz,
  delayed           boolean NOT NULL DEFAULT false,
  PRIMARY KEY (payment_id, operation_id),
  -- Owned, or scheduled, or at rest.
  CHECK (epoch IS NULL OR next_attempt_time IS NULL)
) WITH (autovacuum_analyze_threshold = 5000);
CREATE INDEX operation_owned ON operation (epoch) WHERE epoch IS NOT NULL;
CREATE INDEX operation_due ON operation (next_attempt_time) WHERE next_attempt_time IS NOT NULL;
"""


def upgrade() -> None:
    """Makes everything of version 1."""
    op.execute(CREATE_DB_NOW)
    op.execute(TABLES)
    op.execute(
        "GRANT SELECT, INSERT, UPDATE ON replica, payment, payment_order, operation"
        f" TO {app_role()}"
    )


def downgrade() -> None:
    """Money tables are never taken back."""
    raise NotImplementedError("migrations go forward only")
