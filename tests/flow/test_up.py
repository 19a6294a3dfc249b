"""`paymesh up` and `paymesh demo` as processes, with everything they start."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh.healthcheck import is_serving
from tests.support.embedded import children, is_running, on_linux, wait_until
from tests.support.folders import open_folder
from tests.support.ports import free_port_base, is_free
from tests.support.postgres import PostgresServer
from tests.support.scrape import scrape
from tests.support.spans import spans_in
from tests.support.up_process import UpProcess, clean_environment, run

pytestmark = [on_linux, pytest.mark.timeout(120)]

PAY = ("pay", "--json", "--buyer", "buyer-1", "--order", "alice=10:EUR:1")
SERVICES = {
    "payment": "payment_svc",
    "executor": "executor_svc",
    "wallet": "wallet_svc",
    "ledger": "ledger_svc",
    "psp_stub": "psp_stub",
}


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with open_folder(in_memory=True) as path:
        yield path


@pytest.fixture(scope="module")
def up(folder: Path) -> Iterator[UpProcess]:
    with UpProcess(folder / "shared") as up:
        up.wait_until_ready()
        yield up


def test_it_serves_payments_and_books(up: UpProcess) -> None:
    paid = up.run(*PAY, "--request-id", "first")
    assert paid.returncode == 0, paid.stderr
    payment = json.loads(paid.stdout)["payment"]
    again = json.loads(up.run(*PAY, "--request-id", "first").stdout)["payment"]
    assert again["payment_id"] == payment["payment_id"]

    reused = up.run(
        "pay", "--buyer", "buyer-1", "--order", "alice=11:EUR:1", "--request-id", "first"
    )
    assert reused.returncode == 1
    assert "REQUEST_ID_REUSED" in reused.stderr
    assert "amount" in reused.stderr

    shown = up.run("payment", "get", payment["payment_id"])
    assert "SUCCEEDED" in shown.stdout
    wallet = json.loads(up.run("wallet", "alice", "--movements", "--json").stdout)
    assert wallet["wallet"]["balances"][0]["pending_minor"] == 900
    assert [movement["order_id"] for movement in wallet["movements"]] == [
        payment["orders"][0]["order_id"]
    ]
    balance = up.run("ledger", "balance", "commission_revenue", "EUR", "--json")
    assert json.loads(balance.stdout)["balance_minor"] >= 100
    assert up.run("ledger", "trial-balance").returncode == 0
    listed = json.loads(up.run("payment", "list", "--seller", "alice", "--json").stdout)
    assert payment["payment_id"] in [found["payment_id"] for found in listed["payments"]]


def test_what_the_mesh_refuses_names_the_field(up: UpProcess) -> None:
    refused = up.run("pay", "--buyer", "b", "--order", "alice=0:EUR")
    assert refused.returncode == 1
    assert "VALIDATION_FAILED" in refused.stderr
    assert "orders[0].amount" in refused.stderr
    card = up.run("pay", "--buyer", "b", "--order", "alice=1:EUR", "--method", "4111111111111111")
    assert card.returncode == 1
    assert "CARD_NUMBER_REFUSED" in card.stderr
    assert "4111111111111111" not in card.stderr


def test_ports_in_use_are_refused_and_nothing_is_started(up: UpProcess, folder: Path) -> None:
    other = folder / "other"
    with UpProcess(other, port_base=up.port_base) as second:
        code, text = second.end()
    assert code == 2
    assert f"port {up.port_base + 1}" in text
    assert not other.exists()


def test_its_metrics_are_where_it_says(folder: Path) -> None:
    traces = folder / "traces" / "deep"
    environment = {"PAYMESH_TRACES_DIR": str(traces)}
    with UpProcess(folder / "measured", environment=environment) as up:
        ready = up.wait_until_ready()
        assert ready["metrics"].keys() == SERVICES.keys()
        for service, url in ready["metrics"].items():
            port = int(url.rpartition(":")[2].removesuffix("/metrics"))
            told = scrape(port)
            assert told.value("paymesh_service_info", service=SERVICES[service]) == 1
        assert up.run(*PAY).returncode == 0
        up.send(signal.SIGTERM)
        code, text = up.end()
    assert code == 0, text
    files = [traces / f"{service}.jsonl" for service in SERVICES]
    assert {span.service for span in spans_in(files)} == set(SERVICES.values())


def test_a_metrics_port_in_use_is_refused(folder: Path) -> None:
    base = free_port_base()
    with (
        socket.create_server(("127.0.0.1", base + 13)),
        UpProcess(folder / "taken", port_base=base) as second,
    ):
        code, text = second.end()
    assert code == 2
    message = json.loads(text)["error"]["message"]
    assert message.startswith(f"port {base + 13} on 127.0.0.1, which the metrics of wallet needs")


def test_a_folder_for_traces_that_can_not_be_made_is_refused(folder: Path) -> None:
    (folder / "file").touch()
    environment = {"PAYMESH_TRACES_DIR": str(folder / "file" / "traces")}
    with UpProcess(folder / "untraced", environment=environment) as up:
        code, text = up.end()
    assert code == 2
    assert json.loads(text)["error"]["message"].startswith("PAYMESH_TRACES_DIR: ")


def test_a_folder_in_use_is_refused(up: UpProcess, folder: Path) -> None:
    with UpProcess(folder / "shared") as second:
        code, text = second.end()
    assert code == 2
    assert "in use" in json.loads(text)["error"]["message"]
    assert is_serving(f"127.0.0.1:{up.port_base + 1}")


@pytest.mark.parametrize("service", ["psp_stub", "payment"])
def test_a_service_that_died_is_started_again(up: UpProcess, service: str) -> None:
    before = up.service_pid(SERVICES[service])
    os.kill(before, signal.SIGKILL)
    up.wait_for_text(f"{service} died (SIGKILL)")
    up.wait_for_text(f"{service} serves again")
    assert up.service_pid(SERVICES[service]) != before
    assert up.run(*PAY).returncode == 0


def test_a_postgresql_that_died_is_started_again_and_the_mesh_heals(up: UpProcess) -> None:
    os.kill(up.postgres_pid(), signal.SIGKILL)
    up.wait_for_text("PostgreSQL died (SIGKILL)")
    up.wait_for_text("PostgreSQL serves again")
    wait_until(lambda: up.run(*PAY).returncode == 0, timeout_s=30)


def test_no_service_is_given_anothers_password(up: UpProcess) -> None:
    for service, package in SERVICES.items():
        environment = Path(f"/proc/{up.service_pid(package)}/environ").read_text().split("\0")
        urls = {name.partition("=")[0] for name in environment if "_DATABASE_" in name}
        assert urls == {f"PAYMESH_{service.upper()}_DATABASE_URL"}


def test_ctrl_c_ends_it_in_order_and_leaves_nothing(folder: Path) -> None:
    data_dir = folder / "plain"
    with UpProcess(data_dir, as_json=False) as up:
        said = up.read_until("ready")
        for offset, service in enumerate(SERVICES, start=1):
            port = up.port_base + offset
            metrics = f"http://127.0.0.1:{port + 10}/metrics"
            assert [service, f"127.0.0.1:{port}", metrics] in [line.split() for line in said]
        family = up.family()
        assert len(family) > len(SERVICES)
        up.send(signal.SIGINT)
        code, text = up.end()
    assert code == 0, text
    assert not any(map(is_running, family))
    for service in SERVICES:
        log = (data_dir / "logs" / f"{service}.log").read_text()
        assert "Traceback" not in log, log
    assert "database system is shut down" in (data_dir / "postgres.log").read_text()


def test_killed_it_leaves_nothing_and_the_next_one_serves_the_old_payments(folder: Path) -> None:
    data_dir = folder / "killed"
    with UpProcess(data_dir) as up:
        up.wait_until_ready()
        paid = json.loads(up.run(*PAY, "--request-id", "kept").stdout)["payment"]
        family = up.family()
        up.send(signal.SIGKILL)
        wait_until(lambda: not any(map(is_running, family)), timeout_s=2)
    with UpProcess(data_dir, port_base=up.port_base) as after:
        after.wait_until_ready()
        found = json.loads(after.run("payment", "get", paid["payment_id"], "--json").stdout)
        assert found["payment"] == paid
        again = json.loads(after.run(*PAY, "--request-id", "kept").stdout)
        assert again["payment"]["payment_id"] == paid["payment_id"]
        wallet = json.loads(after.run("wallet", "alice", "--json").stdout)
        assert wallet["wallet"]["balances"][0]["pending_minor"] == 900


def test_stopped_while_it_starts_it_leaves_nothing(folder: Path) -> None:
    with UpProcess(folder / "hasty") as up:
        wait_until(lambda: bool(children(up.process.pid)), timeout_s=20)
        family = up.family()
        up.send(signal.SIGTERM)
        code, text = up.end()
    assert code == 0, text
    assert "ready" not in [json.loads(line)["event"] for line in text.splitlines()]
    assert not any(map(is_running, family))


def test_a_folder_of_another_version_is_refused(data_dir: Path) -> None:
    (data_dir / "postgres" / "PG_VERSION").write_text("15\n")
    with UpProcess(data_dir) as up:
        code, text = up.end()
    assert code == 2
    assert "PostgreSQL 15" in json.loads(text)["error"]["message"]


def test_a_bad_setting_of_a_service_is_told(folder: Path) -> None:
    setting = {"PAYMESH_WALLET_LOG_LEVEL": "loud"}
    with UpProcess(folder / "loud", environment=setting) as up:
        code, text = up.end()
    assert code == 3
    message = json.loads(text)["error"]["message"]
    assert "PAYMESH_WALLET_LOG_LEVEL" in message
    assert not children(up.process.pid)


def test_it_runs_on_another_postgresql(folder: Path, postgres_server: PostgresServer) -> None:
    address = postgres_server.admin_url.rpartition("@")[2].rpartition("/")[0]
    environment = {"PAYMESH_DATABASE_URL": postgres_server.admin_url} | {
        f"PAYMESH_{service.upper()}_DATABASE_URL": (
            f"postgresql://up_{service}:pass_word@{address}/up_{service}"
        )
        for service in SERVICES
    }
    migrated = run("migrate", "--json", environment=environment)
    assert migrated.returncode == 0, migrated.stdout
    assert set(json.loads(migrated.stdout)["revisions"]) == set(SERVICES)
    with UpProcess(folder / "elsewhere", environment=environment) as up:
        up.wait_until_ready()
        assert is_free(up.port_base + 6)
        assert up.run(*PAY).returncode == 0
        up.send(signal.SIGTERM)
        assert up.end()[0] == 0


def test_passwords_may_stand_in_files_and_no_service_is_told_where(
    folder: Path, postgres_server: PostgresServer
) -> None:
    address = postgres_server.admin_url.rpartition("@")[2].rpartition("/")[0]
    (folder / "admin").write_text(f"{postgres_server.admin_url}\n")
    environment = {"PAYMESH_DATABASE_URL_FILE": str(folder / "admin")}
    for service in SERVICES:
        (folder / service).write_text(f"p@ss/{service}\n")
        variable = f"PAYMESH_{service.upper()}_DATABASE"
        environment[f"{variable}_URL"] = f"postgresql://files_{service}@{address}/files_{service}"
        environment[f"{variable}_PASSWORD_FILE"] = str(folder / service)
    with UpProcess(folder / "files", environment=environment) as up:
        up.wait_until_ready()
        assert up.run(*PAY).returncode == 0
        test_no_service_is_given_anothers_password(up)
        up.send(signal.SIGTERM)
        assert up.end()[0] == 0
    # And a service by itself, as a container starts it.
    own = {name: value for name, value in environment.items() if "_WALLET_" in name}
    command = [sys.executable, "-m", "wallet_svc"]
    with subprocess.Popen(
        command,
        env=clean_environment() | own | {"PAYMESH_WALLET_PORT": "0"},
        stderr=subprocess.PIPE,
        text=True,
    ) as wallet:
        assert wallet.stderr is not None
        assert json.loads(wallet.stderr.readline())["event"] == "serving"
        wallet.terminate()


def test_a_password_file_that_is_not_there_is_told(folder: Path) -> None:
    environment = {
        "PAYMESH_DATABASE_URL": "postgresql://postgres@127.0.0.1:9/postgres",
        "PAYMESH_DATABASE_PASSWORD_FILE": str(folder / "nothing"),
    }
    for verb in ("up", "migrate"):
        refused = run(verb, environment=environment)
        assert refused.returncode == 2
        assert "PAYMESH_DATABASE_PASSWORD_FILE: can't read" in refused.stderr


def test_a_service_is_left_out_and_its_database_is_there(folder: Path) -> None:
    data_dir = folder / "partly"
    with UpProcess(data_dir, without=["payment", "psp_stub"]) as up:
        ready = up.wait_until_ready()
        assert set(ready["endpoints"]) == set(ready["metrics"]) == {"executor", "wallet", "ledger"}
        assert is_free(up.port_base + 1)
        assert up.run("ledger", "trial-balance").returncode == 0
        looked = up.run("doctor", "--without", "payment", "--without", "psp_stub")
        assert looked.returncode == 0, looked.stdout
        # As the runbook has it: what the executor forgot is told before payment serves.
        environment = clean_environment()
        for service in ("payment", "executor"):
            variable = f"PAYMESH_{service.upper()}_DATABASE"
            address = f"127.0.0.1:{up.port_base + 6}"
            environment[f"{variable}_URL"] = f"postgresql://postgres@{address}/paymesh_{service}"
            environment[f"{variable}_PASSWORD_FILE"] = str(data_dir / "postgres.password")
        tool = Path(__file__).resolve().parents[2] / "tools" / "restore_intents.py"
        told = subprocess.run(
            [sys.executable, str(tool), "--source", "psp_stub", "--apply"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert (told.returncode, told.stdout) == (0, "0 operations written\n")
        up.send(signal.SIGTERM)
        assert up.end()[0] == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--without", "bank"), "there is no such service"),
        (("--without", "payment", "--replicas", "payment=2"), "--replicas and --without"),
    ],
)
def test_what_can_t_be_left_out_is_refused(
    folder: Path, options: tuple[str, ...], says: str
) -> None:
    refused = run("up", "--data-dir", str(folder / "none"), *options)
    assert refused.returncode == 2
    assert says in refused.stderr
    assert not (folder / "none").exists()


def test_replicas_serve_on_ports_of_their_own_and_each_is_started_again(folder: Path) -> None:
    data_dir = folder / "replicas"
    with UpProcess(data_dir, replicas={"payment": 2, "executor": 2}) as up:
        ready = up.wait_until_ready()
        base = up.port_base
        assert ready["endpoints"] == {
            "payment": f"127.0.0.1:{base + 1}",
            "payment-1": f"127.0.0.1:{base + 21}",
            "executor": f"127.0.0.1:{base + 2}",
            "executor-1": f"127.0.0.1:{base + 22}",
            "wallet": f"127.0.0.1:{base + 3}",
            "ledger": f"127.0.0.1:{base + 4}",
            "psp_stub": f"127.0.0.1:{base + 5}",
        }
        for endpoint in ready["endpoints"].values():
            assert is_serving(endpoint)
        for number, port in enumerate((base + 1, base + 21)):
            target = f"127.0.0.1:{port - 1}"
            paid = run(*PAY, "--request-id", f"on-{number}", "--target", target)
            assert paid.returncode == 0, paid.stderr

        os.kill(up.service_pid("payment_svc", base + 21), signal.SIGKILL)
        up.wait_for_text("payment-1 died (SIGKILL)")
        assert up.run(*PAY).returncode == 0
        up.wait_for_text("payment-1 serves again")
        assert is_serving(f"127.0.0.1:{base + 21}")
        assert (data_dir / "logs" / "payment-1.log").stat().st_size

        family = up.family()
        up.send(signal.SIGINT)
        code, text = up.end()
    assert code == 0, text
    assert not any(map(is_running, family))


def test_replicas_that_are_none_are_refused() -> None:
    refused = run("up", "--replicas", "wallet=2", "--replicas", "payment=9")
    assert refused.returncode == 2
    assert "'payment=9': how many must be 1 to 8" in refused.stderr


def test_replicas_whose_ports_there_are_not_are_refused() -> None:
    refused = run("up", "--replicas", "psp_stub=8", "--port-base", "65500")
    assert refused.returncode == 2
    assert "at most 65380" in refused.stderr


def test_replicas_that_cant_be_listed_are_refused(folder: Path) -> None:
    host = {"PAYMESH_EXECUTOR_HOST": "localhost"}
    with UpProcess(folder / "named", environment=host, replicas={"executor": 2}) as up:
        code, text = up.end()
    assert code == 2
    message = json.loads(text.splitlines()[-1])["error"]["message"]
    assert "PAYMESH_EXECUTOR_HOST is 'localhost'" in message


def test_urls_of_services_without_a_server_are_refused() -> None:
    refused = run("up", environment={"PAYMESH_WALLET_DATABASE_URL": "postgresql://x@y/z"})
    assert refused.returncode == 2
    assert "PAYMESH_DATABASE_URL" in refused.stderr


def test_a_postgresql_that_is_down_is_told(folder: Path) -> None:
    base = free_port_base()
    url = f"postgresql://admin:secret@127.0.0.1:{base + 7}/postgres"
    with UpProcess(
        folder / "down", port_base=base, environment={"PAYMESH_DATABASE_URL": url}
    ) as up:
        code, text = up.end()
    assert code == 3
    assert "can't be reached" in text
    assert "secret" not in text


def test_demo_proves_its_books_in_time() -> None:
    started = time.monotonic()
    result = run("demo")
    assert result.returncode == 0, result.stdout + result.stderr
    assert time.monotonic() - started < 30
    for text in (
        "three sellers",
        "declined (card_declined)",
        "known by its look-up",
        "sum, balanced",
        "debits",
        "captured",
        "EXPLAINED",
        "3 UNKNOWN_TO_US: 12.34 EUR",
        "credit suspense 12.34 EUR",
    ):
        assert text in result.stdout
    assert "✗" not in result.stdout
