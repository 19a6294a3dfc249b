"""The table of executor_svc and its SQL; set-wise, one statement a list.

The two statements that every operation goes through take their lists as one JSON value,
which costs half of what arrays cost on this side (docs/decisions/0002).

What another process wrote at the same time is read in a statement after the conditional
one: neither ON CONFLICT DO NOTHING nor an UPDATE whose condition failed returns it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from executor_svc.domain import (
    MOVES,
    RESENDABLE,
    RESTART_MOVES,
    DeclineCategory,
    Finding,
    Kind,
    Operation,
    Outcome,
    Source,
    Standing,
    State,
    Stored,
)
from executor_svc.texts import plain
from mesh.money import Money

_COLUMNS = """
o.operation_id, o.payment_id, o.order_id, o.kind, o.amount_minor, o.currency, o.payment_method,
o.state, o.source, o.evidence, o.psp_reference, o.captured_minor, o.captured_currency,
o.fee_minor, o.fee_currency, o.decline_category, o.decline_code, o.attention_reason, o.change_time
"""

_INSERT = text("""
INSERT INTO operation (operation_id, payment_id, order_id, kind, amount_minor, currency,
                       payment_method, psp_key, source, state, send_count)
SELECT x.*, :sent, 1
FROM json_to_recordset(cast(:intents AS json)) AS x (
  operation_id uuid, payment_id uuid, order_id uuid, kind smallint, amount_minor bigint,
  currency text, payment_method text, psp_key uuid, source text)
ON CONFLICT (operation_id) DO NOTHING
RETURNING operation_id
""")

_READ = text(f"""
SELECT {_COLUMNS}
FROM operation o
WHERE o.operation_id = ANY(cast(:operation_ids AS uuid[]))
""")

# What was parked is unknown from here on: it is about to be asked for again. Another PSP than
# the one that it was sent to would take the money a second time.
_MARK_RESENT = text(f"""
UPDATE operation o
SET send_count = o.send_count + 1,
    state = CASE o.state WHEN {State.PARKED.value} THEN {State.UNKNOWN.value} ELSE o.state END,
    attention_reason = ''
FROM unnest(cast(:operation_ids AS uuid[]), cast(:safe_seconds AS double precision[]),
            cast(:sources AS text[]), cast(:restarts AS boolean[]))
  AS x (operation_id, safe_seconds, source, restart)
WHERE o.operation_id = x.operation_id AND o.source = x.source
  AND (o.state = ANY(cast(:resendable AS smallint[]))
       OR x.restart AND o.state = {State.PARKED.value} AND o.captured_minor IS NULL)
  AND paymesh_now() < o.first_send_time + make_interval(secs => x.safe_seconds)
RETURNING o.operation_id
""")

_READ_OVERDUE = text("""
SELECT o.operation_id
FROM unnest(cast(:operation_ids AS uuid[]), cast(:safe_seconds AS double precision[]))
  AS x (operation_id, safe_seconds)
JOIN operation o USING (operation_id)
WHERE paymesh_now() >= o.first_send_time + make_interval(secs => x.safe_seconds)
""")

# The states that a finding moves are a set of bits in its own row, and not a join with the
# table of states: the condition is checked again on the newest version of a row
# that a concurrent transaction has just changed, but a join is not made again.
_RECORD = text("""
UPDATE operation o
SET state = x.state,
    evidence = x.evidence,
    psp_reference = coalesce(x.psp_reference, o.psp_reference),
    captured_minor = x.captured_minor,
    captured_currency = x.captured_currency,
    fee_minor = x.fee_minor,
    fee_currency = x.fee_currency,
    decline_category = x.decline_category,
    decline_code = coalesce(x.decline_code, ''),
    attention_reason = coalesce(x.attention_reason, ''),
    unresolved = x.state BETWEEN 2 AND 5,
    change_time = paymesh_now()
