"""Callers in an event loop of their own thread: first as fast as the mesh goes, then at a rate.

Whoever is not acknowledged repeats its request until it is. Everything told is remembered.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Coroutine, Iterator, Mapping
from typing import Any, TypeVar

import grpc
from paymesh.payment.v1 import payment_pb2 as pb
from paymesh.payment.v1 import payment_service_pb2 as service_pb
from paymesh.payment.v1.payment_service_pb2_grpc import PaymentServiceStub

from tests.faults.checker import Told
from tests.support.checkout import new_checkout, new_order
from tests.support.load import MIX, NOTHING_ACCEPTED, UNKNOWN
from tests.support.mesh import CHANNEL_OPTIONS, fresh
from tests.support.refusals import refusal_of

T = TypeVar("T")

# A wrong amount is a difference that the night must tell; it is to tell only what was seeded.
USUAL: Mapping[str, int] = {
    token: weight for token, weight in MIX.items() if token != "tok_wrong_amount"
}

_DEADLINE_S = 5.0
_AGAIN_AFTER_S = 0.1
# Work that waits for a mesh that is away is bounded, as a checkout's own patience bounds it.
_MOST_WAITING = 2_000
_SELLERS = 40
_REPLAYED, _READ, _REUSED = 0.03, 0.05, 0.02


class Callers:
    """`mix`: the tokens that are drawn from, and how often each; may be changed at any time."""

    def __init__(self, target: str, seed: int) -> None:
        self.mix = USUAL
        self.told: list[Told] = []
        self.begun = 0
        self.acknowledged = 0
        self.not_begun = 0
        self.refusals: Counter[str] = Counter()
        self.surprises: list[str] = []
        """What no caller should be told, whatever is away."""
        self._target = target
        self._chance = random.Random(seed)
        self._sellers = [fresh("seller") for _ in range(_SELLERS)]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._paying = asyncio.Event()
        self._stub = self._run(self._connect())

    @property
    def waiting(self) -> int:
        """How many requests are not acknowledged yet."""
        return self.begun - self.acknowledged

    def fastest(self, seconds: float, callers: int) -> float:
        """Payments a second of so many callers, each of whom pays again at once."""
        before, started_s = self.acknowledged, time.monotonic()
        self._run(self._pay_in_turn(started_s + seconds, callers))
        return (self.acknowledged - before) / (time.monotonic() - started_s)

    def pay(self, payments: int) -> None:
        """Pays so many times, some at once, and waits for the end."""

        async def all_of_them() -> None:
            for _ in range(0, payments, 10):
                await asyncio.gather(*(self._pay() for _ in range(10)))

        self._run(all_of_them())

    def begin(self, per_second: float) -> None:
        """Begins to pay at this rate, whatever becomes of it."""
        asyncio.run_coroutine_threadsafe(self._pay_by_the_clock(per_second), self._loop)

    def end(self) -> None:
        """Begins nothing more; what was begun goes on."""
        self._loop.call_soon_threadsafe(self._paying.set)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _connect(self) -> Any:
        return PaymentServiceStub(grpc.aio.insecure_channel(self._target, CHANNEL_OPTIONS))

    async def _pay_in_turn(self, until_s: float, callers: int) -> None:
        async def one_after_the_other() -> None:
            while time.monotonic() < until_s:
                await self._pay()

        await asyncio.gather(*(one_after_the_other() for _ in range(callers)))

    async def _pay_by_the_clock(self, per_second: float) -> None:
        under_way: set[asyncio.Task[None]] = set()
        due_s = time.monotonic()
        while not self._paying.is_set():
            due_s += self._chance.expovariate(per_second)
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            if self.waiting >= _MOST_WAITING:
                self.not_begun += 1
                continue
            task = asyncio.create_task(self._pay())
            under_way.add(task)
            task.add_done_callback(under_way.discard)

    async def _pay(self) -> None:
        (token,) = self._chance.choices(list(self.mix), list(self.mix.values()))
        request = new_checkout(token, *self._orders())
        self.begun += 1
        payment = await self._create(request)
        self.acknowledged += 1
        if payment is None:
            return
        draw = self._chance.random()
        if draw < _REPLAYED:
            await self._create(request)
        elif draw < _REPLAYED + _REUSED:
            request.orders[0].amount.amount_minor += 1
            await self._create(request)
        elif draw < _REPLAYED + _REUSED + _READ:
            await self._ask(service_pb.GetPaymentRequest(payment_id=payment.payment_id))

    async def _create(self, request: service_pb.CreatePaymentRequest) -> pb.Payment | None:
        """The payment, however often it takes to be told of it; None: it was refused."""
        asked = service_pb.CreatePaymentRequest()
        asked.CopyFrom(request)
        while True:
            told = await self._ask(asked)
            if told.payment or told.reason == "REQUEST_ID_REUSED":
                return told.payment
            await asyncio.sleep(_AGAIN_AFTER_S)

    async def _ask(
        self, request: service_pb.CreatePaymentRequest | service_pb.GetPaymentRequest
    ) -> Told:
        creates = isinstance(request, service_pb.CreatePaymentRequest)
        call = self._stub.CreatePayment if creates else self._stub.GetPayment
        asked_s = time.monotonic()
        try:
            answer = await call(request, timeout=_DEADLINE_S)
        except grpc.RpcError as error:
            refusal = refusal_of(error)
            told = Told(request, None, refusal.reason, asked_s, time.monotonic())
            known = (refusal.code, refusal.reason)
            self.refusals[" ".join(known).strip()] += 1
            if known not in (*UNKNOWN, NOTHING_ACCEPTED, ("ALREADY_EXISTS", "REQUEST_ID_REUSED")):
                self.surprises.append(refusal.everything)
        else:
            told = Told(request, answer.payment, "", asked_s, time.monotonic())
        self.told.append(told)
        return told

    def _orders(self) -> Iterator[service_pb.NewOrder]:
        for _ in range(self._chance.choice((1, 1, 1, 2, 3))):
            amount = self._chance.randint(1_000, 100_000)
            yield new_order(
                amount,
                self._chance.randint(0, amount // 10),
                currency=self._chance.choice(("EUR", "EUR", "USD", "JPY")),
                seller_id=self._chance.choice(self._sellers),
            )
