"""A scripted server as a process, run by test_serving: `python program.py BEHAVIOUR`."""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[3]))

import structlog

from mesh import server as mesh_server
from mesh.config import ServiceSettings, load, settings_config
from tests.support.scripted import Context, echo, scripted_server

log = structlog.get_logger()


class Settings(ServiceSettings):
    model_config = settings_config("PAYMESH_PROGRAM_")

    database_url: str = "postgresql://none/none"


async def slow(request: Any, context: Context) -> Any:
    await asyncio.sleep(1)
    return await echo(request, context)


async def background(behaviour: str) -> None:
    if behaviour == "crash":
        raise LookupError
    if behaviour == "return":
        return
    if behaviour == "cancel":
        raise asyncio.CancelledError
    if behaviour == "library":
        try:
            raise LookupError
        except LookupError:
            logging.getLogger("asyncio").exception("boom %d", 1)
    try:
        await asyncio.sleep(60)
    finally:
        if behaviour == "hang":
            await asyncio.sleep(60)
        log.info("background_finished")


async def serve(settings: Settings, behaviour: str) -> None:
    server, script = scripted_server(
        port=settings.port, metrics_port=settings.metrics_port, drain_s=5
    )
    server._name = "program"
    script.get_wallet = slow
    await server.run(lambda: background(behaviour))


if __name__ == "__main__":
    found = load(Settings)
    mesh_server.main("program", found.log_level, lambda: serve(found, sys.argv[1]))
