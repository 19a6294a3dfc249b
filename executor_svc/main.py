"""Wiring of the executor: `python -m executor_svc`."""

from __future__ import annotations

from functools import partial

import grpc
from paymesh.executor.v1 import executor_read_service_pb2, executor_service_pb2
from paymesh.executor.v1.executor_read_service_pb2_grpc import (
    add_ExecutorReadServiceServicer_to_server,
)
from paymesh.executor.v1.executor_service_pb2_grpc import add_ExecutorServiceServicer_to_server

from executor_svc import gauges, operations
from executor_svc.clients import Psp
from executor_svc.config import Settings
from executor_svc.operations import Write, Written
from executor_svc.runner import Runner
from executor_svc.servicer import ExecutorReadServicer, ExecutorServicer
from mesh import server as mesh_server
from mesh.batching import Writer
from mesh.channel import open_channel
from mesh.config import load
from mesh.db import Database
from mesh.server import Background, Server
from mesh.start import require_database
from mesh.status_service import serve_status

NAME = "executor_svc"


class ExecutorServer(Server):
    """Ends its standing streams before it waits for its calls."""

    def __init__(self, settings: Settings, servicer: ExecutorServicer) -> None:
        super().__init__(NAME, settings)
        self._servicer = servicer
        add_ExecutorServiceServicer_to_server(servicer, self.grpc)
        service = executor_service_pb2.DESCRIPTOR.services_by_name["ExecutorService"]
        self.add(service.full_name, internal=True)

    async def stop(self) -> None:
        """See Server.stop; streams end when what they brought is answered."""
        self._servicer.drain()
        await super().stop()


def wire(
    settings: Settings, database: Database, psp_channel: grpc.aio.Channel
) -> tuple[Server, Background]:
    """The executor's server, and what has to run beside it."""
    writer: Writer[Write, Written] = Writer(NAME, partial(operations.write, database))
    psp = Psp(
        psp_channel,
        look_up_deadline_s=settings.look_up_deadline_ms / 1000,
        key_window_s=settings.key_window_s,
    )
    runner = Runner(
        database,
        writer,
        psp,
        psp_deadline_s=settings.psp_deadline_ms / 1000,
        backoff_s=settings.ladder_backoff_ms / 1000,
    )
    server = ExecutorServer(settings, ExecutorServicer(runner))
    add_ExecutorReadServiceServicer_to_server(ExecutorReadServicer(database, psp), server.grpc)
    server.add(
        executor_read_service_pb2.DESCRIPTOR.services_by_name["ExecutorReadService"].full_name
    )
    serve_status(server, "executor", settings, database, runner.look)
    server.measure(database, partial(gauges.read, database))
    gauges.publish(runner.under_way, runner.oldest_s)
    return server, writer.run


async def serve(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT."""
    database = Database(settings.database_url, application_name=NAME)
    # The ladder repeats what has to be repeated, from its own row.
    psp_channel = open_channel(settings.psp_target, retries=False)
    try:
        await require_database(database, "executor")
        server, writer = wire(settings, database, psp_channel)
        await server.run(writer)
    finally:
        await psp_channel.close()
        await database.close()


def main() -> None:
    """Runs the executor from its settings, as the process."""
    settings = load(Settings)
    mesh_server.main(NAME, settings.log_level, partial(serve, settings))
