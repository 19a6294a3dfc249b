"""The one way to run a service: interceptors, health, reflection, limits, drain.

async def run() -> None:
    server = Server("wallet_svc", settings)
    add_WalletServiceServicer_to_server(servicer, server.grpc)
    server.add("paymesh.wallet.v1.WalletService")
    await server.run(writer.run)

main("wallet_svc", settings.log_level, run)
"""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import grpc
import structlog
from google.protobuf import descriptor_pool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health
from grpc_reflection.v1alpha import reflection_pb2_grpc

from mesh import logs, tracing
from mesh.channel import MAX_MESSAGE_BYTES
from mesh.config import ServiceSettings
from mesh.db import Database
from mesh.gauges import DatabaseGauges, Read
from mesh.interceptor import ServiceInterceptor
from mesh.metrics import Calls, Endpoint
from mesh.reflection import Reflection

log = structlog.get_logger()

EXIT_CRASHED = 1
EXIT_CANNOT_START = 3

READINESS = "readiness"
"""The name under which health tells whether new calls should come here."""

# How long background work may take to finish what it holds, after it was cancelled: a
# commit under way ends within the statement timeout.
BACKGROUND_STOP_S = 3.0

# Health checks, reflection and calls that are refused as OVERLOADED, beside the calls.
_SPARE_CALLS = 1_000

Background = Callable[[], Awaitable[None]]


class CannotStartError(Exception):
    """What keeps a service from starting, in a sentence for whoever starts it."""


