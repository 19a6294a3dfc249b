"""The register of operations in no journal, and its SQL."""

from __future__ import annotations

import json
from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from ledger_svc.register import ENDS, Registered, RegisterState
from mesh.clock import DB_NOW

_ENDS = ", ".join(str(state.value) for state in sorted(ENDS))

# register.replaces and register.differences in SQL, checked again on the newest version of a
# row that somebody else has just written.
_PUT = text(f"""
INSERT INTO operation_register AS r (operation_id, order_id, payment_id, kind, amount_minor,
  currency, state, version, reason, psp_reference)
SELECT x.*
FROM json_to_recordset(cast(:told AS json)) AS x (
  operation_id uuid, order_id uuid, payment_id uuid, kind smallint, amount_minor bigint,
  currency text, state smallint, version integer, reason text, psp_reference text)
ON CONFLICT (operation_id) DO UPDATE
SET state = excluded.state, version = excluded.version, reason = excluded.reason,
    psp_reference = CASE excluded.psp_reference WHEN '' THEN r.psp_reference
      ELSE excluded.psp_reference END,
    update_time = {DB_NOW}
WHERE r.state NOT IN ({_ENDS})
  AND (excluded.state IN ({_ENDS}) OR excluded.version > r.version)
  AND (r.order_id, r.payment_id, r.kind, r.amount_minor, r.currency) = (
    excluded.order_id, excluded.payment_id, excluded.kind, excluded.amount_minor,
    excluded.currency)
""")

_READ = text("""
SELECT operation_id, order_id, payment_id, kind, amount_minor, currency, state, version, reason,
  psp_reference
FROM operation_register
WHERE operation_id = ANY(cast(:operation_ids AS uuid[]))
""")


async def put_registered(connection: AsyncConnection, told: Sequence[Registered]) -> None:
    """Stores what is told, where it takes the place of what is there. No operation twice."""
    rows = [
        {
            "operation_id": one.operation_id.hex,
            "order_id": one.order_id.hex,
            "payment_id": one.payment_id.hex,
            "kind": one.kind,
            "amount_minor": one.amount_minor,
            "currency": one.currency_code,
            "state": one.state,
            "version": one.version,
            "reason": one.reason,
            "psp_reference": one.psp_reference,
        }
        # In one order, so that two lists with the same operations never wait for each other.
        for one in sorted(told, key=lambda one: one.operation_id)
    ]
    await connection.execute(_PUT, {"told": json.dumps(rows)})


async def read_registered(
    connection: AsyncConnection, operation_ids: Sequence[UUID]
) -> dict[UUID, Registered]:
    """What is stored of these operations."""
    rows = await connection.execute(_READ, {"operation_ids": list(operation_ids)})
    return {
        row.operation_id: Registered(
            row.operation_id,
            row.order_id,
            row.payment_id,
            row.kind,
            row.amount_minor,
            row.currency,
            RegisterState(row.state),
            row.version,
            row.reason,
            row.psp_reference,
        )
        for row in rows
    }
