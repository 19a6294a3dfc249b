"""What the checker is given, and what it gives back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import psycopg
from paymesh.payment.v1 import payment_pb2 as pb
from paymesh.payment.v1 import payment_service_pb2 as service_pb

Connection: TypeAlias = "psycopg.Connection[tuple[Any, ...]]"


class Urls(NamedTuple):
    """The databases, each as a superuser's URL."""

    payment: str
    executor: str
    wallet: str
    ledger: str
    psp_stub: str

    @classmethod
    def of(cls, databases: Mapping[str, str]) -> Urls:
        """Out of service → URL, where there may be more."""
        return cls(*(databases[service] for service in cls._fields))


class Sessions(NamedTuple):
    """`Urls`, all of them open, in autocommit."""

    payment: Connection
    executor: Connection
    wallet: Connection
    ledger: Connection
    psp_stub: Connection


class Told(NamedTuple):
    """One call of one caller, and what it was told.

    payment: of an answer; None if the call was refused, or heard nothing.
    reason: that of the refusal's ErrorInfo; empty if it had none, or if nothing was heard.
    asked_s, answered_s: when, by one clock for all callers, in seconds. By default nothing is
        known of that, and the call may have been at any time.
    """

    request: service_pb.CreatePaymentRequest | service_pb.GetPaymentRequest
    payment: pb.Payment | None = None
    reason: str = ""
    asked_s: float = -math.inf
    answered_s: float = math.inf
    caller: str = "default"


def seen(payment: pb.Payment) -> Told:
    """That somebody was told of the payment, at any time."""
    return Told(service_pb.GetPaymentRequest(payment_id=payment.payment_id), payment)


class Violation(NamedTuple):
    """What breaks which invariant. payment_id: 32 hex digits, empty if it is of no payment."""

    invariant: str
    payment_id: str
    text: str
