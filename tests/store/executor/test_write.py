"""What the executor commits, on a real PostgreSQL: once, in lists, and by the table of states."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from executor_svc import operations
from executor_svc.domain import (
    MOVES,
    Outcome,
    Source,
    State,
    Stored,
    after,
)
from executor_svc.operations import (
    MAY_SEND,
    Found,
    MaySend,
    Resend,
    Unresolved,
    Write,
)
from mesh import ids
from mesh.db import Database
from mesh.errors import MeshError, Reason
from mesh.money import Money
from tests.store.executor.writes import (
    REFERENCE,
    SAFE_S,
    finding_of,
    intended,
    intent,
    state_after,
    write_one,
)
from tests.support.executor import new_operation, new_operations, row

# --- intents ---------------------------------------------------------------------------


async def test_an_intent_is_stored_before_it_may_be_sent(
    database: Database, executor_url: str
) -> None:
    operation = new_operation()
    assert await write_one(database, intent(operation)) is MAY_SEND
    stored = row(executor_url, operation)
    assert stored is not None
    assert stored["state"] == State.SENT
    assert stored["send_count"] == 1
    assert stored["psp_key"] == ids.psp_key(operation.operation_id)
    assert stored["first_send_time"] is not None


async def test_an_intent_may_be_sent_once(database: Database) -> None:
    operation = new_operation()
    await write_one(database, intent(operation))
    stored = await write_one(database, intent(operation))
    assert isinstance(stored, Stored)
    assert stored.operation == operation
    assert stored.state is State.SENT


async def test_of_concurrent_intents_one_may_send(database: Database) -> None:
    operations_ = new_operations(50)
    forwards = [intent(operation) for operation in operations_]
    written = await asyncio.gather(
        *(operations.write(database, writes) for writes in (forwards, forwards[::-1]) * 3)
    )
    for i in range(50):
        answers = [written[n][i] if n % 2 == 0 else written[n][49 - i] for n in range(6)]
        assert sum(isinstance(answer, MaySend) for answer in answers) == 1
        assert all(isinstance(answer, MaySend | Stored) for answer in answers)


async def test_an_intent_with_other_fields_changes_nothing(
    database: Database, executor_url: str
) -> None:
    operation = await intended(database)
    other = operation._replace(amount_minor=1)
    stored = await write_one(database, intent(other))
    assert isinstance(stored, Stored)
    assert stored.operation == operation
    assert (row(executor_url, operation) or {})["amount_minor"] == operation.amount_minor


async def test_one_commit_takes_all_kinds_of_writes(database: Database) -> None:
    new = new_operation()
    known, sent, lost, pending = [await intended(database) for _ in range(4)]
    written = await operations.write(
        database,
        [
            Found(sent, finding_of(sent, Outcome.CAPTURED)),
            intent(new),
            Resend(lost, SAFE_S, "psp"),
            intent(known),
            Unresolved(pending, not_found=True, safe_s=SAFE_S),
        ],
    )
    assert [w.state if isinstance(w, Stored) else w for w in written] == [
        State.CAPTURED,
        MAY_SEND,
        MAY_SEND,
        State.SENT,
        State.UNKNOWN,
    ]


async def test_a_row_that_is_gone_fails_alone(database: Database) -> None:
    known, gone = await intended(database), new_operation()
    captured, missing = await operations.write(
        database, [Found(o, finding_of(o, Outcome.CAPTURED)) for o in (known, gone)]
    )
    assert isinstance(captured, Stored)
    assert isinstance(missing, MeshError)
    assert missing.reason is Reason.INTERNAL


# --- findings --------------------------------------------------------------------------


async def test_a_capture_is_stored_with_all_that_the_psp_told(database: Database) -> None:
    operation = await intended(database)
    told = await write_one(database, Found(operation, finding_of(operation, Outcome.CAPTURED)))
    assert isinstance(told, Stored)
    assert told == Stored(
        operation,
        State.CAPTURED,
        "psp",
        Source.PSP_ANSWER,
        REFERENCE,
        operation.amount,
        Money(320, "EUR"),
        None,
        "",
        "",
        told.change_time,
    )


@pytest.mark.parametrize("outcome", Outcome)
async def test_what_is_told_is_what_a_later_reader_finds(
    database: Database, outcome: Outcome
) -> None:
    operation = await intended(database)
    told = await write_one(database, Found(operation, finding_of(operation, outcome)))
    found = await operations.find(database, [operation.operation_id])
    assert found == {operation.operation_id: told}


@pytest.mark.parametrize("outcome", Outcome)
@pytest.mark.parametrize("state", State)
async def test_a_finding_moves_a_row_as_the_table_says(
    database: Database, state: State, outcome: Outcome
) -> None:
    operation = await intended(database, state=state)
    before = (await operations.find(database, [operation.operation_id])).popitem()[1]
    told = await write_one(database, Found(operation, finding_of(operation, outcome)))
    assert isinstance(told, Stored)
    assert told.state is after(state, outcome)
    if state not in MOVES[outcome].origins:
        assert told == before


async def test_a_late_timeout_never_overwrites_a_capture(database: Database) -> None:
    operation = await intended(database, state=State.CAPTURED)
    for not_found in (False, True):
        for safe_s in (SAFE_S, 0.0):
            late = Unresolved(operation, not_found=not_found, safe_s=safe_s)
            assert await state_after(database, late) is State.CAPTURED


async def test_a_refusal_of_one_call_does_not_park_what_another_executor_sent_again(
    database: Database,
) -> None:
    operation = await intended(database)
    assert await write_one(database, Resend(operation, SAFE_S, "psp")) is MAY_SEND
    refused = Found(operation, finding_of(operation, Outcome.REFUSED))
    assert await state_after(database, refused) is State.SENT
    captured = Found(operation, finding_of(operation, Outcome.CAPTURED))
    assert await state_after(database, captured) is State.CAPTURED


async def test_evidence_goes_before_its_lack_in_one_commit(database: Database) -> None:
    operation = await intended(database)
    evidence = Found(operation, finding_of(operation, Outcome.CAPTURED))
    lack = Unresolved(operation, not_found=True, safe_s=SAFE_S)
    lists: list[list[Write]] = [[evidence, lack], [lack, evidence]]
    for writes in lists:
        written = await operations.write(database, writes)
        assert [w.state for w in written if isinstance(w, Stored)] == [State.CAPTURED] * 2


async def test_what_is_proven_in_the_commit_of_its_intents_is_not_sent(
    database: Database, executor_url: str
) -> None:
    """A settlement line that comes together with the first call."""
    operation = new_operation()
    found = [
        Found(operation, finding_of(operation, o)) for o in (Outcome.CAPTURED, Outcome.PENDING)
    ]
    written = await operations.write(database, [intent(operation), intent(operation), *found])
    assert [w.state for w in written if isinstance(w, Stored)] == [State.CAPTURED] * 4
    assert (row(executor_url, operation) or {})["captured_minor"] == operation.amount_minor


async def test_a_second_writer_is_answered_with_the_first_ones_row(database: Database) -> None:
    operation = await intended(database)
    first = await write_one(database, Found(operation, finding_of(operation, Outcome.DECLINED)))
    second = await write_one(database, Found(operation, finding_of(operation, Outcome.CAPTURED)))
    assert second == first


async def test_evidence_moves_a_row_that_changes_under_it(
    database: Database, executor_url: str
) -> None:
    """The timeout of another replica is committed while the capture waits for its row."""
    operation = await intended(database)
    with psycopg.connect(executor_url) as other:
        other.execute(
            "UPDATE operation SET state = 2 WHERE operation_id = %s", (operation.operation_id,)
        )
        capture = asyncio.create_task(
            write_one(database, Found(operation, finding_of(operation, Outcome.CAPTURED)))
        )
        await asyncio.sleep(0.2)
        assert not capture.done()
        other.commit()
    stored = await capture
    assert isinstance(stored, Stored)
    assert stored.state is State.CAPTURED


async def test_the_lack_of_evidence_waits_and_yields_to_a_capture(
    database: Database, executor_url: str
) -> None:
    operation = await intended(database)
    with psycopg.connect(executor_url) as other:
        other.execute(
            "UPDATE operation SET state = 6, evidence = 1, captured_minor = amount_minor,"
            " captured_currency = currency WHERE operation_id = %s",
            (operation.operation_id,),
        )
        lack = asyncio.create_task(
            write_one(database, Unresolved(operation, not_found=True, safe_s=SAFE_S))
        )
        await asyncio.sleep(0.2)
        other.commit()
    stored = await lack
    assert isinstance(stored, Stored)
    assert stored.state is State.CAPTURED


async def test_a_reference_that_was_told_is_kept(database: Database) -> None:
    operation = await intended(database, state=State.PENDING)
    finding = finding_of(operation, Outcome.CAPTURED)._replace(psp_reference="")
    stored = await write_one(database, Found(operation, finding))
    assert isinstance(stored, Stored)
    assert stored.psp_reference == REFERENCE
