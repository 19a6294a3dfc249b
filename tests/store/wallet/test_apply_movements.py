"""Movements change balances exactly once, whatever comes doubled, wrong or at once."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections import Counter
from functools import partial
from typing import Any

import psycopg
import pytest

from mesh.batching import Writer
from mesh.db import BadData, Database
from mesh.errors import Code, MeshError, Reason
from mesh.money import MAX_AMOUNT_MINOR
from tests.support.captures import new_movement, new_seller
from tests.support.databases import superuser_url
from wallet_svc.domain import Applied, Balance, Movement, Split
from wallet_svc.operations import apply_movements, get_balances, list_movements

# Every balance of the database against its movements; all tests of a session add to it.
UNPROVEN = """
SELECT seller_id, currency
FROM balance
FULL JOIN (
  SELECT seller_id, currency, sum(pending_minor) AS pending,
         sum(available_minor) AS available, sum(debt_minor) AS debt
  FROM movement
  GROUP BY seller_id, currency
) AS moved USING (seller_id, currency)
WHERE (pending_minor, available_minor, debt_minor) IS DISTINCT FROM (pending, available, debt)
   OR reserved_minor <> 0
"""


def assert_balances_are_proven(url: str) -> None:
    with psycopg.connect(url) as connection:
        assert connection.execute(UNPROVEN).fetchall() == []
        count = connection.execute("SELECT count(*) FROM balance").fetchone()
    assert count is not None
    assert count[0] > 0


def applied(answer: Applied | MeshError) -> Applied:
    assert isinstance(answer, Applied), answer
    return answer


def refused(answer: Applied | MeshError) -> MeshError:
    assert isinstance(answer, MeshError), answer
    return answer


async def pending(database: Database, seller_id: str) -> dict[str, int]:
    return {b.currency_code: b.pending_minor for b in await get_balances(database, seller_id)}


async def test_captures_are_pending(database: Database, wallet_url: str) -> None:
    seller, other = new_seller(), new_seller()
    movements = [
        new_movement(seller_id=seller, amount_minor=90),
        new_movement(seller_id=other, amount_minor=5),
        new_movement(seller_id=seller, amount_minor=10),
        new_movement(seller_id=seller, amount_minor=7, currency_code="JPY"),
    ]
    answers = [applied(answer) for answer in await apply_movements(database, movements)]

    assert [answer.movement_id for answer in answers] == [m.movement_id for m in movements]
    assert [answer.split for answer in answers] == [Split(m.amount_minor, 0, 0) for m in movements]
    assert await get_balances(database, seller) == [
        Balance("EUR", 100, 0, 0, 0),
        Balance("JPY", 7, 0, 0, 0),
    ]
    assert await pending(database, other) == {"EUR": 5}
    assert_balances_are_proven(wallet_url)


async def test_an_unknown_seller_has_nothing(database: Database) -> None:
    assert await get_balances(database, new_seller()) == []


async def test_a_movement_of_zero_is_a_movement(database: Database, wallet_url: str) -> None:
    movement = new_movement(amount_minor=0)
    (answer,) = await apply_movements(database, [movement])
    assert applied(answer).split == Split(0, 0, 0)
    assert len(await list_movements(database, movement.seller_id, None, 10)) == 1
    assert await pending(database, movement.seller_id) == {"EUR": 0}
    assert_balances_are_proven(wallet_url)


async def test_a_replay_changes_nothing(database: Database, wallet_url: str) -> None:
    seller = new_seller()
    movements = [new_movement(seller_id=seller) for _ in range(3)]
    first = await apply_movements(database, movements)
    new = new_movement(seller_id=seller)
    again = await apply_movements(database, [movements[2], new, movements[0]])
    assert again == [first[2], again[1], first[0]]
    assert applied(again[1]).movement == new
    assert await pending(database, seller) == {"EUR": 4 * 90}
    assert_balances_are_proven(wallet_url)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"seller_id": "another-seller"}, "seller_id"),
        ({"order_id": uuid.uuid4()}, "order_id"),
        ({"amount_minor": 91}, "amount.amount_minor"),
        ({"currency_code": "USD"}, "amount.currency_code"),
    ],
)
async def test_a_conflict_names_the_field_and_moves_nothing(
    database: Database, wallet_url: str, change: dict[str, Any], field: str
) -> None:
    movement = new_movement()
    other = movement._replace(**change)
    neighbour = new_movement()
    await apply_movements(database, [movement])
    before = await pending(database, other.seller_id)

    error, beside = await apply_movements(database, [other, neighbour])

    assert refused(error).reason is Reason.OPERATION_CONFLICT
    assert refused(error).code is Code.ALREADY_EXISTS
    assert refused(error).metadata == {"fields": field}
    assert applied(beside).movement == neighbour
    assert await pending(database, movement.seller_id) == {"EUR": 90}
    assert await pending(database, other.seller_id) == before
    assert_balances_are_proven(wallet_url)


async def test_another_revision_is_another_movement(database: Database) -> None:
    movement = new_movement()
    answers = await apply_movements(database, [movement, movement._replace(revision=1)])
    assert len({applied(answer).movement_id for answer in answers}) == 2
    assert await pending(database, movement.seller_id) == {"EUR": 180}


async def test_one_key_several_times_in_a_list(database: Database, wallet_url: str) -> None:
    movement = new_movement()
    other = movement._replace(amount_minor=91)
    answers = await apply_movements(database, [movement, other, movement])
    assert applied(answers[0]) == applied(answers[2])
    assert refused(answers[1]).metadata == {"fields": "amount.amount_minor"}
    assert await pending(database, movement.seller_id) == {"EUR": 90}

    # Against what is stored, not against who was first in this list.
    answers = await apply_movements(database, [other, movement])
    assert refused(answers[0]).reason is Reason.OPERATION_CONFLICT
    assert applied(answers[1]).movement == movement
    assert_balances_are_proven(wallet_url)


async def test_an_empty_list(database: Database) -> None:
    assert await apply_movements(database, []) == []


async def test_a_row_that_the_database_refuses_stands_alone(
    database: Database, wallet_url: str
) -> None:
    full, good = new_seller(), new_seller()
    # A balance takes 1000 of the largest movements, and not one more.
    movements = [new_movement(seller_id=full, amount_minor=MAX_AMOUNT_MINOR) for _ in range(1001)]
    movements.insert(500, new_movement(seller_id=good))
    writer: Writer[Movement, Applied] = Writer("test", partial(apply_movements, database))
    running = asyncio.ensure_future(writer.run())
    try:
        answers = await writer.write(movements, durable=False)
    finally:
        running.cancel()

    errors = [answer for answer in answers if isinstance(answer, MeshError)]
    assert [type(error) for error in errors] == [BadData]
    assert answers[-1] is errors[0]
    assert await pending(database, full) == {"EUR": 1000 * MAX_AMOUNT_MINOR}
    assert await pending(database, good) == {"EUR": 90}
    assert len(await list_movements(database, full, None, 2000)) == 1000
    assert_balances_are_proven(wallet_url)


async def test_concurrent_lists_with_the_same_sellers_and_keys(
    wallet_url: str, databases: dict[str, str]
) -> None:
    """Two replicas, eight lists at once: no deadlock, and each key moves once."""
    sellers = [new_seller() for _ in range(5)]
    chance = random.Random(5)
    pool = [
        new_movement(
            seller_id=chance.choice(sellers),
            amount_minor=chance.randrange(1000),
            currency_code=chance.choice(["EUR", "USD"]),
        )
        for _ in range(300)
    ]
    replicas = [Database(wallet_url, application_name=f"test-{n}", pool_size=4) for n in range(2)]
    deadlocks = _deadlocks(databases)

    async def one(number: int) -> list[Applied | MeshError]:
        listed = chance.sample(pool, 100)
        return await apply_movements(replicas[number % 2], listed)

    for _ in range(6):
        for answers in await asyncio.gather(*(one(number) for number in range(8))):
            assert all(isinstance(answer, Applied) for answer in answers)
    await apply_movements(replicas[0], pool)

    expected: Counter[tuple[str, str]] = Counter()
    for movement in pool:
        expected[movement.seller_id, movement.currency_code] += movement.amount_minor
    for seller in sellers:
        for currency, amount_minor in (await pending(replicas[1], seller)).items():
            assert expected.pop((seller, currency)) == amount_minor
    assert not expected
    for replica in replicas:
        await replica.close()  # which also makes the server count what happened
    assert _deadlocks(databases) == deadlocks
    assert_balances_are_proven(wallet_url)


async def test_concurrent_lists_with_other_keys_and_the_same_sellers(
    wallet_url: str, databases: dict[str, str]
) -> None:
    """No list waits for another's keys, so that all are at the balances together."""
    sellers = [new_seller() for _ in range(40)]
    chance = random.Random(6)
    database = Database(wallet_url, application_name="test-8", pool_size=8)
    deadlocks = _deadlocks(databases)
    for _ in range(12):
        lists = [
            [new_movement(seller_id=seller) for seller in chance.sample(sellers, len(sellers))]
            for _ in range(8)
        ]
        await asyncio.gather(*(apply_movements(database, movements) for movements in lists))
    for seller in sellers:
        assert await pending(database, seller) == {"EUR": 12 * 8 * 90}
    await database.close()
    assert _deadlocks(databases) == deadlocks
    assert_balances_are_proven(wallet_url)


def _deadlocks(databases: dict[str, str]) -> object:
    with psycopg.connect(superuser_url(databases, "wallet")) as connection:
        return connection.execute(
            "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        ).fetchone()


async def test_conflicting_lists_at_once_move_one_of_the_two(
    database: Database, wallet_url: str
) -> None:
    """The same keys with other sellers, concurrently: one of both is a conflict, always."""
    for _ in range(10):
        ours = [new_movement(amount_minor=3) for _ in range(20)]
        theirs = [movement._replace(seller_id=new_seller()) for movement in reversed(ours)]
        one, other = await asyncio.gather(
            apply_movements(database, ours), apply_movements(database, theirs)
        )
        for mine, yours in zip(one, reversed(other), strict=True):
            assert {type(mine), type(yours)} == {Applied, MeshError}
    assert_balances_are_proven(wallet_url)
