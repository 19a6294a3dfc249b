"""Messages against the rules in their protos (protovalidate), as errors of the mesh."""

from __future__ import annotations

from functools import cache

import protovalidate
from buf.validate import validate_pb2
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from mesh.errors import MeshError, Violation, validation_failed

MAX_REQUEST_BYTES = 1024 * 1024
"""Above every valid request (a payment of 100 orders with all fields full is some
400 kB), below what the transport takes: so that too large has a typed answer."""


def check(message: Message) -> MeshError | None:
    """The refusal of a message that breaks its rules, naming each field, or None."""
    # Half a million empty orders fit into 1 MiB, and to find a million violations in them
    # takes a minute, in which nothing else is served: first the lengths, alone.
    too_long = [
        Violation(name, f"must have at most {most} items")
        for name, most in _bounded_lists(message.DESCRIPTOR)
        if len(getattr(message, name)) > most
    ]
    if too_long:
        return validation_failed(*too_long)
    violations = protovalidate.collect_violations(message)
    if not violations:
        return None
    return validation_failed(
        *(Violation(_path(v.proto), v.proto.message or v.proto.rule_id) for v in violations)
    )


def check_size(size_bytes: int) -> MeshError | None:
    """The refusal of a serialized message that is larger than any valid one, or None."""
    if size_bytes <= MAX_REQUEST_BYTES:
        return None
    return validation_failed(Violation("", f"the request is larger than {MAX_REQUEST_BYTES} bytes"))


@cache
def _bounded_lists(descriptor: Descriptor) -> tuple[tuple[str, int], ...]:
    """Of a message's own lists and maps, those with a greatest length, by name."""
    found: list[tuple[str, int]] = []
    for field in descriptor.fields:
        rules = field.GetOptions().Extensions[validate_pb2.field]
        if rules.repeated.HasField("max_items"):
            found.append((field.name, rules.repeated.max_items))
        elif rules.map.HasField("max_pairs"):
            found.append((field.name, rules.map.max_pairs))
    return tuple(found)


def _path(violation: protovalidate.ViolationPb) -> str:
    """`orders[0].amount.currency_code`. Keys of maps are the caller's text: not shown."""
    path = ""
    for element in violation.field.elements if violation.field else ():
        path += f".{element.field_name}" if path else element.field_name
        if element.subscript is not None and element.subscript.field == "index":
            path += f"[{element.subscript.value}]"
    return path
