"""Everything at once: streams cut, books away, sessions ended, answers lost, replicas killed.

Seeded, so that a failure can be played again; not to the instruction, as time is real.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress

import grpc
import pytest
from paymesh.payment.v1 import payment_pb2
from paymesh.payment.v1 import payment_service_pb2 as pb

from mesh.db import CommitFailed
from mesh.errors import MeshError, Reason
from tests.support.fakes import captured, declined, failed, pending, unknown
from tests.support.payment_replica import Replica, State
from tests.support.payment_world import World, checkout

PAYMENTS = 40
BLOWS = 20

TRANSIENT = failed(MeshError(Reason.DEPENDENCY_DOWN, "not now"))
EXPECTED = {
    100: State.ORDER_STATE_SUCCEEDED,
    200: State.ORDER_STATE_DECLINED,
    300: State.ORDER_STATE_SUCCEEDED,
    400: State.ORDER_STATE_SUCCEEDED,
    500: State.ORDER_STATE_DECLINED,
}


class Storm:
    """Two replicas, one of them short-lived, and what befalls them."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.chance = random.Random(seed)
        self.replicas: list[Replica] = []

    async def start(self) -> None:
        started = None
        while started is None:
            with suppress(CommitFailed):  # sessions may end while it starts
                started = await self.world.replica(
                    lease_ms=1_000, item_timeout_ms=1_000, call_deadline_ms=300, drain_s=0.1
                )
        self.replicas.append(started)

    async def pay(self, request: pb.CreatePaymentRequest) -> payment_pb2.Payment:
        """As a caller does: with the same request_id, until the payment is at its end."""
        while True:
            replica = self.chance.choice(self.replicas)
            try:
                payment = await replica.create(request, self.chance.choice([0.05, 0.5, 3]))
            except (grpc.aio.AioRpcError, asyncio.CancelledError, grpc.aio.UsageError):
                await asyncio.sleep(0.02)
                continue
            if payment.state != payment_pb2.PAYMENT_STATE_PROCESSING:
                return payment
            await asyncio.sleep(0.02)

    async def blow(self) -> None:
        blows: list[Callable[[], Awaitable[None]]] = [
            self.world.executor.cut,
            self._executor_restarts,
            self._wallet_fails,
            self._ledger_is_away,
            self._results_are_missing,
            self._sessions_end,
            self._answers_are_lost,
            self._a_replica_dies,
            self._a_replica_stops,
        ]
        await self.chance.choice(blows)()

    async def _executor_restarts(self) -> None:
        await self.world.executor.stop()
        await asyncio.sleep(self.chance.random() * 0.1)
        await self.world.executor.start()

    async def _wallet_fails(self) -> None:
        reasons = [Reason.DEPENDENCY_DOWN, Reason.OUTCOME_UNKNOWN, Reason.VALIDATION_FAILED]
        self.world.wallet.fail = MeshError(self.chance.choice(reasons), "not now")
        await asyncio.sleep(0.1)
        self.world.wallet.fail = None
        self.world.wallet.lose = 2

    async def _ledger_is_away(self) -> None:
        await self.world.ledger.stop()
        await asyncio.sleep(self.chance.random() * 0.2)
        await self.world.ledger.start()
        self.world.ledger.lose = 1

    async def _results_are_missing(self) -> None:
        books = self.chance.choice([self.world.wallet, self.world.ledger])
        books.cut_results, books.empty_results = self.chance.choice([(1, False), (0, True)])
        await asyncio.sleep(0.1)
        books.cut_results, books.empty_results = 0, False

    async def _sessions_end(self) -> None:
        self.world.hang_up()

    async def _answers_are_lost(self) -> None:
        name = self.chance.choice(["payment.write", "payment.take", "payment.renew_epoch"])
        times = self.chance.randint(1, 4)
        self.chance.choice(self.replicas).lose_answers(
            name, times, stored=self.chance.random() < 0.7
        )

    async def _a_replica_dies(self) -> None:
        await self.start()
        await self.replicas.pop(0).die()

    async def _a_replica_stops(self) -> None:
        await self.start()
        await self.replicas.pop(0).stop()


@pytest.mark.parametrize("seed", [1, 2])
async def test_every_payment_ends_as_it_must_whatever_happens(world: World, seed: int) -> None:
    world.executor.on(200, declined)
    world.executor.on(300, unknown, TRANSIENT, captured)
    world.executor.on(400, pending, pending, captured)
    world.executor.on(500, None, unknown, declined)
    storm = Storm(world, seed)
    await storm.start()
    await storm.start()
    requests = [
        checkout(*storm.chance.choices(list(EXPECTED), k=storm.chance.randint(1, 4)))
        for _ in range(PAYMENTS)
    ]
    calls: list[asyncio.Task[payment_pb2.Payment]] = []
    for number, request in enumerate(requests):
        calls.append(asyncio.create_task(storm.pay(request)))
        if number % (PAYMENTS // BLOWS) == 0:
            await asyncio.sleep(storm.chance.random() * 0.05)
            await storm.blow()
    async with asyncio.timeout(30):
        payments = await asyncio.gather(*calls)
    for request, payment in zip(requests, payments, strict=True):
        expected = [EXPECTED[order.amount.amount_minor] for order in request.orders]
        assert [order.state for order in payment.orders] == expected
        world.assert_booked(payment)
    succeeded = sum(
        order.state == State.ORDER_STATE_SUCCEEDED for p in payments for order in p.orders
    )
    assert len(world.executor.captures) == len(world.wallet.rows) == succeeded
    assert len(world.ledger.rows) == succeeded
    assert world.rows("SELECT count(*) FROM payment") == [(PAYMENTS,)]
    await world.quiet()
