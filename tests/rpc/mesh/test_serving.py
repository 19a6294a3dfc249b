"""A server's life: its port, its health, its drain, and the process around it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from paymesh.wallet.v1 import wallet_service_pb2 as pb
from paymesh.wallet.v1.wallet_service_pb2_grpc import WalletServiceStub

from mesh import healthcheck
from mesh.errors import Code
from mesh.server import CannotStartError
from tests.support.eventually import eventually
from tests.support.ports import free_port
from tests.support.scripted import Context, Scripted, echo, scripted, scripted_server
from tests.support.serving import error_of

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICES = [
    "",
    "readiness",
    "grpc.health.v1.Health",
    "paymesh.wallet.v1.WalletService",
    "paymesh.executor.v1.ExecutorService",
]


async def health(channel: grpc.aio.Channel, service: str) -> int:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    answer: health_pb2.HealthCheckResponse = await stub.Check(
        health_pb2.HealthCheckRequest(service=service)
    )
    return answer.status


class TestHealth:
    @pytest.mark.parametrize("service", SERVICES)
    async def test_of_each_service(self, scene: Scripted, service: str) -> None:
        assert await health(scene.channel, service) == SERVING

    async def test_of_a_service_that_is_not_here(self, scene: Scripted) -> None:
        found = await error_of(health(scene.channel, "paymesh.ledger.v1.LedgerService"))
        assert found.code is Code.NOT_FOUND

    @pytest.mark.parametrize("service", SERVICES)
    async def test_whoever_watches_is_told_of_the_drain(self, service: str) -> None:
        async with scripted(drain_s=2) as scene:
            stub: Any = health_pb2_grpc.HealthStub(scene.channel)
            watch = stub.Watch(health_pb2.HealthCheckRequest(service=service))
            assert (await watch.read()).status == SERVING
            stop = asyncio.create_task(scene.server.stop())
            assert (await watch.read()).status == NOT_SERVING
            watch.cancel()
            await stop

    async def test_asked_from_a_shell(self, scene: Scripted) -> None:
        port = str(scene.server.port)
        for arguments in ([port], [scene.target]):
            assert await asyncio.to_thread(healthcheck.main, arguments) == 0
        assert await asyncio.to_thread(healthcheck.is_serving, f"127.0.0.1:{free_port()}", 1) is (
            False
        )
        for bad in ([], ["x"], [port, port], ["host:"]):
            assert healthcheck.main(bad) == 2


class TestDrain:
    async def test_calls_under_way_are_answered_and_new_ones_refused(self) -> None:
        async with scripted(drain_s=10) as scene:
            go = asyncio.Event()
            entered = 0

            async def get_wallet(request: Any, context: Context) -> Any:
                nonlocal entered
                entered += 1
                await go.wait()
                return await echo(request, context)

            scene.script.get_wallet = get_wallet
            calls = [asyncio.create_task(scene.ask(str(i))) for i in range(20)]
            await eventually(lambda: entered == 20)
            stop = asyncio.create_task(scene.server.stop())
            await asyncio.sleep(0.2)
            async with grpc.aio.insecure_channel(scene.target) as late:
                request = pb.GetWalletRequest(seller_id="late")
                found = await error_of(WalletServiceStub(late).GetWallet(request, timeout=5))
            assert found.code is Code.UNAVAILABLE
            assert not stop.done()
            go.set()
            assert await asyncio.gather(*calls) == [str(i) for i in range(20)]
            async with asyncio.timeout(5):
                await stop

    async def test_no_call_keeps_it_for_ever(self) -> None:
        async with scripted(drain_s=0.3) as scene:
            ended = asyncio.Event()

            async def get_wallet(_: Any, __: Context) -> None:
                try:
                    await asyncio.sleep(60)
                finally:
                    ended.set()

            scene.script.get_wallet = get_wallet
            call = asyncio.create_task(error_of(scene.ask()))
            await asyncio.sleep(0.2)
            async with asyncio.timeout(5):
                await scene.server.stop()
                await ended.wait()
            assert (await call).code in {Code.UNAVAILABLE, Code.CANCELLED}

    async def test_channels_of_the_mesh_do_not_hold_it_up(self) -> None:
        """Each of them watches our health in a call that stands for as long as it does."""
        async with scripted(drain_s=10) as scene:
            await scene.ask()
            started = time.monotonic()
            await scene.server.stop()
            assert time.monotonic() - started < 2


class TestPort:
    async def test_a_port_in_use(self, scene: Scripted) -> None:
        other, _ = scripted_server(port=scene.server.port)
        with pytest.raises(CannotStartError) as caught:
            await other.start()
        assert str(caught.value) == (
            f"scripted can't listen on {scene.target}: the port is in use or not allowed"
        )
        assert await scene.ask() == "seller"
        await other.stop()

    async def test_a_host_that_is_not_ours(self) -> None:
        server, _ = scripted_server(host="192.0.2.1")
        with pytest.raises(CannotStartError, match=r"192\.0\.2\.1"):
            await server.start()
        await server.stop()

    async def test_ipv6(self) -> None:
        server, _ = scripted_server(host="::1")
        try:
            await server.start()
        except CannotStartError:
            pytest.skip("this machine has no IPv6")
        async with grpc.aio.insecure_channel(f"[::1]:{server.port}") as channel:
            assert await health(channel, "") == SERVING
        await server.stop()


PROGRAM = Path(__file__).with_name("program.py")


class Program:
    """The server as a process: `program.py` with a way to behave."""

    def __init__(self, behaviour: str, port: int) -> None:
        self.port = port
        self.process = subprocess.Popen(
            [sys.executable, PROGRAM, behaviour],
            # gRPC's core would write lines of its own beside ours.
            env={**os.environ, "PAYMESH_PROGRAM_PORT": str(port), "GRPC_VERBOSITY": "NONE"},
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_until_serving(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if json.loads(line)["event"] == "serving":
                return
        raise AssertionError("it ended")

    def ends(self) -> tuple[int, list[dict[str, Any]]]:
        """Its exit code, and what else it logged; every line is JSON."""
        assert self.process.stderr is not None
        lines = [json.loads(line) for line in self.process.stderr]
        return self.process.wait(), lines


@contextmanager
def program(behaviour: str, port: int | None = None) -> Iterator[Program]:
    started = Program(behaviour, port or free_port())
    try:
        yield started
    finally:
        started.process.kill()
        started.process.wait()
        assert started.process.stderr is not None
        started.process.stderr.close()


class TestProcess:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    async def test_a_signal_drains_it(self, number: signal.Signals) -> None:
        with program("serve") as running:
            await asyncio.to_thread(running.wait_until_serving)
            async with grpc.aio.insecure_channel(f"127.0.0.1:{running.port}") as channel:
                call = asyncio.ensure_future(
                    WalletServiceStub(channel).GetWallet(pb.GetWalletRequest(seller_id="slow"))
                )
                await asyncio.sleep(0.3)
                running.process.send_signal(number)
                await asyncio.sleep(0.1)
                running.process.send_signal(number)  # an impatient one changes nothing
                assert (await call).wallet.seller_id == "slow"
            code, lines = await asyncio.to_thread(running.ends)
        assert code == 0
        assert [line["event"] for line in lines] == ["draining", "background_finished"]
        assert lines[0]["asked"] is True
        assert {line["service"] for line in lines} == {"program"}

    async def test_background_work_that_hangs_does_not_keep_it(self) -> None:
        """It gets BACKGROUND_STOP_S."""
        with program("hang") as running:
            await asyncio.to_thread(running.wait_until_serving)
            running.process.terminate()
            code, lines = await asyncio.to_thread(running.ends)
        assert code == 0
        assert [line["event"] for line in lines] == ["draining", "background_left"]

    @pytest.mark.parametrize(
        ("behaviour", "cause"), [("crash", "LookupError"), ("return", ""), ("cancel", "")]
    )
    async def test_background_work_that_ends_ends_the_process(
        self, behaviour: str, cause: str
    ) -> None:
        with program(behaviour) as running:
            code, lines = await asyncio.to_thread(running.ends)
        assert code == 1
        crashed = lines[-1]
        assert (crashed["event"], crashed["level"]) == ("crashed", "error")
        assert "a background task ended" in crashed["exception"]
        assert cause in crashed["exception"]

    async def test_a_port_in_use_is_said_in_a_sentence(self, scene: Scripted) -> None:
        with program("serve", scene.server.port) as running:
            await asyncio.to_thread(running.process.wait, 20)
            assert running.process.stderr is not None
            err = running.process.stderr.read()
        assert running.process.returncode == 3
        assert err == (
            f"program: program can't listen on {scene.target}: the port is in use or not allowed\n"
        ), "neither a traceback, nor work that had begun"

    async def test_a_library_logs_as_we_do(self) -> None:
        with program("library") as running:
            await asyncio.to_thread(running.wait_until_serving)
            running.process.terminate()
            _, lines = await asyncio.to_thread(running.ends)
        (line,) = [line for line in lines if line.get("logger") == "asyncio"]
        assert (line["event"], line["level"], line["service"]) == ("boom 1", "error", "program")
        assert "LookupError" in line["exception"]
