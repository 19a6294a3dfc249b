"""payment_svc in this process among played services: replicas of one fresh database."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import psycopg
from paymesh.common.v1.money_pb2 import Money
from paymesh.payment.v1 import payment_pb2
from paymesh.payment.v1 import payment_service_pb2 as pb

from payment_svc.config import Settings
from tests.support.eventually import eventually
from tests.support.fakes import FakeExecutor, FakeLedger, FakeWallet
from tests.support.payment_replica import Replica, State

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
    "evidence_poll_ms": 50,
    "drain_s": 5.0,
}


class World:
    """A fresh database, the three played services, and replicas."""

    def __init__(self, url: str, admin_url: str) -> None:
        self.url = url
        self.admin_url = admin_url
        """The superuser's, of the same database."""
        self.executor = FakeExecutor()
        self.wallet = FakeWallet()
        self.ledger = FakeLedger()  # type: ignore[abstract]  # it plays what is called here
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

        with suppress(AssertionError):
            await eventually(lambda: not held(), 3)
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
