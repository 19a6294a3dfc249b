"""payment_svc in this process among played services: replicas of one fresh database."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
import psycopg
from paymesh.common.v1.money_pb2 import Money
from paymesh.payment.v1 import payment_pb2
from paymesh.payment.v1 import payment_service_pb2 as pb
from paymesh.payment.v1.payment_service_pb2_grpc import PaymentServiceStub
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.batching import Stage
from mesh.channel import open_channel
from mesh.db import CommitUnknown, Database
from payment_svc.clients import ExecutorStream
from payment_svc.config import Settings
from payment_svc.conveyor import Conveyor
from payment_svc.intake import Intake
from payment_svc.main import wire
from payment_svc.recovery import Recovery
from payment_svc.waiting import Waiting
from tests.support.fakes import FakeExecutor, FakeLedger, FakeWallet

if TYPE_CHECKING:
    from paymesh.payment.v1.payment_service_pb2_grpc import PaymentServiceAsyncStub

T = TypeVar("T")
State = payment_pb2.OrderState

# Short enough for a test, and each longer than what it has to outlast.
SETTINGS: dict[str, Any] = {
    "poll_ms": 20,
    "call_deadline_ms": 600,
    "item_timeout_ms": 1_000,
    "lease_ms": 60_000,
    "pending_first_ms": 30,
    "pending_most_ms": 60,
    "unknown_first_ms": 30,
    "unknown_most_ms": 60,
    "delayed_first_ms": 20,
    "delayed_most_ms": 50,
    "parked_poll_ms": 50,
    "drain_s": 5.0,
}


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
        self.running: dict[str, asyncio.Future[None]] = {}
        self.stub: PaymentServiceAsyncStub
        self._channel: grpc.aio.Channel | None = None
        self._open = True
        self._commits: set[asyncio.Task[None]] = set()

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

    async def until(
        self,
        request: pb.CreatePaymentRequest,
        *states: State.ValueType,
        timeout_s: float = 10,
    ) -> payment_pb2.Payment:
        """The payment as soon as its orders are in these states, in order."""
        payment = payment_pb2.Payment()

        async def there() -> bool:
            nonlocal payment
            with suppress(grpc.aio.AioRpcError):
                payment = await self.get(request.request_id)
            return states_of(payment) == list(states)

        try:
            await eventually(there, timeout_s)
        except AssertionError:
            raise AssertionError(f"wanted {states}, got {payment}") from None
        return payment


class World:
    """A fresh database, the three played services, and replicas."""

    def __init__(self, url: str, admin_url: str) -> None:
        self.url = url
        self.admin_url = admin_url
        """The superuser's, of the same database."""
        self.executor = FakeExecutor()
        self.wallet = FakeWallet()
        self.ledger = FakeLedger()
        self._replicas: list[Replica] = []
        self._others: list[FakeExecutor] = []

    def settings(self, **more: Any) -> Settings:
        """Those of a replica among these services."""
        return Settings(
            port=0,
            **{
                "database_url": self.url,
                "executor_target": self.executor.target,
                "wallet_target": self.wallet.target,
                "ledger_target": self.ledger.target,
                **SETTINGS,
                **more,
            },
        )

    async def replica(self, **more: Any) -> Replica:
        """Another replica that serves."""
        replica = Replica(self.settings(**more))
        try:
            await replica.start()
        except BaseException:
            await replica.die()
            raise
        self._replicas.append(replica)
        return replica

    async def other_executor(self) -> FakeExecutor:
        """One for a replica that is to be told something else than its neighbour."""
        executor = FakeExecutor()
        self._others.append(executor)
        await executor.start()
        return executor

    def rows(self, query: str) -> list[Any]:
        """What the database holds, by a look past the service."""
        with psycopg.connect(self.admin_url) as connection:
            return connection.execute(query.encode()).fetchall()

    def execute(self, statement: str) -> None:
        """Does something to the server as its superuser; `{db}` is the database's name."""
        server, _, name = self.admin_url.rpartition("/")
        with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
            connection.execute(statement.replace("{db}", name).encode())

    def inside(self, statement: str) -> None:
        """Does something in the database as its superuser."""
        with psycopg.connect(self.admin_url, autocommit=True) as connection:
            connection.execute(statement.encode())

    def hang_up(self) -> None:
        """Ends all sessions of the database."""
        self.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{db}'"
        )

    def take_database_away(self) -> None:
        """Nobody has a session, and nobody gets one."""
        self.execute("ALTER DATABASE {db} ALLOW_CONNECTIONS false")
        self.hang_up()

    def bring_database_back(self) -> None:
        """As before."""
        self.execute("ALTER DATABASE {db} ALLOW_CONNECTIONS true")

    def assert_booked(self, payment: payment_pb2.Payment) -> None:
        """Each succeeded order is taken, credited and booked once; of the rest nothing is."""
        for order in payment.orders:
            (operation,) = order.operations
            key = operation.operation_id
            if order.state == State.ORDER_STATE_SUCCEEDED:
                amount, commission = order.amount.amount_minor, order.commission.amount_minor
                assert order.captured == order.amount
                assert key in self.executor.captures
                assert self.wallet.rows[key] == (
                    order.seller_id,
                    amount - commission,
                    order.amount.currency_code,
                )
                assert self.ledger.rows[key][:4] == (
                    order.seller_id,
                    amount,
                    amount - commission,
                    commission,
                )
            elif not order.captured.amount_minor:
                assert key not in self.wallet.rows
                assert key not in self.ledger.rows

    async def quiet(self) -> None:
        """Waits until nobody has anything to do; what is then still held is a leak."""

        def held() -> dict[str, Any]:
            found: dict[str, Any] = {}
            for number, replica in enumerate(self._replicas):
                if replica._open:
                    parts = {
                        "items": replica.conveyor._items,
                        "asked": replica.executor._asked,
                        "carried": replica.waiting._carried,
                        "waits": replica.waiting._waits,
                        "finishing": replica.intake._finishing,
                    }
                    found |= {f"{name} {number}": part for name, part in parts.items() if part}
            owned = self.rows("SELECT operation_id, epoch FROM operation WHERE epoch IS NOT NULL")
            return found | ({"owned": owned} if owned else {})

        async def nothing_held() -> bool:
            return not held()

        with suppress(AssertionError):
            await eventually(nothing_held, 3)
        assert not held()
        for replica in self._replicas:
            if replica._open:
                replica.assert_working()

    async def close(self) -> None:
        """Ends everything."""
        for replica in self._replicas:
            await replica.stop()
        for fake in (self.executor, self.wallet, self.ledger, *self._others):
            await fake.stop()


