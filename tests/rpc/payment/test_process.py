"""payment_svc as a process: it starts or says why not, and stops when it is told to."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from paymesh.payment.v1.payment_service_pb2_grpc import PaymentServiceStub

from mesh.channel import open_channel
from tests.support.eventually import eventually
from tests.support.fakes import captured
from tests.support.payment_replica import State, states_of
from tests.support.payment_world import World, checkout
from tests.support.ports import free_port

if TYPE_CHECKING:
    from paymesh.payment.v1.payment_service_pb2_grpc import PaymentServiceAsyncStub

SUCCEEDED = State.ORDER_STATE_SUCCEEDED
PROCESSING = State.ORDER_STATE_PROCESSING


@asynccontextmanager
async def process(
    world: World, **more: object
) -> AsyncIterator[tuple[asyncio.subprocess.Process, PaymentServiceAsyncStub]]:
    """`python -m payment_svc` that serves, killed at the latest in the end; and a client."""
    port = free_port()
    settings = world.settings(**more).model_dump(exclude_none=True) | {"port": port}
    running = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "payment_svc",
        env={
            **os.environ,
            **{f"PAYMESH_PAYMENT_{name.upper()}": str(value) for name, value in settings.items()},
        },
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with open_channel(f"127.0.0.1:{port}", retries=False) as channel:
            await asyncio.wait_for(channel.channel_ready(), 20)
            yield running, PaymentServiceStub(channel)
    finally:
        if running.returncode is None:
            running.kill()
            await running.wait()


async def test_a_stop_answers_its_calls_and_the_next_start_goes_on(world: World) -> None:
    quick, never = asyncio.Event(), asyncio.Event()
    world.executor.on(777, gate=quick)
    world.executor.on(778, captured, gate=never)
    ends, waits = checkout(777), checkout(778, 5)
    async with process(world, drain_s=1.4) as (running, stub):
        calls = [stub.CreatePayment(request, timeout=10) for request in (ends, waits)]
        await eventually(lambda: world.executor.asked.total() == 3)
        running.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.2)
        quick.set()
        assert states_of((await calls[0]).payment) == [SUCCEEDED]
        assert states_of((await calls[1]).payment) == [PROCESSING, SUCCEEDED]
        assert await asyncio.wait_for(running.wait(), 5) == 0
    assert world.rows("SELECT count(*) FROM replica WHERE NOT dead") == [(0,)]
    never.set()
    replica = await world.replica()
    world.assert_booked(await replica.until(waits, SUCCEEDED, SUCCEEDED, timeout_s=3))
    await world.quiet()


async def test_a_stop_does_not_hang_on_what_is_away(world: World) -> None:
    """No executor that takes the list, and no database that takes the lease back."""
    request = checkout(1000)
    await world.executor.stop()
    async with process(world, drain_s=0.2, lease_ms=1_000) as (running, stub):
        answer = await stub.CreatePayment(request, timeout=0.4)
        assert states_of(answer.payment) == [PROCESSING]
        world.take_database_away()
        started = time.monotonic()
        running.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(running.wait(), 10) == 0
        assert time.monotonic() - started < 6
    world.bring_database_back()
    await world.executor.start()
    replica = await world.replica()
    world.assert_booked(await replica.until(request, SUCCEEDED))
    await world.quiet()
