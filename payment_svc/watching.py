"""Callers who watch a payment change, wherever it is being driven.

What this process writes wakes its own watchers at once; what another replica writes is seen
by one set-wise poll per process.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from mesh.db import CommitFailed, Database
from mesh.errors import MeshError, Reason
from payment_svc import operations
from payment_svc.domain import TERMINAL_STATES
from payment_svc.reader import Reader
from payment_svc.views import Payment


@dataclass(slots=True, eq=False)
class _Watch:
    """seen: the update_time of what was last told."""

    seen: datetime | None = None
    wake: asyncio.Event = field(default_factory=asyncio.Event)


class Watching:
    """Who watches what."""

    def __init__(self, database: Database, reader: Reader, *, poll_s: float) -> None:
        """`poll_s` is how often changes that others wrote are looked for."""
        self._database = database
        self._reader = reader
        self._poll_s = poll_s
        self._watches: dict[UUID, set[_Watch]] = {}
        self._closing = False

    async def changes(self, payment_id: UUID) -> AsyncGenerator[Payment, None]:
        """The payment now and after each change, up to a terminal state.

        Errors: PAYMENT_NOT_FOUND; DEPENDENCY_DOWN, when it can't be read at first and when
        the process is about to stop.
        """
        watch = _Watch()
        watches = self._watches.setdefault(payment_id, set())
        watches.add(watch)
        told: Payment | None = None
        try:
            while not self._closing:
                watch.wake.clear()
                payment = await self._read(payment_id, watch, first=told is None)
                if payment is not None and payment != told:
                    yield payment
                    told = payment
                    if payment.state in TERMINAL_STATES:
                        return
                await watch.wake.wait()
        finally:
            watches.discard(watch)
            if not watches and self._watches.get(payment_id) is watches:
                del self._watches[payment_id]
        raise MeshError(Reason.DEPENDENCY_DOWN, "the service is stopping; watch again")

    def changed(self, payment_id: UUID) -> None:
        """Notes that this process has changed a payment."""
        for watch in self._watches.get(payment_id, ()):
            watch.wake.set()

    def let_go(self) -> None:
        """Ends all watches, now and later: the process is about to stop."""
        self._closing = True
        for payment_id in self._watches:
            self.changed(payment_id)

    async def run(self) -> None:
        """Looks for what others changed, until cancelled."""
        while True:
            await asyncio.sleep(self._poll_s)
            if not self._watches:
                continue
            try:
                times = await operations.update_times(self._database, list(self._watches))
            except CommitFailed:
                continue  # logged by whom it stops; watchers only hear of changes later
            for payment_id, update_time in times.items():
                for watch in self._watches.get(payment_id, ()):
                    if watch.seen != update_time:
                        watch.wake.set()

    async def _read(self, payment_id: UUID, watch: _Watch, *, first: bool) -> Payment | None:
        """The payment; None if it can't be read now, and then the poll asks for it again."""
        try:
            payment = await self._reader.get(payment_id)
        except CommitFailed:
            if first:
                raise
            watch.seen = None
            return None
        if payment is None:
            raise MeshError(Reason.PAYMENT_NOT_FOUND, "there is no such payment")
        watch.seen = payment.update_time
        return payment
