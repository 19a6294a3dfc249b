"""The transactions of executor_svc: one function, one commit, a list.

Everything that is written goes through `write`, which the process's one writer calls:
intents, resends and findings that wait together are one commit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from executor_svc import store
from executor_svc.domain import (
    ELSEWHERE,
    FORGOTTEN,
    OVERDUE,
    UNKNOWN,
    Finding,
    Operation,
    Standing,
    Stored,
)
from mesh.attention import MOST_COUNTED
from mesh.db import Database
from mesh.errors import MeshError, Reason

log = structlog.get_logger()


class Intent(NamedTuple):
    """The operation is about to be sent for the first time, under this key.

    source: the PSP's stable name.
    """

    operation: Operation
    psp_key: UUID
    source: str


class Resend(NamedTuple):
    """The operation is about to be sent again under the same key.

    safe_s: how long after the first send that is safe, in seconds. source: whom it is sent
    to. restart: whether an operator asked for this round.
    """

    operation: Operation
    safe_s: float
    source: str
    restart: bool = False


class Found(NamedTuple):
    """The PSP gave evidence. restart: whether an operator asked for this round."""

    operation: Operation
    finding: Finding
    restart: bool = False


class Unresolved(NamedTuple):
    """The PSP gave no evidence; not_found: it said that it does not know the key.

    safe_s: how long after the first send a resend is safe; then the operation is parked.
    elsewhere: whether it was not asked, because another PSP has the operation.
    """

    operation: Operation
    not_found: bool
    safe_s: float
    elsewhere: bool = False


Write = Intent | Resend | Found | Unresolved


class MaySend(NamedTuple):
    """The intent or the resend is committed: the call may follow, soon."""


MAY_SEND: Final = MaySend()

Written = MaySend | Stored
"""What came of a write: leave to send, or how the operation stands and so is to be told."""


async def write(database: Database, writes: Sequence[Write]) -> list[Written | MeshError]:
    """Writes the list in one commit and says for each item what came of it.

    Idempotent on operation_id; evidence goes before the lack of it, what is definite before
    what is not, and no item sends what another one has evidence of. An Intent may send if
    its row is new; a Resend, if it goes to the source of the first send, the state is one to
    resend in and its time is not over, by the database's clock; an operator's Resend also
    if it is parked and nothing was captured. Whatever moves nothing, because another writer
    was first or the state is terminal, is answered with the row as it is stored. Errors:
    those of Database.commit; of an item, INTERNAL for an operation whose row is gone (a
    database that was restored to an earlier time).
    """
    intents = [(w.operation, w.psp_key, w.source) for w in writes if isinstance(w, Intent)]
    resends = [
        (w.operation.operation_id, w.safe_s, w.source, w.restart)
        for w in writes
        if isinstance(w, Resend)
    ]
    found = [w for w in writes if isinstance(w, Found)]
    unresolved = [w for w in writes if isinstance(w, Unresolved)]
    proven = _strongest(found)

    async def work(connection: AsyncConnection) -> list[Written | MeshError]:
        inserted = await store.insert(connection, intents)
        resent = await store.mark_resent(connection, sorted(resends))
        overdue = await store.read_overdue(
            connection, [(w.operation.operation_id, w.safe_s) for w in unresolved]
        )
        findings = {w.operation.operation_id: _without_evidence(w, overdue) for w in unresolved}
        findings.update(proven)
        stored = await store.record(connection, list(findings.values()))
        inserted -= proven.keys()
        resent -= proven.keys()
        clear = [_may_send(w, inserted, resent) for w in writes]
        untold = {
            w.operation.operation_id
            for w, may_send in zip(writes, clear, strict=True)
            if not may_send
        }
        stored |= await store.read(connection, list(untold - stored.keys()))
        return [
            MAY_SEND if may_send else stored.get(w.operation.operation_id) or _row_gone(w)
            for w, may_send in zip(writes, clear, strict=True)
        ]

    # Of what is unresolved it is read first whether it is overdue.
    one_write = not unresolved and sum(map(bool, (intents, resends, found))) == 1
    return await database.commit("executor.write", work, one_write=one_write)


async def find(database: Database, operation_ids: Sequence[UUID]) -> dict[UUID, Stored]:
    """The stored operations of these ids. Errors: those of Database.read."""

    async def work(connection: AsyncConnection) -> dict[UUID, Stored]:
        return await store.read(connection, operation_ids)

    return await database.read("executor.find", work)


async def unresolved(database: Database) -> list[Standing]:
    """The operations without a definite outcome, by state: the MOST_COUNTED oldest of all.

    Errors: those of Database.read.
    """

    async def work(connection: AsyncConnection) -> list[Standing]:
        return await store.read_unresolved(connection, MOST_COUNTED)

    return await database.read("executor.unresolved", work)


def _may_send(write: Write, inserted: set[UUID], resent: set[UUID]) -> bool:
    if isinstance(write, Intent):
        return write.operation.operation_id in inserted
    return isinstance(write, Resend) and write.operation.operation_id in resent


def _strongest(found: Sequence[Found]) -> dict[UUID, tuple[Operation, Finding, bool]]:
    """One finding for each operation: a definite one, else what is pending; of two the first."""
    strongest: dict[UUID, tuple[Operation, Finding, bool]] = {}
    for w in found:
        operation_id = w.operation.operation_id
        known = strongest.get(operation_id)
        if known is None or w.finding.strength > known[1].strength:
            strongest[operation_id] = (w.operation, w.finding, w.restart)
    return strongest


def _without_evidence(write: Unresolved, overdue: set[UUID]) -> tuple[Operation, Finding, bool]:
    if write.operation.operation_id not in overdue:
        return write.operation, UNKNOWN, False
    if write.elsewhere:
        return write.operation, ELSEWHERE, False
    return write.operation, FORGOTTEN if write.not_found else OVERDUE, False


def _row_gone(write: Write) -> MeshError:
    log.error("operation_gone", **write.operation.ids)
    return MeshError(Reason.INTERNAL, "the operation is not stored any more")
