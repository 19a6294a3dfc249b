"""One scenario after the other through one mesh."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field

from tests.faults.engine.faults import Scenario
from tests.faults.engine.flows import FLOWS, Told, pay
from tests.faults.engine.mesh import FailingMesh
from tests.faults.engine.passages import Passages


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


async def run(mesh: FailingMesh, scenario: Scenario) -> Result:
    """Pays while the faults happen; then compares what everybody says."""
    result = Result(scenario)
    flow = FLOWS[scenario.flow]
    told = Told(flow.request())
    passages = mesh.begin(scenario)
    started = time.perf_counter()
    try:
        await pay(mesh, told)
        await _fire(passages)
        await mesh.deliver_late()
        await mesh.quiet()
        # Told again, whatever happened since: what rests must still say the same.
        await pay(mesh, told)
    except TimeoutError:
        last = told.answers[-1:] or "nothing was told"
        result.problems.append(f"it did not come to rest: {last}; {told.refusals[-3:]}")
    except Exception:  # noqa: BLE001  # whatever it is, it is the scenario's result
        result.problems.append(traceback.format_exc(limit=3))
    await mesh.end()
    result.seconds = time.perf_counter() - started
    result.fired = len(passages.fired)
    result.passed = passages.passed
    result.told = told.refusals
    if not result.problems:
        for order, ends in zip(told.answers[-1].orders, flow.ends, strict=True):
            if order.state not in ends:
                result.problems.append(f"{order.order_id} rests in state {order.state}")
    return result


async def _fire(passages: Passages) -> None:
    """Waits a moment for a fault at what is passed again and again, such as a lease's renewal."""
    for _ in range(30):
        if passages.all_fired:
            return
        await asyncio.sleep(0.01)
