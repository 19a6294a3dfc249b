"""The RPCs that the command line makes, all in this one place.

Synchronous gRPC. Every call has a deadline and names its caller; none is repeated by
itself, because whoever sits at the terminal decides that. A failed call is a MeshError.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeVar
from uuid import UUID

import grpc
from google.protobuf.message import Message
from paymesh.ledger.v1 import ledger_service_pb2 as ledger_pb
from paymesh.ledger.v1.ledger_service_pb2_grpc import LedgerServiceStub
from paymesh.operations.v1 import status_service_pb2 as status_pb
from paymesh.operations.v1.status_service_pb2_grpc import StatusServiceStub
from paymesh.payment.v1 import check_mesh_pb2 as check_pb
from paymesh.payment.v1 import payment_service_pb2 as payment_pb
from paymesh.payment.v1.payment_service_pb2_grpc import PaymentServiceStub
from paymesh.psp.v1 import psp_service_pb2 as psp_pb
from paymesh.psp.v1 import psp_stub_control_service_pb2 as stub_pb
from paymesh.psp.v1.psp_service_pb2_grpc import PspServiceStub
from paymesh.psp.v1.psp_stub_control_service_pb2_grpc import PspStubControlServiceStub
from paymesh.reconciliation.v1 import reconciliation_service_pb2 as reconciliation_pb
from paymesh.reconciliation.v1.reconciliation_service_pb2_grpc import ReconciliationServiceStub
from paymesh.wallet.v1 import wallet_service_pb2 as wallet_pb
from paymesh.wallet.v1.wallet_service_pb2_grpc import WalletServiceStub

from mesh.channel import MAX_MESSAGE_BYTES
from mesh.status import from_rpc_error
from paymeshctl.exits import CommandError, Exit
from paymeshctl.ports import (
    DEFAULT_PORT_BASE,
    HOST,
    MAX_PORT_BASE,
    instance_parts,
    port_offset,
)

TARGET_SETTING = "PAYMESH_TARGET"
DEFAULT_TARGET = f"{HOST}:{DEFAULT_PORT_BASE}"
DEFAULT_CALLER = "default"
CALLER_KEY = "paymesh-caller"

READ_TIMEOUT_S = 10.0
# Longer than a service waits for a database that is away.
STATUS_TIMEOUT_S = 8.0
# The time that CreatePayment itself takes where it is given none.
PAY_TIMEOUT_S = 30.0
# A day of a large PSP takes minutes; the service itself gives up after ten.
RECONCILIATION_TIMEOUT_S = 600.0
# A day of millions of lines is closed and sent in it.
SETTLEMENT_TIMEOUT_S = 300.0

Response = TypeVar("Response", bound=Message)


@dataclass(frozen=True, slots=True)
class Target:
    """Where a mesh is: a host, and the port from which on its services listen."""

    host: str
    port_base: int

    def address(self, instance: str) -> str:
        """`host:port` of an instance; a service's name is that of its first replica."""
        return f"{self.host}:{self.port_base + port_offset(*instance_parts(instance))}"


def parse_target(text: str | None) -> Target:
    """A target from `HOST:PORT_BASE`; by default $PAYMESH_TARGET, else DEFAULT_TARGET.

    Raises CommandError.
    """
    text = text or os.environ.get(TARGET_SETTING) or DEFAULT_TARGET
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 <= int(port) <= MAX_PORT_BASE:
        raise CommandError(
            Exit.BAD_USAGE,
            f"the target {text!r} is not HOST:PORT_BASE, with a port base of 0 to "
            f"{MAX_PORT_BASE} (--target or {TARGET_SETTING}; for example {DEFAULT_TARGET})",
        )
    return Target(host, int(port))


def new_request_id() -> str:
    """A new idempotency key, a UUIDv7: its time bits lead all ids that are computed from it."""
    milliseconds = time.time_ns() // 1_000_000
    value = (milliseconds << 80) | secrets.randbits(80)
    value = value & ~(0xF << 76) | (7 << 76)
    value = value & ~(3 << 62) | (2 << 62)
    return str(UUID(int=value))


