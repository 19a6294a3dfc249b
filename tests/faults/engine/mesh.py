"""Five services in this process, whose every commit and call can fail."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
from paymesh.ledger.v1.ledger_posting_service_pb2_grpc import LedgerPostingServiceStub
from paymesh.payment.v1.payment_service_pb2_grpc import PaymentServiceStub
from paymesh.psp.v1 import psp_service_pb2 as psp_pb
from paymesh.reconciliation.v1.reconciliation_service_pb2_grpc import ReconciliationServiceStub
from pydantic import BaseModel

import executor_svc.config
import executor_svc.main
import ledger_svc.config
import ledger_svc.main
import payment_svc.config
import payment_svc.main
import psp_stub.config
import psp_stub.main
import wallet_svc.config
import wallet_svc.main
from mesh import failpoints
from mesh.channel import open_channel
from mesh.db import Database
from mesh.errors import MeshError
from mesh.server import CannotStartError
from tests.faults.engine.faults import Fault
from tests.faults.engine.passages import Passages
from tests.faults.engine.process import Life, background

if TYPE_CHECKING:
    from paymesh.ledger.v1.ledger_posting_service_pb2_grpc import LedgerPostingServiceAsyncStub
    from paymesh.payment.v1.payment_service_pb2_grpc import PaymentServiceAsyncStub
    from paymesh.reconciliation.v1.reconciliation_service_pb2_grpc import (
        ReconciliationServiceAsyncStub,
    )

    from mesh.server import Server

SERVICES = ("psp_stub", "executor", "wallet", "ledger", "payment")
"""In the order in which they are started: each needs only those before it."""

SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "payment": {
        "lease_ms": 600,
        "poll_ms": 150,
        "call_deadline_ms": 500,
        "item_timeout_ms": 1_000,
        "pending_first_ms": 20,
        "pending_most_ms": 40,
        "unknown_first_ms": 20,
        "unknown_most_ms": 40,
        "delayed_first_ms": 20,
        "delayed_most_ms": 40,
        "parked_poll_ms": 40,
        "evidence_poll_ms": 30_000,
    },
    "executor": {
        "psp_deadline_ms": 400,
        "look_up_deadline_ms": 400,
        "ladder_backoff_ms": 2,
        "key_window_s": 3600.0,
    },
    "wallet": {},
    "ledger": {},
    "psp_stub": {"slow_ms": 20.0, "pending_ms": 60.0, "key_memory_s": 3600.0},
}
"""Waits of milliseconds, each still longer than what it has to outlast. Some lie below what
the services' settings allow in production."""

PAUSE_S = 0.7
"""Longer than the deadline of any call and than the lease."""
RESTART_S = 0.02
PATIENCE_S = 30.0
"""Far more than anything takes on a machine that is busy with other scenarios."""


_numbers = itertools.count(1)


def _own_address() -> str:
    """A loopback address of a mesh's own.

    What starts again finds its port free there: on 127.0.0.1 a neighbour may have taken it,
    and would be called instead.
    """
    process = os.getpid() % (1 << 16)
    return f"127.{1 + process // 256 % 250}.{process % 256}.{next(_numbers) % 250 + 1}"