@asynccontextmanager
async def world_of(url: str, admin_url: str) -> AsyncIterator[World]:
    """A world whose played services serve."""
    world = World(url, admin_url)
    for fake in (world.executor, world.wallet, world.ledger):
        await fake.start()
    try:
        yield world
    finally:
        await world.close()


def checkout(
    *amounts_minor: int,
    sellers: Sequence[str] = (),
    commission_minor: int = 10,
    request_id: str = "",
) -> pb.CreatePaymentRequest:
    """A payment with an order of each amount, each of a seller of its own."""
    request_id = request_id or uuid.uuid4().hex
    return pb.CreatePaymentRequest(
        request_id=request_id,
        buyer_id="buyer",
        payment_method="tok_ok",
        orders=[
            pb.NewOrder(
                seller_id=sellers[position] if sellers else f"{request_id}-{position}",
                amount=Money(amount_minor=amount, currency_code="EUR"),
                commission=Money(amount_minor=min(commission_minor, amount), currency_code="EUR"),
            )
            for position, amount in enumerate(amounts_minor or (1000,))
        ],
    )


def states_of(payment: payment_pb2.Payment) -> list[State.ValueType]:
    """The states of the orders, in order."""
    return [order.state for order in payment.orders]


async def eventually(
    condition: Callable[[], Any], timeout_s: float = 10, *, every_s: float = 0.02
) -> None:
    """Waits until the condition, a coroutine function or a function, holds."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while True:
        held = condition()
        if asyncio.iscoroutine(held):
            held = await held
        if held:
            return
        assert asyncio.get_running_loop().time() < deadline, f"not within {timeout_s} s"
        await asyncio.sleep(every_s)
