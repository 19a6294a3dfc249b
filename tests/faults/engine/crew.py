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
MESHES = 4
"""In each worker: most of a scenario is waiting, for deadlines, leases and reconnections."""

TRIES = 3
"""For a scenario whose second fault did not come to pass: what happens at once has no order."""


class Crew:
    """Processes that run scenarios."""

    def __init__(self, workers: int = WORKERS, meshes: int = MESHES) -> None:
        self._meshes = meshes
        self._wanted = workers
        self._workers: list[asyncio.subprocess.Process] = []

    async def __aenter__(self) -> Self:
        for _ in range(self._wanted):
            self._workers.append(
                await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    "tests.faults.engine.worker",
                    str(self._meshes),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    limit=2**20,
                )
            )
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
        """Runs them all; what did not fire is tried again, so many times in all."""
        results: dict[str, Result] = {}
        missing = list(scenarios)
        for _ in range(tries):
            for result in await self.run_each(missing, tell):
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
        self, scenarios: Iterable[Scenario], tell: Callable[[Result], None] = lambda _: None
    ) -> list[Result]:
        """Runs each once, also of equal ones."""
        waiting = iter([str(scenario) for scenario in scenarios])
        per_worker = await asyncio.gather(*(self._feed(w, waiting, tell) for w in self._workers))
        return [result for results in per_worker for result in results]

    async def _feed(
        self,
        worker: asyncio.subprocess.Process,
        waiting: Iterator[str],
        tell: Callable[[Result], None],
    ) -> list[Result]:
        """Keeps a worker busy: it gets a new scenario for each that it has run."""
        if worker.stdin is None or worker.stdout is None:
            raise AssertionError("a worker has pipes")
        results: list[Result] = []
        under_way: Counter[str] = Counter()

        def give() -> None:
            text = next(waiting, None)
            if text is not None and worker.stdin is not None:
                under_way[text] += 1
                worker.stdin.write(f"{text}\n".encode())

        for _ in range(self._meshes):
            give()
        while under_way.total():
            line = await worker.stdout.readline()
            if not line:
                raise RuntimeError(f"a worker ended during {', '.join(under_way)}")
            result = _result(json.loads(line))
            under_way[str(result.scenario)] -= 1
            results.append(result)
            tell(result)
            give()
        return results


def _result(told: dict[str, Any]) -> Result:
    told["scenario"] = Scenario.parse(told["scenario"])
    told["passed"] = [Counter(passed) for passed in told["passed"]]
    return Result(**told)
