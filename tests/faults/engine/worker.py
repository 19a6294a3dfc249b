"""A process that runs scenarios: a line in is one and how, a line out is its result.

It has a PostgreSQL in memory of its own, and several meshes, because most of a scenario is
waiting. `python -m tests.faults.engine.worker MESHES`
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import os
import sys
import uuid
import warnings
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import psycopg
import structlog
from psycopg import sql
from sqlalchemy import make_url
from sqlalchemy.exc import SAWarning

from mesh.migrations import provision
from tests.faults.checker import Sessions, prepare
from tests.faults.engine.attempt import Flow
from tests.faults.engine.faults import Scenario
from tests.faults.engine.flows import FLOWS
from tests.faults.engine.mesh import FailingMesh
from tests.faults.engine.process import follow_tasks
from tests.faults.engine.run import Result, run
from tests.support.folders import open_folder
from tests.support.postgres import started

_STOP_S = 10.0
_STUCK_S = 120.0
"""Longer than all that a scenario waits for by itself."""

LOGS = "PAYMESH_FAULTS_LOG"
"""The variable that has the services log to stderr, for one scenario that is looked at."""


async def work(admin_url: str, meshes: int) -> None:
    """Until stdin ends."""
    loop = asyncio.get_running_loop()
    follow_tasks(loop)
    # Tasks of the dead that Python finds unfinished.
    loop.set_exception_handler(lambda *_: None)
    templates = provision(admin_url, prefix="template")
    scenarios: asyncio.Queue[str] = asyncio.Queue()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)

    async def serve() -> None:
        # Never two: in what other flows left, orders that are parked are asked about for ever.
        current: tuple[str, FailingMesh, Sessions] | None = None
        while line := await scenarios.get():
            asked = json.loads(line)
            scenario = Scenario.parse(asked["scenario"])
            flow = FLOWS[scenario.flow]
            key = scenario.flow if flow.settings or flow.replicas > 1 else ""
            if current is not None and current[0] != key:
                await current[1].stop()
                current = None
            if current is None:
                current = key, *await new_mesh(admin_url, templates, flow)
            _, mesh, books = current
            result = await _run(mesh, books, scenario, early=asked["early"])
            _print(result)
            if result.problems:
                # What it left behind would trouble the next one.
                with suppress(TimeoutError):
                    await asyncio.wait_for(mesh.stop(), _STOP_S)
                current = None
        if current is not None:
            await current[1].stop()

    async def read() -> None:
        while line := await reader.readline():
            scenarios.put_nowait(line.decode().strip())
        for _ in range(meshes):
            scenarios.put_nowait("")

    async with asyncio.TaskGroup() as together:
        together.create_task(read())
        for _ in range(meshes):
            together.create_task(serve())


async def _run(mesh: FailingMesh, books: Sessions, scenario: Scenario, *, early: bool) -> Result:
    """The scenario's result; what hangs has one, too."""
    try:
        async with asyncio.timeout(_STUCK_S):
            return await run(mesh, books, scenario, early=early)
    except TimeoutError:
        return Result(scenario, seconds=_STUCK_S, problems=[f"stuck: {mesh.what_goes_on()}"])


async def new_mesh(
    admin_url: str, templates: Mapping[str, str], flow: Flow
) -> tuple[FailingMesh, Sessions]:
    """A mesh that runs, and its books."""
    urls = await asyncio.to_thread(_copies, admin_url, templates)
    server, _, _ = admin_url.rpartition("/")
    open_books = Sessions(
        *(
            psycopg.connect(f"{server}/{make_url(urls[service]).database}", autocommit=True)
            for service in Sessions._fields
        )
    )
    await asyncio.to_thread(prepare, open_books)
    mesh = FailingMesh(urls, flow.settings, replicas=flow.replicas)
    await mesh.start()
    return mesh, open_books


def _copies(admin_url: str, templates: Mapping[str, str]) -> dict[str, str]:
    """Databases of a mesh's own: copies of migrated ones, which take 30 ms each."""
    urls = {}
    with psycopg.connect(admin_url, autocommit=True) as connection:
        for service, url in templates.items():
            template = make_url(url)
            name = f"{service}_{uuid.uuid4().hex[:12]}"
            connection.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
                    sql.Identifier(name), sql.Identifier(str(template.database))
                )
            )
            urls[service] = template.set(database=name).render_as_string(hide_password=False)
    return urls


def _print(result: Result) -> None:
    # Not asdict, which copies a Counter wrongly.
    told: dict[str, Any] = {f.name: getattr(result, f.name) for f in dataclasses.fields(result)}
    told["scenario"] = str(result.scenario)
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()


def configure() -> None:
    """Keeps a process quiet about what is meant to go wrong, unless LOGS says otherwise."""
    level = logging.DEBUG if os.environ.get(LOGS) else logging.CRITICAL
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)
    logging.getLogger("psycopg").setLevel(logging.CRITICAL)
    # The connections of the dead are found by the garbage collector: that is what they are for.
    warnings.filterwarnings("ignore", category=SAWarning)


def main() -> None:
    """Runs the worker as a process."""
    configure()
    with open_folder(in_memory=True) as folder:
        server = started(folder / "data")
        try:
            asyncio.run(work(server.admin_url, int(sys.argv[1])))
        finally:
            server.stop(immediate=True)


if __name__ == "__main__":
    main()
