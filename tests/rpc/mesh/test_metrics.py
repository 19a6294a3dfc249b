"""The metrics of a server that is called, read by HTTP while it runs.

They are the process's, which runs many tests: what a test did is the difference.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from paymesh.executor.v1 import executor_service_pb2 as executor_pb
from paymesh.psp.v1 import psp_service_pb2 as psp_pb

from mesh.errors import Code
from mesh.server import CannotStartError
from tests.rpc.mesh.test_serving import program
from tests.support.eventually import eventually
from tests.support.ports import free_port, is_free
from tests.support.scrape import Scrape, read, scrape, until
from tests.support.scripted import Context, Scripted, echo, scripted, scripted_server
from tests.support.serving import error_of

WALLETS = "paymesh.wallet.v1.WalletService"
HANDLED = "grpc_server_handled_total"
STARTED = "grpc_server_started_total"
SECONDS = "grpc_server_handling_seconds"


async def test_calls_are_counted_by_how_they_ended() -> None:
    port = free_port()

    async def get_wallet(request: Any, context: Context) -> Any:
        if request.seller_id == "bug":
            raise LookupError
        if request.seller_id == "hang":
            await asyncio.sleep(60)
        return await echo(request, context)

    async with scripted(metrics_port=port) as scene:
        scene.script.get_wallet = get_wallet
        before = await read(port)
        # Else Prometheus would not see the first call of a method as an increase.
        assert before.has(HANDLED, grpc_method="GetWallet", grpc_code="OK")
        for _ in range(7):
            await scene.ask()
        for _ in range(3):
            assert (await error_of(scene.ask(""))).code is Code.INVALID_ARGUMENT
        assert (await error_of(scene.ask("bug"))).code is Code.INTERNAL
        assert (await error_of(scene.ask("hang", timeout=0.2))).code is Code.DEADLINE_EXCEEDED
        labels = {"grpc_service": WALLETS, "grpc_method": "GetWallet", "grpc_type": "unary"}
        wanted = {"OK": 7, "INVALID_ARGUMENT": 3, "INTERNAL": 1, "CANCELLED": 1}

        def ended(now: Scrape, code: str) -> float:
            return now.value(HANDLED, grpc_code=code, **labels) - before.value(
                HANDLED, grpc_code=code, **labels
            )

        # The server sees later than the last caller that it is gone.
        after = await until(port, lambda now: ended(now, "CANCELLED"))
        assert {code: ended(after, code) for code in wanted} == wanted
        for name in (STARTED, f"{SECONDS}_count"):
            assert after.value(name, **labels) - before.value(name, **labels) == 12
        seconds = after.value(f"{SECONDS}_sum", **labels) - before.value(f"{SECONDS}_sum", **labels)
        assert 0.15 < seconds < 10


async def test_calls_under_way_are_those_that_started_and_have_not_ended() -> None:
    port = free_port()
    go = asyncio.Event()

    async def get_wallet(request: Any, context: Context) -> Any:
        await go.wait()
        return await echo(request, context)

    async with scripted(metrics_port=port) as scene:
        scene.script.get_wallet = get_wallet
        before = await read(port)
        calls = [asyncio.create_task(scene.ask()) for _ in range(20)]

        def under_way(now: Scrape) -> float:
            started = now.value(STARTED, grpc_service=WALLETS)
            return started - now.value(HANDLED, grpc_service=WALLETS)

        rest = under_way(before)
        await until(port, lambda now: under_way(now) - rest == 20)
        go.set()
        await asyncio.gather(*calls)
        assert under_way(await read(port)) == rest


async def test_streams_are_counted_when_they_end() -> None:
    port = free_port()
    async with scripted(metrics_port=port) as scene:
        before = await read(port)

        async def requests() -> AsyncIterator[executor_pb.ExecuteRequest]:
            yield executor_pb.ExecuteRequest(list_id=1)

        assert [r async for r in scene.executor.Execute(requests())]
        assert [r async for r in scene.psp.Charge(psp_pb.ChargeRequest())]
        after = await read(port)
        for method, kind in (("Execute", "bidi_stream"), ("Charge", "server_stream")):
            labels = {"grpc_method": method, "grpc_type": kind, "grpc_code": "OK"}
            assert after.value(HANDLED, **labels) - before.value(HANDLED, **labels) == 1


async def test_calls_out_are_counted_by_how_they_ended() -> None:
    port = free_port()
    name = "grpc_client_handled_total"
    async with scripted(metrics_port=port) as scene:
        before = await read(port)
        for _ in range(4):
            await scene.ask()
        await error_of(scene.ask(""))
        assert [r async for r in scene.psp.Charge(psp_pb.ChargeRequest())]

        def counted(now: Scrape, method: str, code: str) -> float:
            labels = {"grpc_method": method, "grpc_code": code}
            return now.value(name, **labels) - before.value(name, **labels)

        # A call is counted after it was answered.
        now = await until(port, lambda now: counted(now, "Charge", "OK"))
        assert counted(now, "GetWallet", "OK") == 4
        assert counted(now, "GetWallet", "INVALID_ARGUMENT") == 1
        assert counted(now, "Charge", "OK") == 1


async def test_a_process_whose_event_loop_hangs_still_tells() -> None:
    port = free_port()
    async with scripted(metrics_port=port):
        told: list[Scrape] = []
        reader = threading.Thread(target=lambda: told.append(scrape(port)))
        reader.start()
        reader.join(10)  # the loop does nothing until it has answered
        assert told


async def test_it_tells_of_the_process_and_its_service() -> None:
    port = free_port()
    async with scripted(metrics_port=port):
        told = await read(port)
    assert told.value("paymesh_service_info", service="scripted") == 1
    assert told.value("process_resident_memory_bytes") > 0


async def test_the_port_is_free_again_when_the_server_has_stopped() -> None:
    port = free_port()
    async with scripted(metrics_port=port):
        assert not is_free(port)
    await eventually(lambda: is_free(port))


async def test_without_a_port_nothing_is_served(scene: Scripted) -> None:
    assert scene.server._metrics is None


async def test_a_metrics_port_in_use() -> None:
    port = free_port()
    async with scripted(metrics_port=port) as scene:
        other, _ = scripted_server(metrics_port=port)
        with pytest.raises(CannotStartError) as caught:
            await other.start()
        assert str(caught.value) == (
            f"scripted can't serve its metrics on 127.0.0.1 port {port}: the port is in use or"
            " not allowed"
        )
        await other.stop()
        assert await scene.ask() == "seller"


async def test_traces_that_can_not_be_written(tmp_path: Path) -> None:
    file = tmp_path / "nowhere" / "spans.jsonl"
    server, _ = scripted_server(traces_file=file)
    with pytest.raises(CannotStartError) as caught:
        await server.start()
    assert str(caught.value) == (
        f"scripted can't write its traces to {file}: No such file or directory"
    )
    await server.stop()


async def test_a_process_whose_metrics_port_is_in_use_says_so_and_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    port = free_port()
    monkeypatch.setenv("PAYMESH_PROGRAM_METRICS_PORT", str(port))
    async with scripted(metrics_port=port):
        with program("serve") as running:
            await asyncio.to_thread(running.process.wait, 20)
            assert running.process.stderr is not None
            err = running.process.stderr.read()
    assert running.process.returncode == 3
    assert err.startswith(f"program: program can't serve its metrics on 127.0.0.1 port {port}:")
    assert "Traceback" not in err
