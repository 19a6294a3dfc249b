"""One scenario for every client that knows nothing of our Python: JSON in, JSON out.

tests/flow/test_grpcurl.py, test_buf_curl.py and test_node.py run it, each with its own client.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import pytest
from paymesh.payment.v1 import payment_service_pb2

from tests.support.checkout import new_checkout
from tests.support.mesh import RunningMesh, fresh

SERVICE = "paymesh.payment.v1.PaymentService"
CREATE = f"{SERVICE}/CreatePayment"
GET = f"{SERVICE}/GetPayment"
WATCH = f"{SERVICE}/WatchPayment"

AMOUNTS = [(10_000, 1_000), (4_200, 420), (250, None)]
"""Amount and commission of the three orders, in cents."""

_METHODS = payment_service_pb2.DESCRIPTOR.services_by_name["PaymentService"].methods_by_name

needs_watch = pytest.mark.skipif(
    "WatchPayment" not in _METHODS,
    reason="the contract has no WatchPayment yet",
)


@dataclass(frozen=True)
class JsonRefusal:
    """What a client made of an error. code: as ALREADY_EXISTS."""

    code: str
    reason: str
    domain: str
    metadata: Mapping[str, str] = field(default_factory=dict)


class JsonClient(Protocol):
    """A client of PaymentService; requests have the names of the .proto, answers camelCase."""

    def call(self, method: str, request: Mapping[str, Any]) -> dict[str, Any]:
        """The answer of a call that goes well; fails the test otherwise."""
        ...

    def refused(self, method: str, request: Mapping[str, Any]) -> JsonRefusal:
        """What a call is refused with; fails the test if it is answered."""
        ...

    def stream(self, method: str, request: Mapping[str, Any]) -> list[dict[str, Any]]:
        """All answers of a call that streams and ends well."""
        ...


def three_orders(request_id: str, buyer: str = "") -> dict[str, Any]:
    """A payment of three orders of one buyer, each with a seller of its own."""
    return {
        "request_id": request_id,
        "buyer_id": buyer or fresh("buyer"),
        "payment_method": "tok_ok",
        "orders": [
            {
                "seller_id": fresh("seller"),
                "amount": {"amount_minor": amount, "currency_code": "EUR"},
                **(
                    {}
                    if commission is None
                    else {"commission": {"amount_minor": commission, "currency_code": "EUR"}}
                ),
            }
            for amount, commission in AMOUNTS
        ],
    }


def pays_once_and_refuses_another_amount(mesh: RunningMesh, client: JsonClient) -> None:
    """Creates, repeats, and asks for another amount under the same request_id."""
    request = three_orders(fresh("request"))

    payment = client.call(CREATE, request)["payment"]
    replay = client.call(CREATE, request)["payment"]

    assert payment["state"] == "PAYMENT_STATE_SUCCEEDED"
    assert [order["state"] for order in payment["orders"]] == ["ORDER_STATE_SUCCEEDED"] * 3
    assert [order["captured"]["amountMinor"] for order in payment["orders"]] == [
        str(amount) for amount, _ in AMOUNTS
    ]
    assert replay == payment
    assert client.call(GET, {"payment_id": payment["paymentId"]})["payment"] == payment
    captured = mesh.ask(
        "psp_stub",
        "SELECT amount_minor FROM truth WHERE order_id = ANY (%s::uuid[]) ORDER BY amount_minor",
        [order["orderId"] for order in payment["orders"]],
    )
    assert captured == [(250,), (4_200,), (10_000,)]

    request["orders"][1]["amount"]["amount_minor"] = 4_201
    assert client.refused(CREATE, request) == JsonRefusal(
        "ALREADY_EXISTS",
        "REQUEST_ID_REUSED",
        "paymesh",
        {"fields": "orders[1].amount.amount_minor"},
    )


def watches_to_the_end(mesh: RunningMesh, client: JsonClient) -> None:
    """Watches a payment that is over, and one that is under way until it is."""
    done = client.call(CREATE, three_orders(fresh("request")))["payment"]
    slow = mesh.pay(new_checkout("tok_pending_success"), timeout_s=2).payment_id

    over = client.stream(WATCH, {"payment_id": done["paymentId"]})
    assert [answer["payment"] for answer in over] == [done]
    seen = [answer["payment"]["state"] for answer in client.stream(WATCH, {"payment_id": slow})]
    assert seen[-1] == "PAYMENT_STATE_SUCCEEDED"
    assert set(seen[:-1]) <= {"PAYMENT_STATE_PROCESSING"}


def objects(text: str) -> Iterator[dict[str, Any]]:
    """The JSON objects that stand one after the other in a text."""
    decoder = json.JSONDecoder()
    rest = text.strip()
    while rest:
        value, end = decoder.raw_decode(rest)
        yield cast("dict[str, Any]", value)
        rest = rest[end:].strip()
