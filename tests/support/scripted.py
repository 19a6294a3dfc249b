"""Services of the real contracts whose behaviour a test scripts, behind the real server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
from paymesh.executor.v1 import executor_service_pb2 as executor_pb
from paymesh.executor.v1.executor_service_pb2_grpc import (
    ExecutorServiceServicer,
    ExecutorServiceStub,
    add_ExecutorServiceServicer_to_server,
)
from paymesh.payment.v1.payment_service_pb2_grpc import (
    PaymentServiceServicer,
    PaymentServiceStub,
    add_PaymentServiceServicer_to_server,
)
from paymesh.psp.v1 import psp_service_pb2 as psp_pb
from paymesh.psp.v1.psp_service_pb2_grpc import (
    PspServiceServicer,
    PspServiceStub,
    add_PspServiceServicer_to_server,
)
from paymesh.wallet.v1 import wallet_service_pb2 as wallet_pb
from paymesh.wallet.v1.wallet_service_pb2_grpc import (
    WalletServiceServicer,
    WalletServiceStub,
    add_WalletServiceServicer_to_server,
)

from mesh.channel import open_channel
from mesh.config import ServiceSettings
from mesh.server import Server

if TYPE_CHECKING:
    from paymesh.executor.v1.executor_service_pb2_grpc import ExecutorServiceAsyncStub
    from paymesh.payment.v1.payment_service_pb2_grpc import PaymentServiceAsyncStub
    from paymesh.psp.v1.psp_service_pb2_grpc import PspServiceAsyncStub
    from paymesh.wallet.v1.wallet_service_pb2_grpc import WalletServiceAsyncStub

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Unary: TypeAlias = Callable[[Any, Context], Awaitable[Any]]
Stream: TypeAlias = Callable[[Any, Context], AsyncIterator[Any]]


async def echo(request: wallet_pb.GetWalletRequest, _: Context) -> wallet_pb.GetWalletResponse:
    """The seller that was asked for, without balances."""
    return wallet_pb.GetWalletResponse(wallet=wallet_pb.Wallet(seller_id=request.seller_id))


async def one_outcome(_: psp_pb.ChargeRequest, __: Context) -> AsyncIterator[psp_pb.ChargeResponse]:
    """One empty message."""
    yield psp_pb.ChargeResponse()


async def acknowledge(
    requests: AsyncIterator[executor_pb.ExecuteRequest], _: Context
) -> AsyncIterator[executor_pb.ExecuteResponse]:
    """Each list, as it comes."""
    async for request in requests:
        yield executor_pb.ExecuteResponse(committed_list_ids=[request.list_id])


async def not_scripted(_: Any, context: Context) -> Any:
    """Ends the call itself, as a servicer may."""
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, "not scripted")


class Script:
    """What the services do; a test puts other coroutine functions in their places.

    get_wallet, create_payment: public, unary. charge: internal, with a stream of answers.
    execute: internal, a stream both ways.
    """

    def __init__(self) -> None:
        self.get_wallet: Unary = echo
        self.create_payment: Unary = not_scripted
        self.charge: Stream = one_outcome
        self.execute: Stream = acknowledge


class _Wallets(WalletServiceServicer):
    def __init__(self, script: Script) -> None:
        self._script = script

    async def GetWallet(self, request: Any, context: Context) -> Any:
        return await self._script.get_wallet(request, context)

    async def ListMovements(self, request: Any, context: Context) -> Any:
        await not_scripted(request, context)


class _Payments(PaymentServiceServicer):
    def __init__(self, script: Script) -> None:
        self._script = script

    async def CreatePayment(self, request: Any, context: Context) -> Any:
        return await self._script.create_payment(request, context)

    async def GetPayment(self, request: Any, context: Context) -> Any:
        await not_scripted(request, context)

    async def ListPayments(self, request: Any, context: Context) -> Any:
        await not_scripted(request, context)

    async def CreatePayments(
        self, request_iterator: AsyncIterator[Any], context: Context
    ) -> AsyncIterator[Any]:
        yield await not_scripted(request_iterator, context)

    async def WatchPayment(self, request: Any, context: Context) -> AsyncIterator[Any]:
        yield await not_scripted(request, context)

    async def RetryPayment(self, request: Any, context: Context) -> Any:
        await not_scripted(request, context)

    async def CheckMesh(self, request: Any, context: Context) -> AsyncIterator[Any]:
        yield await not_scripted(request, context)


class _Psp(PspServiceServicer):
    def __init__(self, script: Script) -> None:
        self._script = script

    async def Charge(self, request: Any, context: Context) -> AsyncIterator[Any]:
        async for response in self._script.charge(request, context):
            yield response

    async def LookUp(self, request: Any, context: Context) -> AsyncIterator[Any]:
        yield await not_scripted(request, context)

    async def GetSettlementFile(self, request: Any, context: Context) -> AsyncIterator[Any]:
        yield await not_scripted(request, context)

    async def GetCapabilities(self, request: Any, context: Context) -> Any:
        await not_scripted(request, context)


class _Executor(ExecutorServiceServicer):
    def __init__(self, script: Script) -> None:
        self._script = script

    async def Execute(self, request_iterator: Any, context: Context) -> AsyncIterator[Any]:
        async for response in self._script.execute(request_iterator, context):
            yield response


class Scripted:
    """A started server, its script, and clients of it."""

    def __init__(self, server: Server, script: Script) -> None:
        self.server = server
        self.script = script
        self.target = f"127.0.0.1:{server.port}"
        self._channel: grpc.aio.Channel | None = None

    @property
    def channel(self) -> grpc.aio.Channel:
        """A channel of the mesh that retries nothing."""
        if self._channel is None:
            self._channel = open_channel(self.target, retries=False, default_timeout_s=10)
        return self._channel

    @property
    def wallets(self) -> WalletServiceAsyncStub:
        """A client of WalletService."""
        return WalletServiceStub(self.channel)

    @property
    def payments(self) -> PaymentServiceAsyncStub:
        """A client of PaymentService."""
        return PaymentServiceStub(self.channel)

    @property
    def psp(self) -> PspServiceAsyncStub:
        """A client of PspService."""
        return PspServiceStub(self.channel)

    @property
    def executor(self) -> ExecutorServiceAsyncStub:
        """A client of ExecutorService."""
        return ExecutorServiceStub(self.channel)

    async def ask(self, seller_id: str = "seller", **call: Any) -> str:
        """GetWallet; the seller_id of the answer."""
        response = await self.wallets.GetWallet(
            wallet_pb.GetWalletRequest(seller_id=seller_id), **call
        )
        return response.wallet.seller_id

    async def close(self) -> None:
        """Closes the client, then the server."""
        if self._channel is not None:
            await self._channel.close()
        await self.server.stop()


def settings(**change: Any) -> ServiceSettings:
    """On a free port, with no patience at the end."""
    given: dict[str, Any] = {"port": 0, "database_url": "postgresql://none/none", "drain_s": 0}
    return ServiceSettings(**{**given, **change})


def scripted_server(**change: Any) -> tuple[Server, Script]:
    """A server that is not started yet."""
    server, script = Server("scripted", settings(**change)), Script()
    add_WalletServiceServicer_to_server(_Wallets(script), server.grpc)
    server.add("paymesh.wallet.v1.WalletService")
    add_PaymentServiceServicer_to_server(_Payments(script), server.grpc)
    server.add("paymesh.payment.v1.PaymentService")
    add_PspServiceServicer_to_server(_Psp(script), server.grpc)
    server.add("paymesh.psp.v1.PspService", internal=True)
    add_ExecutorServiceServicer_to_server(_Executor(script), server.grpc)
    server.add("paymesh.executor.v1.ExecutorService", internal=True)
    return server, script


@asynccontextmanager
async def scripted(**change: Any) -> AsyncIterator[Scripted]:
    """A server with these settings while the test lasts."""
    server, script = scripted_server(**change)
    await server.start()
    running = Scripted(server, script)
    try:
        yield running
    finally:
        await running.close()
