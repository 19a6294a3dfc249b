"""Take all that wait, handle it as one list, answer item by item.

There is no linger timer: a lone item goes through at once, and what arrives while a
list is under way travels in the next one. What is bounded is the number of lists under
way, because fast stages that always find a free slot cut lists to a few items, and the
cost per item is the cost per list divided by its length.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import structlog

from mesh.db import CommitFailed, CommitUnknown, NotCommitted
from mesh.errors import MeshError, Reason, outcome_unknown
from mesh.metrics import CommitCounts, StageCounts

T = TypeVar("T")
R = TypeVar("R")

log = structlog.get_logger()

# Long enough for any list to be cheap, short enough that one list is a few
# milliseconds of work and its statement far below the statement timeout.
MAX_LIST_ITEMS = 500

# What one commit takes in all. Without it, what piled up while a database was away is one
# statement that never ends in time, and so is repeated for ever.
MAX_COMMIT_ITEMS = 4_000

# How long a writer waits before it tries a list again that must not be lost.
FIRST_BACKOFF_S = 0.05
MAX_BACKOFF_S = 1.0


class Stage(Generic[T]):
    """A loop that hands all waiting items to `handle`, at most `lists` lists at once.

    `handle` answers for its items itself; it must not raise. If it does, that is a bug:
    it is logged, and the items are handed to `lost`. So they are when something inside
    `handle` was cancelled; not when the process itself ends.
    """

    def __init__(
        self,
        name: str,
        handle: Callable[[list[T]], Awaitable[None]],
        *,
        lost: Callable[[list[T]], None],
        lists: int = 1,
        max_items: int = MAX_LIST_ITEMS,
        weigh: Callable[[T], int] = lambda _: 0,
        max_weight: int = 0,
    ) -> None:
        """`name` is for logs and metrics; `max_items` bounds a list, and so does `max_weight`.

        A list has at least one item, whatever it weighs.
        """
        self._name = name
        self._handle = handle
        self._lost = lost
        self._max_items = max_items
        self._weigh = weigh
        self._max_weight = max_weight
        self._slots = asyncio.Semaphore(lists)
        self._waiting: deque[T] = deque()
        self._wake = asyncio.Event()
        self._under_way: set[asyncio.Task[None]] = set()
        self._counts = StageCounts(name, self._waiting.__len__, self._under_way.__len__)

    def put(self, items: Sequence[T]) -> None:
        """Queues items; never blocks. Who needs a bound bounds what it accepts."""
        if items:
            self._waiting.extend(items)
            self._wake.set()

    def put_back(self, items: Sequence[T]) -> None:
        """Queues items again, before all that wait."""
        self._waiting.extendleft(reversed(items))
        self._wake.set()

    def withdraw(self, unwanted: Callable[[T], bool]) -> list[T]:
        """Takes back those that wait and are `unwanted`; answers them."""
        withdrawn = [item for item in self._waiting if unwanted(item)]
        if withdrawn:
            kept = [item for item in self._waiting if not unwanted(item)]
            self._waiting.clear()
            self._waiting.extend(kept)
        return withdrawn

    async def run(self) -> None:
        """Runs until cancelled. Lists under way are then finished first; the rest waits."""
        try:
            while True:
                while not self._waiting:
                    self._wake.clear()
                    await self._wake.wait()
                # Taken only now: what arrived while no slot was free is in the list too.
                await self._slots.acquire()
                await self._gather()
                if not self._waiting:  # all of it was withdrawn meanwhile
                    self._slots.release()
                    continue
                task = asyncio.create_task(self._one(self._take()))
                self._under_way.add(task)
                task.add_done_callback(self._under_way.discard)
        finally:
            if self._under_way:
                await asyncio.wait(self._under_way)

    async def _gather(self) -> None:
        """Lets what the event loop already holds arrive, for as long as it brings items.

        No timer: a lone item waits for one turn of the loop. Under load a fast stage would
        otherwise take the first of many that are just being read from their sockets.
        """
        waiting = 0
        while waiting < len(self._waiting) < self._max_items:
            waiting = len(self._waiting)
            await asyncio.sleep(0)

    def _take(self) -> list[T]:
        items = [self._waiting.popleft()]
        weight = self._weigh(items[0])
        while self._waiting and len(items) < self._max_items:
            weight += self._weigh(self._waiting[0])
            if weight > self._max_weight:
                break
            items.append(self._waiting.popleft())
        return items

    async def _one(self, items: list[T]) -> None:
        self._counts.taken(len(items))
        started = time.perf_counter()
        lost = True
        try:
            await self._handle(items)
            lost = False
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                lost = False
                raise
            log.exception("stage_interrupted", stage=self._name, items=len(items))
            self._lost(items)
        except Exception:
            log.exception("stage_failed", stage=self._name, items=len(items))
            self._lost(items)
        finally:
            self._counts.ended(time.perf_counter() - started, lost=lost)
            self._slots.release()


@dataclass(slots=True)
class _Submission(Generic[T, R]):
    items: Sequence[T]
    durable: bool
    answer: asyncio.Future[list[R | MeshError]]


class Writer(Generic[T, R]):
    """The one writer of a process: commits what waits together, results per item.

    `commit` writes a list in one commit and returns a result for each item, in order. It
    must be idempotent on the items' keys, because a list is repeated when it is not known
    whether it was stored.
    """

    def __init__(
        self,
        name: str,
        commit: Callable[[list[T]], Awaitable[Sequence[R | MeshError]]],
        *,
        max_items: int = MAX_LIST_ITEMS,
        weigh: Callable[[T], int] = lambda _: 1,
    ) -> None:
        """`name` is for logs and metrics; `max_items` bounds the submissions in one commit.

        A commit also takes no more than MAX_COMMIT_ITEMS of what `weigh` counts for an
        item, unless one submission alone has more: for items that are lists themselves.
        """
        self._name = name
        self._commit = commit
        self._counts = CommitCounts(name)
        self._backoff_s = FIRST_BACKOFF_S
        self._stage: Stage[_Submission[T, R]] = Stage(
            name,
            self._write,
            lost=self._fail,
            lists=1,
            max_items=max_items,
            weigh=lambda submission: sum(map(weigh, submission.items)),
            max_weight=MAX_COMMIT_ITEMS,
        )

    async def run(self) -> None:
        """Runs until cancelled."""
        await self._stage.run()

    async def write(self, items: Sequence[T], *, durable: bool) -> list[R | MeshError]:
        """Writes the items in one commit, together with what else waits.

        durable: repeated with backoff until the database takes it, for what must not be
        lost (an outcome, a finish). Otherwise a database that is down is the items'
        result at once (NotCommitted, CommitUnknown), for what a caller can repeat; and
        what nobody waits for any more is not written, if that has not begun.
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
        submissions = [s for s in submissions if s.durable or not s.answer.done()]
        if not submissions:
            return
        try:
            results = await self._settled([i for s in submissions for i in s.items])
        except (NotCommitted, CommitUnknown) as failed:
            await self._repeat_later(_give_up(submissions, failed), failed)
            return
        self._backoff_s = FIRST_BACKOFF_S
        start = 0
        for submission in submissions:
            end = start + len(submission.items)
            _answer(submission, results[start:end])
            start = end

    async def _repeat_later(
        self, submissions: list[_Submission[T, R]], failed: CommitFailed
    ) -> None:
        """Puts what must not be lost back to the front, and holds the next list off a while.

        It is not repeated here, because who came meanwhile and need not be stored would
        wait behind it for as long as the database is away, and is to be told at once. Also
        who has no room in the next list: what is put back may fill every list there is.
        """
        if not submissions:
            return
        log.warning(
            "commit_repeated",
            writer=self._name,
            reason=failed.reason.value,
            sqlstate=failed.sqlstate,
            items=sum(len(s.items) for s in submissions),
        )
        # Of these nothing was tried, whatever became of the list.
        refused = failed if isinstance(failed, NotCommitted) else _not_tried(failed)
        _give_up(self._stage.withdraw(lambda submission: not submission.durable), refused)
        self._stage.put_back(submissions)
        await asyncio.sleep(self._backoff_s)
        self._backoff_s = min(self._backoff_s * 2, MAX_BACKOFF_S)

    async def _settled(self, items: list[T]) -> list[R | MeshError]:
        """One commit; where it is not known whether it was stored, once more on its keys.

        A server that was restarted is found out by a statement on a connection that is
        dead, and the second try is on a new one: callers need not notice.
        """
        try:
            return await self._isolating(items)
        except CommitUnknown as unknown:
            log.warning("commit_unknown", writer=self._name, sqlstate=unknown.sqlstate)
            try:
                return await self._isolating(items)
            except NotCommitted:
                raise unknown from None

    async def _isolating(self, items: list[T]) -> list[R | MeshError]:
        """One commit; where a row is refused, halves, until the bad item stands alone."""
        try:
            return await self._counted(items)
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
        except MeshError as refused:
            if len(items) == 1:
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

    async def _counted(self, items: list[T]) -> list[R | MeshError]:
        """One commit, and what came of it for the metrics."""
        started = time.perf_counter()
        result = "failed"
        try:
            results = list(await self._commit(items))
            if len(results) != len(items):
                # Never shifted: one's result must not be told to another.
                raise ValueError(f"{len(results)} results for {len(items)} items")
            result = "stored"
            return results
        except NotCommitted:
            result = "not_stored"
            raise
        except (CommitUnknown, asyncio.CancelledError):
            result = "unknown"
            raise
        except MeshError:
            result = "refused"
            raise
        finally:
            self._counts.ended(result, len(items), time.perf_counter() - started)

    def _fail(self, submissions: list[_Submission[T, R]]) -> None:
        error = outcome_unknown("it was stored")
        for submission in submissions:
            _answer(submission, [error] * len(submission.items))


def _give_up(submissions: list[_Submission[T, R]], failed: CommitFailed) -> list[_Submission[T, R]]:
    for submission in submissions:
        if not submission.durable:
            _answer(submission, [failed] * len(submission.items))
    return [submission for submission in submissions if submission.durable]


def _not_tried(failed: CommitFailed) -> NotCommitted:
    return NotCommitted(failed.commit, failed)


def _answer(submission: _Submission[T, R], results: Sequence[R | MeshError]) -> None:
    if not submission.answer.done():  # cancelled: whoever asked has gone, the rows stay
        submission.answer.set_result(list(results))
