"""The wiring of payment_svc, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import grpc
from paymesh.executor.v1.executor_read_service_pb2_grpc import ExecutorReadServiceStub
from paymesh.executor.v1.executor_service_pb2_grpc import ExecutorServiceStub
from paymesh.ledger.v1.ledger_posting_service_pb2_grpc import LedgerPostingServiceStub
from paymesh.ledger.v1.ledger_read_service_pb2_grpc import LedgerReadServiceStub
from paymesh.ledger.v1.operation_register_service_pb2_grpc import OperationRegisterServiceStub
from paymesh.payment.v1 import payment_service_pb2
from paymesh.payment.v1.payment_service_pb2_grpc import add_PaymentServiceServicer_to_server
from paymesh.reconciliation.v1.reconciliation_service_pb2_grpc import ReconciliationServiceStub
from paymesh.wallet.v1.wallet_posting_service_pb2_grpc import WalletPostingServiceStub
from paymesh.wallet.v1.wallet_read_service_pb2_grpc import WalletReadServiceStub

from mesh import server as mesh_server
from mesh.channel import open_channel
from mesh.config import load
from mesh.db import Database
from mesh.server import Background, Server
from mesh.start import require_database
from mesh.status_service import process_name, serve_status
from payment_svc import gauges
from payment_svc.attention import look
from payment_svc.books_of_others import BooksOfOthers
from payment_svc.checking import Checker
from payment_svc.clients import ExecutorStream, LedgerClient, WalletClient
from payment_svc.clients_reconciliation import RegisterClient, SettlementClient
from payment_svc.config import Settings
from payment_svc.conveyor import Conveyor
from payment_svc.evidence import Evidence
from payment_svc.intake import Intake
from payment_svc.reader import Reader
from payment_svc.recovery import Lease, Recovery
from payment_svc.registering import Registering
from payment_svc.schedule import Backoff, Schedule
from payment_svc.servicer import PaymentServicer
from payment_svc.waiting import Waiting
from payment_svc.watching import Watching

NAME = "payment_svc"

# What is kept back of the drain for those who still wait then, at most half of it.
ANSWER_S = 1.0


class PaymentServer(Server):
    """Answers who still waits before its drain is over, rather than cut them off."""

    def __init__(self, settings: Settings, waiting: Waiting, servicer: PaymentServicer) -> None:
        super().__init__(NAME, settings)
        self._waiting = waiting
        self._servicer = servicer
        add_PaymentServiceServicer_to_server(servicer, self.grpc)
        self.add(payment_service_pb2.DESCRIPTOR.services_by_name["PaymentService"].full_name)
        self._patience_s = max(settings.drain_s - ANSWER_S, settings.drain_s / 2)

    async def stop(self) -> None:
        """See Server.stop; in the end callers are told how their payments stand."""
        self._servicer.drain()
        letting_go = asyncio.get_running_loop().call_later(self._patience_s, self._waiting.let_go)
        try:
            await super().stop()
        finally:
            letting_go.cancel()


def schedule(settings: Settings) -> Schedule:
    """The waits of the settings."""
    return Schedule(
        pending=Backoff(settings.pending_first_ms / 1000, settings.pending_most_ms / 1000),
        unknown=Backoff(settings.unknown_first_ms / 1000, settings.unknown_most_ms / 1000),
        delayed=Backoff(settings.delayed_first_ms / 1000, settings.delayed_most_ms / 1000),
        parked_s=settings.parked_poll_ms / 1000,
    )


@dataclass(frozen=True, slots=True)
class Wired:
    """A replica, ready to run: its server, what runs beside it, and what it holds open."""

    server: Server
    background: Sequence[Background]
    lease: Lease
    channels: Sequence[grpc.aio.Channel]

    async def close(self) -> None:
        """Gives the epoch up and closes the channels."""
        await self.lease.release()
        for channel in self.channels:
            await channel.close()


def wire(settings: Settings, database: Database) -> Wired:
    """Puts a replica together."""
    poll_s = settings.poll_ms / 1000
    deadline_s = settings.call_deadline_ms / 1000
    to_executor = open_channel(settings.executor_target)
    to_wallet = open_channel(settings.wallet_target)
    to_ledger = open_channel(settings.ledger_target)

    waits = schedule(settings)
    lease = Lease(database, name=process_name(), lease_s=settings.lease_ms / 1000)
    registering = Registering(
        database,
        RegisterClient(OperationRegisterServiceStub(to_ledger), deadline_s=deadline_s),
        again=waits.delayed,
        poll_s=settings.evidence_poll_ms / 1000,
    )
    waiting = Waiting(database, poll_s=poll_s)
    reader = Reader(database)
    watching = Watching(database, reader, poll_s=poll_s)
    intake = Intake(
        database,
        lease,
        waiting=waiting,
        watching=watching,
        reader=reader,
        registering=registering,
        max_open_orders=settings.max_open_orders,
    )
    wallet = WalletClient(WalletPostingServiceStub(to_wallet), deadline_s=deadline_s)
    ledger = LedgerClient(LedgerPostingServiceStub(to_ledger), deadline_s=deadline_s)
    conveyor = Conveyor(wallet, ledger, waits, intake.finish)
    intake.connect(conveyor)
    executor = ExecutorStream(
        ExecutorServiceStub(to_executor),
        conveyor.learnt,
        item_timeout_s=settings.item_timeout_ms / 1000,
    )
    conveyor.connect(executor)
    recovery = Recovery(
        database,
        lease,
        conveyor,
        poll_s=poll_s,
        # Room of its own beyond that of the new ones, or these would keep out for as long
        # as they come what was accepted before them.
        has_room=lambda: len(conveyor) < 2 * settings.max_open_orders,
    )
    evidence = Evidence(
        database,
        SettlementClient(ReconciliationServiceStub(to_ledger), deadline_s=deadline_s),
        recovery.settle,
        poll_s=settings.evidence_poll_ms / 1000,
    )
    books = BooksOfOthers(
        ExecutorReadServiceStub(to_executor),
        WalletReadServiceStub(to_wallet),
        LedgerReadServiceStub(to_ledger),
        deadline_s=deadline_s,
    )
    servicer = PaymentServicer(
        database,
        intake=intake,
        waiting=waiting,
        watching=watching,
        reader=reader,
        recovery=recovery,
        checker=Checker(database, books, wallet, ledger),
    )
    server = PaymentServer(settings, waiting, servicer)
    serve_status(server, "payment", settings, database, partial(look, database))
    server.measure(database, partial(gauges.read, database, lease))
    gauges.publish(conveyor, executor, waiting)
    return Wired(
        server,
        (
            intake.run,
            conveyor.run,
            executor.run,
            executor.sweep,
            recovery.run,
            evidence.run,
            registering.run,
            waiting.run,
            watching.run,
            reader.run,
        ),
        lease,
        (to_executor, to_wallet, to_ledger),
    )


async def serve(settings: Settings) -> None:
    """Runs the service until SIGTERM or SIGINT."""
    database = Database(settings.database_url, application_name=NAME)
    try:
        await require_database(database, "payment")
        replica = wire(settings, database)
        await replica.lease.open()
        try:
            await replica.server.run(*replica.background)
        finally:
            await replica.close()
    finally:
        await database.close()


def main() -> None:
    """Reads the settings and serves."""
    settings = load(Settings)
    mesh_server.main(NAME, settings.log_level, lambda: serve(settings))
