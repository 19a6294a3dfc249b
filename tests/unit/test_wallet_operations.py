"""The rules of wallet_svc's transactions that are not SQL; tests/store has those that are."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import pytest

from mesh import ids
from mesh.errors import MeshError, Reason
from mesh.paging import Position
from tests.support.captures import new_movement
from tests.support.fake_database import FakeDatabase, Statements
from wallet_svc import domain, operations
from wallet_svc.domain import Applied, Movement

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def fake() -> FakeDatabase:
    return FakeDatabase()


def play(monkeypatch: pytest.MonkeyPatch, **answers: object) -> Statements:
    statements = Statements(**answers)
    monkeypatch.setattr(operations, "store", statements)
    return statements


def applied(movement: Movement) -> Applied:
    return Applied(movement.movement_id, movement, domain.split(movement))


def play_wallet(monkeypatch: pytest.MonkeyPatch, *stored: Movement) -> Statements:
    """A wallet in which these movements are stored before."""
    known = {movement.movement_id: applied(movement) for movement in stored}
    return play(
        monkeypatch,
        insert_movements=lambda asked: {m.movement_id for m in asked} - known.keys(),
        read_movements=lambda movement_ids: [known[key] for key in movement_ids],
    )


async def test_a_new_movement_is_written_by_one_statement(
    monkeypatch: pytest.MonkeyPatch, fake: FakeDatabase
) -> None:
    statements = play_wallet(monkeypatch)
    movement = new_movement()
    assert await operations.apply_movements(fake.database, [movement]) == [applied(movement)]
    assert statements.calls == [("insert_movements", ([applied(movement)],))]
    assert fake.commits == [("wallet.apply", True)]


async def test_a_movement_that_is_stored_is_answered_as_it_is_stored(
    monkeypatch: pytest.MonkeyPatch, fake: FakeDatabase
) -> None:
    known, fresh = new_movement(), new_movement()
    statements = play_wallet(monkeypatch, known)
    answers = await operations.apply_movements(fake.database, [known, fresh, known])
    assert answers == [applied(known), applied(fresh), applied(known)]
    assert statements.calls[-1] == ("read_movements", ([known.movement_id],))


async def test_a_movement_of_something_else_is_refused_and_its_neighbours_are_not(
    monkeypatch: pytest.MonkeyPatch, fake: FakeDatabase
) -> None:
    known, fresh = new_movement(), new_movement()
    play_wallet(monkeypatch, known)
    other = known._replace(amount_minor=known.amount_minor + 1, currency_code="USD")
    refused, written = await operations.apply_movements(fake.database, [other, fresh])
    assert isinstance(refused, MeshError)
    assert refused.reason is Reason.OPERATION_CONFLICT
    assert refused.metadata == {"fields": "amount.currency_code,amount.amount_minor"}
    assert written == applied(fresh)


async def test_of_equal_keys_in_one_list_the_first_is_written(
    monkeypatch: pytest.MonkeyPatch, fake: FakeDatabase
) -> None:
    statements = play_wallet(monkeypatch)
    movement = new_movement()
    other = movement._replace(amount_minor=movement.amount_minor + 1)
    first, second = await operations.apply_movements(fake.database, [movement, other])
    assert first == applied(movement)
    assert isinstance(second, MeshError)
    assert statements.calls == [("insert_movements", ([applied(movement)],))]


async def test_an_operation_is_found_by_its_first_movement(
    monkeypatch: pytest.MonkeyPatch, fake: FakeDatabase
) -> None:
    movement = new_movement()
    play_wallet(monkeypatch, movement)
    assert await operations.find_movements(fake.database, [movement.operation_id]) == [
        applied(movement)
    ]
    assert ids.movement_id(movement.operation_id) == movement.movement_id


async def test_a_list_goes_on_after_the_last_item_of_the_page_before(
    monkeypatch: pytest.MonkeyPatch, fake: FakeDatabase
) -> None:
    statements = play(monkeypatch, list_movements=[])
    await operations.list_movements(fake.database, "seller", None, 10)
    await operations.list_movements(fake.database, "seller", Position(NOW, UUID(int=1)), 10)
    assert statements.calls == [
        ("list_movements", ("seller", None, 10)),
        ("list_movements", ("seller", (NOW, UUID(int=1)), 10)),
    ]
