"""An operator's retry drives what is parked, and never what has just ended."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.db import Database
from mesh.errors import MeshError, Reason
from payment_svc import operations, store
from payment_svc.domain import Item, NewRetry, OperationState, OrderState, items_of
from tests.support.payments import new_payment, progress

LONG_S = 60.0
S = OrderState

FAILED = OperationState.FAILED


async def polled(database: Database, epoch: int) -> Item:
    """A parked order's item, on its way to look for evidence."""
    payment = new_payment()
    await operations.write(database, [payment], epoch)
    (item,) = items_of(payment, epoch)
    await operations.write(database, [progress(item, S.PARKED, retry_after_s=0.0)], epoch)
    (taken,) = (await operations.take(database, epoch, 10)).items
    assert taken.state is S.PARKED
    return taken


async def until_one_waits_for_the_other(database: Database) -> None:
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    for _ in range(100):
        if await database.read("test", lambda c: c.scalar(text(query))):
            return
        await asyncio.sleep(0.01)
    raise AssertionError("nobody waits")


@pytest.mark.parametrize("end", [S.DECLINED, S.SUCCEEDED])
async def test_an_order_that_ends_while_its_retry_comes_stays_at_rest(
    database: Database, end: OrderState
) -> None:
    mine = await operations.open_epoch(database, "me", LONG_S)
    other = await operations.open_epoch(database, "other", LONG_S)
    item = await polled(database, mine)
    more: dict[str, object] = {"operation_state": FAILED} if end is S.DECLINED else {}
    may_commit = asyncio.Event()

    async def ending(connection: AsyncConnection) -> None:
        assert await store.record(connection, [progress(item, end, **more)])
        await may_commit.wait()

    committing = asyncio.create_task(database.commit("test.ending", ending))
    await asyncio.sleep(0.1)
    wish = NewRetry(item.payment_id, "ops", "retry-1", "looked at it")
    retrying = asyncio.create_task(operations.retry(database, wish, other))
    await until_one_waits_for_the_other(database)
    may_commit.set()
    await committing
    with pytest.raises(MeshError) as refused:
        await retrying
    assert refused.value.reason is Reason.WRONG_STATE
    row = await database.read(
        "test", lambda c: c.execute(text("SELECT epoch, restart FROM operation"))
    )
    assert list(row) == [(None, False)]
    retries = await database.read(
        "test", lambda c: c.scalar(text("SELECT count(*) FROM payment_retry"))
    )
    assert retries == 0


async def test_only_what_has_ended_and_is_still_owned_is_let_go_of(database: Database) -> None:
    mine = await operations.open_epoch(database, "me", LONG_S)
    ended, open_, anothers = [await polled(database, mine) for _ in range(3)]
    for item, epoch in ((ended, mine), (anothers, mine + 1)):
        await operations.write(database, [progress(item, S.DECLINED, operation_state=FAILED)], mine)
        await database.commit(
            "test", lambda c, i=item, e=epoch: c.execute(  # type: ignore[misc]
                text("UPDATE operation SET epoch = :e, restart = true WHERE operation_id = :i"),
                {"e": e, "i": i.operation_id},
            )
        )  # fmt: skip
    assert await operations.let_go(database, [ended, open_, anothers], mine) == {ended.operation_id}
    rows = await database.read(
        "test", lambda c: c.execute(text("SELECT operation_id, epoch, restart FROM operation"))
    )
    assert {row.operation_id: (row.epoch, row.restart) for row in rows} == {
        ended.operation_id: (None, False),
        open_.operation_id: (mine, False),
        anothers.operation_id: (mine + 1, True),
    }
