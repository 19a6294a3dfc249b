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
from collections.abc import Callable, Sequence
from uuid import UUID

import structlog

from mesh.batching import Stage
from mesh.errors import MeshError
from payment_svc.clients import Applied, Capture, ExecutorStream, LedgerClient, WalletClient
from payment_svc.domain import (
    Captured,
    Declined,
    Delayed,
    Evidence,
    Item,
    OperationState,
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
        self._book_stage: Stage[tuple[Item, Outcome]] = Stage(
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

    def put(self, items: Sequence[Item]) -> None:
        """Puts items on the conveyor; one that is on it already only changes its epoch."""
        new = []
        now = time.monotonic()
        for item in items:
            carried = self._items.get(item.operation_id)
            if carried is None:
                self._items[item.operation_id] = (item, now)
                new.append(item)
            else:
                carried[0].epoch = item.epoch
        self._execute_stage.put(new)

    def learnt(self, outcomes: list[tuple[Item, Outcome]]) -> None:
        """Takes what the executor says."""
        self._book_stage.put(outcomes)

    def forget(self, item: Item) -> float:
        """Takes an item off; answers how long it was carried, in seconds."""
        _, since = self._items.pop(item.operation_id)
        return time.monotonic() - since

    async def run(self) -> None:
        """Runs until cancelled."""
        await asyncio.gather(self._execute_stage.run(), self._book_stage.run())

    async def _book(self, outcomes: list[tuple[Item, Outcome]]) -> None:
        """Wallet, then ledger, for what was captured; then everything is finished."""
        captured = [(item, out) for item, out in outcomes if isinstance(out, Captured)]
        problems: dict[UUID, MeshError] = {}
        if captured:
            credited: list[Capture] = []
            applied = await self._wallet.credit([item for item, _ in captured])
            for (item, outcome), answer in zip(captured, applied, strict=True):
                if isinstance(answer, Applied):
                    credited.append(Capture(item, outcome, answer))
                else:
                    problems[item.operation_id] = answer
            booked = await self._ledger.book(credited) if credited else []
            for capture, problem in zip(credited, booked, strict=True):
                if problem is not None:
                    problems[capture.item.operation_id] = problem
        self._finish(
            [self._progress(item, out, problems.get(item.operation_id)) for item, out in outcomes]
        )

    def _lost(self, outcomes: list[tuple[Item, Outcome]]) -> None:
        # A bug in booking must not lose what is known of the money: driven again later.
        self._finish(
            [self._progress(item, Delayed("a bug, see the log"), None) for item, _ in outcomes]
        )

    def _progress(self, item: Item, outcome: Outcome, problem: MeshError | None) -> Progress:
        result, attention = _result(outcome, problem)
        poll = isinstance(outcome, Parked) and outcome.poll
        retry_after_s = self._schedule.retry_after_s(result, item.attempt, poll=poll)
        if problem is not None or isinstance(outcome, Delayed):
            log.warning(
                "order_delayed" if retry_after_s is not None else "order_refused",
                payment_id=item.payment_id.hex,
                order_id=item.order_id.hex,
                cause=str(problem or outcome),
                retry_after_s=retry_after_s,
            )
        operation_state, evidence = _operation(outcome)
        return Progress(
            item=item,
            state=next_state(item.state, result),
            operation_state=operation_state,
            evidence=evidence,
            psp_reference=getattr(outcome, "psp_reference", "") or None,
            captured_minor=item.amount_minor if isinstance(outcome, Captured) else None,
            decline_category=outcome.category if isinstance(outcome, Declined) else 0,
            decline_code=outcome.code if isinstance(outcome, Declined) else "",
            attention_reason=attention,
            retry_after_s=retry_after_s,
            delayed=result in (Result.CAPTURED, Result.DELAYED),
        )


def _result(outcome: Outcome, problem: MeshError | None) -> tuple[Result, str | None]:
    """What was learnt, and what an operator has to know; None: nothing new."""
    match outcome:
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


def _operation(outcome: Outcome) -> tuple[OperationState | None, Evidence | None]:
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
