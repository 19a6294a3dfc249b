"""The family of errors, as google.rpc.Status and back."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import (
    CODE_OF_REASON,
    Code,
    MeshError,
    Reason,
    Violation,
    dependency_down,
    outcome_unknown,
    validation_failed,
)
from mesh.status import STATUS_DETAILS_KEY, code, from_rpc_error, from_status, to_status

# gRPC's default for the trailers that a client takes.
TRAILER_BYTES = 8 * 1024


def status(reason: str = "", domain: str = "paymesh", number: int = 3) -> status_pb2.Status:
    found = status_pb2.Status(code=number, message="text")
    detail = found.details.add()
    detail.Pack(error_details_pb2.ErrorInfo(reason=reason, domain=domain, metadata={"a": "b"}))
    return found


def rpc_error(number: grpc.StatusCode, *trailers: tuple[str, Any]) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(
        number, grpc.aio.Metadata(), grpc.aio.Metadata(*trailers), details="text"
    )


def test_every_reason_has_a_code_that_is_a_failure() -> None:
    assert set(CODE_OF_REASON) == set(Reason)
    assert Code.OK not in CODE_OF_REASON.values()


def test_codes_are_those_of_grpc() -> None:
    assert {item.name: item.value for item in Code} == {
        item.name: item.value[0] for item in grpc.StatusCode
    }


def test_reasons_are_called_what_they_say() -> None:
    assert {reason.value for reason in Reason if reason} == {
        reason.name for reason in Reason if reason
    }


def test_codes_of_the_contract() -> None:
    contract = {
        Code.INVALID_ARGUMENT: {
            "VALIDATION_FAILED",
            "CARD_NUMBER_REFUSED",
            "UNKNOWN_CURRENCY",
            "FILE_TOO_LARGE",
            "UNSUPPORTED_FORMAT",
        },
        Code.ALREADY_EXISTS: {"REQUEST_ID_REUSED", "OPERATION_CONFLICT"},
        Code.NOT_FOUND: {
            "PAYMENT_NOT_FOUND",
            "SOURCE_NOT_FOUND",
            "FILE_NOT_FOUND",
            "RUN_NOT_FOUND",
            "SETTLEMENT_NOT_READY",
            "SETTLEMENT_FILE_NOT_FOUND",
            "BREAK_NOT_FOUND",
        },
        Code.FAILED_PRECONDITION: {"WRONG_STATE", "SETTLEMENT_FILE_MISSING"},
        Code.RESOURCE_EXHAUSTED: {"OVERLOADED"},
        Code.UNAVAILABLE: {"DEPENDENCY_DOWN"},
        Code.ABORTED: {"OUTCOME_UNKNOWN"},
        Code.INTERNAL: {"INTERNAL"},
        Code.UNKNOWN: {""},
    }
    assert {
        stated: {reason.value for reason in Reason if CODE_OF_REASON[reason] is stated}
        for stated in contract
    } == contract


def test_only_what_will_never_pass_is_permanent() -> None:
    """What is permanent parks an order; a failure that may pass must never be among it."""
    transient = {
        Reason.UNSPECIFIED,
        Reason.OVERLOADED,
        Reason.DEPENDENCY_DOWN,
        Reason.OUTCOME_UNKNOWN,
        Reason.INTERNAL,
        Reason.SETTLEMENT_FILE_MISSING,
        # Files come with the days.
        Reason.SETTLEMENT_NOT_READY,
        Reason.SETTLEMENT_FILE_NOT_FOUND,
    }
    assert {reason for reason in Reason if not MeshError(reason, "").is_permanent} == transient


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_survives_the_way(reason: Reason) -> None:
    error = MeshError(
        reason,
        "text",
        {"fields": "a,b"} if reason else {},
        (Violation("orders[0].amount", "is too little"), Violation("", "contradicts itself")),
        retry_delay_s=1.25,
    )
    told = to_status(error)
    found = from_status(told)
    assert (found.reason, found.message, found.metadata, found.violations) == (
        error.reason,
        error.message,
        error.metadata,
        error.violations,
    )
    assert found.retry_delay_s == error.retry_delay_s
    assert found.code is error.code is CODE_OF_REASON[reason]
    assert to_status(found) == told


@given(
    st.builds(
        MeshError,
        st.sampled_from([reason for reason in Reason if reason]),
        st.text(max_size=500),
        st.dictionaries(st.text(max_size=20), st.text(max_size=50), max_size=3),
        st.lists(st.builds(Violation, st.text(max_size=20), st.text(max_size=30)), max_size=10),
        st.none() | st.integers(0, 10**9).map(lambda ms: ms / 1000),
    )
)
def test_all_of_an_error_survives_the_way(error: MeshError) -> None:
    found = from_status(status_pb2.Status.FromString(to_status(error).SerializeToString()))
    assert (found.reason, found.message, found.metadata) == (
        error.reason,
        error.message,
        error.metadata,
    )
    assert list(found.violations) == list(error.violations)
    assert found.retry_delay_s == error.retry_delay_s


@pytest.mark.parametrize(
    "foreign",
    [
        status("VALIDATION_FAILED", domain="googleapis.com"),
        status("VALIDATION_FAILED", domain=""),
        status("A_REASON_OF_TOMORROW"),
        status(""),
        status_pb2.Status(code=3, message="text"),
    ],
)
def test_a_reason_that_is_not_ours_is_none(foreign: status_pb2.Status) -> None:
    found = from_status(foreign)
    assert found.reason is Reason.UNSPECIFIED
    assert not found.is_permanent
    assert found.code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "detail",
    [
        any_pb2.Any(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff\xff"),
        any_pb2.Any(type_url="type.googleapis.com/google.rpc.BadRequest", value=b"\x0a"),
        any_pb2.Any(type_url="type.googleapis.com/google.rpc.RetryInfo", value=b"\x00"),
        any_pb2.Any(type_url="type.googleapis.com/no.such.Type", value=b"\x01"),
        any_pb2.Any(type_url="", value=b"\x01"),
    ],
)
def test_details_that_cannot_be_read_are_left_out(detail: any_pb2.Any) -> None:
    told = status("WRONG_STATE", number=9)
    told.details.insert(0, detail)
    found = from_status(told)
    assert (found.reason, found.code) == (Reason.WRONG_STATE, Code.FAILED_PRECONDITION)


@pytest.mark.parametrize(("number", "stated"), [(0, Code.UNKNOWN), (17, Code.UNKNOWN), (-1, 2)])
def test_a_code_that_is_no_failure_is_unknown(number: int, stated: int) -> None:
    """OK beside an error is a peer's bug, and must not end our own call as a success."""
    found = from_status(status("WRONG_STATE", number=number))
    assert found.code == stated
    assert to_status(found).code == stated


