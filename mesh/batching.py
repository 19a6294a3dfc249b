"""Take all that wait, handle it as one list, answer item by item.

There is no linger timer: a lone item goes through at once, and what arrives while a
list is under way travels in the next one. What is bounded is the number of lists under
way, because fast stages that always find a free slot cut lists to a few items, and the
cost per item is the cost per list divided by its length.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import structlog

from mesh.db import CommitFailed, CommitUnknown, NotCommitted
from mesh.errors import MeshError, Reason

T = TypeVar("T")
R = TypeVar("R")

log = structlog.get_logger()

# Long enough for any list to be cheap, short enough that one list is a few
# milliseconds of work and its statement far below the statement timeout.
MAX_LIST_ITEMS = 500

# How long a writer waits before it tries a list again that must not be lost.
FIRST_BACKOFF_S = 0.05
MAX_BACKOFF_S = 1.0


class Stage(Generic[T]):
    """A loop that hands all waiting items to `handle`, at most `lists` lists at once.

    `handle` answers for its items itself; it must not raise. If it does, that is a bug:
    it is logged, and the items are handed to `lost`.
    """

    def __init__(
        self,
        name: str,
        handle: Callable[[list[T]], Awaitable[None]],
        *,
        lost: Callable[[list[T]], None],
        lists: int = 1,
        max_items: int = MAX_LIST_ITEMS,
    ) -> None:
        """`name` is for logs; `max_items` bounds one list."""
        self._name = name
        self._handle = handle
        self._lost = lost
        self._max_items = max_items
        self._slots = asyncio.Semaphore(lists)
        self._waiting: deque[T] = deque()
        self._wake = asyncio.Event()
        self._under_way: set[asyncio.Task[None]] = set()

    def put(self, items: Sequence[T]) -> None:
        """Queues items; never blocks. Who needs a bound bounds what it accepts."""
        if items:
            self._waiting.extend(items)
            self._wake.set()

    async def run(self) -> None:
        """Runs until cancelled. Lists under way are then finished first."""
        try:
            while True:
                await self._slots.acquire()
                while not self._waiting:
                    self._wake.clear()
                    await self._wake.wait()
                count = min(len(self._waiting), self._max_items)
                items = [self._waiting.popleft() for _ in range(count)]
                task = asyncio.create_task(self._one(items))
                self._under_way.add(task)
                task.add_done_callback(self._under_way.discard)
        finally:
            if self._under_way:
                await asyncio.wait(self._under_way)

    async def _one(self, items: list[T]) -> None:
        try:
            await self._handle(items)
        except Exception:
            log.exception("stage_failed", stage=self._name, items=len(items))
            self._lost(items)
        finally:
            self._slots.release()


@dataclass(slots=True)
class _Submission(Generic[T, R]):
    items: Sequence[T]
    durable: bool
    answer: asyncio.Future[list[R | MeshError]]


class Writer(Generic[T, R]):
    """The one writer of a process: commits what waits together, results per item.

    `commit` writes a list in one commit and returns a result for each item. It must be
    idempotent on the items' keys, because a list is repeated when it is not known
    whether it was stored.
    """

    def __init__(
        self,
        name: str,
        commit: Callable[[list[T]], Awaitable[Sequence[R | MeshError]]],
        *,
        max_items: int = MAX_LIST_ITEMS,
    ) -> None:
        """`name` is for logs; `max_items` bounds one list."""
        self._name = name
        self._commit = commit
        self._stage: Stage[_Submission[T, R]] = Stage(
            name, self._write, lost=self._fail, lists=1, max_items=max_items
        )

    async def run(self) -> None:
        """Runs until cancelled."""
        await self._stage.run()

    async def write(self, items: Sequence[T], *, durable: bool) -> list[R | MeshError]:
        """Writes the items in one commit, together with what else waits.

        durable: repeated with backoff until the database takes it, for what must not be
        lost (an outcome, a finish). Otherwise a database that is down is the items'
        result at once (NotCommitted, CommitUnknown), for what a caller can repeat.
        A row that the database refuses is the result of its item alone (BadData).
        """
        if not items:
            return []
        submission: _Submission[T, R] = _Submission(
            items, durable, asyncio.get_running_loop().create_future()
        )
        self._stage.put([submission])
        return await submission.answer

    async def _write(self, submissions: list[_Submission[T, R]]) -> None:
        backoff_s = FIRST_BACKOFF_S
        while submissions:
            try:
                results = await self._isolating([i for s in submissions for i in s.items])
            except (NotCommitted, CommitUnknown) as failed:
                submissions = _give_up(submissions, failed)
                if submissions:
                    log.warning(
                        "commit_repeated",
                        writer=self._name,
                        reason=failed.reason.value,
                        items=sum(len(s.items) for s in submissions),
                    )
                    await asyncio.sleep(backoff_s)
                    backoff_s = min(backoff_s * 2, MAX_BACKOFF_S)
                continue
            start = 0
            for submission in submissions:
                end = start + len(submission.items)
                _answer(submission, results[start:end])
                start = end
            return

    async def _isolating(self, items: list[T]) -> list[R | MeshError]:
        """One commit; where a row is refused, halves, until the bad item stands alone."""
        try:
            return list(await self._commit(items))
        except (NotCommitted, CommitUnknown):
            raise
        except CommitFailed as refused:
            if len(items) == 1:
                # The driver's own text may hold values of the row: not logged.
                log.error(  # noqa: TRY400
                    "row_refused",
                    writer=self._name,
                    commit=refused.commit,
                    sqlstate=refused.sqlstate,
                    constraint=refused.constraint,
                )
                return [refused]
        except Exception:
            if len(items) == 1:
                log.exception("item_failed", writer=self._name)
                return [MeshError(Reason.INTERNAL, f"{self._name} failed")]
        half = len(items) // 2
        first = await self._isolating(items[:half])
        try:
            return first + await self._isolating(items[half:])
        except NotCommitted as failed:
            # The first half may be stored, so of the whole list it is not known.
            raise CommitUnknown(failed.commit, failed) from failed

    def _fail(self, submissions: list[_Submission[T, R]]) -> None:
        error = MeshError(Reason.INTERNAL, f"{self._name} failed")
        for submission in submissions:
            _answer(submission, [error] * len(submission.items))


def _give_up(submissions: list[_Submission[T, R]], failed: CommitFailed) -> list[_Submission[T, R]]:
    for submission in submissions:
        if not submission.durable:
            _answer(submission, [failed] * len(submission.items))
    return [submission for submission in submissions if submission.durable]


def _answer(submission: _Submission[T, R], results: Sequence[R | MeshError]) -> None:
    if not submission.answer.done():  # cancelled: whoever asked has gone, the rows stay
        submission.answer.set_result(list(results))
