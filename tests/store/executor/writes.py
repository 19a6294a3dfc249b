"""Writes of the executor for its store tests."""

from __future__ import annotations

from executor_svc import operations
from executor_svc.domain import (
    DeclineCategory,
    Finding,
    Operation,
    Outcome,
    Source,
    State,
    Stored,
    after,
)
from executor_svc.operations import MAY_SEND, Found, Intent, Write, Written
from mesh import ids
from mesh.db import Database
from mesh.errors import MeshError
from mesh.money import Money
from tests.support.executor import new_operation

DAY_S = 86_400.0
SAFE_S = DAY_S / 2

REFERENCE = "psp_1"


def intent(operation: Operation) -> Intent:
    return Intent(operation, ids.psp_key(operation.operation_id), "psp")


def finding_of(operation: Operation, outcome: Outcome) -> Finding:
    """A finding with this outcome, with what such a one has."""
    match outcome:
        case Outcome.CAPTURED:
            fee = Money(320, operation.currency_code)
            return Finding(outcome, Source.PSP_ANSWER, REFERENCE, operation.amount, fee)
        case Outcome.WRONG_AMOUNT:
            wrong = Money(operation.amount_minor + 1, operation.currency_code)
            return Finding(
                outcome, Source.PSP_ANSWER, REFERENCE, wrong, attention_reason="WRONG_AMOUNT: x"
            )
        case Outcome.DECLINED:
            return Finding(
                outcome,
                Source.PSP_LOOK_UP,
                REFERENCE,
                decline_category=DeclineCategory.FRAUD,
                decline_code="stolen",
            )
        case Outcome.PENDING:
            return Finding(outcome, Source.PSP_ANSWER, REFERENCE)
        case Outcome.REFUSED | Outcome.OVERDUE | Outcome.FORGOTTEN:
            return Finding(outcome, attention_reason="SOME_REASON: x")
        case Outcome.UNKNOWN:
            return Finding(outcome)


async def write_one(database: Database, write: Write) -> Written | MeshError:
    (written,) = await operations.write(database, [write])
    return written


async def intended(database: Database, *, state: State = State.SENT) -> Operation:
    """A stored operation in this state."""
    operation = new_operation()
    assert await write_one(database, intent(operation)) is MAY_SEND
    ways = {after(State.SENT, outcome): outcome for outcome in Outcome}
    if state is not State.SENT:
        await write_one(database, Found(operation, finding_of(operation, ways[state])))
    return operation


async def state_after(database: Database, write: Write) -> State:
    stored = await write_one(database, write)
    assert isinstance(stored, Stored)
    return stored.state
