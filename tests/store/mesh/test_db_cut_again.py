"""A server that ends every session at once, as one does that is going down."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.db import Database, NotCommitted
from tests.store.mesh.conftest import Disturber, insert


@pytest.mark.parametrize("how", ["commit", "one_write", "read"])
async def test_new_connections_that_are_cut_at_once_are_an_error_of_ours(
    database: Database, disturber: Disturber, how: str
) -> None:
    """Whatever the pool says when it gives up, a background loop must not end by it."""
    engines = [database._transactions.sync_engine, database._statements.sync_engine]

    def cut(*_: Any) -> None:
        disturber.kill()

    for engine in engines:
        event.listen(engine, "connect", cut)

    async def one(connection: AsyncConnection) -> None:
        await connection.execute(text("SELECT 1"))

    if how == "read":
        call = database.read("test", one)
    else:
        call = database.commit("test", lambda c: insert(c, 1), one_write=how == "one_write")
    with pytest.raises(NotCommitted):
        await call
    for engine in engines:
        event.remove(engine, "connect", cut)
    await database.read("test", one)
    assert disturber.ids() == []
