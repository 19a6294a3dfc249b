"""The family of errors as google.rpc.Status and back, in one place.

An error that arrives without a reason of ours (a dropped connection, a client's own
deadline) says nothing about the effect: it becomes `Reason.UNSPECIFIED`.
"""

from __future__ import annotations

from typing import Any, NoReturn

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from mesh.errors import Code, MeshError, Reason, Violation

DOMAIN = "paymesh"
STATUS_DETAILS_KEY = "grpc-status-details-bin"

_GRPC_CODE = {code.value[0]: code for code in grpc.StatusCode}


def to_status(error: MeshError) -> status_pb2.Status:
    """The error as a google.rpc.Status with its details."""
    details: list[any_pb2.Any] = []
    if error.reason:
        info = error_details_pb2.ErrorInfo(
            reason=error.reason.value, domain=DOMAIN, metadata=dict(error.metadata)
        )
        details.append(_pack(info))
    if error.violations:
        details.append(
            _pack(
                error_details_pb2.BadRequest(
                    field_violations=[
                        error_details_pb2.BadRequest.FieldViolation(
                            field=violation.field, description=violation.description
                        )
                        for violation in error.violations
                    ]
                )
            )
        )
    if error.retry_delay_s is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(round(error.retry_delay_s * 1000))
        details.append(_pack(error_details_pb2.RetryInfo(retry_delay=delay)))
    return status_pb2.Status(code=error.code.value, message=error.message, details=details)


def from_status(status: status_pb2.Status) -> MeshError:
    """The error that a google.rpc.Status tells. A reason that is not ours is no reason."""
    reason = Reason.UNSPECIFIED
    metadata: dict[str, str] = {}
    violations: list[Violation] = []
    retry_delay_s: float | None = None
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        bad_request = error_details_pb2.BadRequest()
        retry_info = error_details_pb2.RetryInfo()
        if detail.Unpack(info) and info.domain == DOMAIN:
            reason = _reason(info.reason)
            metadata = dict(info.metadata)
        elif detail.Unpack(bad_request):
            violations = [Violation(v.field, v.description) for v in bad_request.field_violations]
        elif detail.Unpack(retry_info):
            retry_delay_s = retry_info.retry_delay.ToMilliseconds() / 1000
    return MeshError(
        reason, status.message, metadata, tuple(violations), retry_delay_s, code(status.code)
    )


def from_rpc_error(error: grpc.RpcError) -> MeshError:
    """The error of a failed call, of a synchronous or an asyncio client."""
    if not isinstance(error, grpc.aio.AioRpcError | grpc.Call):
        return MeshError(Reason.UNSPECIFIED, "the call failed")
    status = rpc_status.from_call(error)  # type: ignore[arg-type]  # the stubs know no aio
    if status is not None:
        return from_status(status)
    number: int = error.code().value[0]
    return MeshError(
        Reason.UNSPECIFIED, error.details() or error.code().name, peer_code=code(number)
    )


def trailing_metadata(error: MeshError) -> tuple[tuple[str, bytes], ...]:
    """The metadata entry that carries the error's details beside code and message."""
    return ((STATUS_DETAILS_KEY, to_status(error).SerializeToString()),)


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: MeshError) -> NoReturn:
    """Ends the call with the error (`abort`, which tracing sees, not abort_with_status)."""
    await context.abort(_GRPC_CODE[error.code.value], error.message, trailing_metadata(error))
    raise AssertionError("abort returned")


def code(number: int) -> Code:
    """The code of this number; UNKNOWN for a number that is none."""
    try:
        return Code(number)
    except ValueError:
        return Code.UNKNOWN


def _pack(message: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed


def _reason(text: str) -> Reason:
    try:
        return Reason(text)
    except ValueError:
        return Reason.UNSPECIFIED
