"""Operations at the PSP."""

from alembic import op

from mesh.clock import CREATE_DB_NOW
from mesh.migrations import app_role

revision = "0001"
down_revision = None

# first_send_time is also when the row was made: the intent is stored for the send that
# follows it. The CHECKs are the second belt; the rules are in domain.py: what is CAPTURED
# is what was asked, a decline says why, and whoever is asked to look is told at what.
#
# Each row is changed once or twice soon after it is written, and no index holds what
# changes: with room left on its page the update stays there and touches no index.
_OPERATION = """
CREATE TABLE operation (
  operation_id uuid PRIMARY KEY,
  payment_id uuid NOT NULL,
  order_id uuid NOT NULL,
  psp_key uuid NOT NULL,
  first_send_time timestamptz NOT NULL DEFAULT paymesh_now(),
  change_time timestamptz NOT NULL DEFAULT paymesh_now(),
  amount_minor bigint NOT NULL CHECK (amount_minor BETWEEN 1 AND 999999999999999),
  captured_minor bigint,
  fee_minor bigint CHECK (fee_minor >= 0),
  send_count integer NOT NULL CHECK (send_count > 0),
  kind smallint NOT NULL CHECK (kind > 0),
  state smallint NOT NULL CHECK (state BETWEEN 1 AND 7),
  evidence smallint NOT NULL DEFAULT 0 CHECK (evidence BETWEEN 0 AND 2),
  decline_category smallint CHECK (decline_category > 0),
  currency text NOT NULL CHECK (length(currency) = 3),
  captured_currency text,
  fee_currency text,
  payment_method text NOT NULL CHECK (length(payment_method) BETWEEN 1 AND 255),
  source text NOT NULL CHECK (length(source) BETWEEN 1 AND 255),
  psp_reference text NOT NULL DEFAULT '',
  decline_code text NOT NULL DEFAULT '',
  attention_reason text NOT NULL DEFAULT '',
  CONSTRAINT operation_captured_as_asked CHECK (
    state <> 6 OR (captured_minor IS NOT NULL AND captured_minor = amount_minor
                   AND captured_currency IS NOT NULL AND captured_currency = currency
                   AND evidence > 0)
  ),
  CONSTRAINT operation_declined_says_why CHECK (
    state <> 7 OR (decline_category IS NOT NULL AND evidence > 0)
  ),
  CONSTRAINT operation_parked_says_why CHECK (
    state NOT IN (4, 5) OR attention_reason <> ''
  )
) WITH (fillfactor = 60)
"""


def upgrade() -> None:
    app = app_role()
    for statement in (
        CREATE_DB_NOW,
        _OPERATION,
        f"GRANT SELECT, INSERT, UPDATE ON operation TO {app}",
    ):
        op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("migrations go forward only")
