"""Carries charges out over time: waits as the PSP would, then commits, then tells.

The order is: wait, commit, answer at once. So a caller that gives up during the wait is
charged later all the same, and its look-up in between says `not_found`: the harder case
for the mesh than a capture at the start, which a look-up would find, and what real PSPs
do, whose answer comes when the issuer's does. tok_slow is no exception. A capture whose
answer is lost is what tok_timeout_captured is for.

A list is carried out by a task of its own, because the call that brought it may be
cancelled at any await, and what it asked for happens nevertheless.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import structlog

from mesh.errors import MeshError, Reason
from psp_stub.domain import Ask, script_of
from psp_stub.operations import Answer

log = structlog.get_logger()

Told = list[tuple[Ask, Answer]]

# Waits end at common ticks, so that what thousands of calls wait for is committed in at
# most a hundred commits a second; a latency is some hundreds of ticks, or none at all.
_TICK_S = 0.01

_P99_DEVIATIONS = 2.3263478740408408  # the standard normal distribution's 99th percentile


class Latency:
    """How long the PSP takes: log-normal, drawn from a seed."""

    def __init__(self, median_s: float, p99_s: float, seed: int) -> None:
        """median_s: 0 is no latency. p99_s: 0 or the median is always the median."""
        self._median_s = median_s
        spread = p99_s / median_s if median_s and p99_s else 1.0
        self._sigma = math.log(spread) / _P99_DEVIATIONS
        self._random = random.Random(seed)

    def draw_s(self) -> float:
        """The next latency, in seconds."""
        if not self._sigma:
            return self._median_s
        return self._median_s * math.exp(self._random.gauss(0.0, self._sigma))


class Processor:
    """Carries out lists of charges. Belongs to one event loop."""

    def __init__(
        self,
        write: Callable[[Sequence[Ask]], Awaitable[Sequence[Answer]]],
        latency: Latency,
        *,
        slow_s: float,
    ) -> None:
        """write: charges a list and commits it. slow_s: what tok_slow takes."""
        self._write = write
        self._latency = latency
        self._slow_s = slow_s
        self._under_way: set[asyncio.Task[None]] = set()

    async def process(self, asks: Sequence[Ask]) -> AsyncIterator[Told]:
        """Starts the charges at once; yields what they hear as soon as it is known.

        Each ask is told of once (None: never to be answered), in any order; what is known
        at the same moment comes in one list. Whoever stops listening stops nothing.
        """
        told: asyncio.Queue[Told] = asyncio.Queue()
        task = asyncio.create_task(self._carry_out(asks, told.put_nowait))
        self._under_way.add(task)  # the loop itself holds tasks weakly
        task.add_done_callback(self._under_way.discard)
        waiting = len(asks)
        while waiting:
            known = await told.get()
            while not told.empty():
                known += told.get_nowait()
            waiting -= len(known)
            yield known

    async def _carry_out(self, asks: Sequence[Ask], tell: Callable[[Told], None]) -> None:
        loop = asyncio.get_running_loop()
        waiting = self._by_due_time(asks, loop.time())
        for due in sorted(waiting):
            if due not in waiting:
                continue  # overdue, and carried out with those before
            if due > loop.time():
                await asyncio.sleep(due - loop.time())
            ready = [time for time in waiting if time <= due or time <= loop.time()]
            now = [ask for time in sorted(ready) for ask in waiting.pop(time)]
            answers: Sequence[Answer]
            try:
                answers = await self._write(now)
            except Exception:
                log.exception("charges_failed", charges=len(now))
                answers = [MeshError(Reason.INTERNAL, "the stub failed")] * len(now)
            tell(list(zip(now, answers, strict=True)))

    def _by_due_time(self, asks: Sequence[Ask], now: float) -> dict[float, list[Ask]]:
        due: defaultdict[float, list[Ask]] = defaultdict(list)
        for ask in asks:
            slow = script_of(ask.payment_method).slow
            wait_s = self._slow_s if slow else self._latency.draw_s()
            due[math.ceil((now + wait_s) / _TICK_S) * _TICK_S if wait_s else now].append(ask)
        return dict(due)
