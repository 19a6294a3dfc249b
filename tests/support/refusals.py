"""What a call was refused with, read from the wire without any code of the mesh."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import grpc
from google.rpc import error_details_pb2, status_pb2

_DETAILS_KEY = "grpc-status-details-bin"


@dataclass(frozen=True)
class Refusal:
    """A status with its details. reason: empty where it carries none."""

    code: str
    message: str
    reason: str = ""
    domain: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    fields: tuple[str, ...] = ()
    retry_after_s: float | None = None
    everything: str = ""
    """All that came, as text."""


def refusal_of(error: grpc.RpcError) -> Refusal:
    """The refusal that a call ended with."""
    # What a synchronous client raises is both; the two declare `details` differently.
    call = cast("grpc.Call", error)
    trailers = {str(key): value for key, value in call.trailing_metadata() or ()}
    status = status_pb2.Status()
    status.ParseFromString(cast("bytes", trailers.get(_DETAILS_KEY, b"")))
    info = error_details_pb2.ErrorInfo()
    bad = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    for detail in status.details:
        # Each takes its own kind and leaves the others.
        detail.Unpack(info)
        detail.Unpack(bad)
        detail.Unpack(retry)
    if status.details:
        assert status.code == call.code().value[0], "code and details contradict each other"
        assert status.message == call.details(), "message and details contradict each other"
    return Refusal(
        code=call.code().name,
        message=call.details() or "",
        reason=info.reason,
        domain=info.domain,
        metadata=dict(info.metadata),
        fields=tuple(violation.field for violation in bad.field_violations),
        retry_after_s=(
            retry.retry_delay.ToMilliseconds() / 1000 if retry.HasField("retry_delay") else None
        ),
        everything=f"{error!r} {call.details()} {trailers} {info} {bad}",
    )


def refused(call: Callable[[], object]) -> Refusal:
    """What the call is refused with; AssertionError if it is answered."""
    try:
        answer = call()
    except grpc.RpcError as error:
        return refusal_of(error)
    raise AssertionError(f"the call was answered: {answer}")
