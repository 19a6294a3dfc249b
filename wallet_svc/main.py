"""Wiring of wallet_svc: `python -m wallet_svc`."""

from __future__ import annotations

from functools import partial

from paymesh.wallet.v1 import (
    wallet_posting_service_pb2,
    wallet_read_service_pb2,
    wallet_service_pb2,
)
from paymesh.wallet.v1.wallet_posting_service_pb2_grpc import (
    add_WalletPostingServiceServicer_to_server,
)
from paymesh.wallet.v1.wallet_read_service_pb2_grpc import add_WalletReadServiceServicer_to_server
from paymesh.wallet.v1.wallet_service_pb2_grpc import add_WalletServiceServicer_to_server

from mesh import server as mesh_server
from mesh.config import load
from mesh.db import Database
from mesh.server import Background, Server
from mesh.start import require_database
from mesh.status_service import serve_status
from wallet_svc import operations
from wallet_svc.config import Settings
from wallet_svc.servicer import (
    WalletPostingServicer,
    WalletReadServicer,
    WalletServicer,
    WalletWriter,
)

NAME = "wallet_svc"

# A call brings a list of up to 1000: more than a few of them would bring one statement
# near its timeout, and they are long enough to be cheap.
MAX_CALLS_PER_COMMIT = 4


def wire(settings: Settings, database: Database) -> tuple[Server, Background]:
    """The server, and what has to run beside it."""
    writer = WalletWriter(
        NAME, partial(operations.apply_movements, database), max_items=MAX_CALLS_PER_COMMIT
    )
    server = Server(NAME, settings)
    server.measure(database)
    add_WalletServiceServicer_to_server(WalletServicer(database), server.grpc)
    server.add(wallet_service_pb2.DESCRIPTOR.services_by_name["WalletService"].full_name)
    add_WalletPostingServiceServicer_to_server(WalletPostingServicer(writer), server.grpc)
    server.add(
        wallet_posting_service_pb2.DESCRIPTOR.services_by_name["WalletPostingService"].full_name,
        internal=True,
    )
    add_WalletReadServiceServicer_to_server(WalletReadServicer(database), server.grpc)
    server.add(wallet_read_service_pb2.DESCRIPTOR.services_by_name["WalletReadService"].full_name)
    serve_status(server, "wallet", settings, database)
    return server, writer.run


async def serve(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT."""
    database = Database(settings.database_url, application_name=NAME)
    try:
        await require_database(database, "wallet")
        server, writer = wire(settings, database)
        await server.run(writer)
    finally:
        await database.close()


def main() -> None:
    """Runs the service from its settings, as the process."""
    settings = load(Settings)
    mesh_server.main(NAME, settings.log_level, partial(serve, settings))
