"""The family of errors as google.rpc.Status and back, in one place.

An error that arrives without a reason of ours (a dropped connection, a client's own
deadline) says nothing about the effect: it becomes `Reason.UNSPECIFIED`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn, TypeVar

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from mesh.errors import Code, MeshError, Reason, Violation

DOMAIN = "paymesh"
STATUS_DETAILS_KEY = "grpc-status-details-bin"

# A client may refuse trailers of more than 8 KiB (gRPC's own default), and then sees
# neither reason nor code. So what can grow with the request is cut: together, with the
# third that base64 adds, this stays below.
_MAX_MESSAGE_CHARACTERS = 500
_MAX_METADATA_CHARACTERS = 1_000
_MAX_VIOLATIONS_BYTES = 3_000

_GRPC_CODE = {code.value[0]: code for code in grpc.StatusCode}

_FieldViolation = error_details_pb2.BadRequest.FieldViolation
_M = TypeVar("_M", bound=Message)


def to_status(error: MeshError) -> status_pb2.Status:
    """The error as a google.rpc.Status with its details.

    Where there are more violations than fit, the last one says how many are left out.
    """
    details: list[any_pb2.Any] = []
    if error.reason:
        info = error_details_pb2.ErrorInfo(
            reason=error.reason.value,
            domain=DOMAIN,
            metadata={k: _cut(v, _MAX_METADATA_CHARACTERS) for k, v in error.metadata.items()},
        )
        details.append(_pack(info))
    if error.violations:
        bad_request = error_details_pb2.BadRequest(field_violations=_fitting(error.violations))
        details.append(_pack(bad_request))
    if error.retry_delay_s is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(round(error.retry_delay_s * 1000))
        details.append(_pack(error_details_pb2.RetryInfo(retry_delay=delay)))
    return status_pb2.Status(
        code=_failure(error.code).value,
        message=_cut(error.message, _MAX_MESSAGE_CHARACTERS),
        details=details,
    )


def from_status(status: status_pb2.Status) -> MeshError:
    """The error that a google.rpc.Status tells. Never fails, whatever a peer sent.

    A reason that is not ours, and details that can't be read, are none.
    """
    reason = Reason.UNSPECIFIED
    metadata: dict[str, str] = {}
    violations: list[Violation] = []
    retry_delay_s: float | None = None
    for detail in status.details:
        if info := _unpack(detail, error_details_pb2.ErrorInfo):
            if info.domain == DOMAIN:
                reason = _reason(info.reason)
                metadata = dict(info.metadata)
        elif bad_request := _unpack(detail, error_details_pb2.BadRequest):
            violations = [Violation(v.field, v.description) for v in bad_request.field_violations]
        elif retry_info := _unpack(detail, error_details_pb2.RetryInfo):
            delay = retry_info.retry_delay
            retry_delay_s = (delay.seconds * 1000 + delay.nanos // 1_000_000) / 1000
    return MeshError(
        reason,
        status.message,
        metadata,
        tuple(violations),
        retry_delay_s,
        _failure(code(status.code)),
    )


def from_rpc_error(error: grpc.RpcError) -> MeshError:
    """The error of a failed call, of a synchronous or an asyncio client. Never fails."""
    if not isinstance(error, grpc.aio.AioRpcError | grpc.Call):
        return MeshError(Reason.UNSPECIFIED, "the call failed")
    number: int = error.code().value[0]
    for key, value in error.trailing_metadata() or ():
        if key == STATUS_DETAILS_KEY and isinstance(value, bytes):
            status = _parsed(value)
            # Another code is from something between us and the peer, which knows better
            # what became of the call: the details are then those of another answer.
            if status is not None and status.code == number:
                return from_status(status)
    message = error.details() or error.code().name
    return MeshError(Reason.UNSPECIFIED, message, peer_code=_failure(code(number)))


def trailing_metadata(error: MeshError) -> tuple[tuple[str, bytes], ...]:
    """The metadata entry that carries the error's details beside code and message."""
    return ((STATUS_DETAILS_KEY, to_status(error).SerializeToString()),)


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: MeshError) -> NoReturn:
    """Ends the call with the error (`abort`, which tracing sees, not abort_with_status)."""
    status = to_status(error)
    details = ((STATUS_DETAILS_KEY, status.SerializeToString()),)
    await context.abort(_GRPC_CODE[status.code], status.message, details)
    raise AssertionError("abort returned")


def code(number: int) -> Code:
    """The code of this number; UNKNOWN for a number that is none."""
    try:
        return Code(number)
    except ValueError:
        return Code.UNKNOWN


def _failure(stated: Code) -> Code:
    """An error with the code of a success is a bug of whoever sent it: UNKNOWN."""
    return Code.UNKNOWN if stated is Code.OK else stated


def _fitting(violations: Sequence[Violation]) -> list[_FieldViolation]:
    fitting: list[_FieldViolation] = []
    left = _MAX_VIOLATIONS_BYTES
    for violation in violations:
        item = _FieldViolation(field=violation.field, description=violation.description)
        left -= item.ByteSize()
        if left < 0:
            more = len(violations) - len(fitting)
            fitting.append(_FieldViolation(description=f"and {more} more violations"))
            break
        fitting.append(item)
    return fitting


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _pack(message: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed


def _unpack(detail: any_pb2.Any, kind: type[_M]) -> _M | None:
    """The detail if it is of this kind and can be read."""
    message = kind()
    try:
        return message if detail.Unpack(message) else None
    except DecodeError:
        return None


def _parsed(raw: bytes) -> status_pb2.Status | None:
    try:
        return status_pb2.Status.FromString(raw)
    except DecodeError:
        return None


def _reason(text: str) -> Reason:
    try:
        return Reason(text)
    except ValueError:
        return Reason.UNSPECIFIED
