"""The SQL and the calls of docs/runbook.md, as they stand there, against a mesh."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from mesh import ids
from tests.support.checkout import new_checkout
from tests.support.mesh import RunningMesh
from tests.support.up_process import run

ROOT = Path(__file__).resolve().parents[2]
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()
STATEMENTS = [
    (match[1], match[2].strip())
    for block in re.findall(r"```sql\n(.*?)```", RUNBOOK, re.DOTALL)
    for match in re.finditer(r"-- (\w+)\n(.*?)(?=\n-- |\Z)", block, re.DOTALL)
]
CALLS = re.findall(r"^grpcurl (?:.*\\\n)*.*$", RUNBOOK, re.MULTILINE)
PORTS = {"50051": "payment", "50054": "ledger", "50055": "psp_stub"}


@pytest.fixture(scope="module")
def parked(mesh: RunningMesh) -> dict[str, str]:
    """What the runbook's capitals stand for, of a payment that is parked."""
    payment = mesh.paid(new_checkout("tok_wrong_amount"))
    order = payment.orders[0]
    operation = order.operations[0]
    return {
        "PAYMENT_ID": payment.payment_id,
        "ORDER_ID": order.order_id,
        "OPERATION_ID": operation.operation_id,
        "PSP_REFERENCE": operation.psp_reference,
        "PSP_KEY": ids.psp_key(ids.parse(operation.operation_id)).hex,
    }


def filled(text: str, values: dict[str, str]) -> str:
    return re.sub(r"\b[A-Z]+_[A-Z]+\b", lambda match: values.get(match[0], match[0]), text)


@pytest.mark.parametrize(("database", "statement"), STATEMENTS)
def test_a_statement_can_be_run(
    mesh: RunningMesh, parked: dict[str, str], database: str, statement: str
) -> None:
    service = "admin" if database == "postgres" else database.removeprefix("paymesh_")
    with psycopg.connect(mesh.databases[service]) as connection:
        connection.execute("SET TRANSACTION READ ONLY")
        rows = connection.execute(filled(statement, parked).encode()).fetchall()
    # What looks for something finds it.
    if filled(statement, parked) != statement:
        assert len(rows) == 1
    if "AS payment_id, position" in statement:
        assert rows[0][0] == parked["PAYMENT_ID"]
    if "AS psp_key" in statement:
        assert rows[0][-1] == parked["PSP_KEY"]


def test_there_are_statements_and_calls() -> None:
    assert len(STATEMENTS) >= 10
    assert len(CALLS) >= 3


@pytest.mark.parametrize("call", CALLS)
def test_a_call_is_answered(mesh: RunningMesh, parked: dict[str, str], call: str) -> None:
    words = shlex.split(filled(call, parked).replace("\\\n", " "))
    words[0] = str(Path(sys.executable).with_name("grpcurl"))
    words = [
        re.sub(r"127\.0\.0\.1:(\d+)", lambda m: mesh.supervisor.target(PORTS[m[1]]), word)
        for word in words
    ]
    done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    if "LookUp" in call:
        (result,) = json.loads(done.stdout)["results"]
        assert result["captured"]["pspReference"] == parked["PSP_REFERENCE"]


def test_its_commands_find_what_is_parked(mesh: RunningMesh, parked: dict[str, str]) -> None:
    base = int(mesh.supervisor.target("payment").rpartition(":")[2]) - 1
    target = ("--target", f"127.0.0.1:{base}")
    listed = run("payment", "list", "--state", "needs_attention", "--json", *target)
    assert parked["PAYMENT_ID"] in listed.stdout
    assert run("payment", "list", "--state", "processing", *target).returncode == 0
    shown = run("payment", "get", parked["PAYMENT_ID"], "--json", *target)
    assert "WRONG_AMOUNT: " in shown.stdout
    assert run("ledger", "trial-balance", *target).returncode == 0
