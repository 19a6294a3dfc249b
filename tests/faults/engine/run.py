"""One scenario after the other through one mesh."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field

from tests.faults.checker import Sessions
from tests.faults.engine.faults import Scenario
from tests.faults.engine.flows import FLOWS
from tests.faults.engine.mesh import FailingMesh
from tests.faults.engine.passages import Passages
from tests.faults.engine.plan import BACKGROUND


@dataclass(slots=True)
class Result:
    """How a scenario went. problems: none if all is well."""

    scenario: Scenario
    seconds: float = 0.0
    fired: int = 0
    passed: list[Counter[str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    @property
    def all_fired(self) -> bool:
        """Whether every fault has happened."""
        return self.fired == len(self.scenario.faults)


async def run(
    mesh: FailingMesh, books: Sessions, scenario: Scenario, *, early: bool = False
) -> Result:
    """Drives a flow while the faults happen; then compares what everybody says.

    `books`: of the mesh's databases, see tests.faults.checker. early: a first fault that needs
    nobody's call happens before any; else it is chance what is left to fail after it.
    """
    result = Result(scenario)
    attempt = FLOWS[scenario.flow].begin()
    passages = Passages(scenario)
    started = time.perf_counter()
    try:
        await attempt.prepare(mesh)
        mesh.begin(passages)
        if early and scenario.faults and scenario.faults[0].point in BACKGROUND:
            await _fire(passages, 1)
        for _ in range(2):  # some points are passed by what is asked again alone
            await attempt.drive(mesh)
            await _fire(passages, len(scenario.faults))
            await mesh.deliver_late()
            await mesh.quiet()
            if passages.all_fired:
                break
        # Asked again, whatever happened since: it must still be the same.
        await attempt.drive(mesh)
    except TimeoutError:
        result.problems.append("it did not come to rest")
    except Exception:  # noqa: BLE001  # whatever it is, it is the scenario's result
        result.problems.append(traceback.format_exc(limit=3))
    await mesh.end()
    result.seconds = time.perf_counter() - started
    result.fired = len(passages.fired)
    result.passed = passages.passed
    result.told = attempt.told
    result.problems += await asyncio.to_thread(attempt.compare, books)
    return result


async def _fire(passages: Passages, wanted: int) -> None:
    """Waits a moment for faults at what is passed again and again, such as a lease's renewal."""
    for _ in range(30):
        if len(passages.fired) >= wanted:
            return
        await asyncio.sleep(0.01)
