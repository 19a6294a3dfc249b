"""What is wrong is refused with a typed error that names the field, and nothing is stored.

Through real gRPC against the running mesh, so through everything that stands before it.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from typing import NamedTuple

import grpc
import pytest
from google.protobuf.message import Message
from paymesh.common.v1.money_pb2 import Money
from paymesh.ledger.v1 import ledger_service_pb2 as ledger_pb
from paymesh.payment.v1 import payment_pb2 as pb
from paymesh.payment.v1 import payment_service_pb2 as service_pb
from paymesh.wallet.v1 import wallet_service_pb2 as wallet_pb

from tests.support.checkout import new_checkout, new_order
from tests.support.mesh import SERVICES, RunningMesh, fresh
from tests.support.refusals import Refusal, refused

pytestmark = pytest.mark.usefixtures("balanced_books")

MOST = 10**15 - 1

Request = service_pb.CreatePaymentRequest
Change = Callable[[Request], object]


class Bad(NamedTuple):
    """A change that makes a request bad, and the fields that the refusal names."""

    change: Change
    fields: tuple[str, ...]
    reason: str = "VALIDATION_FAILED"


def _amount(amount_minor: int, currency: str = "EUR") -> Change:
    def change(request: Request) -> None:
        money = Money(amount_minor=amount_minor, currency_code=currency)
        request.orders[0].amount.CopyFrom(money)
        request.orders[0].ClearField("commission")

    return change


def _commission(amount_minor: int, currency: str = "EUR") -> Change:
    money = Money(amount_minor=amount_minor, currency_code=currency)
    return lambda request: request.orders[0].commission.CopyFrom(money)


def _orders(*orders: service_pb.NewOrder) -> Change:
    def change(request: Request) -> None:
        del request.orders[:]
        request.orders.extend(orders)

    return change


def _with(field: str, value: object) -> Change:
    return lambda request: setattr(request, field, value)


def _with_metadata(pairs: int) -> Change:
    return lambda request: request.metadata.update({f"key-{n}": "value" for n in range(pairs)})


BAD_AMOUNTS = {
    "zero": Bad(_amount(0), ("orders[0].amount",)),
    "negative": Bad(_amount(-1), ("orders[0].amount.amount_minor",)),
    "most negative": Bad(_amount(-(2**63)), ("orders[0].amount.amount_minor",)),
    "one above the most": Bad(_amount(MOST + 1), ("orders[0].amount.amount_minor",)),
    "most of an int64": Bad(_amount(2**63 - 1), ("orders[0].amount.amount_minor",)),
    "a sum above the most": Bad(_orders(new_order(MOST, 0), new_order(1, 0)), ("orders",)),
    "a sum that an int64 does not hold": Bad(
        _orders(*[new_order(MOST, 0) for _ in range(100)]), ("orders",)
    ),
    "no amount": Bad(lambda request: request.orders[0].ClearField("amount"), ("orders[0].amount",)),
    "no currency": Bad(_amount(1, ""), ("orders[0].amount.currency_code",)),
    "lower case": Bad(_amount(1, "eur"), ("orders[0].amount.currency_code",)),
    "four letters": Bad(_amount(1, "EURO"), ("orders[0].amount.currency_code",)),
    "a newline after the currency": Bad(_amount(1, "EUR\n"), ("orders[0].amount.currency_code",)),
    "letters beyond ASCII": Bad(_amount(1, "ΕUR"), ("orders[0].amount.currency_code",)),  # noqa: RUF001
    "no currency of that name": Bad(
        _amount(1, "ZZZ"), ("orders[0].amount.currency_code",), "UNKNOWN_CURRENCY"
    ),
    "no money in use": Bad(
        _amount(1, "DEM"), ("orders[0].amount.currency_code",), "UNKNOWN_CURRENCY"
    ),
    "the code for tests": Bad(
        _amount(1, "XTS"), ("orders[0].amount.currency_code",), "UNKNOWN_CURRENCY"
    ),
    "unknown in the second order": Bad(
        _orders(new_order(), new_order(currency="ZZZ")),
        ("orders[1].amount.currency_code",),
        "UNKNOWN_CURRENCY",
    ),
    "commission above the amount": Bad(_commission(10_001), ("orders[0]",)),
    "negative commission": Bad(_commission(-1), ("orders[0].commission.amount_minor",)),
    "commission in another currency": Bad(_commission(1, "USD"), ("orders[0]",)),
    "commission without a currency": Bad(
        _commission(0, ""), ("orders[0]", "orders[0].commission.currency_code")
    ),
}

BAD_SHAPES = {
    "no orders": Bad(_orders(), ("orders",)),
    "101 orders": Bad(_orders(*[new_order() for _ in range(101)]), ("orders",)),
    "no request_id": Bad(_with("request_id", ""), ("request_id",)),
    "no buyer": Bad(_with("buyer_id", ""), ("buyer_id",)),
    "no payment method": Bad(_with("payment_method", ""), ("payment_method",)),
    "no seller": Bad(
        lambda request: request.orders[0].ClearField("seller_id"), ("orders[0].seller_id",)
    ),
    "21 metadata pairs": Bad(_with_metadata(21), ("metadata",)),
    "an empty metadata key": Bad(
        lambda request: request.metadata.update({"": "value"}), ("metadata",)
    ),
    "ALL_OR_NOTHING": Bad(
        _with("failure_policy", pb.FAILURE_POLICY_ALL_OR_NOTHING), ("failure_policy",)
    ),
    "a policy that there is not": Bad(_with("failure_policy", 99), ("failure_policy",)),
    "MANUAL": Bad(_with("capture_method", pb.CAPTURE_METHOD_MANUAL), ("capture_method",)),
    "a method that there is not": Bad(_with("capture_method", -1), ("capture_method",)),
    "several at once": Bad(
        lambda request: (_with("buyer_id", "")(request), _amount(0)(request)),
        ("buyer_id", "orders[0].amount"),
    ),
}

TEXT_FIELDS: dict[str, tuple[int, Callable[[Request, str], object], str]] = {
    "request_id": (255, lambda r, text: setattr(r, "request_id", text), "request_id"),
    "buyer_id": (255, lambda r, text: setattr(r, "buyer_id", text), "buyer_id"),
    "payment_method": (255, lambda r, text: setattr(r, "payment_method", text), "payment_method"),
    "seller_id": (
        255, lambda r, text: setattr(r.orders[1], "seller_id", text), "orders[1].seller_id"
    ),
    "reference": (
        255, lambda r, text: setattr(r.orders[1], "reference", text), "orders[1].reference"
    ),
    "metadata key": (40, lambda r, text: r.metadata.update({text: "value"}), "metadata"),
    "metadata value": (500, lambda r, text: r.metadata.update({"key": text}), "metadata"),
}  # fmt: skip
"""Name → how many characters it holds, how it is set, and what a refusal calls it."""

CONTROL_CHARACTERS = ("\0", "\n", "\t", "\x1b", "\x7f", "\x85", "\x9f")
CARD = "4111111111111111"
CARDS = {
    "plain": CARD,
    "spaces": "4111 1111 1111 1111",
    "dashes": "4111-1111-1111-1111",
    "odd groups": "4 1111-1111  1111111",
    "spaces around": f"  {CARD} ",
    "dashes around": f"-{CARD}--",
    "a space after the first digit": "5 105105105105100",
    "13 digits": "4222222222222",
    "19 digits": "6304000000000000000",
    "American Express": "378282246310005",
    "Mastercard of the second range": "2223003122003222",
    "Discover": "6011111111111117",
    "Diners": "30569309025904",
    "JCB": "3530111333300000",
}
# Right by Luhn, and of no issuer.
NO_ISSUER = "1234567812345670"


@pytest.fixture
def _nothing_stored(mesh: RunningMesh) -> Iterator[None]:
    """No row is written anywhere by what the test does."""
    before = _rows(mesh)
    yield
    assert _rows(mesh) == before


nothing_stored = pytest.mark.usefixtures("_nothing_stored")


@nothing_stored
@pytest.mark.parametrize("name", [*BAD_AMOUNTS, *BAD_SHAPES])
def test_bad_request(mesh: RunningMesh, name: str) -> None:
    bad = {**BAD_AMOUNTS, **BAD_SHAPES}[name]
    request = new_checkout()
    bad.change(request)

    refusal = _refuses(mesh, request)

    assert refusal.code == "INVALID_ARGUMENT"
    assert refusal.reason == bad.reason
    assert set(refusal.fields) == set(bad.fields)


@nothing_stored
@pytest.mark.parametrize("name", TEXT_FIELDS)
def test_too_long(mesh: RunningMesh, name: str) -> None:
    most, put, field = TEXT_FIELDS[name]
    for text in ("x" * (most + 1), "é" * (most + 1), "𝄞" * (most + 1)):
        request = new_checkout("tok_ok", new_order(), new_order())
        put(request, text)

        refusal = _refuses(mesh, request)

        assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "VALIDATION_FAILED")
        assert set(refusal.fields) == {field}
        assert text not in refusal.everything


@nothing_stored
@pytest.mark.parametrize("name", TEXT_FIELDS)
@pytest.mark.parametrize("character", CONTROL_CHARACTERS, ids=lambda c: f"U+{ord(c):04X}")
def test_control_character(mesh: RunningMesh, name: str, character: str) -> None:
    _, put, field = TEXT_FIELDS[name]
    for text in (f"be{character}fore", f"last{character}", character):
        request = new_checkout("tok_ok", new_order(), new_order())
        put(request, text)

        refusal = _refuses(mesh, request)

        assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "VALIDATION_FAILED")
        assert set(refusal.fields) == {field}


@pytest.mark.parametrize("name", TEXT_FIELDS)
def test_edges_are_accepted(mesh: RunningMesh, name: str) -> None:
    most, put, _ = TEXT_FIELDS[name]
    for text in ("x", fresh("é𝄞ß日").ljust(most, "日")[:most], "a b'\"\\;--%s{}$1"):
        request = new_checkout("tok_ok", new_order(), new_order())
        put(request, text if name != "request_id" or len(text) > 1 else fresh(text)[:1])

        payment = mesh.pay(request)

        _agrees(request, payment)
        assert mesh.get(payment.payment_id) == payment


def test_one_character_is_a_request_id(mesh: RunningMesh) -> None:
    request = new_checkout(request_id="1")

    assert mesh.pay(request) == mesh.pay(request)


def test_largest_payment_is_accepted(mesh: RunningMesh) -> None:
    """100 orders and 20 pairs, all texts as long as can be, of four bytes a character."""
    long = "𝄞" * 255
    request = new_checkout(
        long, *[new_order(seller_id=long, reference=long) for _ in range(100)], buyer_id=long
    )
    request.request_id = fresh("request").ljust(255, "𝄞")
    request.metadata.update({str(n).rjust(40, "𝄞"): "𝄞" * 500 for n in range(20)})

    payment = mesh.pay(request)

    _agrees(request, payment)
    assert mesh.pay(request) == payment
    assert len({order.order_id for order in payment.orders}) == 100


@pytest.mark.parametrize(
    ("amount", "commission", "currency"),
    [
        (MOST, 0, "EUR"),
        (MOST, MOST, "EUR"),
        (1, 0, "EUR"),
        (1, 1, "EUR"),
        (1_999, 123, "BHD"),
        (1_999, 1_999, "JPY"),
        (10_001, 1, "CLF"),
    ],
)
def test_edges_of_amounts_succeed(
    mesh: RunningMesh, amount: int, commission: int, currency: str
) -> None:
    payment = mesh.paid(new_checkout("tok_ok", new_order(amount, commission, currency=currency)))

    assert payment.state == pb.PAYMENT_STATE_SUCCEEDED
    assert mesh.captures(payment) == [[amount]]


def test_the_most_is_per_currency(mesh: RunningMesh) -> None:
    orders = [new_order(MOST, 0, currency=currency) for currency in ("EUR", "USD", "GBP")]

    assert mesh.paid(new_checkout("tok_ok", *orders)).state == pb.PAYMENT_STATE_SUCCEEDED


@nothing_stored
@pytest.mark.parametrize("name", TEXT_FIELDS)
@pytest.mark.parametrize("form", CARDS)
def test_card_number(mesh: RunningMesh, name: str, form: str) -> None:
    _, put, field = TEXT_FIELDS[name]
    request = new_checkout("tok_ok", new_order(), new_order())
    put(request, CARDS[form])

    refusal = _refuses(mesh, request)

    assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "CARD_NUMBER_REFUSED")
    assert set(refusal.fields) == {field}
    assert CARDS[form] not in refusal.everything
    for service in SERVICES:
        log = mesh.log(service)
        assert CARDS[form] not in log
        assert CARDS[form].replace(" ", "").replace("-", "") not in log


@nothing_stored
def test_number_of_no_issuer_is_no_payment_method(mesh: RunningMesh) -> None:
    refusal = _refuses(mesh, new_checkout(NO_ISSUER))

    assert refusal.reason == "CARD_NUMBER_REFUSED"
    assert refusal.fields == ("payment_method",)


def test_long_numbers_are_fine_elsewhere(mesh: RunningMesh) -> None:
    request = new_checkout(
        "tok_ok",
        new_order(reference=NO_ISSUER),
        new_order(reference="4111111111111112"),  # wrong by Luhn
        new_order(reference=f"order {CARD}"),  # not the whole of it
    )

    assert mesh.pay(request).state == pb.PAYMENT_STATE_SUCCEEDED


@nothing_stored
@pytest.mark.parametrize("caller", ["Shop", "shop 1", "-shop", "x" * 64, "", CARD])
def test_bad_caller(mesh: RunningMesh, caller: str) -> None:
    name = "paymesh-caller"
    refusal = refused(
        lambda: mesh.payments.CreatePayment(
            new_checkout(), timeout=10, metadata=((name, caller.encode()),)
        )
    )

    reason = "CARD_NUMBER_REFUSED" if caller == CARD else "VALIDATION_FAILED"
    assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", reason)
    assert refusal.domain == "paymesh"
    assert refusal.fields == (f"metadata.{name}",)
    assert caller == "" or caller not in refusal.everything


READS: dict[str, tuple[Callable[[RunningMesh], object], str]] = {
    "GetPayment of nothing": (
        lambda mesh: mesh.payments.GetPayment(service_pb.GetPaymentRequest()), "",
    ),
    "GetPayment by both keys": (
        lambda mesh: mesh.payments.GetPayment(
            service_pb.GetPaymentRequest(payment_id="0" * 32, request_id="x")
        ), "",
    ),
    "GetPayment in upper case": (
        lambda mesh: mesh.payments.GetPayment(service_pb.GetPaymentRequest(payment_id="A" * 32)),
        "payment_id",
    ),
    "GetPayment with dashes": (
        lambda mesh: mesh.payments.GetPayment(
            service_pb.GetPaymentRequest(payment_id="01890a5d-ac96-774b-bcce-b302099a8057")
        ), "payment_id",
    ),
    "GetPayment of a caller alone": (
        lambda mesh: mesh.payments.GetPayment(
            service_pb.GetPaymentRequest(payment_id="0" * 32, caller="shop")
        ), "",
    ),
    "GetPayment with NUL": (
        lambda mesh: mesh.payments.GetPayment(service_pb.GetPaymentRequest(request_id="a\0")),
        "request_id",
    ),
    "ListPayments, negative": (
        lambda mesh: mesh.payments.ListPayments(service_pb.ListPaymentsRequest(page_size=-1)),
        "page_size",
    ),
    "ListPayments, no such state": (
        lambda mesh: mesh.payments.ListPayments(
            service_pb.ListPaymentsRequest(state=99)  # type: ignore[arg-type]
        ), "state",
    ),
    "ListPayments, NUL": (
        lambda mesh: mesh.payments.ListPayments(service_pb.ListPaymentsRequest(seller_id="\0")),
        "seller_id",
    ),
    "GetWallet of nobody": (
        lambda mesh: mesh.wallets.GetWallet(wallet_pb.GetWalletRequest()), "seller_id",
    ),
    "GetWallet, NUL": (
        lambda mesh: mesh.wallets.GetWallet(wallet_pb.GetWalletRequest(seller_id="a\0")),
        "seller_id",
    ),
    "ListMovements, negative": (
        lambda mesh: mesh.wallets.ListMovements(
            wallet_pb.ListMovementsRequest(seller_id="a", page_size=-1)
        ), "page_size",
    ),
    "GetBalance of nothing": (
        lambda mesh: mesh.ledger.GetBalance(ledger_pb.GetBalanceRequest(currency_code="EUR")),
        "account",
    ),
    "GetBalance of no kind": (
        lambda mesh: mesh.ledger.GetBalance(
            ledger_pb.GetBalanceRequest(account=ledger_pb.Account(), currency_code="EUR")
        ), "account.kind",
    ),
    "GetBalance of a seller's account without a seller": (
        lambda mesh: mesh.ledger.GetBalance(
            ledger_pb.GetBalanceRequest(
                account=ledger_pb.Account(kind=ledger_pb.ACCOUNT_KIND_SELLER_PENDING),
                currency_code="EUR",
            )
        ), "account.owner_id",
    ),
    "ListJournals of nothing": (
        lambda mesh: mesh.ledger.ListJournals(ledger_pb.ListJournalsRequest()), "",
    ),
    "ListJournals of what is no id": (
        lambda mesh: mesh.ledger.ListJournals(ledger_pb.ListJournalsRequest(order_id="x")),
        "order_id",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", READS)
def test_bad_read(mesh: RunningMesh, name: str) -> None:
    call, field = READS[name]

    refusal = refused(lambda: call(mesh))

    assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "VALIDATION_FAILED")
    assert refusal.domain == "paymesh"
    assert refusal.fields == (field,)


def test_unknown_currency_of_a_balance(mesh: RunningMesh) -> None:
    account = ledger_pb.Account(kind=ledger_pb.ACCOUNT_KIND_COMMISSION_REVENUE)

    refusal = refused(
        lambda: mesh.ledger.GetBalance(
            ledger_pb.GetBalanceRequest(account=account, currency_code="ZZZ")
        )
    )

    assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "UNKNOWN_CURRENCY")


@pytest.mark.parametrize("field", ["create_time_from", "create_time_to"])
@pytest.mark.parametrize(
    ("seconds", "nanos"), [(2**62, 0), (-(2**62), 0), (0, -1), (0, 2_000_000_000)]
)
def test_time_that_is_none(mesh: RunningMesh, field: str, seconds: int, nanos: int) -> None:
    request = service_pb.ListPaymentsRequest()
    getattr(request, field).seconds = seconds
    getattr(request, field).nanos = nanos

    refusal = refused(lambda: mesh.payments.ListPayments(request))

    assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "VALIDATION_FAILED")
    assert [name.partition(".")[0] for name in refusal.fields] == [field]


@pytest.mark.parametrize("seconds", [2**62, -(2**62)])
def test_time_of_a_balance_that_is_none(mesh: RunningMesh, seconds: int) -> None:
    request = ledger_pb.GetTrialBalanceRequest()
    request.as_of_time.seconds = seconds

    refusal = refused(lambda: mesh.ledger.GetTrialBalance(request))

    assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "VALIDATION_FAILED")


class TestPageTokens:
    """Tokens are opaque, and good for the next page of their own list only."""

    def test_from_elsewhere(self, mesh: RunningMesh) -> None:
        buyer, seller = fresh("buyer"), fresh("seller")
        for _ in range(2):
            mesh.pay(new_checkout("tok_ok", new_order(seller_id=seller), buyer_id=buyer))
        one = service_pb.ListPaymentsRequest(buyer_id=buyer, page_size=1)
        token = mesh.payments.ListPayments(one).next_page_token
        of_wallet = mesh.wallets.ListMovements(
            wallet_pb.ListMovementsRequest(seller_id=seller, page_size=1)
        ).next_page_token
        assert token
        assert of_wallet

        account = ledger_pb.Account(kind=ledger_pb.ACCOUNT_KIND_SELLER_PENDING, owner_id=seller)
        for call in (
            lambda: _list(mesh, of_wallet, buyer_id=buyer),
            lambda: _list(mesh, token, buyer_id=fresh("buyer")),
            lambda: _list(mesh, token),
            lambda: _list(mesh, token, buyer_id=buyer, state=pb.PAYMENT_STATE_SUCCEEDED),
            lambda: mesh.wallets.ListMovements(
                wallet_pb.ListMovementsRequest(seller_id=seller, page_token=token)
            ),
            lambda: mesh.ledger.ListJournals(
                ledger_pb.ListJournalsRequest(account=account, page_token=of_wallet)
            ),
        ):
            _is_no_token(refused(call))
        assert _list(mesh, token, buyer_id=buyer).payments

    @pytest.mark.parametrize(
        "token",
        [
            "x",
            "=",
            "AAAA",
            "é",
            "𝄞" * 100,
            base64.urlsafe_b64encode(bytes(32)).decode(),
            "A" * 2049,
        ],
    )
    def test_garbled(self, mesh: RunningMesh, token: str) -> None:
        _is_no_token(refused(lambda: _list(mesh, token)))
        _is_no_token(
            refused(
                lambda: mesh.wallets.ListMovements(
                    wallet_pb.ListMovementsRequest(seller_id="a", page_token=token)
                )
            )
        )
        _is_no_token(
            refused(
                lambda: mesh.ledger.ListJournals(
                    ledger_pb.ListJournalsRequest(order_id="0" * 32, page_token=token)
                )
            )
        )

    def test_bent(self, mesh: RunningMesh) -> None:
        for _ in range(2):
            mesh.pay(new_checkout())
        token = mesh.payments.ListPayments(
            service_pb.ListPaymentsRequest(page_size=1)
        ).next_page_token
        raw = base64.urlsafe_b64decode(token)
        for bent in (raw[:-1], raw + b"\0", b"\xff" + raw[1:], b""):
            text = base64.urlsafe_b64encode(bent).decode() or "="
            _is_no_token(refused(lambda text=text: _list(mesh, text)))  # type: ignore[misc]
        _is_no_token(refused(lambda: _list(mesh, f"{token[:8]}!{token[8:]}")))


@nothing_stored
def test_2_mib_are_too_much(mesh: RunningMesh) -> None:
    refusal = _refuses(mesh, new_checkout("x" * 2 * 1024 * 1024))

    assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "VALIDATION_FAILED")
    assert len(refusal.everything) < 10_000


@nothing_stored
def test_5_mib_are_not_even_read(mesh: RunningMesh) -> None:
    refusal = refused(lambda: mesh.pay(new_checkout("x" * 5 * 1024 * 1024)))

    assert refusal.code == "RESOURCE_EXHAUSTED"
    assert "MemoryError" not in refusal.everything


@nothing_stored
@pytest.mark.parametrize("data", [b"\xff", b"\x0a\xff\xff\xff\xff\x0f", b"\x0a\x02\xc3\x28"])
def test_what_is_no_message_is_refused(mesh: RunningMesh, data: bytes) -> None:
    with mesh.new_channel("payment") as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
            "/paymesh.payment.v1.PaymentService/CreatePayment"
        )

        refusal = refused(lambda: call(data, timeout=10))

    assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "VALIDATION_FAILED")
    assert "Traceback" not in refusal.everything


def _refuses(mesh: RunningMesh, request: Request) -> Refusal:
    """The refusal of a payment, which has what every refusal has."""
    refusal = refused(lambda: mesh.pay(request))
    assert refusal.domain == "paymesh"
    assert "Traceback" not in refusal.everything
    return refusal


def _is_no_token(refusal: Refusal) -> None:
    assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "VALIDATION_FAILED")
    assert refusal.fields == ("page_token",)


def _list(mesh: RunningMesh, token: str, **filters: object) -> service_pb.ListPaymentsResponse:
    request = service_pb.ListPaymentsRequest(page_token=token)
    for name, value in filters.items():
        setattr(request, name, value)
    return mesh.payments.ListPayments(request, timeout=10)


def _rows(mesh: RunningMesh) -> dict[str, int]:
    """How many rows there are of whatever a payment leaves behind first."""
    return {
        "payments": mesh.count("payment", "SELECT count(*) FROM payment"),
        "orders": mesh.count("payment", "SELECT count(*) FROM payment_order"),
        "operations": mesh.count("executor", "SELECT count(*) FROM operation"),
        "keys": mesh.count("psp_stub", "SELECT count(*) FROM idempotency"),
    }


def _agrees(request: Request, payment: pb.Payment) -> None:
    """What is told of a payment is what was asked."""
    assert payment.request_id == request.request_id
    assert payment.buyer_id == request.buyer_id
    assert dict(payment.metadata) == dict(request.metadata)
    assert len(payment.orders) == len(request.orders)
    for told, asked in zip(payment.orders, request.orders, strict=True):
        assert told.seller_id == asked.seller_id
        assert told.reference == asked.reference
        assert _equal(told.amount, asked.amount)
        assert _equal(told.commission, asked.commission)


def _equal(told: Message, asked: Message) -> bool:
    return told.SerializeToString() == asked.SerializeToString()
