"""Wiring of ledger_svc: `python -m ledger_svc`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from paymesh.ledger.v1 import (
    ledger_posting_service_pb2,
    ledger_read_service_pb2,
    ledger_service_pb2,
    operation_register_service_pb2,
)
from paymesh.ledger.v1.ledger_posting_service_pb2_grpc import (
    add_LedgerPostingServiceServicer_to_server,
)
from paymesh.ledger.v1.ledger_read_service_pb2_grpc import add_LedgerReadServiceServicer_to_server
from paymesh.ledger.v1.ledger_service_pb2_grpc import add_LedgerServiceServicer_to_server
from paymesh.ledger.v1.operation_register_service_pb2_grpc import (
    add_OperationRegisterServiceServicer_to_server,
)
from paymesh.psp.v1.psp_service_pb2_grpc import PspServiceStub
from paymesh.reconciliation.v1 import reconciliation_service_pb2
from paymesh.reconciliation.v1.reconciliation_service_pb2_grpc import (
    add_ReconciliationServiceServicer_to_server,
)

from ledger_svc import operations
from ledger_svc.config import Settings
from ledger_svc.reconciliation import drop_files
from ledger_svc.reconciliation.drop import DropFolder
from ledger_svc.reconciliation.fetching import AdapterFiles
from ledger_svc.reconciliation.run import SettlementFiles
from ledger_svc.reconciliation.servicer import ReconciliationServicer
from ledger_svc.servicer import (
    LedgerPostingServicer,
    LedgerReadServicer,
    LedgerServicer,
    LedgerWriter,
)
from ledger_svc.servicer_register import OperationRegisterServicer
from mesh import server as mesh_server
from mesh.channel import open_channel
from mesh.config import load
from mesh.db import Database
from mesh.server import Background, CannotStartError, Server
from mesh.start import require_database
from mesh.status_service import serve_status

if TYPE_CHECKING:
    from paymesh.psp.v1.psp_service_pb2_grpc import PspServiceAsyncStub

NAME = "ledger_svc"

# A call brings a list of up to 1000: more than a few of them would bring one statement
# near its timeout, and they are long enough to be cheap.
MAX_CALLS_PER_COMMIT = 4

# The reconciliation works on whole days: it has connections of its own, whose statements may
# take long and are planned for what they meet (mesh/db.py), so that no payment waits for one.
RECONCILIATION_PATIENCE_MS = 600_000
RECONCILIATION_CONNECTIONS = 4


def wire(
    settings: Settings,
    database: Database,
    adapters: Mapping[str, SettlementFiles] | None = None,
) -> tuple[Server, Background]:
    """The server, and what has to run beside it.

    adapters: source → where its settlement files are fetched from; None: from the setting.
    """
    writer = LedgerWriter(
        NAME, partial(operations.post_events, database), max_items=MAX_CALLS_PER_COMMIT
    )
    server = Server(NAME, settings)
    server.measure(database)
    add_LedgerServiceServicer_to_server(LedgerServicer(database), server.grpc)
    server.add(ledger_service_pb2.DESCRIPTOR.services_by_name["LedgerService"].full_name)
    add_LedgerPostingServiceServicer_to_server(LedgerPostingServicer(writer), server.grpc)
    server.add(
        ledger_posting_service_pb2.DESCRIPTOR.services_by_name["LedgerPostingService"].full_name,
        internal=True,
    )
    add_OperationRegisterServiceServicer_to_server(OperationRegisterServicer(database), server.grpc)
    server.add(
        operation_register_service_pb2.DESCRIPTOR.services_by_name[
            "OperationRegisterService"
        ].full_name,
        internal=True,
    )
    add_LedgerReadServiceServicer_to_server(LedgerReadServicer(database), server.grpc)
    server.add(ledger_read_service_pb2.DESCRIPTOR.services_by_name["LedgerReadService"].full_name)
    patient = Database(
        settings.database_url,
        application_name=f"{NAME}.reconciliation",
        pool_size=RECONCILIATION_CONNECTIONS,
        by_key=False,
        patience_ms=RECONCILIATION_PATIENCE_MS,
    )
    dropped = _dropped(settings, patient)
    to_psp = open_channel(settings.psp_target) if settings.psp_target else None
    if adapters is None:
        adapters = {} if to_psp is None else _adapters(settings, PspServiceStub(to_psp))
    add_ReconciliationServiceServicer_to_server(
        ReconciliationServicer(patient, settings.sources, settings.max_file_bytes, adapters),
        server.grpc,
    )
    server.add(
        reconciliation_service_pb2.DESCRIPTOR.services_by_name["ReconciliationService"].full_name
    )

    serve_status(server, "ledger", settings, database)

    async def run() -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(writer.run())
                if dropped is not None:
                    tasks.create_task(dropped.run())
        finally:
            await patient.close()
            if to_psp is not None:
                await to_psp.close()

    return server, run


def _dropped(settings: Settings, database: Database) -> DropFolder | None:
    """What looks into the drop folder, if there is one to look into."""
    root = settings.drop_folder
    if root is None:
        return None
    try:
        drop_files.look(root, ())
    except OSError as error:
        raise CannotStartError(f"the drop folder {root} can't be read: {error.strerror}") from error
    return DropFolder(
        root,
        database,
        settings.sources,
        max_file_bytes=settings.max_file_bytes,
        poll_s=settings.drop_poll_ms / 1000,
        quiet_s=settings.drop_quiet_ms / 1000,
    )


def _adapters(settings: Settings, stub: PspServiceAsyncStub) -> Mapping[str, SettlementFiles]:
    """The one adapter, for each PSP that it may be; it tells itself which one it is."""
    return {
        name: AdapterFiles(stub, name)
        for name, source in settings.sources.items()
        if source.kind == "psp"
    }


async def serve(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT."""
    database = Database(settings.database_url, application_name=NAME)
    try:
        await require_database(database, "ledger")
        server, writer = wire(settings, database)
        await server.run(writer)
    finally:
        await database.close()


def main() -> None:
    """Runs the service from its settings, as the process."""
    settings = load(Settings)
    # A settlement file is read in a thread for minutes; by the usual 5 ms each payment, and
    # each block for COPY, would wait for it several times.
    sys.setswitchinterval(0.001)
    mesh_server.main(NAME, settings.log_level, partial(serve, settings))
