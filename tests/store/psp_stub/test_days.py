"""Settlement days work on all that was captured, and take the time for it."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.db import Database
from psp_stub import store_days


async def test_whoever_holds_the_days_may_take_long_and_charges_may_not(
    database: Database,
) -> None:
    async def may_take(connection: AsyncConnection) -> object:
        rows = await connection.execute(
            text("SELECT current_setting('statement_timeout'), current_setting('lock_timeout')")
        )
        return tuple(rows.one())

    async def while_it_holds_them(connection: AsyncConnection) -> object:
        await store_days.lock(connection)
        return await may_take(connection)

    assert await database.commit("test", while_it_holds_them) == ("15min", "15min")
    assert await database.commit("test", may_take) == ("2s", "1500ms")
