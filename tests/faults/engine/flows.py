"""What the mesh is asked to do while it fails."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TypeAlias

import grpc
from paymesh.payment.v1 import payment_pb2 as pb

from tests.faults.checker import Sessions, Told, check
from tests.faults.engine.attempt import AGAIN_S, Flow, passing
from tests.faults.engine.faults import Kind
from tests.faults.engine.mesh import PATIENCE_S, FailingMesh
from tests.faults.engine.night import SOURCES, Reconciling
from tests.support.checkout import new_checkout, new_order

CALL_S = 2.0
"""How long the buyer's backend waits for one call; then it calls again."""

# A resend may be on its way for as long as the executor's deadline or a pause: production has
# hours between the two, and here it is still longer than both together.
_KEY_WINDOW_S = 0.3
_KEY_MEMORY_S = 1.5

Ends: TypeAlias = "frozenset[pb.OrderState.ValueType]"

_S = pb.OrderState
_SUCCEEDED = frozenset({_S.ORDER_STATE_SUCCEEDED})
_DECLINED = frozenset({_S.ORDER_STATE_DECLINED})
_PARKED = frozenset({_S.ORDER_STATE_PARKED})
_RESTING = _SUCCEEDED | _DECLINED | _PARKED


class Buying:
    """A payment. ends: for each order, in which states it may come to rest.

    others: tokens that the PSP sees instead, by the order's number. A payment has one payment
    method; what makes a PSP decline one order of it is the PSP's own affair.
    """

    def __init__(
        self, token: str, ends: Sequence[Ends], others: Mapping[int, str] | None = None
    ) -> None:
        self._others = {_amount(i): other for i, other in (others or {}).items()}
        self.request = new_checkout(token, *(new_order(_amount(i)) for i in range(len(ends))))
        self.answers: list[Told] = []
        self.told: list[str] = []
        self._ends = ends

    async def prepare(self, mesh: FailingMesh) -> None:
        """Nothing is there yet; the PSP is told whom to decline."""
        mesh.tokens = self._others

    async def drive(self, mesh: FailingMesh) -> None:
        """Calls at least once, and until the payment rests."""
        asked = False
        async with asyncio.timeout(PATIENCE_S):
            while not (asked and self._rests):
                asked = await self._call(mesh)
                if not self._rests:
                    await asyncio.sleep(AGAIN_S)

    def compare(self, books: Sessions) -> list[str]:
        """The invariants, and where the orders rest."""
        payment = self._payment
        if payment is None:
            return ["nothing was acknowledged"]
        found = check(books, self.answers, payment_ids=[payment.payment_id])
        return [
            *(f"{violation.invariant}: {violation.text}" for violation in found),
            *(
                f"order {order.order_id} rests in state {order.state}"
                for order, ends in zip(payment.orders, self._ends, strict=True)
                if order.state not in ends
            ),
        ]

    @property
    def _payment(self) -> pb.Payment | None:
        return next((told.payment for told in reversed(self.answers) if told.payment), None)

    @property
    def _rests(self) -> bool:
        payment = self._payment
        return payment is not None and all(order.state in _RESTING for order in payment.orders)

    async def _call(self, mesh: FailingMesh) -> bool:
        """One call; whether it was answered."""
        started = time.monotonic()
        payment, reason = None, ""
        try:
            answer = await mesh.payments.CreatePayment(self.request, timeout=CALL_S)
            payment = answer.payment
        except grpc.RpcError as error:
            reason = passing(error)
        self.told.append("an answer" if payment else reason or "nothing")
        self.answers.append(Told(self.request, payment, reason, started, time.monotonic()))
        return payment is not None


def _amount(number: int) -> int:
    return 10_000 + number


class Forgetting(Buying):
    """A payment that is looked at again when the PSP has forgotten its keys."""

    async def drive(self, mesh: FailingMesh) -> None:
        """Until it rests, and then until whatever is asked of the PSP is news to it."""
        if not self._rests:
            await super().drive(mesh)
            await asyncio.sleep(_KEY_MEMORY_S + 0.1)
        await super().drive(mesh)


class Racing(Buying):
    """Between 2 and 16 callers who say the same at once, to two replicas."""

    def __init__(self) -> None:
        super().__init__("tok_ok", [_SUCCEEDED])
        self._callers = random.randint(2, 16)

    async def drive(self, mesh: FailingMesh) -> None:
        """All of them, each until it was told how the payment rests."""
        await asyncio.gather(*(super(Racing, self).drive(mesh) for _ in range(self._callers)))


def buying(token: str, *ends: Ends, **others: str) -> Flow:
    """A payment with an order for each of the ends; others: `order_1` is the second one's token."""
    tokens = {int(name.rpartition("_")[2]): token for name, token in others.items()}
    return Flow(partial(Buying, token, ends, tokens))


FLOWS: Mapping[str, Flow] = {
    "one-order": buying("tok_ok", _SUCCEEDED),
    "three-orders": buying(
        "tok_ok", _SUCCEEDED, _DECLINED, _SUCCEEDED, order_1="tok_insufficient_funds"
    ),
    "declined": buying("tok_declined", _DECLINED),
    "pending-success": buying("tok_pending_success", _SUCCEEDED),
    "pending-failure": buying("tok_pending_failure", _DECLINED),
    "charged-then-error": buying("tok_error_captured", _SUCCEEDED),
    "charged-then-silence": buying("tok_timeout_captured", _SUCCEEDED),
    "silence": buying("tok_timeout_nothing", _SUCCEEDED),
    "too-many-requests": buying("tok_unavailable_twice", _SUCCEEDED),
    "wrong-amount": buying("tok_wrong_amount", _PARKED),
    # One is charged and never told, the other one is not heard at first; then the keys are gone.
    # What the network delivers after that, long after all was over, no PSP can tell from news.
    "key-forgotten": Flow(
        partial(
            Forgetting, "tok_silent", [_PARKED, _SUCCEEDED | _PARKED], {1: "tok_timeout_nothing"}
        ),
        {
            # What earlier scenarios left parked is asked about, too.
            "payment": {"parked_poll_ms": 400},
            "executor": {"key_window_s": _KEY_WINDOW_S},
            "psp_stub": {"key_memory_s": _KEY_MEMORY_S},
        },
        spared=frozenset({("executor>psp_stub Charge", Kind.LATE_DUPLICATE)}),
        waits=True,
    ),
    "race": Flow(Racing, replicas=2),
    "night": Flow(Reconciling, settings={"ledger": {"sources": SOURCES}}),
}
