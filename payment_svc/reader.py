"""Reads of payments by id: all that wait travel in one set-wise read."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from uuid import UUID

from mesh.batching import Stage
from mesh.db import Database
from mesh.errors import MeshError, Reason
from payment_svc import operations
from payment_svc.views import Payment

# Reads don't wait for each other as writes do; a second list keeps a lone reader from
# waiting behind a long one.
LISTS = 2

# In a list: five thousand orders, if each has as many as it may, which is known only when it is
# read. Longer ones are hardly cheaper.
MOST_PAYMENTS = 50


@dataclass(slots=True)
class _Read:
    payment_id: UUID
    answer: asyncio.Future[Payment | None]


class Reader:
    """Answers payments by id."""

    def __init__(self, database: Database) -> None:
        """Reads from `database`."""
        self._database = database
        self._stage: Stage[_Read] = Stage(
            "read", self._handle, lost=_fail, lists=LISTS, max_items=MOST_PAYMENTS
        )

    async def get(self, payment_id: UUID) -> Payment | None:
        """The payment, or None. Errors: NotCommitted, Busy."""
        read = _Read(payment_id, asyncio.get_running_loop().create_future())
        self._stage.put([read])
        return await read.answer

    async def run(self) -> None:
        """Runs until cancelled."""
        await self._stage.run()

    async def _handle(self, reads: list[_Read]) -> None:
        try:
            found = await operations.payments(self._database, [r.payment_id for r in reads])
        except MeshError as error:
            for read in reads:
                if not read.answer.done():
                    read.answer.set_exception(error)
            return
        for read in reads:
            if not read.answer.done():
                read.answer.set_result(found.get(read.payment_id))


def _fail(reads: list[_Read]) -> None:
    for read in reads:
        if not read.answer.done():
            read.answer.set_exception(MeshError(Reason.INTERNAL, "the payment can't be read"))
