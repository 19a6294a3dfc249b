"""What the register of operations in no journal is told, and its one rule. No I/O."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple
from uuid import UUID


class RegisterState(IntEnum):
    """How a registered operation stands; the numbers are those of the contract."""

    PENDING = 1
    UNKNOWN = 2
    PARKED = 3
    DECLINED = 4
    CAPTURED = 5


ENDS = frozenset({RegisterState.DECLINED, RegisterState.CAPTURED})
"""States that are never left."""


class Registered(NamedTuple):
    """How an operation stands. amount_minor: what was asked, in minor units of currency_code.

    version: grows with whatever is learnt of it. reason: the first word of why it is parked.
    """

    operation_id: UUID
    order_id: UUID
    payment_id: UUID
    kind: int
    amount_minor: int
    currency_code: str
    state: RegisterState
    version: int
    reason: str
    psp_reference: str


def replaces(told: Registered, stored: Registered) -> bool:
    """Whether what is told now takes the place of what is stored.

    An end is never left, and goes before whatever waits: a database of payment_svc that was
    set back counts its versions anew. Of what waits the higher version counts.
    """
    if stored.state in ENDS:
        return False
    return told.state in ENDS or told.version > stored.version


_COMPARED = {
    "order_id": "order_id",
    "payment_id": "payment_id",
    "kind": "kind",
    "amount_minor": "amount.amount_minor",
    "currency_code": "amount.currency_code",
}


def differences(told: Registered, stored: Registered) -> list[str]:
    """The fields in which an operation contradicts what is stored of it.

    Its own fields never change, and of the two ends it comes to one.
    """
    found = [
        path for name, path in _COMPARED.items() if getattr(told, name) != getattr(stored, name)
    ]
    if {told.state, stored.state} == ENDS:
        found.append("state")
    return found
