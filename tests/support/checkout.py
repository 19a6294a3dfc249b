"""Requests of CreatePayment with fresh ids, as a backend would send them."""

from __future__ import annotations

from paymesh.common.v1.money_pb2 import Money
from paymesh.payment.v1 import payment_service_pb2 as pb

from tests.support.mesh import fresh


def new_order(
    amount_minor: int = 10_000,
    commission_minor: int | None = 1_000,
    *,
    currency: str = "EUR",
    seller_id: str = "",
    reference: str = "",
) -> pb.NewOrder:
    """An order of a seller whom nobody knows yet. commission_minor: None leaves it out."""
    order = pb.NewOrder(
        seller_id=seller_id or fresh("seller"),
        amount=Money(amount_minor=amount_minor, currency_code=currency),
        reference=reference,
    )
    if commission_minor is not None:
        order.commission.CopyFrom(Money(amount_minor=commission_minor, currency_code=currency))
    return order


def new_checkout(
    token: str = "tok_ok", *orders: pb.NewOrder, request_id: str = "", buyer_id: str = ""
) -> pb.CreatePaymentRequest:
    """A payment of these orders, or of one."""
    return pb.CreatePaymentRequest(
        request_id=request_id or fresh("request"),
        buyer_id=buyer_id or fresh("buyer"),
        payment_method=token,
        orders=orders or [new_order()],
    )
