"""Card numbers never enter the mesh: what looks like one is refused, unrepeated."""

from __future__ import annotations

import re
from collections.abc import Iterator

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from mesh.errors import MeshError, Reason, Violation

_MIN_DIGITS = 13
_MAX_DIGITS = 19

# A cheap look at the serialized message: without 13 digits in a row (spaces and dashes
# aside) no field can hold a card number, and no field needs to be visited.
_CANDIDATE = re.compile(rb"(?:[0-9][ \-]*){13}")
_SHAPE = re.compile(r"[0-9](?:[ \-]*[0-9]){12,18}")

# Issuer ranges by their first digits (ISO/IEC 7812): Visa, Mastercard (both), American
# Express, Discover, Diners, JCB, UnionPay, Maestro.
_ISSUERS = re.compile(
    r"4|5[1-5]|2(?:22[1-9]|2[3-9]|[3-6]|7[01]|720)|3[47]|6011|64[4-9]|65|30[0-5]|3[689]|35|62"
    r"|50|5[6-9]|6[0-9]"
)


def looks_like_card_number(text: str) -> bool:
    """13 to 19 digits with a right Luhn digit, spaces and dashes ignored."""
    if not _SHAPE.fullmatch(text.strip()):
        return False
    digits = [int(c) for c in text if c.isdecimal()]
    if not _MIN_DIGITS <= len(digits) <= _MAX_DIGITS:
        return False
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def looks_like_issued_card_number(text: str) -> bool:
    """The same, and within an issuer's range: for fields where long numbers are usual."""
    return looks_like_card_number(text) and _ISSUERS.match(text.strip()) is not None


def refuse_card_numbers(message: Message) -> MeshError | None:
    """The refusal of a message with a card number in any string field, or None.

    A field called payment_method needs the Luhn digit only; any other also an issuer's
    range. The refusal names the field and never repeats the value.
    """
    if not _CANDIDATE.search(message.SerializeToString()):
        return None
    violations = [
        Violation(path, "must not be a card number")
        for path, name, text in _strings(message, "")
        if (
            looks_like_card_number(text)
            if name == "payment_method"
            else looks_like_issued_card_number(text)
        )
    ]
    if not violations:
        return None
    return MeshError(
        Reason.CARD_NUMBER_REFUSED,
        "a field holds what looks like a card number; send the PSP's token instead",
        violations=violations,
    )


def _strings(message: Message, prefix: str) -> Iterator[tuple[str, str, str]]:
    """Every string in the message with its path and its field's name."""
    for field, value in message.ListFields():
        path = f"{prefix}{field.name}"
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            for key, item in value.items():
                # The key may be the card number, so the path does not show it.
                yield path, field.name, str(key)
                yield path, field.name, str(item)
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            repeated = field.is_repeated
            for index, item in enumerate(value if repeated else [value]):
                yield from _strings(item, f"{path}[{index}]." if repeated else f"{path}.")
        elif field.type == FieldDescriptor.TYPE_STRING:
            for text in value if field.is_repeated else [value]:
                yield path, field.name, text
