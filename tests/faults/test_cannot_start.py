"""A service that can't start says why in a sentence, and its exit code says that it did not."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.databases import ADMIN
from tests.support.mesh import SERVICES, clean_environment, environment
from tests.support.ports import free_port

MODULES = {service: service if service == "psp_stub" else f"{service}_svc" for service in SERVICES}
TARGETS = {
    "payment": ("executor_target", "wallet_target", "ledger_target"),
    "executor": ("psp_target",),
}


@pytest.mark.parametrize("service", SERVICES)
def test_database_down(tmp_path: Path, service: str) -> None:
    port = free_port()

    done = _run(tmp_path, service, f"postgresql://role:secret@127.0.0.1:{port}/nothing")

    _says(done, str(port))
    assert "secret" not in done.stdout


@pytest.mark.parametrize("service", SERVICES)
def test_port_in_use(tmp_path: Path, databases: dict[str, str], service: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]

        done = _run(tmp_path, service, databases[service], port=port)

    _says(done, str(port))


def test_database_without_tables(tmp_path: Path, databases: dict[str, str]) -> None:
    _says(_run(tmp_path, "payment", databases[ADMIN]), "paymesh migrate")


def test_wrong_password(tmp_path: Path, databases: dict[str, str]) -> None:
    role, _, rest = databases["payment"].partition("://")[2].partition(":")
    address = rest.rpartition("@")[2]

    done = _run(tmp_path, "payment", f"postgresql://{role}:secret@{address}")

    _says(done, "password")
    assert "secret" not in done.stdout


def test_bad_settings(tmp_path: Path, databases: dict[str, str]) -> None:
    bad = {"payment_lease_ms": "0", "payment_log_level": "loud", "payment_poll_ms": "often"}

    done = _run(tmp_path, "payment", databases["payment"], port=70_000, **bad)

    _says(done, "PAYMESH_PAYMENT_PORT")
    for setting, value in bad.items():
        assert f"PAYMESH_{setting.upper()} = {value!r}" in done.stdout


def test_a_drop_folder_that_is_not_there(tmp_path: Path, databases: dict[str, str]) -> None:
    missing = tmp_path / "drop"

    done = _run(tmp_path, "ledger", databases["ledger"], ledger_drop_folder=str(missing))

    _says(done, f"the drop folder {missing} can't be read: No such file or directory")


def test_settings_that_are_not_there(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "payment_svc"],
        env=clean_environment(),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=30,
        check=False,
    )

    _says(done, "PAYMESH_PAYMENT_DATABASE_URL")


def _run(
    folder: Path, service: str, database_url: str, *, port: int = 0, **settings: str
) -> subprocess.CompletedProcess[str]:
    """Runs a service until it ends by itself; its targets are where nobody listens."""
    nowhere = f"127.0.0.1:{free_port()}"
    given = {
        f"{service}_port": port,
        f"{service}_database_url": database_url,
        **{f"{service}_{name}": nowhere for name in TARGETS.get(service, ())},
        **settings,
    }
    return subprocess.run(
        [sys.executable, "-P", "-m", MODULES[service]],
        env=clean_environment() | environment(**given),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=30,
        check=False,
    )


def _says(done: subprocess.CompletedProcess[str], what: str) -> None:
    """It failed, and its message for people names what has to be looked at."""
    assert done.returncode not in (0, 1), done.stdout
    assert "Traceback" not in done.stdout
    assert what in done.stdout
    assert len(done.stdout.splitlines()) <= 6, done.stdout
