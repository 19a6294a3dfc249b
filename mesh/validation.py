"""Messages against the rules in their protos (protovalidate), as errors of the mesh."""

from __future__ import annotations

import protovalidate
from google.protobuf.message import Message

from mesh.errors import MeshError, Violation, validation_failed

MAX_REQUEST_BYTES = 1024 * 1024
"""Above every valid request (a payment of 100 orders with all fields full is some
400 kB), below what the transport takes: so that too large has a typed answer."""


def check(message: Message) -> MeshError | None:
    """The refusal of a message that breaks its rules, naming each field, or None."""
    violations = protovalidate.collect_violations(message)
    if not violations:
        return None
    return validation_failed(
        *(Violation(_path(v.proto), v.proto.message or v.proto.rule_id) for v in violations)
    )


def check_size(message: Message) -> MeshError | None:
    """The refusal of a message that is larger than any valid one, or None."""
    if message.ByteSize() <= MAX_REQUEST_BYTES:
        return None
    return validation_failed(Violation("", f"the request is larger than {MAX_REQUEST_BYTES} bytes"))


def _path(violation: protovalidate.ViolationPb) -> str:
    """`orders[0].amount.currency_code`. Keys of maps are the caller's text: not shown."""
    path = ""
    for element in violation.field.elements if violation.field else ():
        path += f".{element.field_name}" if path else element.field_name
        if element.subscript is not None and element.subscript.field == "index":
            path += f"[{element.subscript.value}]"
    return path
