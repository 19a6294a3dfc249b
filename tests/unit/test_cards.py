"""Card numbers are refused wherever they are, and never repeated."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import given
from hypothesis import strategies as st
from paymesh.ledger.v1 import ledger_service_pb2
from paymesh.payment.v1 import payment_service_pb2 as pb
from paymesh.psp.v1 import psp_service_pb2 as psp_pb
from paymesh.wallet.v1 import wallet_service_pb2

from mesh.cards import (
    looks_like_card_number,
    looks_like_issued_card_number,
    refuse_card_numbers,
)
from mesh.errors import Code, Reason
from mesh.status import to_status

VISA = "4111111111111111"
NOT_ISSUED = "9999999999999995"  # Luhn holds, and no issuer has it

# What card schemes publish for tests, with a card of each length and range.
TEST_CARDS = [
    VISA,
    "4222222222222",  # Visa, 13 digits
    "4000000000000000006",  # Visa, 19 digits
    "5555555555554444",
    "5105105105105100",
    "2223003122003222",  # Mastercard's second range, from its beginning …
    "2720990000000007",  # … to its end
    "378282246310005",  # American Express
    "341111111111111",
    "6011111111111117",  # Discover
    "6500000000000002",
    "6440000000000005",
    "30569309025904",  # Diners
    "38520000023237",
    "36227206271667",
    "3095000000000000",
    "3530111333300000",  # JCB
    "3589000000000003",
    "6200000000000005",  # UnionPay
    "6759649826438453",  # Maestro
    "5018000000000009",
    "2200000000000004",  # Mir
]


@pytest.mark.parametrize("number", TEST_CARDS)
def test_cards_of_all_issuers(number: str) -> None:
    assert looks_like_card_number(number)
    assert looks_like_issued_card_number(number)


@pytest.mark.parametrize(
    "text",
    [
        "4111 1111 1111 1111",
        "4111-1111-1111-1111",
        " 4111 - 1111 -- 1111  1111 ",
        "-4111111111111111-",
        "4111\t1111\n11111111",
        "4111\u00a01111\u00a01111\u00a01111",  # no-break spaces, as web pages have them
        "4111\u20111111\u20131111\u22121111",  # other dashes, and a minus
        "\u200e4111\u200b111111111111\ufeff",  # marks without width
        "".join(chr(0xFF10 + int(digit)) for digit in VISA),  # full width
        "".join(chr(0x0660 + int(digit)) for digit in VISA),  # Arabic-Indic
        "".join(chr(0x0966 + int(digit)) for digit in VISA),  # Devanagari
    ],
)
def test_spaces_dashes_and_scripts_hide_nothing(text: str) -> None:
    assert looks_like_issued_card_number(text)
    request = pb.GetPaymentRequest(request_id=text)
    assert refuse_card_numbers(request) is not None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "4111111111111112",  # Luhn
        "411111111111",  # 12 digits
        "41111111111111111111",  # 20 digits
        VISA + "x",
        "tok_" + VISA,
        "4111.1111.1111.1111",
        "4111/1111/1111/1111",
        "4111_1111_1111_1111",
        "\u00b9" * 16,  # superscripts are no digits of a number
        "XVI" * 6,
    ],
)
def test_what_is_no_card_number(text: str) -> None:
    assert not looks_like_card_number(text)


@pytest.mark.parametrize(
    "text",
    [
        "1111111111111117",
        "2220999999999991",  # between Mir and Mastercard
        "2721000000000004",
        "3527000000000008",
        "3590000000000000",
        "3060000000000001",
        "1700000000000000004",  # like a time in nanoseconds
        NOT_ISSUED,
    ],
)
def test_long_numbers_of_no_issuer_are_only_refused_as_payment_method(text: str) -> None:
    assert looks_like_card_number(text)
    assert not looks_like_issued_card_number(text)
    assert refuse_card_numbers(pb.CreatePaymentRequest(buyer_id=text)) is None
    refused = refuse_card_numbers(pb.CreatePaymentRequest(payment_method=text))
    assert refused is not None


@given(
    st.text("0123456789", min_size=12, max_size=18),
    st.lists(st.sampled_from(" -"), min_size=19, max_size=19),
    st.integers(1, 9),
)
def test_luhn(digits: str, separators: list[str], error: int) -> None:
    # The check digit makes the sum a multiple of ten, by the rule as the standard puts it.
    total = 0
    for position, digit in enumerate(reversed(digits)):
        weighted = int(digit) * (2 if position % 2 == 0 else 1)
        total += weighted if weighted < 10 else weighted - 9
    right = -total % 10
    number = digits + str(right)
    assert looks_like_card_number(number)
    assert looks_like_card_number("".join(map("".join, zip(number, separators, strict=False))))
    assert not looks_like_card_number(digits + str((right + error) % 10))


def test_ordinary_ids_are_no_card_numbers() -> None:
    for _ in range(2_000):
        value = uuid.uuid4()
        request = pb.CreatePaymentRequest(
            request_id=str(value), buyer_id=value.hex, payment_method=f"tok_{value.int}"
        )
        assert refuse_card_numbers(request) is None


def request_types() -> Iterator[Descriptor]:
    for file in (
        pb.DESCRIPTOR,
        wallet_service_pb2.DESCRIPTOR,
        ledger_service_pb2.DESCRIPTOR,
        psp_pb.DESCRIPTOR,
    ):
        for service in file.services_by_name.values():
            for method in service.methods:
                yield method.input_type


def with_text(kind: Descriptor, text: str) -> Iterator[tuple[str, Message]]:
    """For each string field of the type, at any depth: its path, and a message with the text."""
    for field in kind.fields:
        message = GetMessageClass(kind)()
        target = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            for pair in ({text: "value"}, {"key": text}):
                message = GetMessageClass(kind)()
                getattr(message, field.name).update(pair)
                yield field.name, message
        elif field.message_type is not None:
            for path, part in with_text(field.message_type, text):
                message = GetMessageClass(kind)()
                if field.is_repeated:
                    getattr(message, field.name).append(part)
                    yield f"{field.name}[0].{path}", message
                else:
                    getattr(message, field.name).CopyFrom(part)
                    yield f"{field.name}.{path}", message
        elif field.type == FieldDescriptor.TYPE_STRING:
            if field.is_repeated:
                target.extend(["harmless", text])
                yield f"{field.name}[1]", message
            else:
                setattr(message, field.name, text)
                yield field.name, message


@pytest.mark.parametrize("kind", list(request_types()), ids=lambda kind: kind.full_name)
def test_every_string_of_every_request(kind: Descriptor) -> None:
    """The path is named, the value is not: in the error, its status, or their texts."""
    for path, message in with_text(kind, VISA):
        refused = refuse_card_numbers(message)
        assert refused is not None, path
        assert (refused.reason, refused.code) == (Reason.CARD_NUMBER_REFUSED, Code.INVALID_ARGUMENT)
        assert [violation.field for violation in refused.violations] == [path]
        told = f"{refused} {refused!r} {to_status(refused)} {to_status(refused).details}"
        assert "1111" not in told
    for _, message in with_text(kind, "4111-1111 harmless"):
        assert refuse_card_numbers(message) is None


def test_each_field_with_a_card_number_is_named() -> None:
    request = pb.CreatePaymentRequest(
        request_id="r", buyer_id=VISA, payment_method=NOT_ISSUED, metadata={VISA: NOT_ISSUED}
    )
    request.orders.add(seller_id="harmless")
    request.orders.add(seller_id="harmless", reference="5555 5555 5555 4444")
    refused = refuse_card_numbers(request)
    assert refused is not None
    assert sorted(violation.field for violation in refused.violations) == [
        "buyer_id",
        "metadata",
        "orders[1].reference",
        "payment_method",
    ]