def open_channel(address: str) -> grpc.Channel:
    """A plaintext channel; tests put a fake one in its place."""
    return grpc.insecure_channel(
        address,
        options=[
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.enable_retries", 0),
            # The proxy of a company's network does not lead to the mesh.
            ("grpc.enable_http_proxy", 0),
        ],
    )


class Client:
    """The RPCs of one mesh, made as one caller."""

    def __init__(
        self, target: Target, *, caller: str = DEFAULT_CALLER, timeout_s: float | None = None
    ) -> None:
        """timeout_s: the deadline of every call, in seconds; None takes the defaults."""
        self._target = target
        self._caller = caller
        self._timeout_s = timeout_s
        self._channels: dict[str, grpc.Channel] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for channel in self._channels.values():
            channel.close()

    def create_payment(
        self, request: payment_pb.CreatePaymentRequest
    ) -> payment_pb.CreatePaymentResponse:
        """Pays; may be repeated with the same request."""
        return self._call(self._payment().CreatePayment, request, PAY_TIMEOUT_S)

    def get_payment(self, request: payment_pb.GetPaymentRequest) -> payment_pb.GetPaymentResponse:
        """Reads one payment."""
        return self._call(self._payment().GetPayment, request)

    def list_payments(
        self, request: payment_pb.ListPaymentsRequest
    ) -> payment_pb.ListPaymentsResponse:
        """Reads one page of payments."""
        return self._call(self._payment().ListPayments, request)

    def watch_payment(
        self, request: payment_pb.WatchPaymentRequest
    ) -> Iterator[payment_pb.WatchPaymentResponse]:
        """How a payment stands now and after each change; without a deadline by default."""
        try:
            yield from self._payment().WatchPayment(
                request, timeout=self._timeout_s, metadata=((CALLER_KEY, self._caller),)
            )
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error

    def retry_payment(
        self, request: payment_pb.RetryPaymentRequest
    ) -> payment_pb.RetryPaymentResponse:
        """Drives parked orders again; may be repeated with the same request."""
        return self._call(self._payment().RetryPayment, request, PAY_TIMEOUT_S)

    def check_mesh(
        self, request: check_pb.CheckMeshRequest
    ) -> Iterator[check_pb.CheckMeshResponse]:
        """What a check finds, as it goes; without a deadline by default."""
        try:
            yield from self._payment().CheckMesh(
                request, timeout=self._timeout_s, metadata=((CALLER_KEY, self._caller),)
            )
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error

    def get_wallet(self, request: wallet_pb.GetWalletRequest) -> wallet_pb.GetWalletResponse:
        """Reads a seller's balances."""
        return self._call(self._wallet().GetWallet, request)

    def list_movements(
        self, request: wallet_pb.ListMovementsRequest
    ) -> wallet_pb.ListMovementsResponse:
        """Reads one page of a seller's movements."""
        return self._call(self._wallet().ListMovements, request)

    def get_balance(self, request: ledger_pb.GetBalanceRequest) -> ledger_pb.GetBalanceResponse:
        """Reads the balance of one account."""
        return self._call(self._ledger().GetBalance, request)

    def get_trial_balance(
        self, request: ledger_pb.GetTrialBalanceRequest
    ) -> ledger_pb.GetTrialBalanceResponse:
        """Reads the trial balance."""
        return self._call(self._ledger().GetTrialBalance, request)

    def list_journals(
        self, request: ledger_pb.ListJournalsRequest
    ) -> ledger_pb.ListJournalsResponse:
        """Reads one page of journals."""
        return self._call(self._ledger().ListJournals, request)

    def get_status(
        self, instance: str, request: status_pb.GetStatusRequest
    ) -> status_pb.GetStatusResponse:
        """Asks one process how it is doing."""
        stub = StatusServiceStub(self._channel(instance))
        return self._call(stub.GetStatus, request, STATUS_TIMEOUT_S)

    def ingest_settlement_file(
        self, parts: Iterator[reconciliation_pb.IngestSettlementFileRequest]
    ) -> reconciliation_pb.IngestSettlementFileResponse:
        """Sends a settlement file; may be repeated."""
        return self._call(
            self._reconciliation().IngestSettlementFile, parts, RECONCILIATION_TIMEOUT_S
        )

    def reconcile(
        self, request: reconciliation_pb.ReconcileRequest
    ) -> reconciliation_pb.ReconcileResponse:
        """Reconciles a day; may be repeated."""
        return self._call(self._reconciliation().Reconcile, request, RECONCILIATION_TIMEOUT_S)

    def list_runs(
        self, request: reconciliation_pb.ListRunsRequest
    ) -> reconciliation_pb.ListRunsResponse:
        """Reads one page of runs."""
        return self._call(self._reconciliation().ListRuns, request)

    def list_breaks(
        self, request: reconciliation_pb.ListBreaksRequest
    ) -> reconciliation_pb.ListBreaksResponse:
        """Reads one page of breaks."""
        return self._call(self._reconciliation().ListBreaks, request)

    def get_settlement_file(
        self, source: str, request: psp_pb.GetSettlementFileRequest
    ) -> Iterator[psp_pb.GetSettlementFileResponse]:
        """The parts of an adapter's file. source: the adapter's name, one of PORT_OFFSETS."""
        adapter = PspServiceStub(self._channel(source))
        try:
            yield from adapter.GetSettlementFile(
                request,
                timeout=self._timeout_s or SETTLEMENT_TIMEOUT_S,
                metadata=((CALLER_KEY, self._caller),),
            )
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error

    def close_stub_day(self, request: stub_pb.CloseDayRequest) -> stub_pb.CloseDayResponse:
        """Closes a settlement day of the PSP stub; may be repeated."""
        return self._call(self._stub_control().CloseDay, request, SETTLEMENT_TIMEOUT_S)

    def resend_day(self, request: stub_pb.ResendDayRequest) -> stub_pb.ResendDayResponse:
        """Lets the PSP stub send a day's files again, right; may be repeated."""
        return self._call(self._stub_control().ResendDay, request, SETTLEMENT_TIMEOUT_S)

    def seed_fault(self, request: stub_pb.SeedFaultRequest) -> stub_pb.SeedFaultResponse:
        """Orders a fault in the PSP stub's files; may be repeated."""
        return self._call(self._stub_control().SeedFault, request)

    def _stub_control(self) -> PspStubControlServiceStub:
        return PspStubControlServiceStub(self._channel("psp_stub"))

    def resolve_break(
        self, request: reconciliation_pb.ResolveBreakRequest
    ) -> reconciliation_pb.ResolveBreakResponse:
        """Resolves a break; may be repeated with the same request."""
        return self._call(self._reconciliation().ResolveBreak, request, RECONCILIATION_TIMEOUT_S)

    def close_reconciled_day(
        self, request: reconciliation_pb.CloseDayRequest
    ) -> reconciliation_pb.CloseDayResponse:
        """Closes a day; may be repeated with the same request."""
        return self._call(self._reconciliation().CloseDay, request, RECONCILIATION_TIMEOUT_S)

    def _payment(self) -> PaymentServiceStub:
        return PaymentServiceStub(self._channel("payment"))

    def _wallet(self) -> WalletServiceStub:
        return WalletServiceStub(self._channel("wallet"))

    def _ledger(self) -> LedgerServiceStub:
        return LedgerServiceStub(self._channel("ledger"))

    def _reconciliation(self) -> ReconciliationServiceStub:
        return ReconciliationServiceStub(self._channel("ledger"))

    def _channel(self, instance: str) -> grpc.Channel:
        if instance not in self._channels:
            self._channels[instance] = open_channel(self._target.address(instance))
        return self._channels[instance]

    def _call(
        self,
        method: Callable[..., Response],
        request: Message | Iterator[Message],
        timeout_s: float = READ_TIMEOUT_S,
    ) -> Response:
        try:
            return method(
                request,
                timeout=self._timeout_s or timeout_s,
                metadata=((CALLER_KEY, self._caller),),
            )
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
