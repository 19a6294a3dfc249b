"""Who is under way in this process, and who wants to be told.

An operation has one run at a time: whoever submits it meanwhile joins that run. A run
belongs to no caller; one that goes away stops nothing. Two replicas may drive one operation
at once: see docs/decisions/0003-executor-has-no-leases.md.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType
from typing import Protocol
from uuid import UUID

import structlog

from executor_svc import domain
from executor_svc.clients import Psp
from executor_svc.domain import Operation, Settled, State, Stored
from executor_svc.ladder import Ladder, Run, conflict
from executor_svc.operations import Write, Written
from executor_svc.settling import Settling
from mesh import ids
from mesh.attention import MOST_COUNTED, MOST_IDS, Attention, AttentionKind, Found
from mesh.batching import Writer
from mesh.clock import utc_now
from mesh.db import Database
from mesh.errors import MeshError, Reason

log = structlog.get_logger()

MAX_RUNS = 100_000
"""Operations under way at once; some kilobytes each. More are refused as OVERLOADED."""


class Listener(Protocol):
    """Whoever submitted operations and wants to be told."""

    def acknowledge(self, list_id: int) -> None:
        """The list's intents are committed, or will never be."""

    def tell(self, operation_id: UUID, result: Stored | MeshError, detail: str) -> None:
        """How an operation stands, committed; detail: why nothing more is known."""


@dataclass(slots=True, eq=False, kw_only=True)
class _Run(Run):
    """started: by the monotonic clock. intended: see Ladder.begin."""

    started: float
    intended: asyncio.Future[None]
    listeners: list[Listener]


class Runner:
    """The operations under way in this process. Belongs to one event loop."""

    def __init__(
        self,
        database: Database,
        writer: Writer[Write, Written],
        psp: Psp,
        *,
        psp_deadline_s: float,
        backoff_s: float,
    ) -> None:
        """See Ladder."""
        self._ladder = Ladder(
            database,
            writer,
            psp,
            psp_deadline_s=psp_deadline_s,
            backoff_s=backoff_s,
            finish=self._finish,
        )
        self._settling = Settling(database, writer, self._ladder, finish=self._finish)
        self._runs: dict[UUID, _Run] = {}

    def submit(
        self,
        listener: Listener,
        list_id: int,
        asked: Sequence[Operation],
        restarts: Set[UUID] = frozenset(),
        settled: Mapping[UUID, Settled] = MappingProxyType({}),
    ) -> None:
        """Starts or joins the operations' runs. Never blocks.

        restarts: the operations for which an operator asked for this round. settled: those
        that a settlement file tells of, about which the PSP is not asked; one that is under
        way already is settled beside that. The listener is told once for each operation, and
        once of the list itself.
        """
        loop = asyncio.get_running_loop()
        started = time.monotonic()
        intended: asyncio.Future[None] = loop.create_future()
        awaited = {intended}
        runs: list[Run] = []
        proven: list[tuple[Run, Settled]] = []
        proven_under_way: list[tuple[Run, Settled]] = []
        for operation in asked:
            evidence = settled.get(operation.operation_id)
            run = self._runs.get(operation.operation_id)
            if run is None and len(self._runs) >= MAX_RUNS:
                log.warning("operation_refused", **operation.ids, reason=Reason.OVERLOADED.value)
                listener.tell(operation.operation_id, _overloaded(), "")
            elif run is None:
                run = _Run(
                    operation=operation,
                    psp_key=ids.psp_key(operation.operation_id),
                    restart=operation.operation_id in restarts,
                    started=started,
                    intended=intended,
                    listeners=[listener],
                )
                self._runs[operation.operation_id] = run
                if evidence is None:
                    runs.append(run)
                else:
                    proven.append((run, evidence))
            elif fields := domain.differences(operation, run.operation):
                log.warning(
                    "operation_refused",
                    **operation.ids,
                    reason=Reason.OPERATION_CONFLICT.value,
                    fields=fields,
                )
                listener.tell(operation.operation_id, conflict(fields), "")
            else:
                run.restart |= operation.operation_id in restarts
                run.listeners.append(listener)
                awaited.add(run.intended)
                if evidence is not None:
                    proven_under_way.append((run, evidence))
        asyncio.gather(*awaited).add_done_callback(lambda _: listener.acknowledge(list_id))
        self._ladder.begin(runs, intended)
        self._settling.settle(proven)
        self._settling.settle(proven_under_way, under_way=True)

    async def look(self, age: timedelta) -> Found:
        """See mesh.attention.Look: the operations that have been under way for so long.

        Told from memory. What is unknown and not under way is payment_svc's to tell, which
        owns every schedule; the states here have no index.
        """
        now = time.monotonic()
        late = [run for run in self._runs.values() if now - run.started >= age.total_seconds()]
        if not late:
            return Found()
        late.sort(key=lambda run: run.started)
        payment_ids = dict.fromkeys(run.operation.payment_id for run in late)
        attention = Attention(
            AttentionKind.OPERATIONS_UNDER_WAY,
            min(len(late), MOST_COUNTED),
            "The PSP, or this service's database, is slow to answer: see whether they are up. "
            "Nothing is charged twice, and it goes on by itself.",
            oldest_time=utc_now() - timedelta(seconds=now - late[0].started),
            payment_ids=list(payment_ids)[:MOST_IDS],
        )
        return Found([attention])

    def under_way(self) -> int:
        """How many operations are under way."""
        return len(self._runs)

    def oldest_s(self) -> float:
        """How long the oldest of them has been under way, in seconds; in any thread."""
        # A copy at once, which no other thread can come between. They are in order of start.
        oldest = next(iter(self._runs.copy().values()), None)
        return 0.0 if oldest is None else time.monotonic() - oldest.started

    def _finish(self, finished: Run, result: Stored | MeshError) -> None:
        """Tells the listeners and logs. A run that is over already stays as it was told."""
        operation = finished.operation
        run = self._runs.get(operation.operation_id)
        if run is not finished:
            return
        del self._runs[operation.operation_id]
        for listener in run.listeners:
            listener.tell(operation.operation_id, result, run.detail)
        # One that ended at its first answer is told by payment_svc, in one line for all.
        is_plain = isinstance(result, Stored) and result.state is State.CAPTURED and not run.detail
        tell = log.debug if is_plain else log.info
        tell(
            "operation",
            **operation.ids,
            state=result.reason.value if isinstance(result, MeshError) else result.state.name,
            detail=run.detail,
            ms=round((time.monotonic() - run.started) * 1000, 1),
        )


def _overloaded() -> MeshError:
    return MeshError(Reason.OVERLOADED, "too many operations are under way", retry_delay_s=1.0)
