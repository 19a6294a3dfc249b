"""A service in this process: a real server with the whole chain, and a channel to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

import grpc

from mesh.channel import open_channel
from mesh.config import ServiceSettings
from mesh.db import Database
from mesh.errors import MeshError
from mesh.server import Background, Server
from mesh.status import from_rpc_error

S = TypeVar("S", bound=ServiceSettings)


@asynccontextmanager
async def serving(
    wire: Callable[[S, Database], tuple[Server, Background]], settings: S
) -> AsyncIterator[grpc.aio.Channel]:
    """The service that `wire` (of its main.py) makes, with what runs beside it."""
    database = Database(settings.database_url, application_name="test")
    server, background = wire(settings, database)
    running = asyncio.ensure_future(background())
    await server.start()
    try:
        async with open_channel(f"127.0.0.1:{server.port}", retries=False) as channel:
            yield channel
    finally:
        await server.stop()
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        await database.close()


async def error_of(call: Awaitable[object]) -> MeshError:
    """The error that the call ends with; AssertionError if it succeeds."""
    try:
        answer = await call
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(error)
    raise AssertionError(f"the call succeeded: {answer}")
