"""The one way to call another service: deadlines, retries, and replicas that come and go."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from paymesh.executor.v1 import executor_service_pb2 as executor_pb
from paymesh.executor.v1.executor_service_pb2_grpc import ExecutorServiceStub
from paymesh.psp.v1 import psp_service_pb2 as psp_pb
from paymesh.psp.v1.psp_service_pb2_grpc import PspServiceStub
from paymesh.wallet.v1 import wallet_service_pb2 as pb
from paymesh.wallet.v1.wallet_service_pb2_grpc import WalletServiceStub

from mesh import deadline
from mesh.batching import Stage
from mesh.channel import open_channel
from mesh.errors import Code, MeshError, Reason
from tests.support.eventually import eventually
from tests.support.ports import free_port
from tests.support.scripted import Context, Scripted, echo, scripted
from tests.support.serving import error_of

REQUEST = pb.GetWalletRequest(seller_id="seller")


class Remaining:
    """A callee that notes how long each call may take, in seconds."""

    def __init__(self, scene: Scripted) -> None:
        self.seen: list[float | None] = []
        scene.script.get_wallet = self.get_wallet
        scene.script.charge = self.charge
        scene.script.execute = self.execute

    async def get_wallet(self, request: Any, context: Context) -> Any:
        self.seen.append(context.time_remaining())
        return await echo(request, context)

    async def charge(self, _: Any, context: Context) -> AsyncIterator[Any]:
        self.seen.append(context.time_remaining())
        yield psp_pb.ChargeResponse()

    async def execute(self, requests: Any, context: Context) -> AsyncIterator[Any]:
        self.seen.append(context.time_remaining())
        async for _ in requests:
            yield executor_pb.ExecuteResponse()


@asynccontextmanager
async def caller_of(callee: Scripted, how: str, **call: Any) -> AsyncIterator[Scripted]:
    """A service whose GetWallet calls the callee, on the way that `how` says."""
    async with scripted() as caller, open_channel(callee.target, default_timeout_s=7) as channel:

        async def get_wallet(request: Any, context: Context) -> Any:
            if how == "unary":
                await WalletServiceStub(channel).GetWallet(REQUEST, **call)
            elif how == "stream":
                async for _ in PspServiceStub(channel).Charge(psp_pb.ChargeRequest(), **call):
                    pass
            else:
                requests = iter([executor_pb.ExecuteRequest()])
                async for _ in ExecutorServiceStub(channel).Execute(requests, **call):
                    pass
            return await echo(request, context)

        caller.script.get_wallet = get_wallet
        yield caller


class TestDeadline:
    @pytest.mark.parametrize("how", ["unary", "stream"])
    async def test_what_is_left_is_passed_on_less_a_margin(self, scene: Scripted, how: str) -> None:
        callee = Remaining(scene)
        async with caller_of(scene, how) as caller:
            await caller.ask(timeout=3)
        (left,) = callee.seen
        assert left is not None
        assert 2 < left <= 3 - deadline.MARGIN_S

    @pytest.mark.parametrize("how", ["unary", "stream"])
    async def test_a_caller_without_one_gives_the_channels(self, scene: Scripted, how: str) -> None:
        callee = Remaining(scene)
        async with (
            caller_of(scene, how) as caller,
            grpc.aio.insecure_channel(caller.target) as plain,
        ):
            await WalletServiceStub(plain).GetWallet(REQUEST)
        (left,) = callee.seen
        assert left is not None
        assert 6 < left < 8  # on the wire a time is rounded up by some milliseconds

    @pytest.mark.parametrize("how", ["unary", "stream"])
    @pytest.mark.parametrize("timeout_s", [1, 20])
    async def test_an_explicit_one_wins(self, scene: Scripted, how: str, timeout_s: float) -> None:
        callee = Remaining(scene)
        async with caller_of(scene, how, timeout=timeout_s) as caller:
            await caller.ask(timeout=5)
        (left,) = callee.seen
        assert left is not None
        # gRPC writes a deadline in few digits, rounded up.
        assert timeout_s - 1 < left <= timeout_s * 1.01

    async def test_a_standing_stream_has_none(self, scene: Scripted) -> None:
        callee = Remaining(scene)
        async with caller_of(scene, "standing") as caller:
            await caller.ask(timeout=5)
        assert callee.seen == [None]

    async def test_the_margin_is_for_our_own_answer(
        self, scene: Scripted, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A callee that hangs takes the caller's time, but for what our refusal needs."""
        monkeypatch.setattr(deadline, "MARGIN_S", 0.7)  # of a slow machine

        async def hang(_: Any, __: Context) -> None:
            await asyncio.sleep(60)

        scene.script.get_wallet = hang
        async with open_channel(scene.target) as channel, scripted() as caller:

            async def get_wallet(_: Any, __: Context) -> None:
                found = await error_of(WalletServiceStub(channel).GetWallet(REQUEST))
                raise MeshError(Reason.DEPENDENCY_DOWN, found.code.name)

            caller.script.get_wallet = get_wallet
            found = await error_of(caller.ask(timeout=1))
            assert (found.reason, found.message) == (Reason.DEPENDENCY_DOWN, "DEADLINE_EXCEEDED")
            # With less time than the margin there is none for the callee, and still a deadline.
            started = time.monotonic()
            found = await error_of(caller.ask(timeout=0.5 * deadline.MARGIN_S))
            assert found.code in {Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED}
            assert time.monotonic() - started < 1

    async def test_work_that_outlives_the_call_has_the_channels(self, scene: Scripted) -> None:
        """What a stage's loop does for a call is not bound by that call's time."""
        callee = Remaining(scene)
        async with scripted() as caller, open_channel(scene.target, default_timeout_s=7) as channel:

            async def handle(items: list[asyncio.Future[None]]) -> None:
                await WalletServiceStub(channel).GetWallet(REQUEST)
                for item in items:
                    item.set_result(None)

            stage = Stage("test", handle, lost=lambda _: None)

            async def get_wallet(request: Any, context: Context) -> Any:
                done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                stage.put([done])
                await done
                return await echo(request, context)

            caller.script.get_wallet = get_wallet
            running = asyncio.create_task(stage.run())
            await caller.ask(timeout=2)
            running.cancel()
        (left,) = callee.seen
        assert left is not None
        assert 6 < left < 8  # on the wire a time is rounded up by some milliseconds

    def test_none_outside_a_call(self) -> None:
        assert deadline.remaining_s() is None