FROM json_to_recordset(cast(:findings AS json)) AS x (
  operation_id uuid, state smallint, origins integer, evidence smallint, psp_reference text,
  captured_minor bigint, captured_currency text, fee_minor bigint, fee_currency text,
  decline_category smallint, decline_code text, attention_reason text, sends integer)
WHERE o.operation_id = x.operation_id AND (x.origins >> o.state) & 1 = 1
  AND (x.sends IS NULL OR o.send_count = x.sends)
  AND (o.captured_minor IS NULL OR x.captured_minor IS NOT NULL)
RETURNING o.operation_id, o.source, o.psp_reference, o.change_time
""")

# The state, too, because a process of an earlier release moves it and leaves the flag. The
# oldest alone, in the order of their index: after years there may be millions.
_READ_UNRESOLVED = text("""
SELECT o.state, count(*) AS operations,
  extract(epoch FROM paymesh_now() - min(o.first_send_time))::float8 AS oldest_seconds
FROM (
  SELECT state, first_send_time FROM operation
  WHERE unresolved AND state BETWEEN 2 AND 5
  ORDER BY first_send_time
  LIMIT :most
) o
GROUP BY o.state
""")

_RESENDABLE = sorted(RESENDABLE)

# For each outcome, in a usual round and in an operator's: the state it leads to, and a set
# of bits, one for each state it moves.
_MOVES: Mapping[tuple[Outcome, bool], tuple[int, int]] = {
    (outcome, restart): (int(move.target), sum(1 << state for state in move.origins))
    for restart, moves in ((False, MOVES), (True, RESTART_MOVES))
    for outcome, move in moves.items()
}


async def insert(
    connection: AsyncConnection, intents: Sequence[tuple[Operation, UUID, str]]
) -> set[UUID]:
    """Stores operations as SENT, once, each with its PSP key and the PSP's source name.

    Returns the ids that were new. Of the others a row is stored, and a later statement of
    the same transaction can see it. An id may come twice.
    """
    if not intents:
        return set()
    rows = await connection.execute(
        _INSERT,
        {
            "sent": int(State.SENT),
            "intents": json.dumps(
                [
                    {
                        "operation_id": o.operation_id.hex,
                        "payment_id": o.payment_id.hex,
                        "order_id": o.order_id.hex,
                        "kind": o.kind,
                        "amount_minor": o.amount_minor,
                        "currency": o.currency_code,
                        "payment_method": o.payment_method,
                        "psp_key": psp_key.hex,
                        "source": source,
                    }
                    # One order of locks for everybody; numbers compare faster than ids.
                    for o, psp_key, source in sorted(
                        intents, key=lambda intent: intent[0].operation_id.int
                    )
                ]
            ),
        },
    )
    return set(rows.scalars())


async def read(connection: AsyncConnection, operation_ids: Sequence[UUID]) -> dict[UUID, Stored]:
    """The stored operations of these ids."""
    if not operation_ids:
        return {}
    rows = await connection.execute(_READ, {"operation_ids": list(operation_ids)})
    return {row.operation_id: _stored(row) for row in rows}


async def mark_resent(
    connection: AsyncConnection, resends: Sequence[tuple[UUID, float, str, bool]]
) -> set[UUID]:
    """Counts one more send of the operations that may be sent again.

    Each comes with the seconds after its first send in which a resend is safe, by the
    database's time, with the source that it is about to be sent to, and with whether an
    operator asked for it. Returns the ids that may; the source, the state or the time
    forbids the others.
    """
    if not resends:
        return set()
    rows = await connection.execute(
        _MARK_RESENT,
        {
            "resendable": _RESENDABLE,
            "sources": [source for _, _, source, _ in resends],
            "restarts": [restart for _, _, _, restart in resends],
            **_with_seconds([(operation_id, safe_s) for operation_id, safe_s, _, _ in resends]),
        },
    )
    return set(rows.scalars())


async def read_overdue(
    connection: AsyncConnection, operations: Sequence[tuple[UUID, float]]
) -> set[UUID]:
    """Of these, with their seconds as in `mark_resent`: the ids whose time is over."""
    if not operations:
        return set()
    rows = await connection.execute(_READ_OVERDUE, _with_seconds(operations))
    return set(rows.scalars())


async def read_unresolved(connection: AsyncConnection, most: int) -> list[Standing]:
    """The operations that have no definite outcome, counted by state: the `most` oldest."""
    return [
        Standing(State(row.state), row.operations, row.oldest_seconds)
        for row in await connection.execute(_READ_UNRESOLVED, {"most": most})
    ]


async def record(
    connection: AsyncConnection, findings: Sequence[tuple[Operation, Finding, bool]]
) -> dict[UUID, Stored]:
    """Stores the findings that move their rows, by the table of states.

    findings: no operation twice; each with whether an operator asked. Returns the rows that
    changed; the others stay as they are.
    """
    if not findings:
        return {}
    by_id = {operation.operation_id: (operation, finding) for operation, finding, _ in findings}
    # In the one order of locks: two executors that drive the same operations find them in any.
    ordered = sorted(findings, key=lambda found: found[0].operation_id.int)
    rows = await connection.execute(
        _RECORD, {"findings": json.dumps([_finding(*found) for found in ordered])}
    )
    return {
        operation_id: _recorded(*by_id[operation_id], source, psp_reference, change_time)
        for operation_id, source, psp_reference, change_time in rows
    }


def _finding(operation: Operation, finding: Finding, restart: bool) -> dict[str, Any]:
    state, origins = _MOVES[finding.outcome, restart]
    fields: dict[str, Any] = {
        "operation_id": operation.operation_id.hex,
        "state": state,
        "origins": origins,
        "evidence": finding.source,
    }
    if finding.outcome is Outcome.REFUSED:
        # The row tells, not this process: another executor may have sent it again meanwhile.
        fields["sends"] = 1
    if finding.psp_reference:
        fields["psp_reference"] = finding.psp_reference
    if finding.captured is not None:
        fields["captured_minor"] = finding.captured.amount_minor
        fields["captured_currency"] = finding.captured.currency_code
    if finding.fee is not None:
        fields["fee_minor"] = finding.fee.amount_minor
        fields["fee_currency"] = finding.fee.currency_code
    if finding.decline_category is not None:
        fields["decline_category"] = finding.decline_category
        fields["decline_code"] = finding.decline_code
    if finding.attention_reason:
        fields["attention_reason"] = finding.attention_reason
    return fields


def _recorded(
    operation: Operation, finding: Finding, source: str, psp_reference: str, change_time: datetime
) -> Stored:
    """What the row says now: to read back what was just written costs as much as to write."""
    return Stored(
        operation,
        MOVES[finding.outcome].target,
        plain(source),
        finding.source,
        plain(psp_reference),
        finding.captured,
        finding.fee,
        finding.decline_category,
        finding.decline_code,
        finding.attention_reason,
        change_time,
    )


def _with_seconds(operations: Sequence[tuple[UUID, float]]) -> dict[str, list[Any]]:
    return {
        "operation_ids": [operation_id for operation_id, _ in operations],
        "safe_seconds": [seconds for _, seconds in operations],
    }


# Texts are read without control characters: an earlier release stored them.
def _stored(row: Any) -> Stored:
    (
        operation_id, payment_id, order_id, kind, amount_minor, currency, payment_method,
        state, source, evidence, psp_reference, captured_minor, captured_currency,
        fee_minor, fee_currency, decline_category, decline_code, attention_reason, change_time,
    ) = row  # fmt: skip
    return Stored(
        Operation(
            operation_id, payment_id, order_id, Kind(kind), amount_minor, currency, payment_method
        ),
        State(state),
        plain(source),
        Source(evidence),
        plain(psp_reference),
        None if captured_minor is None else Money(captured_minor, captured_currency),
        None if fee_minor is None else Money(fee_minor, fee_currency),
        None if decline_category is None else DeclineCategory(decline_category),
        plain(decline_code),
        attention_reason,
        change_time,
    )
