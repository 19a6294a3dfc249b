"""One payment_svc in this process, that can stop, die, sleep and lose answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from paymesh.payment.v1 import payment_pb2
from paymesh.payment.v1 import payment_service_pb2 as pb
from paymesh.payment.v1.payment_service_pb2_grpc import PaymentServiceStub
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.batching import Stage
from mesh.channel import open_channel
from mesh.db import CommitUnknown, Database, NotCommitted
from payment_svc.clients import ExecutorStream
from payment_svc.config import Settings
from payment_svc.conveyor import Conveyor
from payment_svc.intake import Intake
from payment_svc.main import wire
from payment_svc.recovery import Recovery
from payment_svc.waiting import Waiting
from payment_svc.watching import Watching

if TYPE_CHECKING:
    from paymesh.payment.v1.payment_service_pb2_grpc import PaymentServiceAsyncStub

T = TypeVar("T")
State = payment_pb2.OrderState


class Replica:
    """One payment_svc, wired as `serve` does it, without its signals."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.database = Database(settings.database_url, application_name="test", pool_size=4)
        self.wired = wire(settings, self.database)
        self.conveyor = self._part(Conveyor)
        self.intake = self._part(Intake)
        self.executor = self._part(ExecutorStream)
        self.recovery = self._part(Recovery)
        self.waiting = self._part(Waiting)
        self.watching = self._part(Watching)
        self.running: dict[str, asyncio.Future[None]] = {}
        self.stub: PaymentServiceAsyncStub
        self._channel: grpc.aio.Channel | None = None
        self._open = True
        self._commits: set[asyncio.Task[None]] = set()
        self._refuses: dict[str, int] = {}

    def _part(self, kind: type[T]) -> T:
        for work in self.wired.background:
            part = getattr(work, "__self__", None)
            if isinstance(part, kind):
                return part
        raise AssertionError(f"no {kind} runs in the background")

    async def start(self) -> None:
        """Opens an epoch and serves."""
        await self.wired.lease.open()
        for work in self.wired.background:
            self.running[work.__qualname__] = asyncio.ensure_future(work())
        await self.wired.server.start()
        self._channel = open_channel(f"127.0.0.1:{self.wired.server.port}", retries=False)
        self.stub = PaymentServiceStub(self._channel)

    async def stop(self) -> None:
        """What `serve` does after SIGTERM."""
        if self._open:
            self._open = False
            await self.wired.server.stop()
            await self._cancel()
            await self.wired.close()
            await self._close()

    async def die(self) -> None:
        """Goes at once, releases nothing, finishes nothing: its lease has to run out."""
        self._open = False
        stages: list[Stage[Any]] = [
            self.conveyor._book_stage,
            self.conveyor._execute_stage,
            self.intake._writer._stage,
        ]
        for stage in stages:
            for task in list(stage._under_way):
                task.cancel()
        for task in list(self.intake._finishing):
            task.cancel()
        await self._cancel()
        await self.wired.server.grpc.stop(0)
        for channel in self.wired.channels:
            await channel.close()
        await self._close()

    async def fall_asleep(self) -> None:
        """Looks after its lease no more, like a process that is stopped for a while."""
        (looking,) = [task for name, task in self.running.items() if name == "Recovery.run"]
        looking.cancel()
        with suppress(asyncio.CancelledError):
            await looking

    def wake(self) -> None:
        """Looks after its lease again."""
        self.running["Recovery.run"] = asyncio.ensure_future(self.recovery.run())

    async def _cancel(self) -> None:
        for task in self.running.values():
            task.cancel()
        async with asyncio.timeout(8):
            await asyncio.gather(*self.running.values(), return_exceptions=True)

    async def _close(self) -> None:
        if self._channel is not None:
            await self._channel.close()
        await self.database.close()

    def lose_answers(
        self, name: str, times: int = 1, *, stored: bool = True, after_s: float = 0
    ) -> None:
        """The answers of the next commits of this name are lost: it is not known whether
        they were stored. They were if `stored`, as others see it `after_s` seconds later.
        """
        commit = self.database.commit

        async def losing(
            called: str,
            work: Callable[[AsyncConnection], Awaitable[T]],
            *,
            one_write: bool = False,
        ) -> T:
            nonlocal times
            if called != name or not times:
                return await commit(called, work, one_write=one_write)
            times -= 1

            async def store() -> None:
                await asyncio.sleep(after_s)
                await commit(called, work, one_write=one_write)

            if stored:
                storing = asyncio.create_task(store())
                self._commits.add(storing)
                storing.add_done_callback(self._commits.discard)
                if not after_s:
                    await storing
            raise CommitUnknown(called, OSError("lost by the test"))

        self.database.commit = losing  # type: ignore[method-assign, assignment]

    def refuse(self, name: str, times: int = 1) -> None:
        """The next commits of this name find no database."""
        if not self._refuses:
            commit = self.database.commit

            async def refusing(
                called: str,
                work: Callable[[AsyncConnection], Awaitable[T]],
                *,
                one_write: bool = False,
            ) -> T:
                if self._refuses.get(called):
                    self._refuses[called] -= 1
                    raise NotCommitted(called, OSError("refused by the test"))
                return await commit(called, work, one_write=one_write)

            self.database.commit = refusing  # type: ignore[method-assign, assignment]
        self._refuses[name] = times

    def hang(self, name: str) -> None:
        """The next commits of this name are stored, and their answers never come."""
        commit = self.database.commit

        async def hanging(
            called: str,
            work: Callable[[AsyncConnection], Awaitable[T]],
            *,
            one_write: bool = False,
        ) -> T:
            result = await commit(called, work, one_write=one_write)
            if called == name:
                await asyncio.Event().wait()
            return result

        self.database.commit = hanging  # type: ignore[method-assign, assignment]

    def assert_working(self) -> None:
        """Nothing that has to run for ever has ended."""
        ended = {name: task for name, task in self.running.items() if task.done()}
        assert not ended, ended

    # --- calls ------------------------------------------------------------------------

    async def create(
        self, request: pb.CreatePaymentRequest, timeout_s: float | None = 10
    ) -> payment_pb2.Payment:
        """CreatePayment."""
        return (await self.stub.CreatePayment(request, timeout=timeout_s)).payment

    async def get(self, request_id: str) -> payment_pb2.Payment:
        """GetPayment by request_id."""
        request = pb.GetPaymentRequest(request_id=request_id)
        return (await self.stub.GetPayment(request, timeout=5)).payment

    async def retry(
        self, payment: payment_pb2.Payment, *, request_id: str = "retry", note: str = "looked at it"
    ) -> payment_pb2.Payment:
        """RetryPayment."""
        request = pb.RetryPaymentRequest(
            request_id=request_id, payment_id=payment.payment_id, note=note
        )
        return (await self.stub.RetryPayment(request, timeout=10)).payment

    async def until(
        self,
        request: pb.CreatePaymentRequest,
        *states: State.ValueType,
        timeout_s: float = 10,
    ) -> payment_pb2.Payment:
        """The payment as soon as its orders are in these states, in order."""
        payment = payment_pb2.Payment()
        deadline = time.monotonic() + timeout_s
        while states_of(payment) != list(states):
            assert time.monotonic() < deadline, f"wanted {states}, got {payment}"
            await asyncio.sleep(0.02)
            with suppress(grpc.aio.AioRpcError):
                payment = await self.get(request.request_id)
        return payment


def states_of(payment: payment_pb2.Payment) -> list[State.ValueType]:
    """The states of the orders, in order."""
    return [order.state for order in payment.orders]