class FailingMesh:
    """A mesh over its own databases; one scenario at a time passes through it."""

    def __init__(
        self,
        urls: Mapping[str, str],
        more: Mapping[str, Mapping[str, Any]] | None = None,
        *,
        replicas: int = 1,
    ) -> None:
        """`urls`: service → the URL of its database. `more`: settings beyond SETTINGS.

        replicas: of payment_svc, 1 or 2.
        """
        self._replicas = replicas
        self._urls = urls
        self._host = _own_address()
        self._more = more or {}
        self._ports: dict[str, list[int]] = {}
        self._lives: dict[str, list[Life]] = {service: [] for service in SERVICES}
        self._client = Life("client", self)
        self._beside: set[asyncio.Future[object]] = set()
        self._dead: list[Life] = []
        self._starting: set[tuple[str, int]] = set()
        self._late: list[Callable[[], Awaitable[object]]] = []
        self._passages: Passages | None = None
        self.tokens: Mapping[int, str] = {}
        """By an order's amount: the token that the PSP is sent instead."""
        self.payments: PaymentServiceAsyncStub
        self.postings: LedgerPostingServiceAsyncStub
        self.reconciliation: ReconciliationServiceAsyncStub

    # --- its life -----------------------------------------------------------------------

    async def start(self) -> None:
        """Starts one of each service, and a client."""
        for service in SERVICES:
            await self._revive(service, 0)
        # A second replica of payment_svc has its address from the start, also if it is down.
        self._ports["payment"].append(await self._free_port())
        for replica in range(1, self._replicas):
            await self._revive("payment", replica)
        with self._client.installed():
            to_payment = open_channel(self._target("payment"), retries=False)
            to_ledger = open_channel(self._target("ledger"), retries=False)
        self.payments = PaymentServiceStub(to_payment)
        self.postings = LedgerPostingServiceStub(to_ledger)
        self.reconciliation = ReconciliationServiceStub(to_ledger)

    async def stop(self) -> None:
        """Ends everything."""
        for lives in self._lives.values():
            for one in lives:
                one.crash()
        self._client.crash()
        await self.quiet()
        for one in (
            self._client,
            *self._dead,
            *(o for lives in self._lives.values() for o in lives),
        ):
            await one.forget()

    async def quiet(self) -> None:
        """Waits for what goes on beside the scenario: late requests, services that start."""
        while self._beside:
            await asyncio.wait(set(self._beside))

    def what_goes_on(self) -> str:
        """Where everything stands that `quiet` waits for, and who is alive."""
        frames = [
            f"{frame.f_code.co_name}:{frame.f_lineno}"
            for task in self._beside
            if isinstance(task, asyncio.Task)
            for frame in _awaited(task)
        ]
        alive = [f"{s} {[one.alive for one in lives]}" for s, lives in self._lives.items()]
        return f"{', '.join(frames)}; {', '.join(alive)}"

    def begin(self, passages: Passages) -> None:
        """From here on passages are counted and faults happen."""
        self._late.clear()
        self._passages = passages

    async def deliver_late(self) -> None:
        """What arrives when all is over."""
        late, self._late = self._late, []
        for work in late:
            with suppress(grpc.RpcError):
                await work()

    async def end(self) -> None:
        """As many of each service as in the beginning, whatever the scenario left."""
        self._passages = None
        self.tokens = {}
        await self.quiet()
        extra = self._lives["payment"][self._replicas :]
        for one in extra:
            one.crash()
        await self.quiet()
        del self._lives["payment"][self._replicas :]
        for one in (*extra, *self._dead):
            await one.forget()
        self._dead.clear()

    async def _start(self, service: str, replica: int) -> bool:
        """Starts one; False if it could not start, or died on the way."""
        owner = Life(service, self)
        ports = self._ports.setdefault(service, [])
        port = ports[replica] if replica < len(ports) else 0
        settings = self._settings(service, port)
        with owner.installed():
            # A task of its own: what has died never goes on.
            starting = asyncio.ensure_future(self._bring_up(service, owner, settings))
        either: set[asyncio.Future[Any]] = {starting, owner.died}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if owner.alive and isinstance(starting.exception(), MeshError | CannotStartError):
            owner.crash()
        if not owner.alive:
            self._dead.append(owner)
            await owner.gone()
            return False
        server, work = starting.result()
        if replica >= len(ports):
            ports.append(server.port)
        lives = self._lives[service]
        lives[replica:] = [owner, *lives[replica + 1 :]]
        background(owner, work)
        return True

    async def _bring_up(
        self, service: str, owner: Life, settings: Any
    ) -> tuple[Server, list[Callable[[], Awaitable[None]]]]:
        server, work = await self._wire(service, settings)
        owner.server = server
        await server.start()
        return server, work

    async def _wire(
        self, service: str, settings: Any
    ) -> tuple[Server, list[Callable[[], Awaitable[None]]]]:
        opened = partial(Database, settings.database_url, application_name=service)
        match service:
            case "payment":
                wired = payment_svc.main.wire(settings, opened())
                await wired.lease.open()
                return wired.server, list(wired.background)
            case "executor":
                channel = open_channel(settings.psp_target, retries=False)
                server, work = executor_svc.main.wire(settings, opened(), channel)
            case "wallet":
                server, work = wallet_svc.main.wire(settings, opened())
            case "ledger":
                server, work = ledger_svc.main.wire(settings, opened())
            case _:
                server, work = psp_stub.main.wire(settings, opened(by_key=False))
        return server, [work]

    def _settings(self, service: str, port: int) -> BaseModel:
        module = {
            "payment": payment_svc.config,
            "executor": executor_svc.config,
            "wallet": wallet_svc.config,
            "ledger": ledger_svc.config,
            "psp_stub": psp_stub.config,
        }[service]
        targets = {
            "payment": ("executor", "wallet", "ledger"),
            "executor": ("psp_stub",),
            "ledger": ("psp_stub",),
        }.get(service, ())
        settings: BaseModel = module.Settings(
            host=self._host, port=port, database_url=self._urls[service]
        )
        named = {
            "psp_target" if callee == "psp_stub" else f"{callee}_target": self._target(callee)
            for callee in targets
        }
        return settings.model_copy(
            update={**named, **SETTINGS[service], **self._more.get(service, {})}
        )

    def _target(self, service: str) -> str:
        return "ipv4:" + ",".join(f"{self._host}:{port}" for port in self._ports[service])

    async def _free_port(self) -> int:
        listening = await asyncio.start_server(lambda *_: None, self._host, 0)
        port: int = listening.sockets[0].getsockname()[1]
        listening.close()
        await listening.wait_closed()
        return port

    # --- Surroundings -------------------------------------------------------------------

    def at(self, point: str) -> Fault | None:
        """See Passages.at; None between scenarios."""
        return None if self._passages is None else self._passages.at(point)

    def died(self, service: str, *, replicas: int) -> None:
        """Starts it again, as so many."""
        # A later task of nobody's: the one that died must not own its successor.
        self.beside(self._again(service, replicas))

    async def _again(self, service: str, replicas: int) -> None:
        dead = [(i, one) for i, one in enumerate(self._lives[service]) if not one.alive]
        for _, one in dead:
            await one.gone()
        self._dead += [one for _, one in dead]
        wanted = [i for i, _ in dead] or [0]
        if replicas > 1:
            wanted = sorted({*wanted, *range(replicas)})
        await asyncio.gather(*(self._revive(service, i) for i in wanted))

    async def _revive(self, service: str, replica: int) -> None:
        """Starts it again and again, as a supervisor does; not what lives or is on its way."""
        lives = self._lives[service]
        if (service, replica) in self._starting or (replica < len(lives) and lives[replica].alive):
            return
        self._starting.add((service, replica))
        try:
            while not await self._start(service, replica):  # noqa: ASYNC110
                await asyncio.sleep(RESTART_S)
        finally:
            self._starting.discard((service, replica))

    def sent(self, request: Any) -> Any:
        """What arrives of a request: at the PSP, the tokens that decide about single orders."""
        if not self.tokens or not isinstance(request, psp_pb.ChargeRequest):
            return request
        arrives = psp_pb.ChargeRequest()
        arrives.CopyFrom(request)
        for item in arrives.items:
            item.payment_method = self.tokens.get(item.amount.amount_minor, item.payment_method)
        return arrives

    def cut_all(self) -> None:
        """Ends every session of every service."""
        for lives in self._lives.values():
            for one in lives:
                one.cut()

    def callee(self, target: str) -> str:
        """The service at an address."""
        return next(service for service in self._ports if self._target(service) == target)

    def pause(self, service: str) -> None:
        """Stops a service for a while."""
        for one in self._lives[service]:
            one.running.clear()
            asyncio.get_running_loop().call_later(PAUSE_S, one.running.set)

    def later(self, work: Callable[[], Awaitable[object]]) -> None:
        """Does something when all is over."""
        self._late.append(work)

    def beside(self, work: Awaitable[object]) -> None:
        """Does something in nobody's name."""
        token = failpoints.install(None)
        try:
            task = asyncio.ensure_future(_unheard(work))
        finally:
            failpoints.uninstall(token)
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)


def _awaited(task: asyncio.Task[object]) -> list[Any]:
    """The frames of a task, from the outermost to where it waits."""
    frames: list[Any] = []
    coroutine: Any = task.get_coro()
    while (frame := getattr(coroutine, "cr_frame", None)) is not None:
        frames.append(frame)
        coroutine = getattr(coroutine, "cr_await", None)
    return frames


async def _unheard(work: Awaitable[object]) -> object:
    with suppress(grpc.RpcError, asyncio.CancelledError):
        return await work
    return None
