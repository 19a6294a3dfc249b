"""`paymesh settle fetch` and `paymesh stub …`, against a mesh that the test plays."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from paymesh.psp.v1 import psp_service_pb2 as pb
from paymesh.psp.v1 import psp_stub_control_service_pb2 as stub_pb
from paymesh.reconciliation.v1 import reconciliation_service_pb2 as reconciliation_pb
from typer.testing import Result

from mesh.errors import MeshError, Reason, Violation, validation_failed
from tests.support.fake_channel import FakeMesh, TakenStream

STUB = "127.0.0.1:50055"
LEDGER = "127.0.0.1:50054"
PSP_RPC = pb.DESCRIPTOR.services_by_name["PspService"].methods_by_name
CONTROL_RPC = stub_pb.DESCRIPTOR.services_by_name["PspStubControlService"].methods_by_name
CLOSE_RPC = reconciliation_pb.DESCRIPTOR.services_by_name["ReconciliationService"].methods_by_name[
    "CloseDay"
]
CLOSE = ("--source", "psp_stub", "--actor", "ada")
FETCH = ("settle", "fetch", "--date", "2026-03-01")
HEADER = pb.GetSettlementFileResponse(
    header=pb.SettlementFileHeader(
        settlement_date="2026-03-01",
        format="paymesh.settlement.v1",
        revision=2,
        file_name="../../etc/day.csv",
    )
)
CHUNKS = [pb.GetSettlementFileResponse(chunk=chunk) for chunk in (b"a\r\n", b"\xff\x00b\r\n")]
CONTENT = b"a\r\n\xff\x00b\r\n"


def begin(mesh: FakeMesh, *more: str) -> tuple[Future[Result], TakenStream]:
    run = mesh.run(*FETCH, *more)
    return run, mesh.take_stream(run, STUB, PSP_RPC["GetSettlementFile"])


def fetched(mesh: FakeMesh, *more: str) -> tuple[Result, pb.GetSettlementFileRequest]:
    run, call = begin(mesh, *more)
    call.send(HEADER, *CHUNKS)
    call.end()
    return run.result(10), call.request


# --- settle fetch ----------------------------------------------------------------------


def test_a_file_goes_to_standard_output_byte_by_byte(mesh: FakeMesh) -> None:
    result, request = fetched(mesh)
    assert (result.exit_code, result.stdout_bytes) == (0, CONTENT)
    assert request == pb.GetSettlementFileRequest(settlement_date="2026-03-01")
    assert mesh.timeouts[-1] == 300


def test_what_was_typed_is_asked_for(mesh: FakeMesh) -> None:
    _, request = fetched(
        mesh, "--source", "psp_stub", "--format", "camt.053", "--revision", "0", "--timeout", "7"
    )
    assert request == pb.GetSettlementFileRequest(
        settlement_date="2026-03-01", format="camt.053", revision=0
    )
    assert mesh.timeouts[-1] == 7


def test_a_file_is_written_and_told(mesh: FakeMesh, tmp_path: Path) -> None:
    out = tmp_path / "day.csv"
    out.write_text("an older one")
    result, _ = fetched(mesh, "--out", str(out), "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {
        "settlement_date": "2026-03-01",
        "format": "paymesh.settlement.v1",
        "revision": 2,
        "file_name": "../../etc/day.csv",
        "file": str(out),
        "bytes": len(CONTENT),
        "sha256": hashlib.sha256(CONTENT).hexdigest(),
    }
    assert out.read_bytes() == CONTENT
    assert list(tmp_path.iterdir()) == [out]


def test_in_a_folder_it_has_its_own_name_and_no_other_folder(
    mesh: FakeMesh, tmp_path: Path
) -> None:
    result, _ = fetched(mesh, "--out", str(tmp_path))
    assert result.exit_code == 0
    assert (tmp_path / "day.csv").read_bytes() == CONTENT
    assert f"{len(CONTENT)} bytes, revision 2" in result.stdout.replace("\n", " ")


def test_a_file_that_breaks_off_is_not_written(mesh: FakeMesh, tmp_path: Path) -> None:
    out = tmp_path / "day.csv"
    out.write_text("an older one")
    run, call = begin(mesh, "--out", str(out))
    call.send(HEADER, CHUNKS[0])
    call.refuse(
        MeshError(Reason.DEPENDENCY_DOWN, "the database is away"), grpc.StatusCode.UNAVAILABLE
    )
    result = run.result(10)
    assert result.exit_code == 3
    assert "DEPENDENCY_DOWN" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["day.csv"]
    assert out.read_text() == "an older one"


@pytest.mark.parametrize(
    ("error", "code", "exit_code"),
    [
        (
            MeshError(
                Reason.SETTLEMENT_NOT_READY, "not over", {"ready_time": "2026-03-02T00:00:00Z"}
            ),
            grpc.StatusCode.NOT_FOUND,
            1,
        ),
        (
            MeshError(Reason.SETTLEMENT_FILE_NOT_FOUND, "there is none"),
            grpc.StatusCode.NOT_FOUND,
            1,
        ),
        (
            MeshError(Reason.UNSUPPORTED_FORMAT, "there is no such format"),
            grpc.StatusCode.INVALID_ARGUMENT,
            1,
        ),
        (
            validation_failed(Violation("settlement_date", "must be a day")),
            grpc.StatusCode.INVALID_ARGUMENT,
            1,
        ),
    ],
)
def test_a_refusal_is_told_with_its_reason(
    mesh: FakeMesh, error: MeshError, code: grpc.StatusCode, exit_code: int
) -> None:
    run, call = begin(mesh, "--json", "--out", "never-written.csv")
    call.refuse(error, code)
    result = run.result(10)
    assert result.exit_code == exit_code
    told = json.loads(result.stdout)["error"]
    assert told["reason"] == error.reason
    assert told.get("metadata", {}) == dict(error.metadata)
    assert not Path("never-written.csv").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--source", "adyen"), "UNKNOWN_SOURCE"),
        (("--json",), "--json needs --out"),
        (("--revision", "-1"), "revision"),
        (("--target", "nowhere"), "HOST:PORT_BASE"),
        (("--date", "tomorrow"), "is not a day"),
    ],
)
def test_bad_arguments_ask_nobody(mesh: FakeMesh, more: tuple[str, ...], said: str) -> None:
    result = mesh.run(*FETCH, *more).result(10)
    assert result.exit_code == 2
    assert said in result.output
    assert mesh.addresses == []


def test_a_place_that_can_not_be_written(mesh: FakeMesh, tmp_path: Path) -> None:
    run, call = begin(mesh, "--out", str(tmp_path / "no folder" / "day.csv"))
    call.send(HEADER, *CHUNKS)
    call.end()
    result = run.result(10)
    assert result.exit_code == 2
    assert "FILE_NOT_WRITABLE" in result.stderr


def test_a_day_may_be_a_word(mesh: FakeMesh) -> None:
    before = datetime.now(UTC).date()
    _, request = fetched(mesh, "--date", "today")
    assert request.settlement_date in {str(before), str(datetime.now(UTC).date())}


def test_a_day_is_closed_by_a_word(mesh: FakeMesh) -> None:
    before = datetime.now(UTC).date()
    run = mesh.run("reconcile", "close", *CLOSE, "--date", "yesterday")
    call = mesh.take(run, LEDGER, CLOSE_RPC)
    call.answer(reconciliation_pb.CloseDayResponse())
    assert run.result(10).exit_code == 0
    days = {str(day - timedelta(days=1)) for day in (before, datetime.now(UTC).date())}
    assert call.request.settlement_date in days


def test_a_day_that_is_none_is_not_closed(mesh: FakeMesh) -> None:
    result = mesh.run("reconcile", "close", *CLOSE, "--date", "tomorrow").result(10)
    assert result.exit_code == 2
    assert "'tomorrow' is not a day" in result.stderr


# --- stub ------------------------------------------------------------------------------

DAY = stub_pb.StubSettlementDay(
    settlement_date="2026-03-01",
    revision=1,
    statements=[
        stub_pb.StubStatement(
            currency_code="BHD",
            captures=3,
            opening_minor=-1,
            gross_minor=12_345,
            fee_minor=45,
            transfer_minor=12_299,
            transfer_reference="stub_tr_BHD_00000007",
        )
    ],
    faults=[
        stub_pb.StubFault(
            kind=stub_pb.STUB_FAULT_KIND_FEE_DIFFERS, currency_code="BHD", count=5, applied=3
        )
    ],
)


@pytest.mark.parametrize("given", [(), ("--date", "2026-03-01")])
def test_a_day_is_closed_and_shown(mesh: FakeMesh, given: tuple[str, ...]) -> None:
    run = mesh.run("stub", "close-day", *given)
    call = mesh.take(run, STUB, CONTROL_RPC["CloseDay"])
    assert call.request == stub_pb.CloseDayRequest(settlement_date=given[1] if given else None)
    assert call.timeout_s == 300
    call.answer(stub_pb.CloseDayResponse(day=DAY, closed_days=1))
    result = run.result(10)
    assert result.exit_code == 0
    for text in ("2026-03-01", "-0.001", "12.345", "12.299", "stub_tr_BHD_00000007"):
        assert text in result.stdout
    assert "fee-differs in BHD, ordered 5 times, applied 3 times" in result.stdout


def test_a_day_is_sent_again(mesh: FakeMesh) -> None:
    run = mesh.run("stub", "resend-day", "--date", "2026-03-01", "--json")
    call = mesh.take(run, STUB, CONTROL_RPC["ResendDay"])
    assert call.request == stub_pb.ResendDayRequest(settlement_date="2026-03-01")
    call.answer(stub_pb.ResendDayResponse(day=DAY))
    told = json.loads(run.result(10).stdout)
    assert told["day"]["revision"] == 1


def test_a_fault_is_ordered(mesh: FakeMesh) -> None:
    run = mesh.run(
        *("stub", "seed", "Amount-differs", "--count", "2", "--date", "2026-03-01"),
        *("--currency", "JPY", "--by", "7"),
    )
    call = mesh.take(run, STUB, CONTROL_RPC["SeedFault"])
    assert call.request == stub_pb.SeedFaultRequest(
        kind=stub_pb.STUB_FAULT_KIND_AMOUNT_DIFFERS,
        count=2,
        settlement_date="2026-03-01",
        currency_code="JPY",
        amount_minor=7,
    )
    fault = stub_pb.StubFault(
        kind=stub_pb.STUB_FAULT_KIND_AMOUNT_DIFFERS,
        settlement_date="2026-03-01",
        currency_code="JPY",
        count=2,
    )
    call.answer(stub_pb.SeedFaultResponse(fault=fault))
    result = run.result(10)
    assert result.exit_code == 0
    assert result.stdout == "2026-03-01: amount-differs 2 times in JPY\n"


def test_a_kind_that_there_is_not_names_those_that_there_are(mesh: FakeMesh) -> None:
    result = mesh.run("stub", "seed", "nonsense").result(10)
    assert result.exit_code == 2
    assert "missing_line" in result.output
    assert "unspecified" not in result.output
    assert mesh.addresses == []


def test_the_verbs_say_that_they_are_for_tests(mesh: FakeMesh) -> None:
    assert "tests and demos" in mesh.run("--help").result(10).output
    shown = "".join(mesh.run("stub", "seed", "--help").result(10).output.split())
    assert "ambiguous-lines" in shown.replace("│", "")