class Failing:
    """A callee that fails so many times with a status, and then answers."""

    def __init__(self, scene: Scripted, code: grpc.StatusCode, times: int) -> None:
        self.calls: list[str | None] = []
        self._code, self._times = code, times
        scene.script.get_wallet = self.get_wallet

    async def get_wallet(self, request: Any, context: Context) -> Any:
        metadata = dict(context.invocation_metadata() or ())
        attempt = metadata.get("grpc-previous-rpc-attempts")
        self.calls.append(attempt if isinstance(attempt, str) else None)
        if len(self.calls) <= self._times:
            await context.abort(self._code, "not now")
        return await echo(request, context)


class TestRetries:
    async def test_unavailable_is_tried_again(self, scene: Scripted) -> None:
        callee = Failing(scene, grpc.StatusCode.UNAVAILABLE, 2)
        async with open_channel(scene.target) as channel:
            await WalletServiceStub(channel).GetWallet(REQUEST)
        assert callee.calls == [None, "1", "2"]

    async def test_not_for_ever(self, scene: Scripted) -> None:
        callee = Failing(scene, grpc.StatusCode.UNAVAILABLE, 1_000)
        async with open_channel(scene.target) as channel:
            found = await error_of(WalletServiceStub(channel).GetWallet(REQUEST))
        assert (found.code, len(callee.calls)) == (Code.UNAVAILABLE, 4)

    @pytest.mark.parametrize(
        "code",
        [
            code
            for code in grpc.StatusCode
            if code not in {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
        ],
    )
    async def test_nothing_else_is(self, scene: Scripted, code: grpc.StatusCode) -> None:
        callee = Failing(scene, code, 1)
        async with open_channel(scene.target) as channel:
            found = await error_of(WalletServiceStub(channel).GetWallet(REQUEST))
        assert (found.code.name, len(callee.calls)) == (code.name, 1)

    async def test_a_deadline_is_not_repeated(self, scene: Scripted) -> None:
        """It says that the outcome is unknown, not that there was none."""
        calls = 0

        async def get_wallet(_: Any, __: Context) -> None:
            nonlocal calls
            calls += 1
            await asyncio.sleep(60)

        scene.script.get_wallet = get_wallet
        async with open_channel(scene.target) as channel:
            found = await error_of(WalletServiceStub(channel).GetWallet(REQUEST, timeout=0.3))
        assert (found.code, calls) == (Code.DEADLINE_EXCEEDED, 1)

    async def test_without_retries(self, scene: Scripted) -> None:
        callee = Failing(scene, grpc.StatusCode.UNAVAILABLE, 1)
        async with open_channel(scene.target, retries=False) as channel:
            found = await error_of(WalletServiceStub(channel).GetWallet(REQUEST))
        assert (found.code, callee.calls) == (Code.UNAVAILABLE, [None])

    async def test_they_stop_where_nothing_succeeds(self, scene: Scripted) -> None:
        """Else a service that is down for want of room would be called four times as often."""
        callee = Failing(scene, grpc.StatusCode.UNAVAILABLE, 1_000)
        async with open_channel(scene.target) as channel:
            for _ in range(20):
                await error_of(WalletServiceStub(channel).GetWallet(REQUEST))
            calls = len(callee.calls)
            await error_of(WalletServiceStub(channel).GetWallet(REQUEST))
            assert len(callee.calls) == calls + 1
        assert calls < 40

    async def test_nobody_there_is_told_soon(self) -> None:
        started = time.monotonic()
        async with open_channel(f"127.0.0.1:{free_port()}") as channel:
            found = await error_of(WalletServiceStub(channel).GetWallet(REQUEST))
        assert (found.code, found.reason) == (Code.UNAVAILABLE, Reason.UNSPECIFIED)
        assert time.monotonic() - started < 4


async def test_a_service_that_was_restarted_is_found_again() -> None:
    port = free_port()
    async with open_channel(f"127.0.0.1:{port}") as channel:
        for _ in range(2):
            async with scripted(port=port):
                async with asyncio.timeout(5):
                    answer = await WalletServiceStub(channel).GetWallet(
                        REQUEST, wait_for_ready=True
                    )
                assert answer.wallet.seller_id == "seller"
            assert (await error_of(WalletServiceStub(channel).GetWallet(REQUEST))).code is (
                Code.UNAVAILABLE
            )


async def test_replicas_share_the_calls_and_one_that_drains_gets_no_more() -> None:
    served: dict[str, int] = {"a": 0, "b": 0}

    def serve(name: str) -> Any:
        async def get_wallet(request: Any, context: Context) -> Any:
            served[name] += 1
            await asyncio.sleep(0.05)
            return await echo(request, context)

        return get_wallet

    async with scripted(drain_s=5) as a, scripted(drain_s=5) as b:
        a.script.get_wallet, b.script.get_wallet = serve("a"), serve("b")
        target = f"ipv4:{a.target},{b.target}"
        async with open_channel(target, retries=False) as channel:
            stub = WalletServiceStub(channel)

            async def connected() -> None:
                while not all(served.values()):
                    await stub.GetWallet(REQUEST, wait_for_ready=True)

            async with asyncio.timeout(5):
                await connected()
            served.update(a=0, b=0)
            calls = [asyncio.ensure_future(stub.GetWallet(REQUEST)) for _ in range(40)]
            await eventually(lambda: sum(served.values()) == 40)
            assert served == {"a": 20, "b": 20}
            stop = asyncio.create_task(a.server.stop())
            await asyncio.gather(*calls)
            await stop
            await asyncio.gather(*(stub.GetWallet(REQUEST) for _ in range(40)))
            assert served == {"a": 20, "b": 60}


async def test_a_proxy_of_the_environment_is_not_asked(
    scene: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("no_proxy", raising=False)
    async with open_channel(scene.target, retries=False) as channel:
        answer = await WalletServiceStub(channel).GetWallet(REQUEST, timeout=5)
    assert answer.wallet.seller_id == "seller"
