"""What a service tells of itself that needs attention; mesh/status_service.py serves it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum
from typing import TypeAlias
from uuid import UUID

MOST_COUNTED = 10_000
MOST_IDS = 5


class AttentionKind(IntEnum):
    """What needs attention; the numbers are those of the contract."""

    ORDERS_PARKED = 1
    ORDERS_UNKNOWN = 2
    ORDERS_NOT_BOOKED = 3
    ORDERS_PROCESSING = 4
    OPERATIONS_OVERDUE = 5
    OPERATIONS_ORPHANED = 6
    OPERATIONS_UNDER_WAY = 7


@dataclass(frozen=True, slots=True)
class Attention:
    """What needs attention, all of one kind and reason; see the contract's Attention."""

    kind: AttentionKind
    count: int
    advice: str
    reason: str = ""
    oldest_time: datetime | None = None
    payment_ids: Sequence[UUID] = ()


@dataclass(frozen=True, slots=True)
class Lease:
    """A replica by its lease; times are the database's."""

    epoch: int
    process: str
    lease_until: datetime
    dead: bool


@dataclass(frozen=True, slots=True)
class Found:
    """What a service found out about itself."""

    attentions: Sequence[Attention] = ()
    leases: Sequence[Lease] = ()


Look: TypeAlias = Callable[[timedelta], Awaitable[Found]]
"""Finds out what is open for at least so long. Only reads, and by index. Errors: CommitFailed."""


async def nothing(_age: timedelta) -> Found:
    """The look into a service in which nothing can be left open."""
    return Found()
