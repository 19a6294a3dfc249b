"""Calls under way: limits, clients that go away, deadlines, and many at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from paymesh.executor.v1 import executor_service_pb2 as executor_pb
from paymesh.psp.v1 import psp_service_pb2 as psp_pb

from mesh.errors import Code, Reason
from tests.rpc.mesh.conftest import Line
from tests.support.eventually import eventually
from tests.support.scripted import Context, Scripted, echo, scripted
from tests.support.serving import error_of


class Held:
    """Handlers that wait to be let go, and note how they ended."""

    def __init__(self, scene: Scripted) -> None:
        self.entered = 0
        self.ended: list[str] = []
        self.go = asyncio.Event()
        scene.script.get_wallet = self.get_wallet
        scene.script.charge = self.charge
        scene.script.execute = self.execute

    async def _wait(self) -> None:
        self.entered += 1
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.ended.append("cancelled")
            raise
        self.ended.append("done")

    async def get_wallet(self, request: Any, context: Context) -> Any:
        await self._wait()
        return await echo(request, context)

    async def charge(self, _: Any, __: Context) -> AsyncIterator[Any]:
        yield psp_pb.ChargeResponse()
        await self._wait()

    async def execute(self, requests: AsyncIterator[Any], _: Context) -> AsyncIterator[Any]:
        async for _request in requests:
            yield executor_pb.ExecuteResponse()
            await self._wait()


def logged(lines: list[Line], event: str) -> list[Line]:
    return [line for line in lines if line["event"] == event]


class TestLimit:
    async def test_one_call_too_many_is_refused_with_a_reason(self, lines: list[Line]) -> None:
        async with scripted(max_concurrent_calls=2) as scene:
            held = Held(scene)
            calls = [asyncio.create_task(scene.ask(str(i))) for i in range(2)]
            await eventually(lambda: held.entered == 2)
            for call in (scene.ask("3"), scene.psp.Charge(psp_pb.ChargeRequest()).read()):
                found = await error_of(call)
                assert (found.code, found.reason) == (Code.RESOURCE_EXHAUSTED, Reason.OVERLOADED)
                assert found.retry_delay_s == 1
                assert "this call accepted nothing" in found.message
                assert "of an earlier one with this request_id it says nothing" in found.message
            assert held.entered == 2
            held.go.set()
            assert await asyncio.gather(*calls) == ["0", "1"]
            assert await scene.ask("4") == "4"
            assert len(logged(lines, "call_refused")) == 2

    @pytest.mark.parametrize("kind", ["answered", "refused", "failed", "cancelled", "stream"])
    async def test_a_call_that_is_over_makes_room_however_it_ended(self, kind: str) -> None:
        async with scripted(max_concurrent_calls=1) as scene:
            held = Held(scene)
            for _ in range(3):
                if kind == "stream":
                    held.go.set()
                    call = scene.psp.Charge(psp_pb.ChargeRequest())
                    assert [True async for _ in call] == [True]
                elif kind == "cancelled":
                    entered = held.entered
                    task = asyncio.create_task(scene.ask())
                    await eventually(lambda entered=entered: held.entered > entered)  # type: ignore[misc]
                    task.cancel()
                    await eventually(lambda: held.entered == len(held.ended))
                elif kind == "refused":
                    assert (await error_of(scene.ask(""))).reason is Reason.VALIDATION_FAILED
                elif kind == "failed":
                    scene.script.get_wallet = fail
                    assert (await error_of(scene.ask())).reason is Reason.INTERNAL
                else:
                    held.go.set()
                    await scene.ask()
            held.go.set()
            scene.script.get_wallet = echo
            assert await scene.ask() == "seller"

    async def test_health_is_told_however_full_it_is(self) -> None:
        async with scripted(max_concurrent_calls=1) as scene:
            held = Held(scene)
            call = asyncio.create_task(scene.ask())
            await eventually(lambda: held.entered == 1)
            check: Any = scene.channel.unary_unary("/grpc.health.v1.Health/Check")
            assert await check(b"") == b"\x08\x01"
            held.go.set()
            await call


async def fail(_: Any, __: Context) -> None:
    raise ValueError


class TestClientGone:
    async def test_a_unary_call(self, scene: Scripted, lines: list[Line]) -> None:
        held = Held(scene)
        call = asyncio.create_task(scene.ask())
        await eventually(lambda: held.entered == 1)
        call.cancel()
        await eventually(lambda: held.ended == ["cancelled"])
        await eventually(lambda: len(logged(lines, "call_cancelled")) == 1)
        assert not logged(lines, "call_crashed")
        # No line shows what was asked for.
        assert "seller" not in str([line for line in lines if line["event"] != "call"])

    async def test_the_deadline_passes(self, scene: Scripted, lines: list[Line]) -> None:
        held = Held(scene)
        found = await error_of(scene.ask(timeout=0.1))
        assert (found.code, found.reason) == (Code.DEADLINE_EXCEEDED, Reason.UNSPECIFIED)
        await eventually(lambda: held.ended == ["cancelled"])
        await eventually(lambda: len(logged(lines, "call_cancelled")) == 1)

    @pytest.mark.parametrize("kind", ["waits", "yields"])
    async def test_a_stream_of_answers(self, scene: Scripted, lines: list[Line], kind: str) -> None:
        """What the servicer does at its end happens now, not when garbage is collected."""
        ended = asyncio.Event()

        async def charge(_: Any, __: Context) -> AsyncIterator[Any]:
            try:
                while True:
                    yield psp_pb.ChargeResponse()
                    if kind == "waits":
                        await asyncio.sleep(60)
            finally:
                await asyncio.sleep(0)  # it may still await
                ended.set()

        scene.script.charge = charge
        call = scene.psp.Charge(psp_pb.ChargeRequest())
        await call.read()
        call.cancel()
        async with asyncio.timeout(5):
            await ended.wait()
        await eventually(lambda: len(logged(lines, "call_cancelled")) == 1)
        assert not logged(lines, "call_crashed")

    async def test_a_standing_stream(self, scene: Scripted, lines: list[Line]) -> None:
        held = Held(scene)

        async def requests() -> AsyncIterator[executor_pb.ExecuteRequest]:
            yield executor_pb.ExecuteRequest(list_id=1)
            await asyncio.sleep(60)

        call = scene.executor.Execute(requests())
        await call.read()
        await eventually(lambda: held.entered == 1)
        call.cancel()
        await eventually(lambda: held.ended == ["cancelled"])
        await eventually(lambda: len(logged(lines, "call_cancelled")) == 1)

    async def test_work_of_its_own_goes_on(self, scene: Scripted) -> None:
        """Accept in one commit, then work in a task that is not the call's."""
        go, done = asyncio.Event(), asyncio.Event()

        async def work() -> None:
            await go.wait()
            done.set()

        tasks: list[asyncio.Task[None]] = []

        async def get_wallet(_: Any, __: Context) -> None:
            tasks.append(asyncio.create_task(work()))
            await asyncio.shield(tasks[0])

        scene.script.get_wallet = get_wallet
        call = asyncio.create_task(scene.ask())
        await eventually(lambda: bool(tasks))
        call.cancel()
        await asyncio.sleep(0.05)
        go.set()
        async with asyncio.timeout(5):
            await done.wait()

    async def test_whoever_swallows_the_end_harms_nobody(
        self, scene: Scripted, lines: list[Line]
    ) -> None:
        swallowed = asyncio.Event()

        async def get_wallet(request: Any, context: Context) -> Any:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                swallowed.set()
            return await echo(request, context)

        scene.script.get_wallet = get_wallet
        call = asyncio.create_task(scene.ask())
        await asyncio.sleep(0.1)
        call.cancel()
        async with asyncio.timeout(5):
            await swallowed.wait()
        scene.script.get_wallet = echo
        assert await scene.ask("other") == "other"
        assert not logged(lines, "call_crashed")


