"""When the same key may be sent again: by stored time, for half of the PSP's key window."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from executor_svc import operations, store
from executor_svc.domain import State, Stored
from executor_svc.operations import MAY_SEND, Resend, Unresolved
from mesh.db import Database
from tests.store.executor.writes import (
    SAFE_S,
    intended,
    state_after,
    write_one,
)
from tests.support.executor import row


async def at(database: Database, ahead: str, work: Any, *arguments: Any) -> Any:
    """What the store function gives when the deciding time is so far ahead."""

    async def shifted(connection: AsyncConnection) -> Any:
        await connection.exec_driver_sql(f"SET LOCAL paymesh.clock_offset = '{ahead}'")
        return await work(connection, *arguments)

    return await database.commit("test.shifted", shifted)


@pytest.mark.parametrize(
    ("ahead", "allowed"),
    [("0", True), ("11:59:00", True), ("12:00:00", False), ("25:00:00", False)],
)
async def test_a_resend_is_safe_for_half_of_the_key_window(
    database: Database, executor_url: str, ahead: str, allowed: bool
) -> None:
    operation = await intended(database)
    key = operation.operation_id
    resend = [(key, SAFE_S, "psp", False)]
    marked: set[UUID] = await at(database, ahead, store.mark_resent, resend)
    overdue: set[UUID] = await at(database, ahead, store.read_overdue, [(key, SAFE_S)])
    assert marked == ({operation.operation_id} if allowed else set())
    assert overdue == (set() if allowed else {operation.operation_id})
    assert (row(executor_url, operation) or {})["send_count"] == (2 if allowed else 1)


@pytest.mark.parametrize("state", State)
async def test_only_what_is_unresolved_is_resent(database: Database, state: State) -> None:
    operation = await intended(database, state=state)
    written = await write_one(database, Resend(operation, SAFE_S, "psp"))
    if state in (State.SENT, State.UNKNOWN, State.PENDING):
        assert written is MAY_SEND
    else:
        assert isinstance(written, Stored)
        assert written.state is state


@pytest.mark.parametrize("restart", [False, True])
async def test_it_is_resent_to_the_psp_of_its_first_send_only(
    database: Database, executor_url: str, restart: bool
) -> None:
    operation = await intended(database)
    written = await write_one(database, Resend(operation, SAFE_S, "another", restart))
    assert isinstance(written, Stored)
    assert (written.state, written.source) == (State.SENT, "psp")
    assert (row(executor_url, operation) or {})["send_count"] == 1


async def test_each_item_of_a_list_has_its_own_window(database: Database) -> None:
    safe, late = await intended(database), await intended(database)
    written = await operations.write(
        database, [Resend(safe, SAFE_S, "psp"), Resend(late, 0.0, "psp")]
    )
    assert written[0] is MAY_SEND
    assert isinstance(written[1], Stored)
    assert written[1].state is State.SENT


async def test_without_evidence_it_is_unknown_while_a_resend_is_safe(database: Database) -> None:
    operation = await intended(database)
    unresolved = Unresolved(operation, not_found=True, safe_s=SAFE_S)
    assert await state_after(database, unresolved) is State.UNKNOWN


@pytest.mark.parametrize("not_found", [True, False])
async def test_without_evidence_it_is_parked_when_a_resend_is_not_safe(
    database: Database, not_found: bool
) -> None:
    operation = await intended(database)
    stored = await write_one(database, Unresolved(operation, not_found=not_found, safe_s=0.0))
    assert isinstance(stored, Stored)
    assert stored.state is State.PARKED_UNKNOWN
    assert stored.attention_reason.startswith("OUTCOME_UNKNOWN: ")


async def test_what_is_pending_is_parked_only_if_the_psp_forgot_it(database: Database) -> None:
    operation = await intended(database, state=State.PENDING)
    silent = Unresolved(operation, not_found=False, safe_s=0.0)
    assert await state_after(database, silent) is State.PENDING
    forgotten = Unresolved(operation, not_found=True, safe_s=0.0)
    assert await state_after(database, forgotten) is State.PARKED_UNKNOWN
