"""Callers who wait until a payment rests, wherever it is being driven.

A payment that is carried in this process wakes its callers itself. One that is not (a
replay of what another replica drives, what was recovered) is asked about by one set-wise
poll per process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from mesh.db import CommitFailed, Database
from payment_svc import operations


@dataclass(slots=True)
class _Wait:
    rests: asyncio.Future[None]
    callers: int = 0


class Waiting:
    """Who waits for what."""

    def __init__(self, database: Database, *, poll_s: float) -> None:
        """`poll_s` is how often payments elsewhere are asked about."""
        self._database = database
        self._poll_s = poll_s
        self._carried: dict[UUID, set[int]] = {}
        self._waits: dict[UUID, _Wait] = {}
        self._closing = False

    def carry(self, payment_id: UUID, positions: Sequence[int]) -> None:
        """Notes that this process drives these orders and will tell when they rest."""
        self._carried[payment_id] = set(positions)

    def rested(self, payment_id: UUID, position: int) -> None:
        """Notes that an order rests; with the last one the callers are woken."""
        positions = self._carried.get(payment_id)
        if positions is None:
            return
        positions.discard(position)
        if not positions:
            del self._carried[payment_id]
            self._wake(payment_id)

    def lost(self, payment_id: UUID) -> None:
        """Notes that this process will not tell: the payment is asked about instead."""
        self._carried.pop(payment_id, None)

    def let_go(self) -> None:
        """Lets nobody wait any longer, now or later: the process is about to stop."""
        self._closing = True
        for payment_id in list(self._waits):
            self._wake(payment_id)

    async def wait(self, payment_id: UUID, timeout_s: float) -> None:
        """Returns when the payment rests, or after `timeout_s` seconds."""
        if self._closing:
            return
        wait = self._waits.get(payment_id)
        if wait is None:
            wait = _Wait(asyncio.get_running_loop().create_future())
            self._waits[payment_id] = wait
        wait.callers += 1
        try:
            # Not wait_for: one caller's time must not cancel what others wait for.
            await asyncio.wait([wait.rests], timeout=timeout_s)
        finally:
            wait.callers -= 1
            if not wait.callers and self._waits.get(payment_id) is wait:
                del self._waits[payment_id]

    async def run(self) -> None:
        """Asks about payments that are driven elsewhere, until cancelled."""
        while True:
            await asyncio.sleep(self._poll_s)
            elsewhere = [p for p in self._waits if p not in self._carried]
            if not elsewhere:
                continue
            try:
                for payment_id in await operations.resting(self._database, elsewhere):
                    self._wake(payment_id)
            except CommitFailed:
                continue  # logged by whom it stops; these callers only wait a little longer

    def _wake(self, payment_id: UUID) -> None:
        wait = self._waits.pop(payment_id, None)
        if wait is not None and not wait.rests.done():
            wait.rests.set_result(None)
