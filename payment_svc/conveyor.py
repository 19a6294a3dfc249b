"""The conveyor: accepted → executor → wallet → ledger → finished, in lists all the way.

The item is one order's operation. Each hop is a loop that takes all that wait; what is
bounded is the number of lists under way: one between accept and the executor's intents,
two between outcomes and the ledger. What waits for the PSP is not counted, and holds up
nobody. A new item, a retry and a recovered item take the same way, because every service
answers a repeated item from its own row.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from uuid import UUID

import structlog

from mesh import tracing
from mesh.batching import Stage
from mesh.db import BadData
from mesh.errors import MeshError
from mesh.tracing import Part
from payment_svc.clients import Applied, Capture, ExecutorStream, LedgerClient, WalletClient
from payment_svc.domain import (
    Captured,
    Declined,
    Delayed,
    Evidence,
    Item,
    OperationState,
    OrderState,
    Outcome,
    Parked,
    Pending,
    Progress,
    Result,
    Unknown,
    next_state,
)
from payment_svc.schedule import Schedule

log = structlog.get_logger()

LISTS_TO_EXECUTOR = 1
LISTS_TO_LEDGER = 2


class Conveyor:
    """Carries items until `finish` has taken their progress."""

    def __init__(
        self,
        wallet: WalletClient,
        ledger: LedgerClient,
        schedule: Schedule,
        finish: Callable[[list[Progress]], None],
    ) -> None:
        """`finish` writes progress; it calls `forget` when an item is no longer carried."""
        self._wallet = wallet
        self._ledger = ledger
        self._schedule = schedule
        self._finish = finish
        self._items: dict[UUID, tuple[Item, float]] = {}
        self._book_stage: Stage[tuple[Item, Captured]] = Stage(
            "book", self._book, lost=self._lost, lists=LISTS_TO_LEDGER
        )

    def connect(self, executor: ExecutorStream) -> None:
        """Names the executor, which in turn delivers to `learnt`."""
        self._execute_stage: Stage[Item] = Stage(
            "execute",
            executor.execute,
            lost=lambda items: self.learnt([(i, Delayed("a bug, see the log")) for i in items]),
            lists=LISTS_TO_EXECUTOR,
        )

    def __len__(self) -> int:
        """How many items are carried."""
        return len(self._items)

    def carries(self, operation_id: UUID) -> bool:
        """Whether the operation is on the conveyor."""
        return operation_id in self._items

    def put(self, items: Sequence[Item]) -> None:
        """Puts items on the conveyor, but not what is on it already.

        One that was lost to another replica and won back takes the place of the one that
        is still carried: that one's trip may end, and its progress will not be written.
        """
        new = []
        now = time.monotonic()
        for item in items:
            carried, _ = self._items.get(item.operation_id, (None, now))
            if carried is None or (carried.epoch, carried.attempt) != (item.epoch, item.attempt):
                self._items[item.operation_id] = (item, now)
                new.append(item)
        self._execute_stage.put(new)

    def learnt(self, outcomes: list[tuple[Item, Outcome]]) -> None:
        """Takes what the executor says. Only what was captured has to be booked first."""
        captured: list[tuple[Item, Captured]] = []
        rest: list[Progress] = []
        spans = tracing.recorder()
        for item, outcome in outcomes:
            if spans is not None:
                problem = "" if isinstance(outcome, Captured) else type(outcome).__name__
                spans.step("execute", self._carried_s(item), _part(item, problem))
            if isinstance(outcome, Captured):
                captured.append((item, outcome))
            elif progress := self._progress(item, outcome, None):
                rest.append(progress)
        self._book_stage.put(captured)
        if rest:
            self._finish(rest)

    def refused(self, progress: Progress, cause: BadData) -> Progress:
        """What is written of an item instead of a row that the database refused.

        Whatever came as text is left out of it; what is known of the money is not.
        """
        return replace(
            progress,
            state=next_state(progress.item.state, Result.PARKED),
            psp_reference=None,
            decline_category=0,
            decline_code="",
            attention_reason=f"RESULT_REFUSED: {cause.sqlstate}: what was learnt can't be stored",
            retry_after_s=self._schedule.retry_after_s(Result.PARKED, 0, poll=True),
            delayed=False,
        )

    def forget(self, item: Item) -> float:
        """Takes an item off; answers how long it was carried, in seconds.

        Another item of the same operation, which took its place, stays.
        """
        seconds = self._carried_s(item)
        if seconds:
            del self._items[item.operation_id]
        return seconds

    def _carried_s(self, item: Item) -> float:
        """For how many seconds; 0 if it is not carried, or another of the same operation is."""
        carried, since = self._items.get(item.operation_id, (None, 0.0))
        # At least what the clock can tell, so that 0 says one thing only.
        return max(time.monotonic() - since, 1e-9) if carried is item else 0.0

    async def run(self) -> None:
        """Runs until cancelled."""
        await asyncio.gather(self._execute_stage.run(), self._book_stage.run())

    async def _book(self, captured: list[tuple[Item, Captured]]) -> None:
        """Wallet, then ledger; then it is finished."""
        problems: dict[UUID, MeshError] = {}
        credited: list[Capture] = []
        started_ns = time.time_ns()
        applied = await self._wallet.credit([item for item, _ in captured])
        for (item, outcome), answer in zip(captured, applied, strict=True):
            if isinstance(answer, Applied):
                credited.append(Capture(item, outcome, answer))
            else:
                problems[item.operation_id] = answer
        _tell("credit", started_ns, [item for item, _ in captured], problems)
        started_ns = time.time_ns()
        booked = await self._ledger.book(credited) if credited else []
        for capture, problem in zip(credited, booked, strict=True):
            if problem is not None:
                problems[capture.item.operation_id] = problem
        _tell("book", started_ns, [capture.item for capture in credited], problems)
        done = [self._progress(i, out, problems.get(i.operation_id)) for i, out in captured]
        self._finish([progress for progress in done if progress is not None])

    def _lost(self, captured: list[tuple[Item, Captured]]) -> None:
        # A bug in booking must not lose what is known of the money: driven again later.
        done = [self._progress(item, Delayed("a bug, see the log"), None) for item, _ in captured]
        self._finish([progress for progress in done if progress is not None])

    def _progress(self, item: Item, outcome: Outcome, problem: MeshError | None) -> Progress | None:
        """What an item's trip changed; never raises, for the sake of its neighbours.

        None if nothing can be said of it in its state: it is carried no longer, and the next
        audit finds it.
        """
        for told in (outcome, Delayed("a bug, see the log")):
            try:
                return self._judged(item, told, problem if told is outcome else None)
            except Exception:
                log.exception("item_failed", **item.ids, state=item.state.name)
        self.forget(item)
        return None

    def _judged(self, item: Item, outcome: Outcome, problem: MeshError | None) -> Progress:
        result, attention = _result(item, outcome, problem)
        poll = isinstance(outcome, Parked) and outcome.poll
        retry_after_s = self._schedule.retry_after_s(result, item.attempt, poll=poll)
        if problem is not None or isinstance(outcome, Delayed):
            log.warning(
                "order_delayed" if retry_after_s is not None else "order_refused",
                **item.ids,
                cause=str(problem or outcome),
                retry_after_s=retry_after_s,
            )
        operation_state, evidence = _operation(item, outcome)
        declined = outcome if result is Result.DECLINED else None
        return Progress(
            item=item,
            state=next_state(item.state, result),
            operation_state=operation_state,
            evidence=evidence,
            psp_reference=getattr(outcome, "psp_reference", "") or None,
            captured_minor=item.amount_minor if isinstance(outcome, Captured) else None,
            decline_category=declined.category if isinstance(declined, Declined) else 0,
            decline_code=declined.code if isinstance(declined, Declined) else "",
            attention_reason=attention,
            retry_after_s=retry_after_s,
            delayed=result in (Result.CAPTURED, Result.DELAYED),
        )


def _tell(
    step: str, started_ns: int, items: Sequence[Item], problems: Mapping[UUID, MeshError]
) -> None:
    """The spans of a list that was credited or booked."""
    spans = tracing.recorder()
    if spans is not None and items:
        told = {operation_id: problem.reason.value for operation_id, problem in problems.items()}
        parts = [_part(item, told.get(item.operation_id, "")) for item in items]
        spans.handled(step, started_ns, parts)


def _part(item: Item, problem: str) -> Part:
    return Part(item.payment_id, item.order_id, item.operation_id, problem)


def _result(item: Item, outcome: Outcome, problem: MeshError | None) -> tuple[Result, str | None]:
    """What was learnt, and what an operator has to know; None: nothing new."""
    match outcome:
        case Declined() if item.captured:
            return Result.PARKED, "CONTRADICTED: captured before, and now said to be declined"
        case Pending() | Unknown() if item.state is OrderState.CAPTURED:
            return Result.DELAYED, None
        # It is parked after its capture: the lack of evidence changes neither that nor its reason.
        case Pending() if item.captured:
            return Result.UNKNOWN, None
        case Parked(poll=True) if item.captured and item.state is OrderState.PARKED:
            return Result.PARKED, None
        case Captured() if problem is None:
            return Result.BOOKED, ""
        case Captured() if problem is not None and problem.is_permanent:
            # The money is taken: never a failure of the order, always somebody's task.
            return Result.PARKED, f"BOOKING_REFUSED: captured, but not booked: {problem}"
        case Captured():
            return Result.CAPTURED, ""
        case Declined():
            return Result.DECLINED, ""
        case Pending():
            return Result.PENDING, ""
        case Unknown():
            return Result.UNKNOWN, None
        case Parked():
            return Result.PARKED, outcome.attention_reason
        case Delayed():
            return Result.DELAYED, None


def _operation(item: Item, outcome: Outcome) -> tuple[OperationState | None, Evidence | None]:
    if item.captured and not isinstance(outcome, Captured):
        return None, None  # what is known of the money stays
    match outcome:
        case Captured():
            return OperationState.SUCCEEDED, outcome.evidence
        case Declined():
            return OperationState.FAILED, outcome.evidence
        case Unknown() | Parked():
            return OperationState.UNKNOWN, None
        case Pending():
            return OperationState.PENDING, None
        case Delayed():
            return None, None
