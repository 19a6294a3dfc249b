"""Wiring of the stub: `python -m psp_stub`."""

from __future__ import annotations

from datetime import timedelta
from functools import partial

from paymesh.psp.v1 import psp_service_pb2, psp_stub_control_service_pb2
from paymesh.psp.v1.psp_service_pb2_grpc import add_PspServiceServicer_to_server
from paymesh.psp.v1.psp_stub_control_service_pb2_grpc import (
    add_PspStubControlServiceServicer_to_server,
)

from mesh import server as mesh_server
from mesh.batching import Writer
from mesh.config import load
from mesh.db import Database
from mesh.server import Background, Server
from mesh.start import require_database
from mesh.status_service import serve_status
from psp_stub.closing import Settlement, Terms
from psp_stub.config import Settings
from psp_stub.control import ControlServicer
from psp_stub.domain import Ask, FeeSchedule
from psp_stub.operations import Answer, Operations, Rules
from psp_stub.processor import Latency, Processor
from psp_stub.servicer import PspServicer, capabilities
from psp_stub.settlement import Calendar, time_zone

NAME = "psp_stub"


def wire(settings: Settings, database: Database) -> tuple[Server, Background]:
    """The stub's server, and what has to run beside it."""
    operations = Operations(
        database,
        Rules(
            FeeSchedule(settings.fee_bps, settings.fee_fixed_minor),
            key_memory_s=settings.key_memory_s,
            pending_s=settings.pending_ms / 1000,
        ),
    )
    writer: Writer[Ask, Answer] = Writer(NAME, operations.charge)
    latency = Latency(
        settings.latency_median_ms / 1000, settings.latency_p99_ms / 1000, settings.latency_seed
    )
    processor = Processor(
        # Not durable: a caller whose item failed sends it again under its key.
        partial(writer.write, durable=False),
        latency,
        slow_s=settings.slow_ms / 1000,
    )
    settlement = Settlement(
        database,
        Terms(
            Calendar(
                time_zone(settings.day_time_zone), timedelta(minutes=settings.day_cut_off_min)
            ),
            delayed=settings.transfer_delay_days > 0,
            bank_account=settings.bank_account,
        ),
    )
    server = Server(NAME, settings)
    server.measure(database)
    servicer = PspServicer(processor, operations, settlement, capabilities(settings))
    add_PspServiceServicer_to_server(servicer, server.grpc)
    server.add(psp_service_pb2.DESCRIPTOR.services_by_name["PspService"].full_name, internal=True)
    add_PspStubControlServiceServicer_to_server(ControlServicer(settlement), server.grpc)
    server.add(
        psp_stub_control_service_pb2.DESCRIPTOR.services_by_name["PspStubControlService"].full_name
    )
    serve_status(server, NAME, settings, database)
    return server, writer.run


async def serve(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT. Errors: CannotStartError."""
    database = Database(settings.database_url, application_name=NAME, by_key=False)
    try:
        await require_database(database, NAME)
        server, writer = wire(settings, database)
        await server.run(writer)
    finally:
        await database.close()


def main() -> None:
    """Runs the stub from its settings, as the process."""
    settings = load(Settings)
    mesh_server.main(NAME, settings.log_level, partial(serve, settings))
