"""What the ledger is told of operations that are in no journal.

A trip that ends without a capture marks its operation in the same commit (store._RECORD), and
whatever is marked is told, in lists, until the ledger has taken it: at least once, whoever
dies on the way. Nobody waits for it, so it may gather for a moment.
"""

from __future__ import annotations

import asyncio
from uuid import UUID

import structlog

from mesh.db import Database
from mesh.errors import MeshError
from payment_svc import operations
from payment_svc.clients_reconciliation import MAX_LIST_ITEMS, RegisterClient
from payment_svc.domain import News, Progress
from payment_svc.schedule import Backoff

log = structlog.get_logger()

GATHER_S = 0.25
"""Between two looks, for lists that are worth their call."""


class Registering:
    """The loop that tells the register."""

    def __init__(
        self, database: Database, register: RegisterClient, *, again: Backoff, poll_s: float
    ) -> None:
        """`poll_s` is how often it looks for what others left, in seconds.

        again: when it asks again after a failure.
        """
        self._database = database
        self._register = register
        self._again = again
        self._poll_s = poll_s
        self._wake = asyncio.Event()
        self._refused: set[UUID] = set()
        """The operations that were refused in the last pass: once is enough to say so."""

    def recorded(self, progress: Progress) -> None:
        """Something was written: there may be news."""
        news = progress.news
        # What is captured at its first trip was never registered.
        if news > News.IF_REGISTERED or (news is News.IF_REGISTERED and progress.item.attempt):
            self._wake.set()

    async def run(self) -> None:
        """Runs until cancelled; a ledger or a database that is away is asked again."""
        failures = 0
        while True:
            self._wake.clear()
            try:
                await self._tell()
            except MeshError as error:
                retry_after_s = self._again.after(failures)
                failures += 1
                log.warning("register_waits", cause=str(error), retry_after_s=retry_after_s)
                await asyncio.sleep(retry_after_s)
                continue
            failures = 0
            await asyncio.sleep(min(GATHER_S, self._poll_s))
            try:
                async with asyncio.timeout(self._poll_s):
                    await self._wake.wait()
            except TimeoutError:
                continue  # time to look for what others left

    async def _tell(self) -> None:
        """Tells all that is marked; what the ledger refuses stays marked and is passed over."""
        refused: set[UUID] = set()
        async for page in operations.unregistered(self._database, MAX_LIST_ITEMS):
            answers = await self._register.register(page)
            told = []
            for one, refusal in zip(page, answers, strict=True):
                if refusal is None:
                    told.append(one)
                    continue
                refused.add(one.operation_id)
                if one.operation_id not in self._refused:
                    log.error("register_refused", **one.ids, cause=str(refusal))
            if told:
                await operations.registered(self._database, told)
        self._refused = refused
