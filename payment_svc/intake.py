"""The one writer of payment_svc: what is accepted and what is finished, in one commit.

What a commit causes happens right after it, in the writer's own task: a new payment is
on the conveyor even if its caller has gone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from functools import partial
from uuid import UUID

import structlog

from mesh import tracing
from mesh.batching import Writer
from mesh.db import BadData, Database, NotCommitted
from mesh.errors import MeshError, Reason
from mesh.tracing import Part
from payment_svc import gauges, operations
from payment_svc.conveyor import Conveyor
from payment_svc.domain import NewPayment, OrderState, Progress, items_of
from payment_svc.operations import Accepted, Recorded, Written
from payment_svc.reader import Reader
from payment_svc.recovery import Lease
from payment_svc.registering import Registering
from payment_svc.waiting import Waiting
from payment_svc.watching import Watching

log = structlog.get_logger()

OVERLOADED_RETRY_S = 1.0


class Intake:
    """Accepts payments and finishes items."""

    def __init__(
        self,
        database: Database,
        lease: Lease,
        *,
        waiting: Waiting,
        watching: Watching,
        reader: Reader,
        registering: Registering,
        max_open_orders: int,
    ) -> None:
        """`max_open_orders` bounds what this process carries at once."""
        self._registering = registering
        self._database = database
        self._lease = lease
        self._waiting = waiting
        self._watching = watching
        self._reader = reader
        self._max_open_orders = max_open_orders
        self._writer: Writer[NewPayment | Progress, Written] = Writer(
            "payment", self._commit, weigh=_orders
        )
        self._accepting: set[asyncio.Task[Accepted]] = set()
        self._joinable: dict[UUID, tuple[NewPayment, asyncio.Task[Accepted]]] = {}
        self._reserved: dict[UUID, int] = {}
        self._orders_reserved = 0
        self._finishing: set[asyncio.Task[None]] = set()

    def connect(self, conveyor: Conveyor) -> None:
        """Names the conveyor that carries what is accepted."""
        self._conveyor = conveyor

    def accept(self, payment: NewPayment) -> tuple[asyncio.Task[Accepted], bool]:
        """Stores the payment and starts it; a replay only looks it up.

        A task, because it ends however long its caller waits for it. And whether an earlier
        call began it, with an equal request: callers in a hurry, who come again and again
        while the database is slow, would each leave one behind.
        Errors: REQUEST_ID_REUSED; OVERLOADED, DEPENDENCY_DOWN (provably not stored
        by this call); OUTCOME_UNKNOWN (call again).
        """
        asked, under_way = self._joinable.get(payment.payment_id, (None, None))
        if under_way is not None and asked == payment:
            return under_way, True
        task = asyncio.create_task(self._accept(payment))
        self._accepting.add(task)
        self._joinable.setdefault(payment.payment_id, (payment, task))
        task.add_done_callback(partial(self._ended, payment.payment_id))
        return task, False

    def _ended(self, payment_id: UUID, task: asyncio.Task[Accepted]) -> None:
        self._accepting.discard(task)
        _, joinable = self._joinable.get(payment_id, (None, None))
        if joinable is task:
            del self._joinable[payment_id]
        if not task.cancelled():
            task.exception()  # seen, also where the caller has gone

    async def _accept(self, payment: NewPayment) -> Accepted:
        if not self._reserve(payment) and await self._reader.get(payment.payment_id) is None:
            raise MeshError(
                Reason.OVERLOADED,
                "too many orders are under way: this call accepted nothing; of an earlier one with"
                " this request_id it says nothing: call again with the same request_id",
                retry_delay_s=OVERLOADED_RETRY_S,
            )
        try:
            (answer,) = await self._writer.write([payment], durable=False)
        finally:
            self._free(payment.payment_id)
        if isinstance(answer, MeshError):
            raise answer
        if not isinstance(answer, Accepted):
            raise TypeError("a payment's result is an acceptance")
        return answer

    def _reserve(self, payment: NewPayment) -> bool:
        """Takes room for what will be on the conveyor, lest a burst pass the bound.

        What is being accepted needs no more of it. What was accepted before needs none:
        if this answers False, the payment has to be known.
        """
        orders = len(payment.orders)
        if payment.payment_id in self._reserved:
            return True
        if len(self._conveyor) + self._orders_reserved + orders > self._max_open_orders:
            return False
        self._reserved[payment.payment_id] = orders
        self._orders_reserved += orders
        return True

    def _free(self, payment_id: UUID) -> None:
        self._orders_reserved -= self._reserved.pop(payment_id, 0)

    def finish(self, progress: list[Progress]) -> None:
        """Writes progress, however long the database takes to come back."""
        task = asyncio.create_task(self._finish(progress))
        self._finishing.add(task)
        task.add_done_callback(self._finishing.discard)

    async def run(self) -> None:
        """Runs until cancelled."""
        await self._writer.run()

    async def _finish(self, progress: list[Progress]) -> None:
        refused: list[Progress] = []
        for asked, answer in await self._failures(progress):
            if isinstance(answer, BadData):
                log.error("progress_refused", **asked.item.ids, cause=str(answer))
                refused.append(self._conveyor.refused(asked, answer))
            else:
                self._lose(asked, answer)
        for asked, answer in await self._failures(refused):
            self._lose(asked, answer)

    async def _failures(self, progress: list[Progress]) -> list[tuple[Progress, MeshError]]:
        """Writes; answers what failed for another reason than a database that is away."""
        answers = await self._writer.write(progress, durable=True)
        asked = zip(progress, answers, strict=True)
        return [(item, answer) for item, answer in asked if isinstance(answer, MeshError)]

    def _lose(self, progress: Progress, cause: MeshError) -> None:
        """Drops what could not be written. Recovery finds the item and drives it again."""
        log.error("progress_lost", **progress.item.ids, cause=str(cause))
        self._conveyor.forget(progress.item)
        self._waiting.lost(progress.item.payment_id)

    async def _commit(self, items: list[NewPayment | Progress]) -> Sequence[Written]:
        epoch = self._lease.epoch
        started_ns = time.time_ns()
        try:
            written = await operations.write(self._database, items, epoch)
            _tell(written, started_ns)
            return self._written(written, epoch)
        except (NotCommitted, BadData):
            raise
        except Exception:
            # What this commit may have accepted is ours and on no conveyor.
            self._lease.unsure = True
            raise

    def _written(self, written: list[Written], epoch: int) -> list[Written]:
        accepted = 0
        trips: list[OrderState] = []
        for answer in written:
            if isinstance(answer, Accepted) and answer.create_time is not None:
                accepted += 1
                self._free(answer.payment.payment_id)
                self._waiting.carry(answer.payment, answer.create_time)
                self._conveyor.put(items_of(answer.payment, epoch))
            elif isinstance(answer, Recorded):
                if answer.owned:
                    trips.append(answer.progress.state)
                self._finished(answer)
        gauges.count_commit(accepted, trips)
        return written

    def _finished(self, answer: Recorded) -> None:
        progress, item = answer.progress, answer.progress.item
        seconds = self._conveyor.forget(item)
        if answer.update_time is None:
            # Taken over, or written by a commit whose answer was lost.
            log.info("order_not_ours", **progress.item.ids, epoch=item.epoch)
            self._waiting.lost(item.payment_id)
            return
        _tell_order(progress, seconds)
        self._registering.recorded(progress)
        log.info(
            "order_parked" if progress.state is OrderState.PARKED else "order",
            **progress.item.ids,
            state=progress.state.name,
            psp_reference=progress.psp_reference,
            attempt=item.attempt,
            retry_after_s=progress.retry_after_s,
            ms=round(seconds * 1000, 1),
        )
        self._watching.changed(item.payment_id)
        if progress.delayed:
            # Whoever comes first drives it on, here or elsewhere, and only the latter tells.
            self._waiting.lost(item.payment_id)
        else:
            self._waiting.rested(progress, answer.update_time)


def _tell(written: Sequence[Written], started_ns: int) -> None:
    """The spans of a commit: what was accepted and what was finished by it."""
    spans = tracing.recorder()
    if spans is None:
        return
    new = [a.payment.payment_id for a in written if isinstance(a, Accepted) and a.new]
    spans.handled("accept", started_ns, map(Part, new))
    recorded = [a.progress.item for a in written if isinstance(a, Recorded) and a.owned]
    parts = [Part(item.payment_id, item.order_id, item.operation_id) for item in recorded]
    spans.handled("finish", started_ns, parts)


def _tell_order(progress: Progress, seconds: float) -> None:
    """The span of a trip."""
    spans = tracing.recorder()
    if spans is None:
        return
    item = progress.item
    problem = "" if progress.state is OrderState.SUCCEEDED else progress.state.name
    spans.order(
        Part(item.payment_id, item.order_id, item.operation_id, problem),
        seconds,
        first=not item.attempt,
        attributes={
            "paymesh.state": progress.state.name,
            "paymesh.attempt": item.attempt,
            "paymesh.psp_reference": progress.psp_reference or "",
            "paymesh.attention_reason": progress.attention_reason or "",
        },
    )


def _orders(item: NewPayment | Progress) -> int:
    return len(item.orders) if isinstance(item, NewPayment) else 1
