"""The load generator, a process of its own: `python -m bench.load PLAN RESULT_FILE`."""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import grpc
import uvloop
from paymesh.common.v1.money_pb2 import Money
from paymesh.payment.v1.payment_pb2 import Payment, PaymentState
from paymesh.payment.v1.payment_service_pb2 import (
    CreatePaymentRequest,
    CreatePaymentsRequest,
    NewOrder,
)
from paymesh.payment.v1.payment_service_pb2_grpc import PaymentServiceStub

from bench.plan import LoadPlan, LoadResult, RequestIds, percentile
from mesh.status import from_rpc_error, from_status
from paymeshctl.client import new_request_id

# Above any time that a payment may take here, and below the patience of who started us.
CALL_TIMEOUT_S = 20.0
# An open loop that gets so far ahead of the mesh is overload, not a measurement.
MOST_IN_FLIGHT = 5_000

_FAST, _SLOW = "tok_ok", "tok_slow"
_COMMISSION_PERCENT = 10


class _Load:
    """One load while it runs. Times are perf_counter's, in seconds."""

    def __init__(self, plan: LoadPlan, channel: grpc.aio.Channel) -> None:
        self._plan = plan
        self._stub = PaymentServiceStub(channel)
        self._random = random.Random(plan.seed)
        self._request_id: Callable[[], str] = (
            new_request_id if plan.request_ids is RequestIds.UUID7 else lambda: str(uuid.uuid4())
        )
        self._slow_every = round(1 / plan.slow_share) if plan.slow_share else 0
        self._begun = 0
        self._ended: list[tuple[float, float, bool]] = []  # when, how long it took, fast?
        self._answered: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()

    async def run(self) -> LoadResult:
        """Runs the plan until all that was begun has ended."""
        start = time.perf_counter()
        processor = time.process_time()
        if self._plan.per_second:
            await self._by_the_clock(start)
        elif self._plan.streams:
            ends = start + self._plan.seconds
            each = self._plan.in_flight // self._plan.streams
            await asyncio.gather(*(self._stream(ends, each) for _ in range(self._plan.streams)))
        else:
            ends = start + self._plan.seconds
            await asyncio.gather(*(self._one_by_one(ends) for _ in range(self._plan.in_flight)))
        return self._result(start, time.process_time() - processor)

    async def _one_by_one(self, ends: float) -> None:
        while self._begun < self._plan.payments and (now := time.perf_counter()) < ends:
            await self._pay(now)

    async def _stream(self, ends: float, in_flight: int) -> None:
        call = self._stub.CreatePayments()
        due: dict[int, float] = {}

        async def begin() -> bool:
            now = time.perf_counter()
            if self._begun >= self._plan.payments or now >= ends:
                return False
            index = self._begun
            self._begun += 1
            due[index] = now
            await call.write(CreatePaymentsRequest(index=index, request=self._request(_FAST)))
            return True

        more = all([await begin() for _ in range(in_flight)])
        if not more:
            await call.done_writing()
        async for answer in call:
            if answer.HasField("payment"):
                self._ended_well(answer.payment, due.pop(answer.index), is_fast=True)
            else:
                del due[answer.index]
                told = from_status(answer.error)
                self._errors[f"{told.code.name} {told.reason.value}".strip()] += 1
            if more and not await begin():
                more = False
                await call.done_writing()

    async def _by_the_clock(self, start: float) -> None:
        moments = random.Random(self._plan.seed)
        under_way: set[asyncio.Task[None]] = set()
        due = start
        while self._begun < self._plan.payments:
            due += moments.expovariate(self._plan.per_second)
            if due > start + self._plan.seconds:
                break
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            if len(under_way) >= MOST_IN_FLIGHT:
                self._errors["not begun: too many in flight"] += 1
                continue
            task = asyncio.create_task(self._pay(due))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        await asyncio.gather(*under_way)

    async def _pay(self, due: float) -> None:
        is_fast = not self._slow_every or self._begun % self._slow_every != 0
        self._begun += 1
        request = self._request(_FAST if is_fast else _SLOW)
        try:
            response = await self._stub.CreatePayment(request, timeout=CALL_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            told = from_rpc_error(error)
            self._errors[f"{error.code().name} {told.reason.value}".strip()] += 1
            return
        self._ended_well(response.payment, due, is_fast=is_fast)

    def _ended_well(self, payment: Payment, due: float, *, is_fast: bool) -> None:
        now = time.perf_counter()
        self._ended.append((now, now - due, is_fast))
        state = PaymentState.Name(payment.state).removeprefix("PAYMENT_STATE_")
        self._answered[state] += 1

    def _request(self, payment_method: str) -> CreatePaymentRequest:
        amount = self._random.randrange(100, 100_000)
        return CreatePaymentRequest(
            request_id=self._request_id(),
            buyer_id=f"buyer-{self._random.randrange(100_000)}",
            payment_method=payment_method,
            orders=[
                NewOrder(
                    seller_id=f"seller-{self._random.randrange(self._plan.sellers)}",
                    amount=Money(amount_minor=amount, currency_code="EUR"),
                    commission=Money(
                        amount_minor=amount * _COMMISSION_PERCENT // 100, currency_code="EUR"
                    ),
                )
            ],
        )

    def _result(self, start: float, processor_s: float) -> LoadResult:
        last = max((when for when, _, _ in self._ended), default=start)
        first, end = start + self._plan.ramp_s, min(start + self._plan.seconds, last)
        counted = [(took, fast) for when, took, fast in self._ended if first <= when <= end]
        fast_ms = [took * 1000 for took, fast in counted if fast]
        return LoadResult(
            per_second=len(counted) / (end - first) if end > first else 0.0,
            p50_ms=percentile(fast_ms, 50),
            p99_ms=percentile(fast_ms, 99),
            counted=len(counted),
            processor_s=processor_s,
            answered=dict(self._answered),
            errors=dict(self._errors),
        )


async def _main(plan: LoadPlan) -> LoadResult:
    options = [("grpc.enable_retries", 0), ("grpc.enable_http_proxy", 0)]
    async with grpc.aio.insecure_channel(plan.target, options=options) as channel:
        await asyncio.wait_for(channel.channel_ready(), CALL_TIMEOUT_S)
        return await _Load(plan, channel).run()


if __name__ == "__main__":
    result = uvloop.run(_main(LoadPlan.from_json(sys.argv[1])))
    Path(sys.argv[2]).write_text(json.dumps(asdict(result)))
