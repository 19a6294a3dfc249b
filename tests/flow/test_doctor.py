"""`paymesh doctor` on a mesh that is well, and on one that is not."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from paymesh.payment.v1 import payment_pb2 as pb
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from mesh.migrations import head_revision
from tests.support.checkout import new_checkout, new_order
from tests.support.mesh import RunningMesh, eventually, started_on
from tests.support.ports import free_port_base
from tests.support.postgres import PostgresServer
from tests.support.up_process import run

pytestmark = pytest.mark.timeout(120)

INSTANCES = ["payment", "payment-1", "executor", "wallet", "ledger", "psp_stub"]


@pytest.fixture(scope="module")
def mesh(postgres_server: PostgresServer) -> Iterator[RunningMesh]:
    """With a second payment_svc; whoever breaks it puts it right again."""
    settings = {"executor_psp_deadline_ms": 300, "payment_parked_poll_ms": 60_000}
    with started_on(postgres_server, {"payment": 2}, **settings) as running:
        yield running


def doctor(mesh: RunningMesh, *more: str) -> tuple[int, dict[str, Any]]:
    """Its exit code and what it says as JSON."""
    target = f"127.0.0.1:{mesh.supervisor.port('payment') - 1}"
    result = run("doctor", "--json", "--target", target, *more)
    return result.returncode, json.loads(result.stdout)


def findings(facts: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [finding for finding in facts["findings"] if finding["kind"] == kind]


def test_a_mesh_that_is_well(mesh: RunningMesh) -> None:
    mesh.paid(new_checkout("tok_ok", new_order(), new_order()))
    mesh.paid(new_checkout("tok_declined"))
    code, facts = doctor(mesh, "--older-than", "0")
    assert facts["findings"] == []
    assert code == 0
    assert [one["instance"] for one in facts["instances"]] == INSTANCES
    for one in facts["instances"]:
        assert one["address"] == mesh.supervisor.target(one["instance"])
        assert one["status"]["database"]["reachable"]
        assert one["status"]["replica_counts"]["payment"] == 2
    processes = [one["status"]["process"] for one in facts["instances"]]
    assert [process.rpartition("/")[2] for process in processes] == [
        str(mesh.supervisor.pid(instance)) for instance in INSTANCES
    ]
    held = {lease["process"] for lease in facts["instances"][0]["status"]["leases"]}
    assert held == set(processes[:2])
    target = f"127.0.0.1:{mesh.supervisor.port('payment') - 1}"
    shown = run("doctor", "--target", target)
    assert shown.returncode == 0
    assert shown.stdout.endswith("all is well\n")
    assert shown.stdout.count(" up ") >= len(INSTANCES)


def test_a_payment_of_which_the_psp_says_nothing(mesh: RunningMesh) -> None:
    payment = mesh.pay(new_checkout("tok_silent"), timeout_s=3)
    eventually(lambda: mesh.get(payment.payment_id).orders[0].state == pb.ORDER_STATE_UNKNOWN)
    code, facts = doctor(mesh, "--older-than", "0")
    assert code == 1
    (unknown,) = findings(facts, "ORDERS_UNKNOWN")
    assert (unknown["count"], unknown["payment_ids"]) == (1, [payment.payment_id])
    assert "`paymesh payment get ID`" in unknown["advice"]
    # It is young, and being looked after.
    assert not findings(doctor(mesh, "--older-than", "3600")[1], "ORDERS_UNKNOWN")


def test_what_is_parked_waits_for_a_person(mesh: RunningMesh) -> None:
    payment = mesh.paid(new_checkout("tok_wrong_amount"))
    assert payment.state == pb.PAYMENT_STATE_NEEDS_ATTENTION
    code, facts = doctor(mesh)
    assert code == 1
    (parked,) = findings(facts, "ORDERS_PARKED")
    assert parked["reason"] == "WRONG_AMOUNT"
    assert parked["payment_ids"] == [payment.payment_id]
    assert "`paymesh payment retry ID --note TEXT`" in parked["advice"]
    target = f"127.0.0.1:{mesh.supervisor.port('payment') - 1}"
    shown = run("doctor", "--target", target)
    assert shown.returncode == 1
    # Lines end where a terminal's do.
    told = " ".join(shown.stdout.split())
    for text in ("ORDERS_PARKED WRONG_AMOUNT", payment.payment_id, parked["advice"]):
        assert text in told


@pytest.mark.parametrize("instance", ["wallet", "payment", "payment-1"])
def test_a_service_that_was_killed(mesh: RunningMesh, instance: str) -> None:
    mesh.supervisor.kill(instance)
    try:
        code, facts = doctor(mesh)
        assert code == 1
        assert [one["instance"] for one in facts["instances"]] == INSTANCES
        (down,) = findings(facts, "DOWN")
        assert down["instance"] == instance
        assert mesh.supervisor.target(instance) in down["what"]
        assert down["advice"]
    finally:
        mesh.supervisor.restart(instance)
    assert not findings(doctor(mesh)[1], "DOWN")


def test_a_service_that_is_frozen(mesh: RunningMesh) -> None:
    pid = mesh.supervisor.pid("ledger")
    os.kill(pid, signal.SIGSTOP)
    try:
        code, facts = doctor(mesh, "--timeout", "1.5")
    finally:
        os.kill(pid, signal.SIGCONT)
    assert code == 1
    assert [finding["instance"] for finding in findings(facts, "SILENT")] == ["ledger"]


def test_clocks_that_differ(mesh: RunningMesh) -> None:
    _change(mesh, "ledger", "SET paymesh.clock_offset = '-2 hours'")
    try:
        code, facts = doctor(mesh)
    finally:
        _change(mesh, "ledger", "RESET paymesh.clock_offset")
    assert code == 1
    (differ,) = findings(facts, "CLOCKS_DIFFER")
    assert differ["instance"] == "ledger"
    assert "2 h behind" in differ["what"]
    assert not findings(doctor(mesh)[1], "CLOCKS_DIFFER")


def test_a_database_that_is_away(mesh: RunningMesh) -> None:
    _change(mesh, "payment", "ALLOW_CONNECTIONS false")
    try:
        code, facts = doctor(mesh)
    finally:
        _change(mesh, "payment", "ALLOW_CONNECTIONS true")
    assert code == 1
    away = findings(facts, "DATABASE_AWAY")
    assert [finding["instance"] for finding in away] == ["payment", "payment-1"]
    assert not findings(facts, "LEASE_LOST")
    eventually(lambda: not findings(doctor(mesh)[1], "DATABASE_AWAY"))


def test_migrations_that_are_missing(mesh: RunningMesh) -> None:
    head = head_revision("wallet")
    _execute(mesh, "wallet", "UPDATE alembic_version SET version_num = '0000'")
    try:
        code, facts = doctor(mesh)
    finally:
        _execute(mesh, "wallet", f"UPDATE alembic_version SET version_num = '{head}'")
    assert code == 1
    (missing,) = findings(facts, "MIGRATIONS_MISSING")
    assert missing["instance"] == "wallet"
    assert "paymesh migrate" in missing["advice"]


def test_nobody_there() -> None:
    result = run("doctor", "--json", "--target", f"127.0.0.1:{free_port_base(40)}")
    assert result.returncode == 3
    facts = json.loads(result.stdout)
    assert [finding["kind"] for finding in facts["findings"]] == ["DOWN"] * 5


def _change(mesh: RunningMesh, service: str, what: str) -> None:
    """Changes a service's database; its sessions are ended, so that new ones know."""
    name = str(conninfo_to_dict(mesh.databases[service])["dbname"])
    with psycopg.connect(mesh.databases["admin"], autocommit=True) as connection:
        connection.execute(
            sql.SQL("ALTER DATABASE {} {}").format(sql.Identifier(name), sql.SQL(what))
        )
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,)
        )


def _execute(mesh: RunningMesh, service: str, statement: str) -> None:
    with psycopg.connect(mesh.databases[service], autocommit=True) as connection:
        connection.execute(statement.encode())
