"""What the mesh is asked to do while it fails: one flow a way of paying."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import grpc
from paymesh.payment.v1 import payment_pb2 as pb
from paymesh.payment.v1 import payment_service_pb2 as service_pb

from mesh.errors import Reason
from mesh.status import from_rpc_error
from tests.faults.checker import Told
from tests.faults.engine.mesh import PATIENCE_S, FailingMesh
from tests.support.checkout import new_checkout, new_order

CALL_S = 2.0
"""How long the buyer's backend waits for one call; then it calls again."""
AGAIN_S = 0.01

_S = pb.OrderState
_SUCCEEDED = frozenset({_S.ORDER_STATE_SUCCEEDED})
_DECLINED = frozenset({_S.ORDER_STATE_DECLINED})
_PARKED = frozenset({_S.ORDER_STATE_PARKED})
_RESTING = _SUCCEEDED | _DECLINED | _PARKED

# What a caller may be told while parts of the mesh are away; it calls again.
_PASSING = frozenset(
    {Reason.DEPENDENCY_DOWN, Reason.OUTCOME_UNKNOWN, Reason.OVERLOADED, Reason.UNSPECIFIED}
)


@dataclass(frozen=True, slots=True)
class Flow:
    """A payment. ends: for each order, in which states it may come to rest."""

    token: str
    ends: tuple[frozenset[pb.OrderState.ValueType], ...]
    settings: Mapping[str, Mapping[str, object]] = field(default_factory=dict)

    def request(self) -> service_pb.CreatePaymentRequest:
        """A checkout with ids that nobody knows yet."""
        return new_checkout(self.token, *(new_order(10_000 + i) for i in range(len(self.ends))))


@dataclass(slots=True)
class Caller:
    """A buyer's backend: what it asks, and what it was told, in order."""

    request: service_pb.CreatePaymentRequest
    told: list[Told] = field(default_factory=list)

    @property
    def payment(self) -> pb.Payment | None:
        """As it was told of last."""
        return next((told.payment for told in reversed(self.told) if told.payment), None)

    @property
    def rests(self) -> bool:
        """Whether every order rests, as far as it knows."""
        return self.payment is not None and all(
            order.state in _RESTING for order in self.payment.orders
        )


FLOWS: Mapping[str, Flow] = {
    "one-order": Flow("tok_ok", (_SUCCEEDED,)),
    "declined": Flow("tok_declined", (_DECLINED,)),
    "pending-success": Flow("tok_pending_success", (_SUCCEEDED,)),
    "pending-failure": Flow("tok_pending_failure", (_DECLINED,)),
    "charged-then-error": Flow("tok_error_captured", (_SUCCEEDED,)),
    "charged-then-silence": Flow("tok_timeout_captured", (_SUCCEEDED,)),
    "silence": Flow("tok_timeout_nothing", (_SUCCEEDED,)),
    "too-many-requests": Flow("tok_unavailable_twice", (_SUCCEEDED,)),
    "wrong-amount": Flow("tok_wrong_amount", (_PARKED,)),
    # The PSP remembers a key for less than a paused executor takes to ask again.
    "key-forgotten": Flow(
        "tok_ok",
        (_SUCCEEDED | _PARKED,),
        {"executor": {"key_window_s": 0.5}, "psp_stub": {"key_memory_s": 0.5}},
    ),
    "three-orders": Flow("tok_ok", (_SUCCEEDED,) * 3),
}


async def pay(mesh: FailingMesh, caller: Caller) -> None:
    """Calls at least once, and until the payment rests.

    Raises TimeoutError, and what no fault excuses.
    """
    asked = False
    async with asyncio.timeout(PATIENCE_S):
        while not (asked and caller.rests):
            asked = await _call(mesh, caller)
            if not caller.rests:
                await asyncio.sleep(AGAIN_S)


async def _call(mesh: FailingMesh, caller: Caller) -> bool:
    """One call; whether it was answered."""
    started = time.monotonic()
    payment, reason = None, ""
    try:
        answer = await mesh.payments.CreatePayment(caller.request, timeout=CALL_S)
        payment = answer.payment
    except grpc.RpcError as error:
        refusal = from_rpc_error(error)
        if refusal.reason not in _PASSING:
            raise
        reason = refusal.reason.value
    caller.told.append(Told(caller.request, payment, reason, started, time.monotonic()))
    return payment is not None
