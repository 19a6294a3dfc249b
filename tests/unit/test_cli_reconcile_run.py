"""`paymesh reconcile run` ends with 1 for books that differ, and for nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import NoReturn

import grpc
import pytest
from paymesh.reconciliation.v1 import reconciliation_service_pb2 as pb

from mesh.errors import MeshError, Reason
from paymeshctl import reconcile
from paymeshctl.client import Client
from tests.support.fake_channel import FakeMesh
from tests.support.mesh import clean_environment
from tests.support.ports import free_port

LEDGER = "127.0.0.1:50054"
RUN = pb.DESCRIPTOR.services_by_name["ReconciliationService"].methods_by_name["Reconcile"]
VERB = ("reconcile", "run", "--source", "psp_stub")


def answered(mesh: FakeMesh, state: pb.RunState.ValueType, *more: str) -> int:
    run = mesh.run(*VERB, *more)
    mesh.take(run, LEDGER, RUN).answer(pb.ReconcileResponse(run=pb.Run(state=state)))
    return run.result(10).exit_code


@pytest.mark.parametrize(
    ("state", "exit_code"),
    [
        (pb.RUN_STATE_BALANCED, 0),
        (pb.RUN_STATE_EXPLAINED, 0),
        (pb.RUN_STATE_OPEN, 1),
        (pb.RUN_STATE_BROKEN, 1),
        (pb.RUN_STATE_UNSPECIFIED, 2),
        (pb.RunState.ValueType(99), 2),
    ],
)
@pytest.mark.parametrize("more", [(), ("--json",)])
def test_the_state_of_the_day_is_the_exit_code(
    mesh: FakeMesh, state: pb.RunState.ValueType, exit_code: int, more: tuple[str, ...]
) -> None:
    assert answered(mesh, state, *more) == exit_code


@pytest.mark.parametrize("reason", list(Reason), ids=str)
def test_a_refusal_of_any_reason_is_2(mesh: FakeMesh, reason: Reason) -> None:
    if reason is Reason.UNSPECIFIED:
        return
    run = mesh.run(*VERB)
    error = MeshError(reason, "so it is")
    mesh.take(run, LEDGER, RUN).refuse(error, grpc.StatusCode[error.code.name])
    result = run.result(10)
    assert (result.exit_code, result.stdout) == (2, "")
    assert reason.value in result.stderr


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code.value[0]], ids=str)
def test_a_status_without_details_is_2(mesh: FakeMesh, code: grpc.StatusCode) -> None:
    run = mesh.run(*VERB)
    mesh.take(run, LEDGER, RUN).break_off(code, "no more")
    assert run.result(10).exit_code == 2


def _crash(*_: object, **__: object) -> NoReturn:
    raise ZeroDivisionError("a bug")


def _interrupted(*_: object, **__: object) -> NoReturn:
    raise KeyboardInterrupt


@pytest.mark.parametrize("how", [_crash, _interrupted])
def test_a_crash_before_during_and_after_the_call_is_2(
    mesh: FakeMesh, monkeypatch: pytest.MonkeyPatch, how: object
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(reconcile, "parse_target", how)
        before = mesh.run(*VERB).result(10)
    with monkeypatch.context() as patched:
        patched.setattr(Client, "reconcile", how)
        during = mesh.run(*VERB, "--json").result(10)
    monkeypatch.setattr(reconcile, "_print_run", how)
    assert (before.exit_code, during.exit_code) == (2, 2)
    assert answered(mesh, pb.RUN_STATE_BROKEN) == 2
    if how is _crash:
        assert "ZeroDivisionError: a bug" in before.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--source",),
        ("--source", "psp_stub", "--date", "2026-02-30"),
        ("--source", "psp_stub", "--date", "tomorrow"),
        ("--source", "psp_stub", "--target", "nowhere"),
        ("--source", "psp_stub", "--target", "127.0.0.1:port"),
        ("--source", "psp_stub", "--caller", "?"),
        ("--source", "psp_stub", "--timeout", "soon"),
        ("--source", "psp_stub", "--timeout", "-1"),
        ("--source", "psp_stub", "--magic"),
        ("--source", "psp_stub", "more"),
        ("--source", ""),
        ("--source", "x" * 64),
        ("--source", "psp_stub"),  # and nobody listens
    ],
)
def test_the_process_ends_with_2_where_it_can_t_run(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", "from paymeshctl.main import main; main()",
         "reconcile", "run", *arguments],
        env=clean_environment() | {"PAYMESH_TARGET": f"127.0.0.1:{free_port()}"},
        cwd=os.sep, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr
