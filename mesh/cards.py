"""Card numbers never enter the mesh: what looks like one is refused, unrepeated."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from mesh.errors import MeshError, Reason, Violation

_MIN_DIGITS = 13
_MAX_DIGITS = 19

# A cheap look at the serialized message: without a run of 13 digits, spaces and dashes no
# field can hold a card number, and no field needs to be visited. What is beyond ASCII may
# be either.
_CANDIDATE = re.compile(rb"[0-9\s\x1c-\x1f\-\x80-\xff]{13}")

# Issuer ranges by their first digits (ISO/IEC 7812): Visa; Mastercard (both); Mir;
# American Express; Diners; JCB; Maestro, which with 6 includes Discover and UnionPay.
_ISSUERS = re.compile(
    r"4"
    r"|5[1-5]|2(?:22[1-9]|2[3-9]|[3-6]|7[01]|720)"
    r"|220[0-4]"
    r"|3[47]"
    r"|30[0-59]|3[689]"
    r"|35(?:2[89]|[3-8])"
    r"|50|5[6-9]|6"
)

# What people and programs put between digits beside spaces: dashes, marks without width.
_IGNORED_CATEGORIES = frozenset({"Pd", "Cf"})
_MINUS = "\u2212"


def looks_like_card_number(text: str) -> bool:
    """13 to 19 digits with a right Luhn digit, spaces and dashes ignored, in any script."""
    return _card_digits(text) is not None


def looks_like_issued_card_number(text: str) -> bool:
    """The same, and within an issuer's range: for fields where long numbers are usual."""
    digits = _card_digits(text)
    return digits is not None and _ISSUERS.match(digits) is not None


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


def _card_digits(text: str) -> str | None:
    """The digits, in ASCII, of a text that is a card number and nothing else; or None."""
    digits = ""
    for character in text:
        if character.isdecimal():
            digits += str(unicodedata.decimal(character))
            if len(digits) > _MAX_DIGITS:
                return None
        elif not _is_ignored(character):
            return None
    return digits if len(digits) >= _MIN_DIGITS and _luhn_holds(digits) else None


def _is_ignored(character: str) -> bool:
    return (
        character.isspace()
        or character == _MINUS
        or unicodedata.category(character) in _IGNORED_CATEGORIES
    )


def _luhn_holds(digits: str) -> bool:
    numbers = [int(digit) for digit in digits]
    doubled = [sum(divmod(2 * number, 10)) for number in numbers[-2::-2]]
    return (sum(numbers[-1::-2]) + sum(doubled)) % 10 == 0


def _strings(message: Message, prefix: str) -> Iterator[tuple[str, str, str]]:
    """Every string in the message with its path and its field's name."""
    for field, value in message.ListFields():
        path = f"{prefix}{field.name}"
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            # The key may be the card number, so the path does not show it.
            for key, item in value.items():
                yield path, field.name, str(key)
                if isinstance(item, Message):
                    yield from _strings(item, f"{path}.")
                else:
                    yield path, field.name, str(item)
            continue
        for index, item in enumerate(value if field.is_repeated else [value]):
            item_path = f"{path}[{index}]" if field.is_repeated else path
            if field.type == FieldDescriptor.TYPE_MESSAGE:
                yield from _strings(item, f"{item_path}.")
            elif field.type == FieldDescriptor.TYPE_STRING:
                yield item_path, field.name, item
