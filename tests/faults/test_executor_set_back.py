"""The executor's database comes back from a backup older than payment's (docs/runbook.md)."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from paymesh.payment.v1 import payment_pb2 as pb

from tests.support.checkout import new_checkout
from tests.support.mesh import RunningMesh, clean_environment, environment, eventually, started_on
from tests.support.postgres import PostgresServer

TOOL = Path(__file__).resolve().parents[2] / "tools" / "restore_intents.py"
KEY_MEMORY_S = 2


@pytest.fixture(scope="module")
def mesh(postgres_server: PostgresServer) -> Iterator[RunningMesh]:
    """A mesh whose PSP soon forgets keys."""
    with started_on(
        postgres_server,
        psp_stub_key_memory_s=KEY_MEMORY_S,
        executor_key_window_s=KEY_MEMORY_S,
        executor_psp_deadline_ms=500,
    ) as running:
        yield running


def restored_intents(mesh: RunningMesh, *flags: str) -> subprocess.CompletedProcess[str]:
    urls = mesh.supervisor.database_urls
    settings = environment(
        payment_database_url=urls["payment"], executor_database_url=urls["executor"]
    )
    return subprocess.run(
        [sys.executable, str(TOOL), "--source", "psp_stub", *flags],
        env=clean_environment() | settings,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_a_python_without_the_project_is_not_taken_for_something_missing() -> None:
    # As a system's python is: without our packages, and without PYTHONPATH.
    told = subprocess.run(
        [sys.executable, "-I", "-S", str(TOOL), "--source", "psp_stub"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr.count("\n") == 1
    assert "No module named 'psycopg'" in told.stderr
    assert "take the one that has Paymesh installed" in told.stderr


def test_what_it_forgot_is_not_charged_again(mesh: RunningMesh) -> None:
    parked = mesh.paid(new_checkout("tok_silent"))
    paid = mesh.paid(new_checkout("tok_ok"))
    (order,) = parked.orders
    assert order.state == pb.ORDER_STATE_PARKED
    operation_id = order.operations[0].operation_id
    assert mesh.captures(parked) == [[order.amount.amount_minor]]

    running = restored_intents(mesh, "--apply")
    assert (running.returncode, running.stdout) == (2, "")
    assert "payment_svc runs" in running.stderr

    mesh.supervisor.kill("payment")
    alive = "SELECT count(*) FROM replica WHERE NOT dead AND lease_until > paymesh_now()"
    eventually(lambda: mesh.count("payment", alive) == 0)
    with psycopg.connect(mesh.databases["executor"]) as connection:
        connection.execute("DELETE FROM operation")

    told = restored_intents(mesh)
    assert told.returncode == 1
    assert f"operation {operation_id} accepted" in told.stdout
    # What succeeded is never driven again, so it needs no row.
    assert paid.payment_id not in told.stdout
    assert mesh.count("executor", "SELECT count(*) FROM operation") == 0
    assert restored_intents(mesh, "--apply").returncode == 0
    assert restored_intents(mesh).stdout == "0 operations missing\n"
    ((sent, first_send_time, key),) = mesh.ask(
        "executor", "SELECT state, first_send_time, psp_key FROM operation"
    )
    asked = mesh.ask(
        "payment", "SELECT create_time FROM operation WHERE operation_id = %s", operation_id
    )
    known = mesh.ask(
        "psp_stub", "SELECT idempotency_key FROM truth WHERE order_id = %s", order.order_id
    )
    assert sent == 1
    assert asked == [(first_send_time,)]
    assert known == [(str(key).replace("-", ""),)]

    polls = mesh.log("executor").count(operation_id)
    mesh.supervisor.restart("payment")
    eventually(lambda: mesh.log("executor").count(operation_id) >= polls + 2)
    assert mesh.get(parked.payment_id).orders[0].state == pb.ORDER_STATE_PARKED
    assert mesh.captures(parked) == [[order.amount.amount_minor]]


def test_settings_that_are_missing_are_told() -> None:
    done = subprocess.run(
        [sys.executable, str(TOOL), "--source", "psp_stub"],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == "PAYMESH_EXECUTOR_DATABASE_URL is not set\n"
