"""The transactions of wallet_svc: one function, one commit, a list."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh import ids
from mesh.db import Database
from mesh.errors import MeshError, Reason
from mesh.paging import Position
from wallet_svc import domain, store
from wallet_svc.domain import Applied, Balance, ListedMovement, Movement

log = structlog.get_logger()


async def apply_movements(
    database: Database, movements: Sequence[Movement]
) -> list[Applied | MeshError]:
    """Writes the movements and changes the balances, all in one commit.

    Idempotent on (operation_id, revision): a movement that is stored, from before or
    earlier in the list, answers as it is stored and changes nothing. One that is stored
    with other fields is OPERATION_CONFLICT, naming them, and fails no neighbour.
    Errors: those of Database.commit.
    """
    asked = [Applied(m.movement_id, m, domain.split(m)) for m in movements]
    first: dict[UUID, Applied] = {}
    for movement in asked:
        first.setdefault(movement.movement_id, movement)

    async def work(connection: AsyncConnection) -> dict[UUID, Applied]:
        written = await store.insert_movements(connection, list(first.values()))
        stored = {key: first[key] for key in written}
        unanswered = [m.movement_id for key, m in first.items() if key not in written]
        if unanswered:
            # In a statement of its own, which sees what the insert had to wait for.
            for movement in await store.read_movements(connection, unanswered):
                stored[movement.movement_id] = movement
        return stored

    stored = await database.commit("wallet.apply", work, one_write=True)
    return [_answer(movement, stored[movement.movement_id]) for movement in asked]


def _answer(asked: Applied, stored: Applied) -> Applied | MeshError:
    fields = domain.differences(asked.movement, stored.movement)
    if not fields:
        return stored
    log.warning(
        "movement_conflict",
        order_id=asked.movement.order_id.hex,
        operation_id=asked.movement.operation_id.hex,
        movement_id=asked.movement_id.hex,
        fields=fields,
    )
    return MeshError(
        Reason.OPERATION_CONFLICT,
        "this operation and revision moved something else",
        {"fields": ",".join(fields)},
    )


async def find_movements(database: Database, operation_ids: Collection[UUID]) -> list[Applied]:
    """The first movements of the operations, as they are stored, in any order."""
    movement_ids = [ids.movement_id(operation_id) for operation_id in operation_ids]

    async def work(connection: AsyncConnection) -> list[Applied]:
        return await store.read_movements(connection, movement_ids)

    return await database.read("wallet.find", work)


async def get_balances(database: Database, seller_id: str) -> list[Balance]:
    """A seller's balances by currency; none for an unknown seller."""

    async def work(connection: AsyncConnection) -> list[Balance]:
        return await store.read_balances(connection, seller_id)

    return await database.read("wallet.balances", work)


async def list_movements(
    database: Database, seller_id: str, after: Position | None, limit: int
) -> list[ListedMovement]:
    """At most `limit` movements of a seller, newest first, from `after` on."""
    before = None if after is None else (after.create_time, after.id)

    async def work(connection: AsyncConnection) -> list[ListedMovement]:
        return await store.list_movements(connection, seller_id, before, limit)

    return await database.read("wallet.movements", work)