async def test_many_at_once(scene: Scripted) -> None:
    async def get_wallet(request: Any, context: Context) -> Any:
        await asyncio.sleep(0.05)
        return await echo(request, context)

    scene.script.get_wallet = get_wallet
    started = time.monotonic()
    answers = await asyncio.gather(*(scene.ask(f"seller-{i}") for i in range(1_500)))
    assert answers == [f"seller-{i}" for i in range(1_500)]
    assert time.monotonic() - started < 10


async def test_many_streams_at_once(scene: Scripted) -> None:
    async def stream(number: int) -> list[int]:
        lists = [executor_pb.ExecuteRequest(list_id=number * 10 + i) for i in range(1, 4)]
        return [
            list_id
            async for response in scene.executor.Execute(iter(lists))
            for list_id in response.committed_list_ids
        ]

    answers = await asyncio.gather(*(stream(i) for i in range(100)))
    assert answers == [[i * 10 + 1, i * 10 + 2, i * 10 + 3] for i in range(100)]


async def test_a_malicious_list_holds_nobody_up(scene: Scripted) -> None:
    """Half a million empty orders in 1 MiB: refused before anything looks at them."""
    call: Any = scene.channel.unary_unary("/paymesh.payment.v1.PaymentService/CreatePayment")
    bomb = asyncio.create_task(error_of(call(b"\x22\x00" * (512 * 1024))))
    honest: list[float] = []
    while not bomb.done():
        started = time.monotonic()
        await scene.ask()
        honest.append(time.monotonic() - started)
    assert (await bomb).reason is Reason.VALIDATION_FAILED
    assert max(honest) < 1


@pytest.mark.parametrize("timeout_s", [0, -1, 1e-6])
async def test_a_deadline_that_is_over_already(scene: Scripted, timeout_s: float) -> None:
    """No time is not the same as no deadline."""
    Held(scene)
    found = await error_of(scene.ask(timeout=timeout_s))
    assert (found.code, found.reason) == (Code.DEADLINE_EXCEEDED, Reason.UNSPECIFIED)