def test_a_delay_of_any_kind() -> None:
    for seconds, nanos in ((2**62, 0), (-5, -1), (0, 999_999_999)):
        told = status_pb2.Status(code=8)
        delay = duration_pb2.Duration(seconds=seconds, nanos=nanos)
        told.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
        assert from_status(told).retry_delay_s == pytest.approx(seconds + nanos / 10**9, abs=0.001)


def test_a_broken_connection_has_no_reason() -> None:
    found = from_rpc_error(rpc_error(grpc.StatusCode.UNAVAILABLE))
    assert (found.reason, found.code, found.message) == (
        Reason.UNSPECIFIED,
        Code.UNAVAILABLE,
        "text",
    )
    assert from_rpc_error(grpc.RpcError()).code is Code.UNKNOWN


@pytest.mark.parametrize(
    "value",
    [
        b"\xff\xff",
        b"",
        status("WRONG_STATE", number=9).SerializeToString(),  # of another answer
        "text",
    ],
)
def test_trailers_that_make_no_sense_are_no_reason(value: bytes | str) -> None:
    """grpc_status raises ValueError for a code that differs; a caller would crash on it."""
    error = rpc_error(grpc.StatusCode.RESOURCE_EXHAUSTED, (STATUS_DETAILS_KEY, value))
    found = from_rpc_error(error)
    assert (found.reason, found.code) == (Reason.UNSPECIFIED, Code.RESOURCE_EXHAUSTED)


def test_a_status_fits_into_the_trailers_of_any_client() -> None:
    """100 orders with all fields wrong: the reason arrives, and what is left out is counted."""
    error = validation_failed(
        *(
            Violation(f"orders[{i}].{field}", "must be at most 255 characters")
            for i in range(100)
            for field in ("seller_id", "amount", "commission", "reference")
        )
    )
    error.metadata = {"fields": ",".join(v.field for v in error.violations)}
    told = to_status(error)
    on_the_wire = 4 * told.ByteSize() / 3 + 3 * len(told.message)
    assert on_the_wire < TRAILER_BYTES
    found = from_status(told)
    assert found.reason is Reason.VALIDATION_FAILED
    shown = len(found.violations) - 1
    assert tuple(found.violations[:shown]) == tuple(error.violations[:shown])
    assert found.violations[shown] == Violation("", f"and {400 - shown} more violations")
    assert shown > 40
    long_message = MeshError(Reason.INTERNAL, "x" * 10_000)
    assert to_status(long_message).ByteSize() < 1_000


def test_texts() -> None:
    assert str(MeshError(Reason.WRONG_STATE, "no")) == "WRONG_STATE: no"
    assert str(MeshError(Reason.UNSPECIFIED, "no")) == "no"
    failed = validation_failed(Violation("a", "is wrong"), Violation("", "must make sense"))
    assert failed.message == "the request is not valid: a, must make sense"
    many = validation_failed(*(Violation(f"f{i}", "is wrong") for i in range(12)))
    assert many.message.endswith("f8, f9 and 2 more")
    assert len(many.violations) == 12
    assert dependency_down("the PSP").reason is Reason.DEPENDENCY_DOWN
    assert outcome_unknown("it was paid").reason is Reason.OUTCOME_UNKNOWN


def test_numbers_of_codes() -> None:
    assert code(5) is Code.NOT_FOUND
    assert code(99) is Code.UNKNOWN
