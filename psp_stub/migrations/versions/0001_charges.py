"""The stub's memory of keys, and the truth about its charges."""

from __future__ import annotations

from alembic import op

from mesh.clock import CREATE_DB_NOW
from mesh.migrations import app_role

revision = "0001"
down_revision = None

# What the PSP remembers of a key, until it forgets it. A key that comes back after that is
# new to the PSP: the next generation of the same row.
_IDEMPOTENCY = """
CREATE TABLE idempotency (
  idempotency_key text PRIMARY KEY CHECK (char_length(idempotency_key) BETWEEN 1 AND 255),
  generation integer NOT NULL DEFAULT 1 CHECK (generation >= 1),
  -- Calls with the same fields in this generation: scripts count them.
  calls integer NOT NULL CHECK (calls >= 1),
  first_seen_time timestamptz NOT NULL,
  operation_id uuid NOT NULL,
  order_id uuid NOT NULL,
  payment_method text NOT NULL,
  amount_minor bigint NOT NULL CHECK (amount_minor BETWEEN 1 AND 999999999999999),
  currency_code text NOT NULL CHECK (currency_code ~ '^[A-Z]{3}$')
)
"""

# What the PSP did. A row is never changed: a pending charge has its end written from the
# start, and is pending until final_time.
_CHARGE = """
CREATE TABLE charge (
  idempotency_key text NOT NULL,
  generation integer NOT NULL,
  charge_number bigint GENERATED ALWAYS AS IDENTITY,
  psp_reference text NOT NULL
    GENERATED ALWAYS AS ('stub_' || lpad(charge_number::text, 12, '0')) STORED,
  operation_id uuid NOT NULL,
  order_id uuid NOT NULL,
  payment_method text NOT NULL,
  asked_minor bigint NOT NULL CHECK (asked_minor BETWEEN 1 AND 999999999999999),
  -- Of what was asked and of what was taken: the stub converts nothing.
  currency_code text NOT NULL CHECK (currency_code ~ '^[A-Z]{3}$'),
  final_state text NOT NULL CHECK (final_state IN ('CAPTURED', 'DECLINED')),
  captured_minor bigint NOT NULL CHECK (captured_minor BETWEEN 0 AND 999999999999999),
  fee_minor bigint NOT NULL CHECK (fee_minor BETWEEN 0 AND captured_minor),
  decline_category text,
  decline_code text,
  create_time timestamptz NOT NULL DEFAULT paymesh_now(),
  final_time timestamptz NOT NULL CHECK (final_time >= create_time),
  PRIMARY KEY (idempotency_key, generation),
  CHECK ((final_state = 'CAPTURED') = (captured_minor > 0)),
  CHECK ((final_state = 'DECLINED') = (decline_category IS NOT NULL)),
  CHECK ((final_state = 'DECLINED') = (decline_code IS NOT NULL))
)
"""

# Charges are read here and nowhere else, so that only one place says what they are by now.
_TRUTH = """
CREATE VIEW truth AS
SELECT idempotency_key, operation_id, order_id, psp_reference,
       CASE WHEN is_final THEN captured_minor ELSE 0 END AS amount_minor,
       currency_code AS currency,
       CASE WHEN is_final THEN fee_minor ELSE 0 END AS fee_minor,
       CASE WHEN is_final THEN final_state ELSE 'PENDING' END AS state,
       create_time,
       CASE WHEN is_final THEN decline_category END AS decline_category,
       CASE WHEN is_final THEN decline_code END AS decline_code,
       payment_method, asked_minor, generation
FROM (SELECT *, final_time <= paymesh_now() AS is_final FROM charge) AS charge_now
"""

_TRUTH_COMMENT = """
COMMENT ON VIEW truth IS
'One row for each charge that the PSP really processed, as it stands now: what tests, the demo
and operators read. amount_minor is what was taken, 0 where nothing was (PENDING, DECLINED), so
that its sum is the money that left the buyers. Calls that did nothing have no row. A key that
came back after the PSP had forgotten it has one row for each generation.'
"""


def upgrade() -> None:
    op.execute(CREATE_DB_NOW)
    op.execute(_IDEMPOTENCY)
    op.execute(_CHARGE)
    op.execute(_TRUTH)
    op.execute(_TRUTH_COMMENT)
    app = app_role()
    op.execute(f"GRANT SELECT, INSERT, UPDATE ON idempotency TO {app}")
    op.execute(f"GRANT SELECT, INSERT ON charge TO {app}")
    op.execute(f"GRANT SELECT ON truth TO {app}")


def downgrade() -> None:
    raise NotImplementedError("migrations only go forward")
