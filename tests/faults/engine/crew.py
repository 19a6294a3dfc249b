"""Workers that share what has to be run."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Self

from tests.faults.engine.faults import Scenario
from tests.faults.engine.run import Result

WORKERS = max(1, min(2, os.cpu_count() or 1))
MESHES = 5
"""In each worker: most of a scenario is waiting, for deadlines, leases and reconnections."""

MOST_REPLACED = 20
"""Workers that may end by themselves; what they had under way is run again. Each scenario tears
servers and channels out of its process, and once in some ten thousand gRPC's own threads crash."""

TRIES = 3
"""For a scenario whose second fault did not come to pass: what happens at once has no order."""


class Crew:
    """Processes that run scenarios."""

    def __init__(self, workers: int = WORKERS, meshes: int = MESHES) -> None:
        self._meshes = meshes
        self._wanted = workers
        self._workers: list[asyncio.subprocess.Process] = []
        self.replaced = 0
        """Workers that ended by themselves."""

    async def __aenter__(self) -> Self:
        for _ in range(self._wanted):
            self._workers.append(await self._new_worker())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for worker in self._workers:
            if error is not None and worker.returncode is None:
                worker.terminate()
            if worker.stdin is not None:
                worker.stdin.close()
        for worker in self._workers:
            await worker.wait()

    async def run(
        self,
        scenarios: Iterable[Scenario],
        tell: Callable[[Result], None] = lambda _: None,
        *,
        tries: int = TRIES,
    ) -> list[Result]:
        """Runs them all; what did not fire is tried again (`early`), so many times in all."""
        results: dict[str, Result] = {}
        missing = list(scenarios)
        for number in range(tries):
            for result in await self.run_each(missing, tell, early=number > 0):
                results[str(result.scenario)] = result
            missing = [
                result.scenario
                for result in results.values()
                if not result.all_fired and not result.problems
            ]
            if not missing:
                break
        return list(results.values())

    async def run_each(
        self,
        scenarios: Iterable[Scenario],
        tell: Callable[[Result], None] = lambda _: None,
        *,
        early: bool = False,
    ) -> list[Result]:
        """Runs each once, also of equal ones. early: see engine.run."""
        waiting = iter([str(scenario) for scenario in scenarios])
        per_worker = await asyncio.gather(
            *(self._feed(place, waiting, tell, early=early) for place in range(self._wanted))
        )
        return [result for results in per_worker for result in results]

    async def _feed(
        self,
        place: int,
        waiting: Iterator[str],
        tell: Callable[[Result], None],
        *,
        early: bool,
    ) -> list[Result]:
        """Keeps the worker in a place busy: it gets a new scenario for each that it has run."""
        results: list[Result] = []
        under_way: Counter[str] = Counter()
        again: list[str] = []
        while True:
            worker = self._workers[place]
            if worker.stdin is None or worker.stdout is None:
                raise AssertionError("a worker has pipes")
            while under_way.total() < self._meshes:
                text = again.pop() if again else next(waiting, None)
                if text is None:
                    break
                under_way[text] += 1
                asked = json.dumps({"scenario": text, "early": early})
                worker.stdin.write(f"{asked}\n".encode())
            if not under_way.total():
                return results
            if line := await worker.stdout.readline():
                result = _result(json.loads(line))
                under_way[str(result.scenario)] -= 1
                results.append(result)
                tell(result)
                continue
            if self.replaced == MOST_REPLACED:
                raise RuntimeError(f"a worker ended again, during {', '.join(+under_way)}")
            self.replaced += 1
            await worker.wait()
            again += under_way.elements()
            under_way.clear()
            self._workers[place] = await self._new_worker()

    async def _new_worker(self) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.faults.engine.worker",
            str(self._meshes),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=2**20,
        )


def _result(told: dict[str, Any]) -> Result:
    told["scenario"] = Scenario.parse(told["scenario"])
    told["passed"] = [Counter(passed) for passed in told["passed"]]
    return Result(**told)
