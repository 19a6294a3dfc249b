"""Workers that end by themselves."""

from __future__ import annotations

import asyncio
import os
import signal

from tests.faults.engine.crew import Crew
from tests.faults.engine.faults import Scenario
from tests.faults.engine.run import Result


def test_what_a_worker_had_under_way_is_run_by_its_successor() -> None:
    results, replaced = asyncio.run(_run_while_one_is_killed())
    assert [result.problems for result in results] == [[]] * 8
    assert replaced == 1


async def _run_while_one_is_killed() -> tuple[list[Result], int]:
    async with Crew(1, 2) as crew:

        def kill_once(_: Result) -> None:
            if not crew.replaced:
                (worker,) = crew._workers
                os.kill(worker.pid, signal.SIGKILL)

        return await crew.run_each([Scenario("one-order")] * 8, kill_once), crew.replaced
