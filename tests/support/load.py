"""Callers who pay at the same time, repeat what they were not told, and remember what they were."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import grpc
from paymesh.payment.v1 import payment_pb2 as pb
from paymesh.payment.v1 import payment_service_pb2 as service_pb
from paymesh.payment.v1.payment_service_pb2_grpc import PaymentServiceStub

from tests.faults import checker
from tests.support.checkout import new_checkout, new_order
from tests.support.mesh import RunningMesh, fresh, open_channel
from tests.support.refusals import Refusal, refusal_of

MIX: Mapping[str, int] = {
    "tok_ok": 30,
    "tok_declined": 3,
    "tok_insufficient_funds": 1,
    "tok_slow": 1,
    "tok_timeout_captured": 1,
    "tok_timeout_nothing": 1,
    "tok_error_captured": 2,
    "tok_unavailable_twice": 2,
    "tok_pending_success": 1,
    "tok_pending_failure": 1,
    "tok_wrong_amount": 1,
}
"""Tokens and how often each is drawn. tok_silent never comes to rest, and is not among them."""

ENDS: Mapping[str, pb.OrderState.ValueType] = {
    **dict.fromkeys(MIX, pb.ORDER_STATE_SUCCEEDED),
    "tok_declined": pb.ORDER_STATE_DECLINED,
    "tok_insufficient_funds": pb.ORDER_STATE_DECLINED,
    "tok_pending_failure": pb.ORDER_STATE_DECLINED,
    "tok_wrong_amount": pb.ORDER_STATE_PARKED,
}
"""Where an order with each token comes to rest, whatever happens on the way."""

SHORT_WAITS: Mapping[str, object] = {
    "executor_psp_deadline_ms": 500,
    "psp_stub_slow_ms": 250,
    "psp_stub_pending_ms": 300,
    "payment_lease_ms": 1_000,
}
"""Settings for a mesh under load whose faults are to be over soon."""

# What a caller may be told while parts of the mesh are away; it repeats.
NOTHING_ACCEPTED = ("UNAVAILABLE", "DEPENDENCY_DOWN")
UNKNOWN = (("ABORTED", "OUTCOME_UNKNOWN"), ("UNAVAILABLE", ""), ("DEADLINE_EXCEEDED", ""))

_DEADLINE_S = 5.0
_AGAIN_AFTER_S = 0.1


@dataclass
class Told:
    """What one caller was told of one request, in order; answers: with the times."""

    request: service_pb.CreatePaymentRequest
    payments: list[pb.Payment] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    answers: list[checker.Told] = field(default_factory=list)


class Load:
    """Callers in threads of their own; as a context, they pay until its end.

    Each makes a payment of one to three orders, waits `pause_s`, and makes another. What is
    not acknowledged is asked again with the same request_id, unless `repeat` is False. At
    the end each waits for its last answer.
    """

    def __init__(
        self,
        mesh: RunningMesh,
        *,
        callers: int = 8,
        pause_s: float = 0.05,
        mix: Mapping[str, int] = MIX,
        repeat: bool = True,
        seed: int = 1,
        target: str = "",
    ) -> None:
        """`target`: another replica of payment_svc than the mesh's own, `host:port`."""
        self.told: list[Told] = []
        self.surprises: list[Refusal] = []
        """Refusals that no caller should see, whatever is away."""
        self._pause_s = pause_s
        self._mix = mix
        self._repeat = repeat
        self._target = target or mesh.supervisor.target("payment")
        # Few, so that their wallets are contended.
        self._sellers = [fresh("seller") for _ in range(6)]
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._call, args=(random.Random(f"{seed}.{n}"),))
            for n in range(callers)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def history(self) -> list[checker.Told]:
        """Everything that any caller was told, also by whoever asked in its place."""
        return [
            answer
            for told in list(self.told)
            for answer in (
                *told.answers,
                *(checker.Told(told.request, payment) for payment in told.payments),
            )
        ]

    def wait_for(self, payments: int, timeout_s: float = 30) -> None:
        """Waits until so many more payments are acknowledged."""
        wanted = self._count() + payments
        deadline = time.monotonic() + timeout_s
        while self._count() < wanted:
            assert time.monotonic() < deadline, f"only {self._count()} of {wanted} payments"
            time.sleep(0.02)

    def refusals(self) -> Counter[tuple[str, str]]:
        """How often each code and reason was heard."""
        return Counter(
            (refusal.code, refusal.reason)
            for told in list(self.told)
            for refusal in list(told.refusals)
        )

    def _count(self) -> int:
        return sum(1 for told in list(self.told) if told.payments)

    def _call(self, chance: random.Random) -> None:
        tokens, weights = list(self._mix), list(self._mix.values())
        with open_channel(self._target) as channel:
            stub = PaymentServiceStub(channel)
            while not self._stop.is_set():
                (token,) = chance.choices(tokens, weights)
                told = Told(new_checkout(token, *self._orders(chance)))
                self.told.append(told)
                self._pay(stub, told)
                time.sleep(self._pause_s)

    def _pay(self, stub: PaymentServiceStub, told: Told) -> None:
        while True:
            asked_s = time.monotonic()
            try:
                answer = stub.CreatePayment(told.request, timeout=_DEADLINE_S)
            except grpc.RpcError as error:
                refusal = refusal_of(error)
                told.refusals.append(refusal)
                told.answers.append(
                    checker.Told(
                        told.request,
                        reason=refusal.reason,
                        asked_s=asked_s,
                        answered_s=time.monotonic(),
                    )
                )
                known = (refusal.code, refusal.reason)
                if known != NOTHING_ACCEPTED and known not in UNKNOWN:
                    self.surprises.append(refusal)
                    return
                if not self._repeat:
                    return
                time.sleep(_AGAIN_AFTER_S)
            else:
                told.payments.append(answer.payment)
                told.answers.append(
                    checker.Told(told.request, answer.payment, "", asked_s, time.monotonic())
                )
                return

    def _orders(self, chance: random.Random) -> Iterator[service_pb.NewOrder]:
        for _ in range(chance.choice((1, 1, 1, 2, 3))):
            amount = chance.randint(100, 100_000)
            yield new_order(
                amount,
                chance.randint(0, amount // 10),
                currency=chance.choice(("EUR", "EUR", "USD", "JPY")),
                seller_id=chance.choice(self._sellers),
            )


def strange_ends(mesh: RunningMesh) -> list[tuple[object, ...]]:
    """(token, state, how often) of the orders that did not come to rest where they must."""
    found = mesh.ask(
        "payment",
        "SELECT payment_method, o.state, count(*)"
        " FROM payment JOIN payment_order o USING (payment_id) GROUP BY 1, 2",
    )
    return [row for row in found if ENDS[str(row[0])] != row[1]]


def without_payment(told: Sequence[Told]) -> list[str]:
    """The request_ids whose callers were told, each time, that nothing was accepted."""
    return [
        one.request.request_id
        for one in told
        if not one.payments
        and one.refusals
        and all((r.code, r.reason) == NOTHING_ACCEPTED for r in one.refusals)
    ]