class Server:
    """A gRPC server of the mesh, on one event loop."""

    def __init__(self, name: str, settings: ServiceSettings) -> None:
        """`name` is the process's, for logs (`wallet_svc`)."""
        self._name = name
        self._settings = settings
        self._internal: set[str] = set()
        self._services = [health_pb2.DESCRIPTOR.services_by_name["Health"].full_name]
        self._health = health.HealthServicer()
        self._gauges: DatabaseGauges | None = None
        self._metrics: Endpoint | None = None
        self._reading: asyncio.Task[None] | None = None
        max_calls = settings.max_concurrent_calls
        # gRPC's own limits lie above ours, because they refuse without a reason.
        transport_calls = 2 * max_calls + _SPARE_CALLS
        self.port = settings.port
        """The port it listens on; set anew by `start` if the setting is 0."""
        self.grpc = grpc.aio.server(
            interceptors=[ServiceInterceptor(self._internal, max_calls)],
            maximum_concurrent_rpcs=transport_calls,
            options=[
                # A second process on one port would take half of the calls in silence.
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                ("grpc.max_concurrent_streams", transport_calls),
                # Thousands of calls wait for their PSP at once: that is no overload.
                ("grpc.server.max_pending_requests", transport_calls),
                ("grpc.server.max_pending_requests_hard_limit", 2 * transport_calls),
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
                ("grpc.keepalive_permit_without_calls", 1),
            ],
        )

    def add(self, service: str, *, internal: bool = False) -> None:
        """Lists a service by its full name. internal: its items are validated one by one."""
        self._services.append(service)
        for method in descriptor_pool.Default().FindServiceByName(service).methods:
            # Its counts begin with 0, now.
            Calls.of_server(
                f"{service}/{method.name}",
                streams_in=method.client_streaming,
                streams_out=method.server_streaming,
            )
        if internal:
            self._internal.add(service)

    def measure(self, database: Database, read: Read | None = None) -> None:
        """Names the database whose numbers are metrics, if there is a port for them.

        See DatabaseGauges.
        """
        self._gauges = DatabaseGauges(
            database, read, interval_s=self._settings.gauges_interval_ms / 1000
        )

    async def start(self) -> None:
        """Binds the ports and serves. Errors: CannotStartError when one is in use."""
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.grpc)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(  # type: ignore[no-untyped-call]
            Reflection([*self._services, "grpc.reflection.v1alpha.ServerReflection"]), self.grpc
        )
        host = self._settings.host
        address = f"{f'[{host}]' if ':' in host else host}:{self._settings.port}"
        # Before gRPC's own port, which can't be given back.
        if self._settings.traces_file is not None:
            self._open_traces(self._settings.traces_file)
        if self._settings.metrics_port:
            self._open_metrics()
        try:
            self.port = self.grpc.add_insecure_port(address)
        except RuntimeError as error:
            self._close_metrics()
            raise CannotStartError(
                f"{self._name} can't listen on {address}: the port is in use or not allowed"
            ) from error
        for service in (*self._services, READINESS):
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        await self.grpc.start()

    async def stop(self) -> None:
        """Says NOT_SERVING, takes no new calls, and waits for those under way."""
        await self._health.enter_graceful_shutdown()
        await self.grpc.stop(self._settings.drain_s)
        self._close_metrics()

    def _close_metrics(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
        if self._metrics is not None:
            self._metrics.close()
            self._metrics = None

    def _open_metrics(self) -> None:
        host, port = self._settings.host, self._settings.metrics_port
        try:
            self._metrics = Endpoint(self._name, host, port)
        except OSError as error:
            raise CannotStartError(
                f"{self._name} can't serve its metrics on {host} port {port}: the port is in use"
                " or not allowed"
            ) from error
        if self._gauges is not None:
            self._gauges.publish()
            self._reading = asyncio.ensure_future(self._gauges.run())

    def _open_traces(self, path: Path) -> None:
        try:
            tracing.start(self._name, path, self._settings.traces_ratio)
        except OSError as error:
            raise CannotStartError(
                f"{self._name} can't write its traces to {path}: {error.strerror}"
            ) from error

    async def run(self, *background: Background) -> None:
        """Serves until SIGTERM or SIGINT, then drains.

        The background coroutines run beside the server and longer than it, so that what
        calls under way still need is served; cancelled, they finish what they hold, but
        not for ever. One that ends by itself is a bug: the process stops, rather than
        accept what nobody would carry on.
        """
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.set)
        # The port first: a process that can't have it must not begin to work.
        await self.start()
        _tune_garbage_collection()
        tasks = [asyncio.ensure_future(_awaited(work)) for work in background]
        stop = asyncio.ensure_future(stopping.wait())
        try:
            log.info("serving", port=self.port)
            await asyncio.wait([stop, *tasks], return_when=asyncio.FIRST_COMPLETED)
            log.info("draining", port=self.port, asked=stopping.is_set())
            await self.stop()
            ended = [task for task in tasks if task.done()]
        finally:
            stop.cancel()
            await self._end(tasks)
        for task in ended:
            cause = None if task.cancelled() else task.exception()
            raise RuntimeError(f"{self._name}: a background task ended") from cause

    async def _end(self, tasks: list[asyncio.Task[None]]) -> None:
        for task in tasks:
            task.cancel()
        if tasks:
            _, left = await asyncio.wait(tasks, timeout=BACKGROUND_STOP_S)
            if left:
                # What they hold is taken up from the database by whoever comes next.
                log.warning("background_left", tasks=len(left))
            for task in left:
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def main(service: str, level: str, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Runs a service's main coroutine in this process until it ends, and exits."""
    logs.configure(service, level)
    try:
        _run(run())
    except CannotStartError as error:
        sys.stderr.write(f"{service}: {error}\n")
        sys.exit(EXIT_CANNOT_START)
    except Exception:
        log.exception("crashed")
        sys.exit(EXIT_CRASHED)
    finally:
        tracing.stop()


def _tune_garbage_collection() -> None:
    """Takes the modules out of every collection, and collects less often.

    A payment makes hundreds of objects that reference counts free; looking for cycles among
    all of a process's objects each 700 of them cost 8 % of its processor time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


async def _awaited(work: Background) -> None:
    await work()


if sys.platform == "win32":
    _run = asyncio.run
else:
    import uvloop

    _run = uvloop.run
