"""Movements: their splits, and when one is a replay of another."""

from __future__ import annotations

import pickle
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paymesh.wallet.v1 import wallet_service_pb2 as pb

from mesh import ids
from mesh.money import MAX_AMOUNT_MINOR
from tests.support.captures import new_movement
from tests.support.values import numbers, on_the_wire
from wallet_svc import domain
from wallet_svc.domain import MovementKind, Split


@given(st.integers(0, MAX_AMOUNT_MINOR))
def test_a_capture_is_pending(amount_minor: int) -> None:
    assert domain.split(new_movement(amount_minor=amount_minor)) == Split(amount_minor, 0, 0)


def test_every_kind_has_a_split() -> None:
    for kind in MovementKind:
        split = domain.split(new_movement(amount_minor=7)._replace(kind=kind))
        assert any(split)


def test_the_key_is_that_of_operation_and_revision() -> None:
    movement = new_movement()
    assert movement.movement_id == ids.movement_id(movement.operation_id, 0)
    again = movement._replace(seller_id="other", amount_minor=1, order_id=uuid.uuid4())
    assert again.movement_id == movement.movement_id
    assert movement._replace(revision=1).movement_id != movement.movement_id


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"seller_id": "other"}, "seller_id"),
        ({"order_id": uuid.uuid4()}, "order_id"),
        ({"amount_minor": 91}, "amount.amount_minor"),
        ({"currency_code": "USD"}, "amount.currency_code"),
    ],
)
def test_another_movement_names_the_field(change: dict[str, Any], field: str) -> None:
    movement = new_movement()
    assert domain.differences(movement._replace(**change), movement) == (field,)
    assert domain.differences(movement, movement) == ()


def test_equal_fields_of_two_reads_are_no_difference() -> None:
    """What comes from the wire is never the very object that comes from the database."""
    movement = new_movement()
    asked, stored = (
        pickle.loads(pickle.dumps(movement._replace(amount_minor=amount))) for amount in (90, 91)
    )
    assert domain.differences(asked, stored) == ("amount.amount_minor",)


def test_the_numbers_are_those_of_the_wire() -> None:
    assert numbers(MovementKind) == on_the_wire(pb.MovementKind, "MOVEMENT_KIND_")
