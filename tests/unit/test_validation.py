"""Messages against the rules in their protos: which field, and never which value."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from buf.validate import validate_pb2
from google.protobuf.descriptor import Descriptor
from hypothesis import given
from hypothesis import strategies as st
from paymesh.executor.v1 import executor_service_pb2
from paymesh.ledger.v1 import ledger_posting_service_pb2, ledger_service_pb2
from paymesh.payment.v1 import payment_pb2
from paymesh.payment.v1 import payment_service_pb2 as pb
from paymesh.psp.v1 import psp_service_pb2
from paymesh.wallet.v1 import wallet_posting_service_pb2, wallet_service_pb2

from mesh.errors import Code, MeshError, Reason
from mesh.status import to_status
from mesh.validation import MAX_REQUEST_BYTES, check, check_size

MAX_AMOUNT = 10**15 - 1
LONG = "ä" * 255
TOO_LONG = "Canary" + "x" * 250


def order(**change: object) -> pb.NewOrder:
    made = pb.NewOrder(seller_id="seller", reference="reference")
    made.amount.amount_minor, made.amount.currency_code = 100, "EUR"
    for name, value in change.items():
        setattr(made, name, value)
    return made


def payment(*orders: pb.NewOrder, **change: str) -> pb.CreatePaymentRequest:
    made = pb.CreatePaymentRequest(request_id="r", buyer_id="b", payment_method="tok_ok")
    made.orders.extend(orders or [order()])
    for name, value in change.items():
        setattr(made, name, value)
    return made


def with_commission(amount: int, currency: str = "EUR", *, of: int = 100) -> pb.NewOrder:
    made = order()
    made.amount.amount_minor = of
    made.commission.amount_minor, made.commission.currency_code = amount, currency
    return made


def with_amount(amount: int, currency: str = "EUR") -> pb.NewOrder:
    made = order()
    made.amount.amount_minor, made.amount.currency_code = amount, currency
    return made


def with_metadata(pairs: dict[str, str]) -> pb.CreatePaymentRequest:
    made = payment()
    made.metadata.update(pairs)
    return made


def fields_of(refused: MeshError | None) -> list[str]:
    assert refused is not None
    assert (refused.reason, refused.code) == (Reason.VALIDATION_FAILED, Code.INVALID_ARGUMENT)
    assert all(violation.description for violation in refused.violations)
    return [violation.field for violation in refused.violations]


@pytest.mark.parametrize(
    "message",
    [
        payment(),
        payment(*[order()] * 100),
        payment(request_id=LONG, buyer_id=LONG, payment_method=LONG),
        payment(order(seller_id=LONG, reference=LONG)),
        payment(order(reference="")),
        payment(with_amount(MAX_AMOUNT)),
        payment(with_commission(0), with_commission(100), with_commission(0, of=1)),
        with_metadata({f"{i:040}": "ä" * 500 for i in range(20)}),
        with_metadata({"key": ""}),
        pb.GetPaymentRequest(payment_id="0" * 32),
        pb.GetPaymentRequest(request_id="r"),
        pb.GetPaymentRequest(request_id="r", caller="shop-1"),
        pb.ListPaymentsRequest(),
        pb.ListPaymentsRequest(page_size=2**31 - 1),
        wallet_service_pb2.GetWalletRequest(seller_id=LONG),
    ],
)
def test_what_is_valid(
    message: pb.CreatePaymentRequest | pb.GetPaymentRequest | pb.ListPaymentsRequest,
) -> None:
    assert check(message) is None


PAYMENT_REFUSALS: dict[str, tuple[Callable[[], pb.CreatePaymentRequest], list[str]]] = {
    "nothing": (
        pb.CreatePaymentRequest,
        ["buyer_id", "orders", "payment_method", "request_id"],
    ),
    "long texts": (
        lambda: payment(request_id=TOO_LONG, buyer_id=TOO_LONG, payment_method=TOO_LONG),
        ["buyer_id", "payment_method", "request_id"],
    ),
    "control characters": (
        lambda: payment(request_id="a\0b", buyer_id="a\nb", payment_method="a\x7fb"),
        ["buyer_id", "payment_method", "request_id"],
    ),
    "101 orders": (lambda: payment(*[order()] * 101), ["orders"]),
    "an empty order": (
        lambda: payment(order(), pb.NewOrder()),
        ["orders[1].amount", "orders[1].seller_id"],
    ),
    "an order's texts": (
        lambda: payment(order(seller_id=TOO_LONG, reference="a\tb")),
        ["orders[0].reference", "orders[0].seller_id"],
    ),
    "zero": (lambda: payment(order(), with_amount(0)), ["orders[1].amount"]),
    "negative": (lambda: payment(with_amount(-1)), ["orders[0].amount.amount_minor"]),
    "too much": (
        lambda: payment(with_amount(MAX_AMOUNT + 1)),
        ["orders[0].amount.amount_minor"],
    ),
    "the least that there is": (
        lambda: payment(with_amount(-(2**63))),
        ["orders[0].amount.amount_minor"],
    ),
    "currencies": (
        lambda: payment(
            with_amount(1, ""), with_amount(1, "eur"), with_amount(1, "EURO"), with_amount(1, "E€R")
        ),
        [f"orders[{i}].amount.currency_code" for i in range(4)],
    ),
    "a commission above the amount": (lambda: payment(with_commission(101)), ["orders[0]"]),
    "a commission in another currency": (
        lambda: payment(order(), with_commission(1, "USD")),
        ["orders[1]"],
    ),
    "a negative commission": (
        lambda: payment(with_commission(-1)),
        ["orders[0].commission.amount_minor"],
    ),
    "21 notes": (lambda: with_metadata({str(i): "" for i in range(21)}), ["metadata"]),
    "an empty key": (lambda: with_metadata({"": "x"}), ["metadata"]),
    "a long key": (lambda: with_metadata({"Canary" * 7: "x"}), ["metadata"]),
    "a long note": (lambda: with_metadata({"Canary": "Canary" * 84}), ["metadata"]),
    "a note with control characters": (lambda: with_metadata({"k": "a\rb"}), ["metadata"]),
    "what is not built yet": (
        lambda: pb.CreatePaymentRequest(
            request_id="r",
            buyer_id="b",
            payment_method="tok_ok",
            orders=[order()],
            failure_policy=payment_pb2.FAILURE_POLICY_ALL_OR_NOTHING,
            capture_method=payment_pb2.CAPTURE_METHOD_MANUAL,
        ),
        ["capture_method", "failure_policy"],
    ),
    "an enum of tomorrow": (
        lambda: pb.CreatePaymentRequest.FromString(payment().SerializeToString() + b"\x28\x63"),
        ["failure_policy"],
    ),
}


@pytest.mark.parametrize("name", PAYMENT_REFUSALS)
def test_refusals_of_a_payment(name: str) -> None:
    make, fields = PAYMENT_REFUSALS[name]
    assert sorted(fields_of(check(make()))) == fields


@pytest.mark.parametrize(
    ("message", "fields"),
    [
        (pb.GetPaymentRequest(), [""]),
        (pb.GetPaymentRequest(payment_id="0" * 32, request_id="r"), [""]),
        (pb.GetPaymentRequest(payment_id="0" * 32, caller="shop"), [""]),
        (pb.GetPaymentRequest(payment_id="A" * 32), ["payment_id"]),
        (pb.GetPaymentRequest(payment_id="0" * 32 + "\n"), ["payment_id"]),
        (pb.GetPaymentRequest(request_id="r", caller="Shop"), ["caller"]),
        (pb.ListPaymentsRequest(page_size=-1), ["page_size"]),
        (pb.ListPaymentsRequest(page_token="x" * 2049), ["page_token"]),
        (
            pb.ListPaymentsRequest(state=payment_pb2.PaymentState.ValueType(99)),
            ["state"],
        ),
        (wallet_service_pb2.GetWalletRequest(), ["seller_id"]),
    ],
)
def test_refusals_of_reads(message: pb.GetPaymentRequest, fields: list[str]) -> None:
    assert fields_of(check(message)) == fields


@pytest.mark.parametrize("name", PAYMENT_REFUSALS)
def test_no_value_is_repeated(name: str) -> None:
    refused = check(PAYMENT_REFUSALS[name][0]())
    assert refused is not None
    told = f"{refused} {refused!r} {to_status(refused)}"
    assert "Canary" not in told


@given(st.text(min_size=1))
def test_any_text_as_request_id(text: str) -> None:
    """Characters are counted, not bytes; control characters are those of Unicode."""
    valid = len(text) <= 255 and not any(c < " " or "\x7f" <= c <= "\x9f" for c in text)
    refused = check(pb.GetPaymentRequest(request_id=text))
    assert (refused is None) == valid
    assert refused is None or fields_of(refused) == ["request_id"] * len(refused.violations)


def test_size() -> None:
    assert check_size(MAX_REQUEST_BYTES) is None
    assert fields_of(check_size(MAX_REQUEST_BYTES + 1)) == [""]
    full = with_metadata({f"{i:040}": "€" * 500 for i in range(20)})
    full.orders.extend([order(seller_id="€" * 255, reference="€" * 255)] * 99)
    assert check(full) is None
    assert check_size(full.ByteSize()) is None


@pytest.mark.parametrize(
    "raw",
    [
        b"\x22\x00" * (MAX_REQUEST_BYTES // 2),  # empty orders
        b"\x3a\x03\x0a\x01k" * (MAX_REQUEST_BYTES // 5),  # one note, over and over
        payment(*[order()] * 20_000).SerializeToString(),
    ],
)
def test_no_request_keeps_the_server_busy_for_long(raw: bytes) -> None:
    """A million violations took 73 seconds, and nothing else was served meanwhile."""
    message = pb.CreatePaymentRequest.FromString(raw)
    check(payment())
    started = time.process_time()
    refused = check(message)
    assert time.process_time() - started < 0.2
    assert refused is not None
    assert len(refused.violations) < 10


PUBLIC = [
    pb.DESCRIPTOR,
    wallet_service_pb2.DESCRIPTOR,
    ledger_service_pb2.DESCRIPTOR,
]
INTERNAL = [
    executor_service_pb2.DESCRIPTOR,
    ledger_posting_service_pb2.DESCRIPTOR,
    psp_service_pb2.DESCRIPTOR,
    wallet_posting_service_pb2.DESCRIPTOR,
]


def lists_in(kind: Descriptor, path: str = "", *, top: bool = True) -> Iterator[tuple[str, bool]]:
    """The lists and maps in a message at any depth, and whether `check` bounds them first."""
    for field in kind.fields:
        rules = field.GetOptions().Extensions[validate_pb2.field]
        name = f"{path}{field.name}"
        is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
        if field.is_repeated:
            bounded = rules.map.HasField("max_pairs") or rules.repeated.HasField("max_items")
            yield name, top and bounded
        if field.message_type is not None and not is_map:
            yield from lists_in(field.message_type, f"{name}.", top=False)


@pytest.mark.parametrize(
    "kind",
    [
        method.input_type
        for file in (*PUBLIC, *INTERNAL)
        for service in file.services_by_name.values()
        for method in service.methods
        # Its item is checked by itself, as the CreatePaymentRequest that it is.
        if method.name != "CreatePayments"
    ],
    ids=lambda kind: kind.full_name,
)
def test_every_list_in_a_request_is_bounded_before_its_items_are_looked_at(
    kind: Descriptor,
) -> None:
    assert [name for name, bounded in lists_in(kind) if not bounded] == []
