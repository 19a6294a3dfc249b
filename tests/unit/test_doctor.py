"""`paymesh doctor` against a mesh that the test plays."""

from __future__ import annotations

import json
from concurrent.futures import Future

import grpc
import pytest
from paymesh.operations.v1 import status_service_pb2 as pb
from typer.testing import Result

from mesh.clock import timestamp, utc_now
from mesh.errors import MeshError, Reason
from tests.support.fake_channel import FakeMesh

RPC = pb.DESCRIPTOR.services_by_name["StatusService"].methods_by_name["GetStatus"]
SERVICES = ("payment", "executor", "wallet", "ledger", "psp_stub")
ADDRESSES = {name: f"127.0.0.1:{50051 + n}" for n, name in enumerate(SERVICES)}


def well(service: str, **replicas: int) -> pb.GetStatusResponse:
    now = timestamp(utc_now())
    later = timestamp(utc_now())
    later.seconds += 10
    return pb.GetStatusResponse(
        service=service,
        version="0.1.0",
        process=f"host/{service}",
        start_time=now,
        process_time=now,
        database=pb.DatabaseStatus(
            address="db:5432/x",
            reachable=True,
            server_version="18.1 (Debian 18.1-1)",
            revision="0001",
            expected_revision="0001",
            time=now,
        ),
        leases=[pb.Lease(epoch=7, process=f"host/{service}", lease_until_time=later)]
        if service == "payment"
        else [],
        replica_counts=replicas,
    )


def answer_all(mesh: FakeMesh, run: Future[Result], *left_out: str, **replicas: int) -> None:
    for service in SERVICES:
        if service not in left_out:
            mesh.take(run, ADDRESSES[service], RPC).answer(well(service, **replicas))


def test_all_is_well(mesh: FakeMesh) -> None:
    run = mesh.run("doctor")
    call = mesh.take(run, ADDRESSES["payment"], RPC)
    assert call.request.attention_age.seconds == 300
    assert call.timeout_s == 8
    call.answer(well("payment"))
    answer_all(mesh, run, "payment")
    result = run.result(10)
    assert result.exit_code == 0, result.output
    assert "all is well" in result.stdout
    for text in (*SERVICES, *ADDRESSES.values(), "epoch 7", "0001", "agrees"):
        assert text in result.stdout
    assert "Debian" not in result.stdout


def test_how_old_and_how_long_are_asked(mesh: FakeMesh) -> None:
    run = mesh.run("doctor", "--older-than", "0", "--timeout", "1.5", "--target", "10.0.0.9:7000")
    calls = [mesh.take(run, f"10.0.0.9:{7001 + n}", RPC) for n in range(5)]
    assert [call.request.HasField("attention_age") for call in calls] == [True] * 5
    assert {call.request.attention_age.seconds for call in calls} == {0}
    assert set(mesh.timeouts) == {1.5}
    for call in calls:
        call.break_off(grpc.StatusCode.UNAVAILABLE, "connection refused")
    assert run.result(10).exit_code == 3


def test_every_replica_is_asked(mesh: FakeMesh) -> None:
    run = mesh.run("doctor", "--json")
    answer_all(mesh, run, payment=3, wallet=2)
    mesh.take(run, "127.0.0.1:50071", RPC).answer(well("payment"))
    mesh.take(run, "127.0.0.1:50091", RPC).break_off(grpc.StatusCode.UNAVAILABLE, "refused")
    mesh.take(run, "127.0.0.1:50073", RPC).answer(well("wallet"))
    result = run.result(10)
    assert result.exit_code == 1
    facts = json.loads(result.stdout)
    assert facts["target"] == "127.0.0.1:50050"
    assert [one["instance"] for one in facts["instances"]] == [
        "payment", "payment-1", "payment-2", "executor", "wallet", "wallet-1", "ledger", "psp_stub",
    ]  # fmt: skip
    assert [(f["kind"], f["instance"]) for f in facts["findings"]] == [("DOWN", "payment-2")]
    assert facts["instances"][0]["status"]["leases"][0]["epoch"] == 7
    assert facts["instances"][0]["error"] is None
    assert facts["instances"][2]["status"] is None
    assert facts["instances"][2]["error"]["code"] == "UNAVAILABLE"


def test_what_needs_attention_is_told_with_what_to_do(mesh: FakeMesh) -> None:
    run = mesh.run("doctor")
    ailing = well("payment")
    ailing.attentions.add(
        kind=pb.ATTENTION_KIND_ORDERS_UNKNOWN,
        count=12,
        payment_ids=["a" * 32],
        advice="ask [red]the PSP[/red]",
    )
    mesh.take(run, ADDRESSES["payment"], RPC).answer(ailing)
    answer_all(mesh, run, "payment")
    result = run.result(10)
    assert result.exit_code == 1
    assert "1 finding\n" in result.stdout
    assert "ORDERS_UNKNOWN payment: 12 orders" in result.stdout
    assert f"payment {'a' * 32}" in result.stdout
    assert "ask [red]the PSP[/red]" in result.stdout


@pytest.mark.parametrize(
    ("code", "state", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, "down", "DOWN"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "silent", "SILENT"),
        (grpc.StatusCode.UNIMPLEMENTED, "up, tells no status", "NO_STATUS"),
    ],
)
def test_a_service_that_gives_no_status(
    mesh: FakeMesh, code: grpc.StatusCode, state: str, kind: str
) -> None:
    run = mesh.run("doctor")
    mesh.take(run, ADDRESSES["ledger"], RPC).break_off(code, "so it is")
    answer_all(mesh, run, "ledger")
    result = run.result(10)
    assert result.exit_code == 1
    assert f" {state} " in result.stdout
    assert f"{kind} ledger: " in result.stdout


def test_a_refusal_is_a_finding(mesh: FakeMesh) -> None:
    run = mesh.run("doctor")
    error = MeshError(Reason.INTERNAL, "an internal error, logged as 4711")
    mesh.take(run, ADDRESSES["wallet"], RPC).refuse(error, grpc.StatusCode.INTERNAL)
    answer_all(mesh, run, "wallet")
    result = run.result(10)
    assert result.exit_code == 1
    assert "FAILED wallet: " in result.stdout
    assert "logged as 4711" in result.stdout


def test_a_service_that_is_not_there_on_purpose(mesh: FakeMesh) -> None:
    run = mesh.run("doctor", "--without", "psp_stub")
    answer_all(mesh, run, "psp_stub")
    result = run.result(10)
    assert result.exit_code == 0
    assert ADDRESSES["psp_stub"] not in mesh.addresses


@pytest.mark.parametrize(
    "arguments",
    [
        ("--without", "bank"),
        tuple(f"--without={service}" for service in SERVICES),
        ("--older-than", "-1"),
        ("--older-than", "soon"),
        ("--older-than", "99999999999"),
        ("--target", "nowhere"),
    ],
)
def test_bad_arguments_ask_nobody(mesh: FakeMesh, arguments: tuple[str, ...]) -> None:
    assert mesh.run("doctor", *arguments).result(10).exit_code == 2
    assert not mesh.addresses
