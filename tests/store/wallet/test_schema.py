"""What the tables themselves refuse, and how they are read."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

import psycopg
import pytest

from mesh.db import Database
from mesh.paging import Position
from tests.support.captures import new_movement, new_seller
from wallet_svc.domain import ListedMovement, Movement
from wallet_svc.operations import apply_movements, list_movements

Connection = psycopg.Connection[tuple[object, ...]]

INSERT = """
INSERT INTO movement (movement_id, operation_id, order_id, revision, kind, seller_id, currency,
                      amount_minor, pending_minor, available_minor, debt_minor)
VALUES (%(id)s, %(id)s, %(id)s, %(revision)s, %(kind)s, %(seller_id)s, %(currency)s,
        %(amount)s, %(pending)s, %(available)s, %(debt)s)
"""
GOOD: dict[str, Any] = {
    "revision": 0,
    "kind": 1,
    "seller_id": "s",
    "currency": "EUR",
    "amount": 5,
    "pending": 5,
    "available": 0,
    "debt": 0,
}


@pytest.mark.parametrize(
    "change",
    [
        {"amount": -1, "pending": -1},
        {"amount": 10**15, "pending": 10**15},
        {"pending": 4},
        {"pending": 0, "available": 5},
        {"debt": 1},
        {"kind": 0},
        {"revision": -1},
        {"currency": ""},
        {"seller_id": ""},
        {"seller_id": "s" * 256},
    ],
)
def test_a_movement_that_breaks_a_rule(app: Connection, change: dict[str, Any]) -> None:
    app.execute(INSERT, {**GOOD, "id": uuid.uuid4()})
    with pytest.raises(psycopg.errors.CheckViolation):
        app.execute(INSERT, {**GOOD, "id": uuid.uuid4(), **change})


@pytest.mark.parametrize("part", ["pending", "available", "reserved", "debt"])
@pytest.mark.parametrize("amount_minor", [-1, 10**18])
def test_a_balance_out_of_bounds(app: Connection, part: str, amount_minor: int) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        app.execute(
            f"INSERT INTO balance (seller_id, currency, {part}_minor) VALUES ('s', 'EUR', %s)",
            (amount_minor,),
        )


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE movement SET amount_minor = 1",
        "DELETE FROM movement",
        "DELETE FROM balance",
        "TRUNCATE movement",
        "TRUNCATE balance",
        "ALTER TABLE balance DROP CONSTRAINT balance_pending",
        "CREATE TABLE mine ()",
        "CREATE TEMPORARY TABLE mine ()",
    ],
)
def test_what_the_service_may_not_do(app: Connection, statement: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        app.execute(statement)


async def everything(database: Database, seller_id: str, size: int) -> list[list[ListedMovement]]:
    pages: list[list[ListedMovement]] = []
    after: Position | None = None
    while page := await list_movements(database, seller_id, after, size):
        pages.append(page)
        after = Position(page[-1].create_time, page[-1].movement_id)
    return pages


async def test_movements_are_listed_newest_first(database: Database) -> None:
    seller = new_seller()
    written: list[Movement] = []
    for _ in range(3):  # each list has one create_time, so that the id decides within it
        movements = [new_movement(seller_id=seller) for _ in range(5)]
        await apply_movements(database, [*movements, new_movement()])
        movements.sort(key=lambda movement: movement.movement_id, reverse=True)
        written = movements + written

    for size in (1, 4, 5, 100):
        pages = await everything(database, seller, size)
        assert all(len(page) == size for page in pages[:-1])
        listed = [movement for page in pages for movement in page]
        assert [m.movement_id for m in listed] == [m.movement_id for m in written]
        assert [m.order_id for m in listed] == [m.order_id for m in written]


async def test_a_list_is_stable_under_inserts(database: Database) -> None:
    seller = new_seller()
    await apply_movements(database, [new_movement(seller_id=seller) for _ in range(6)])
    before = [m.movement_id for page in await everything(database, seller, 10) for m in page]

    first = await list_movements(database, seller, None, 3)
    await apply_movements(database, [new_movement(seller_id=seller) for _ in range(6)])
    after = Position(first[-1].create_time, first[-1].movement_id)
    rest = await list_movements(database, seller, after, 10)
    assert [m.movement_id for m in first + rest] == before


def test_times_are_aware(app: Connection) -> None:
    app.execute(INSERT, {**GOOD, "id": uuid.uuid4()})
    row = app.execute("SELECT create_time FROM movement LIMIT 1").fetchone()
    assert row is not None
    assert isinstance(row[0], datetime)
    assert row[0].tzinfo is not None


async def test_a_page_is_read_from_the_index(database: Database, superuser: Connection) -> None:
    sellers = [new_seller() for _ in range(10)]
    await apply_movements(database, [new_movement(seller_id=s) for s in sellers * 200])
    superuser.commit()
    superuser.autocommit = True
    superuser.execute("VACUUM (ANALYZE) movement")
    plan = "\n".join(
        str(row[0])
        for row in superuser.execute(
            "EXPLAIN SELECT * FROM movement WHERE seller_id = %s"
            " AND (create_time, movement_id) < (now(), %s)"
            " ORDER BY create_time DESC, movement_id DESC LIMIT 50",
            (sellers[0], uuid.uuid4()),
        )
    )
    assert "movement_by_seller" in plan
    assert "Sort" not in plan
