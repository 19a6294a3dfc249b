"""`paymesh check`, against a mesh that the test plays."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from paymesh.payment.v1 import check_mesh_pb2 as pb
from paymesh.payment.v1 import payment_service_pb2

from mesh.errors import MeshError, Reason, Violation, validation_failed
from paymeshctl import check, client
from tests.support.fake_channel import FakeMesh

PAYMENT = "127.0.0.1:50051"
CHECK = payment_service_pb2.DESCRIPTOR.services_by_name["PaymentService"].methods_by_name[
    "CheckMesh"
]
ID, ORDER, OPERATION = "a" * 32, "b" * 32, "c" * 32


def stamp(*parts: int) -> Timestamp:
    message = Timestamp()
    message.FromDatetime(datetime(*parts, tzinfo=UTC))  # type: ignore[misc, arg-type]
    return message


def finding(
    kind: pb.FindingKind.ValueType,
    finding_class: pb.FindingClass.ValueType,
    *,
    repaired: bool = False,
) -> pb.MeshFinding:
    return pb.MeshFinding(
        finding_class=finding_class,
        kind=kind,
        payment_id=ID,
        order_id=ORDER,
        operation_id=OPERATION,
        expected="90.00 EUR to alice[red]",
        found="none",
        repaired=repaired,
        advice="" if repaired else "Check again with repair.",
    )


MISSING = finding(pb.FINDING_KIND_MOVEMENT_MISSING, pb.FINDING_CLASS_MISSING_STEP)
MENDED = finding(pb.FINDING_KIND_JOURNAL_MISSING, pb.FINDING_CLASS_MISSING_STEP, repaired=True)
PARKED = finding(pb.FINDING_KIND_ORDER_PARKED, pb.FINDING_CLASS_APART)


def response(*findings: pb.MeshFinding, orders: int = 7) -> pb.CheckMeshResponse:
    return pb.CheckMeshResponse(
        findings=findings,
        payments=3,
        orders=orders,
        orders_under_way=1,
        checked_from_time=stamp(2026, 3, 1),
        checked_to_time=stamp(2026, 3, 2),
    )


def test_books_that_agree(mesh: FakeMesh) -> None:
    run = mesh.run("check", "--caller", "cron")
    call = mesh.take_stream(run, PAYMENT, CHECK)
    assert call.request == pb.CheckMeshRequest()
    assert call.metadata["paymesh-caller"] == "cron"
    assert call.timeout_s is None
    call.send(response(orders=4), response())
    call.end()
    result = run.result(10)
    assert result.exit_code == 0
    assert result.stdout == (
        "3 payments, 7 orders from 2026-03-01 00:00:00 to 2026-03-02 00:00:00; under way 1;"
        " findings 0, repaired 0; apart 0\n"
    )
    assert result.stderr == ""


def test_what_is_asked_is_passed_on(mesh: FakeMesh) -> None:
    run = mesh.run(
        *("check", "--from", "2026-03-01", "--to", "2026-03-02T12:00:00+02:00"),
        *("--repair", "--look-up", "--timeout", "9"),
    )
    call = mesh.take_stream(run, PAYMENT, CHECK)
    assert call.request == pb.CheckMeshRequest(
        create_time_from=stamp(2026, 3, 1),
        create_time_to=stamp(2026, 3, 2, 10),
        repair=True,
        look_up=True,
    )
    assert call.timeout_s == 9
    call.end()
    assert run.result(10).exit_code == 0


def test_findings_are_shown_with_their_ids_and_what_to_do(mesh: FakeMesh) -> None:
    run = mesh.run("check")
    call = mesh.take_stream(run, PAYMENT, CHECK)
    call.send(response(MISSING), response(MENDED, PARKED))
    call.end()
    result = run.result(10)
    assert result.exit_code == 1
    for text in (ID, ORDER, OPERATION, "MOVEMENT_MISSING", "90.00 EUR to alice[red]", "found none"):
        assert text in result.stdout
    assert "Check again with repair." in result.stdout
    assert "repaired" in result.stdout
    before, _, after = result.stdout.partition("apart: unknown or parked")
    assert "ORDER_PARKED" not in before
    assert "ORDER_PARKED" in after
    assert "findings 2, repaired 1; apart 1" in after


@pytest.mark.parametrize(
    ("found", "exit_code"), [([PARKED], 0), ([MENDED], 1), ([MISSING, PARKED], 1)]
)
def test_only_what_stands_apart_is_no_reason_for_a_bad_end(
    mesh: FakeMesh, found: list[pb.MeshFinding], exit_code: int
) -> None:
    run = mesh.run("check", "--json")
    call = mesh.take_stream(run, PAYMENT, CHECK)
    call.send(*(response(one) for one in found), response())
    call.end()
    result = run.result(10)
    assert result.exit_code == exit_code
    told = json.loads(result.stdout)
    assert [f["kind"] for f in told["findings"]] == [pb.FindingKind.Name(f.kind) for f in found]
    assert told["findings"][0]["payment_id"] == ID
    assert told["orders"] == 7


def test_how_far_it_is_is_told_beside_the_answer(
    mesh: FakeMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "PROGRESS_S", 0.0)
    run = mesh.run("check", "--json")
    call = mesh.take_stream(run, PAYMENT, CHECK)
    call.send(response(orders=4), response(orders=9))
    call.end()
    result = run.result(10)
    assert result.stderr.splitlines() == [
        "4 orders checked, back to 2026-03-01 00:00:00",
        "9 orders checked, back to 2026-03-01 00:00:00",
    ]
    assert json.loads(result.stdout)["orders"] == 9


@pytest.mark.parametrize(
    ("error", "code", "exit_code", "line"),
    [
        (
            MeshError(Reason.DEPENDENCY_DOWN, "the wallet can't be asked"),
            grpc.StatusCode.UNAVAILABLE,
            3,
            "error: DEPENDENCY_DOWN: the wallet can't be asked\n",
        ),
        (
            validation_failed(Violation("create_time_from", "must not be in the future")),
            grpc.StatusCode.INVALID_ARGUMENT,
            1,
            "create_time_from: must not be in the future\n",
        ),
    ],
)
def test_a_check_that_could_not_be_made_is_no_finding(
    mesh: FakeMesh, error: MeshError, code: grpc.StatusCode, exit_code: int, line: str
) -> None:
    run = mesh.run("check")
    call = mesh.take_stream(run, PAYMENT, CHECK)
    call.send(response())
    call.refuse(error, code)
    result = run.result(10)
    assert result.exit_code == exit_code
    assert result.stderr.endswith(line)
    assert result.stdout == ""


@pytest.mark.parametrize("time", ["yesterday", "2026-13-01", "12:00"])
def test_a_time_that_is_none_is_refused_at_once(mesh: FakeMesh, time: str) -> None:
    result = mesh.run("check", "--from", time).result(10)
    assert result.exit_code == 2
    assert repr(time) in result.stderr
    assert not mesh.addresses


def test_what_was_found_before_an_error_is_shown(
    mesh: FakeMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not by the fake channel, which forgets what was sent when the call ends with an error.
    def breaks_off(*_: object) -> Iterator[pb.CheckMeshResponse]:
        yield response(MENDED)
        raise MeshError(Reason.DEPENDENCY_DOWN, "gone")

    monkeypatch.setattr(client.Client, "check_mesh", breaks_off)
    result = mesh.run("check", "--repair").result(10)
    assert result.exit_code == 3
    assert OPERATION in result.stdout
    assert result.stderr == "error: DEPENDENCY_DOWN: gone\n"
