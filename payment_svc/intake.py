"""The one writer of payment_svc: what is accepted and what is finished, in one commit.

What a commit causes happens right after it, in the writer's own task: a new payment is
on the conveyor even if its caller has gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from mesh.batching import Writer
from mesh.db import CommitUnknown, Database
from mesh.errors import MeshError, Reason
from payment_svc import operations
from payment_svc.conveyor import Conveyor
from payment_svc.domain import NewPayment, OrderState, Progress, items_of
from payment_svc.operations import Accepted, Recorded, Written
from payment_svc.recovery import Lease
from payment_svc.waiting import Waiting

log = structlog.get_logger()

OVERLOADED_RETRY_S = 1.0


class Intake:
    """Accepts payments and finishes items."""

    def __init__(
        self, database: Database, lease: Lease, waiting: Waiting, *, max_open_orders: int
    ) -> None:
        """`max_open_orders` bounds what this process carries at once."""
        self._database = database
        self._lease = lease
        self._waiting = waiting
        self._max_open_orders = max_open_orders
        self._writer: Writer[NewPayment | Progress, Written] = Writer("payment", self._commit)
        self._finishing: set[asyncio.Task[None]] = set()

    def connect(self, conveyor: Conveyor) -> None:
        """Names the conveyor that carries what is accepted."""
        self._conveyor = conveyor

    async def accept(self, payment: NewPayment) -> Accepted:
        """Stores the payment and starts it; a replay only looks it up.

        Errors: REQUEST_ID_REUSED; OVERLOADED; DEPENDENCY_DOWN (provably not stored);
        OUTCOME_UNKNOWN (call again).
        """
        if len(self._conveyor) + len(payment.orders) > self._max_open_orders:
            raise MeshError(
                Reason.OVERLOADED,
                "too many orders are under way; nothing was accepted",
                retry_delay_s=OVERLOADED_RETRY_S,
            )
        (answer,) = await self._writer.write([payment], durable=False)
        if isinstance(answer, MeshError):
            raise answer
        if not isinstance(answer, Accepted):
            raise TypeError("a payment's result is an acceptance")
        return answer

    def finish(self, progress: list[Progress]) -> None:
        """Writes progress, however long the database takes to come back."""
        task = asyncio.create_task(self._finish(progress))
        self._finishing.add(task)
        task.add_done_callback(self._finishing.discard)

    async def run(self) -> None:
        """Runs until cancelled."""
        await self._writer.run()

    async def _finish(self, progress: list[Progress]) -> None:
        for item, answer in zip(
            progress, await self._writer.write(progress, durable=True), strict=True
        ):
            if isinstance(answer, MeshError):
                # Not written for a bug: it stays this epoch's and is driven again when the
                # next process takes over. Until then it is only known from here.
                log.error("progress_lost", **_ids(item), cause=str(answer))
                self._conveyor.forget(item.item)
                self._waiting.lost(item.item.payment_id)

    async def _commit(self, items: list[NewPayment | Progress]) -> Sequence[Written]:
        epoch = self._lease.epoch
        try:
            written = await operations.write(self._database, items, epoch)
        except CommitUnknown:
            # What this commit may have accepted is ours and on no conveyor.
            self._lease.unsure = True
            raise
        for answer in written:
            if isinstance(answer, Accepted) and answer.new:
                carried = items_of(answer.payment, epoch)
                self._waiting.carry(answer.payment.payment_id, range(len(carried)))
                self._conveyor.put(carried)
            elif isinstance(answer, Recorded):
                self._finished(answer)
        return written

    def _finished(self, answer: Recorded) -> None:
        progress, item = answer.progress, answer.progress.item
        seconds = self._conveyor.forget(item)
        if not answer.owned:
            # Taken over, or written by a commit whose answer was lost.
            log.info("order_not_ours", **_ids(progress), epoch=item.epoch)
            self._waiting.lost(item.payment_id)
            return
        log.info(
            "order_parked" if progress.state is OrderState.PARKED else "order",
            **_ids(progress),
            state=progress.state.name,
            psp_reference=progress.psp_reference,
            attempt=item.attempt,
            retry_after_s=progress.retry_after_s,
            ms=round(seconds * 1000, 1),
        )
        if not progress.delayed:
            self._waiting.rested(item.payment_id, item.position)


def _ids(progress: Progress) -> dict[str, str]:
    item = progress.item
    return {
        "payment_id": item.payment_id.hex,
        "order_id": item.order_id.hex,
        "operation_id": item.operation_id.hex,
    }
