"""Callers who wait until a payment rests, wherever it is being driven.

A payment that is carried in this process wakes its callers itself. One that is not (a
replay of what another replica drives, what was recovered) is asked about by one set-wise
poll per process.
"""

from __future__ import annotations

import asyncio
from datetime import datetime
from uuid import UUID

from mesh.db import CommitFailed, Database
from payment_svc import operations
from payment_svc.carried import Carried
from payment_svc.domain import NewPayment, Progress
from payment_svc.views import Payment


class Waiting:
    """Who waits for what."""

    def __init__(self, database: Database, *, poll_s: float) -> None:
        """`poll_s` is how often payments elsewhere are asked about."""
        self._database = database
        self._poll_s = poll_s
        self._carried: dict[UUID, Carried] = {}
        self._waits: dict[UUID, set[asyncio.Future[Payment | None]]] = {}
        self._closing = False

    def waited_for(self) -> int:
        """How many payments somebody waits for."""
        return len(self._waits)

    def carry(self, payment: NewPayment, create_time: datetime) -> None:
        """Notes that this process drives a new payment and will tell when it rests."""
        self._carried[payment.payment_id] = Carried(payment, create_time)

    def rested(self, progress: Progress, update_time: datetime) -> None:
        """Notes that an order rests; with the last one the callers are answered.

        Or read the payment, if an order that rested earlier may have moved on since.
        """
        payment_id = progress.item.payment_id
        carried = self._carried.get(payment_id)
        if carried is None:
            return
        if progress.item.attempt:
            self.lost(payment_id)  # what its first trip taught is in the database alone
            return
        carried.rested[progress.item.position] = progress
        if carried.rests():
            del self._carried[payment_id]
            known = carried.ended_but_for(progress.item.position)
            self._wake(payment_id, carried.answer(update_time) if known else None)

    def lost(self, payment_id: UUID) -> None:
        """Notes that this process will not tell: the payment is asked about instead."""
        self._carried.pop(payment_id, None)

    def let_go(self) -> None:
        """Lets nobody wait any longer, now or later: the process is about to stop."""
        self._closing = True
        for payment_id in list(self._waits):
            self._wake(payment_id)

    async def wait(self, payment_id: UUID, timeout_s: float) -> Payment | None:
        """Returns when the payment rests, or after `timeout_s` seconds.

        With the payment, if this process knows how it rests; else it has to be read.
        """
        if self._closing:
            return None
        loop = asyncio.get_running_loop()
        woken: asyncio.Future[Payment | None] = loop.create_future()
        callers = self._waits.setdefault(payment_id, set())
        callers.add(woken)
        patience = loop.call_later(timeout_s, _wake, woken)
        try:
            return await woken
        finally:
            patience.cancel()
            callers.discard(woken)
            if not callers and self._waits.get(payment_id) is callers:
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

    def _wake(self, payment_id: UUID, payment: Payment | None = None) -> None:
        for woken in self._waits.pop(payment_id, ()):
            _wake(woken, payment)


def _wake(woken: asyncio.Future[Payment | None], payment: Payment | None = None) -> None:
    if not woken.done():
        woken.set_result(payment)
