"""The PSP stub as a process: settings, start, stop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import Any

import grpc
import pytest
from paymesh.psp.v1 import psp_service_pb2 as pb
from paymesh.psp.v1.psp_service_pb2_grpc import PspServiceStub

from mesh.config import load
from psp_stub.config import Settings
from tests.support.ports import free_port
from tests.support.postgres import PostgresServer
from tests.support.psp_stub import item, new_ask, own_database, truth

PREFIX = "PAYMESH_PSP_STUB_"


def environment(**settings: object) -> dict[str, str]:
    given = {f"{PREFIX}{name.upper()}": str(value) for name, value in settings.items()}
    return {**os.environ, **given}


def start(**settings: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "psp_stub"],
        env=environment(**settings),
        stderr=subprocess.PIPE,
        text=True,
    )


def test_serves_until_it_is_told_to_stop(postgres_server: PostgresServer) -> None:
    url, port, ask = own_database(postgres_server), free_port(), new_ask("tok_slow")
    request = pb.ChargeRequest(items=[item(ask)])
    with start(database_url=url, port=port, slow_ms=500) as process:
        try:
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                grpc.channel_ready_future(channel).result(timeout=20)
                call = PspServiceStub(channel).Charge(request, timeout=10)
                PspServiceStub(channel).GetCapabilities(pb.GetCapabilitiesRequest(), timeout=10)
                process.send_signal(signal.SIGTERM)
                # What is under way is finished and told.
                (response,) = list(call)
                assert response.outcomes[0].HasField("captured")
            assert process.wait(timeout=20) == 0
        finally:
            process.kill()
    assert truth(url, ask) == [("CAPTURED", 10_000, 320)]


def test_a_database_that_is_down(postgres_server: PostgresServer) -> None:
    url = f"postgresql://nobody:secret@127.0.0.1:{free_port()}/nothing"
    with start(database_url=url, port=0) as process:
        _, stderr = process.communicate(timeout=20)
    assert process.returncode == 3
    assert "database" in stderr
    assert "Traceback" not in stderr
    assert "secret" not in stderr


def test_a_database_that_is_not_migrated(postgres_server: PostgresServer) -> None:
    with start(database_url=postgres_server.create_database(), port=0) as process:
        _, stderr = process.communicate(timeout=20)
    assert process.returncode == 3
    assert "is at revision none" in stderr
    assert "Traceback" not in stderr


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"database_url": ""}, "DATABASE_URL"),
        ({"latency_median_ms": "fast"}, "LATENCY_MEDIAN_MS = 'fast'"),
        ({"latency_median_ms": -1}, "LATENCY_MEDIAN_MS = '-1'"),
        ({"latency_median_ms": "nan"}, "LATENCY_MEDIAN_MS = 'nan'"),
        ({"latency_p99_ms": 5}, "LATENCY_P99_MS = '5'"),
        ({"latency_median_ms": 10, "latency_p99_ms": 5}, "LATENCY_P99_MS = '5'"),
        ({"key_memory_s": 0}, "KEY_MEMORY_S = '0'"),
        ({"key_memory_s": "inf"}, "KEY_MEMORY_S = 'inf'"),
        ({"fee_bps": 10_001}, "FEE_BPS = '10001'"),
        ({"fee_bps": 2.5}, "FEE_BPS = '2.5'"),
        ({"fee_fixed_minor": -1}, "FEE_FIXED_MINOR = '-1'"),
        ({"slow_ms": -1}, "SLOW_MS = '-1'"),
        ({"pending_ms": "x"}, "PENDING_MS = 'x'"),
        ({"port": 70_000}, "PORT = '70000'"),
    ],
)
def test_bad_settings_are_named(
    settings: dict[str, Any],
    named: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = {"database_url": "postgresql://u@h/d", **settings}
    for name, value in given.items():
        monkeypatch.setenv(f"{PREFIX}{name.upper()}", str(value))
    with pytest.raises(SystemExit) as stopped:
        load(Settings)
    assert stopped.value.code == 2
    assert f"{PREFIX}{named}" in capsys.readouterr().err


def test_good_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "DATABASE_URL": "postgresql://u@h/d",
        "KEY_MEMORY_S": "2.5",
        "LATENCY_MEDIAN_MS": "400",
        "LATENCY_P99_MS": "2000",
    }.items():
        monkeypatch.setenv(PREFIX + name, value)
    settings = load(Settings)
    assert (settings.key_memory_s, settings.latency_p99_ms) == (2.5, 2_000)
    assert (settings.slow_ms, settings.pending_ms) == (2_000, 3_000)
    assert (settings.fee_bps, settings.fee_fixed_minor) == (290, 30)
