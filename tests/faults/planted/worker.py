"""A process in which bugs are planted: a line in is a bug's number or a scenario.

A line out is what came of it. `python -m tests.faults.planted.worker`
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from mesh.migrations import provision
from tests.faults.engine import worker
from tests.faults.engine.process import follow_tasks
from tests.faults.planted.bench import Bench
from tests.faults.planted.bugs import BUGS
from tests.support.folders import open_folder
from tests.support.postgres import started


@asynccontextmanager
async def opened(admin_url: str) -> AsyncIterator[Bench]:
    """A bench on a PostgreSQL."""
    loop = asyncio.get_running_loop()
    follow_tasks(loop)
    # Tasks of the dead that Python finds unfinished.
    loop.set_exception_handler(lambda *_: None)
    yield Bench(admin_url, await asyncio.to_thread(provision, admin_url, prefix="template"))


def run(work: Callable[[Bench], Coroutine[Any, Any, int]]) -> int:
    """Runs `work` in a process that has a PostgreSQL in memory of its own."""
    worker.configure()

    async def on_a_bench(admin_url: str) -> int:
        async with opened(admin_url) as bench:
            return await work(bench)

    with open_folder(in_memory=True) as folder:
        server = started(folder / "data")
        try:
            return asyncio.run(on_a_bench(server.admin_url))
        finally:
            server.stop(immediate=True)


async def serve(bench: Bench) -> int:
    """Until stdin ends."""
    bugs = {str(bug.number): bug for bug in BUGS}
    while line := (await asyncio.to_thread(sys.stdin.readline)).strip():
        bug = bugs.get(line)
        outcomes = [await bench.play(line)] if bug is None else await bench.try_bug(bug)
        sys.stdout.write(json.dumps([outcome.asdict() for outcome in outcomes]) + "\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(run(serve))
