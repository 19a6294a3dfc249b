"""What a wallet is: movements, how each kind splits, and when two are the same.

No I/O. All amounts are minor units of their currency. The types are named tuples: they
cost half of what frozen dataclasses cost, and lists of hundreds of them pass through.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from enum import IntEnum
from typing import NamedTuple
from uuid import UUID

from mesh import ids


class MovementKind(IntEnum):
    """Why a wallet changed. The numbers are those of the wire and of the database."""

    CAPTURE = 1


class Split(NamedTuple):
    """By how much a movement changes each part of a balance, signed.

    It is stored with the movement and never computed again: the ledger books from it.
    """

    pending_minor: int
    available_minor: int
    debt_minor: int


class Movement(NamedTuple):
    """One change of one seller's wallet, as it was asked for.

    amount_minor is unsigned; the kind tells the direction. Zero is an amount: the
    commission may be the whole of what was captured.
    """

    operation_id: UUID
    revision: int
    kind: MovementKind
    seller_id: str
    order_id: UUID
    currency_code: str
    amount_minor: int

    @property
    def movement_id(self) -> UUID:
        """The key: any retry of the operation's revision has the same."""
        return ids.movement_id(self.operation_id, self.revision)


class Applied(NamedTuple):
    """A movement as it is stored, with its split."""

    movement_id: UUID
    movement: Movement
    split: Split


class ListedMovement(NamedTuple):
    """A movement in a list, with the time when it was written."""

    movement_id: UUID
    kind: int
    currency_code: str
    amount_minor: int
    order_id: UUID
    create_time: datetime


class Balance(NamedTuple):
    """A seller's balance in one currency; no part is ever negative."""

    currency_code: str
    pending_minor: int
    available_minor: int
    reserved_minor: int
    debt_minor: int


_SPLIT_OF_KIND: Mapping[MovementKind, Callable[[int], Split]] = {
    # Debt is not recovered here but at the release, when money becomes available.
    MovementKind.CAPTURE: lambda amount_minor: Split(amount_minor, 0, 0),
}


def split(movement: Movement) -> Split:
    """How the movement changes the balance."""
    return _SPLIT_OF_KIND[movement.kind](movement.amount_minor)


# What a retry must ask for again, by its name on the wire.
_COMPARED: Mapping[str, str] = {
    "kind": "kind",
    "seller_id": "seller_id",
    "order_id": "order_id",
    "currency_code": "amount.currency_code",
    "amount_minor": "amount.amount_minor",
}


def differences(asked: Movement, stored: Movement) -> tuple[str, ...]:
    """The fields in which a movement differs from the one stored under its key."""
    if asked == stored:
        return ()
    return tuple(
        name for field, name in _COMPARED.items() if getattr(asked, field) != getattr(stored, field)
    )
