"""Sequences of what callers, operators and the night do, at once and while things fail.

Hypothesis draws them, and shrinks one that breaks a promise to the shortest that does. The mesh
lives on from one sequence to the next; the ids are new. A program of its own, because of what
crashed processes leave behind in this one: `python -m tests.faults.engine.sequences EXAMPLES STEPS`
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import grpc
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from paymesh.payment.v1 import payment_pb2 as pb
from paymesh.payment.v1 import payment_service_pb2 as service_pb

from mesh.migrations import provision
from mesh.status import from_rpc_error
from tests.faults.checker import Sessions, Told, check
from tests.faults.engine.faults import Fault, Scenario, kinds_at
from tests.faults.engine.flows import FLOWS
from tests.faults.engine.mesh import FailingMesh
from tests.faults.engine.night import Reconciling
from tests.faults.engine.passages import Passages
from tests.faults.engine.process import follow_tasks
from tests.faults.engine.worker import configure, new_mesh
from tests.support.checkout import new_checkout, new_order
from tests.support.folders import open_folder
from tests.support.mesh import fresh
from tests.support.postgres import started

T = TypeVar("T")

TOKENS = (
    "tok_ok",
    "tok_declined",
    "tok_error_captured",
    "tok_timeout_captured",
    "tok_unavailable_twice",
    "tok_pending_success",
    "tok_wrong_amount",
)
POINTS = (
    "payment.write",
    "payment.take",
    "executor.write",
    "psp_stub.charge",
    "wallet.apply",
    "ledger.post",
    "client>payment CreatePayment",
    "payment>executor Execute",
    "executor>psp_stub Charge",
    "executor>psp_stub LookUp",
    "payment>wallet ApplyMovements",
    "payment>ledger PostEvents",
)
FAULTS = [Fault(point, 1, kind) for point in POINTS for kind in kinds_at(point)]

_CALL_S = 3.0
_REST_S = 30.0
_RESTING = (
    pb.ORDER_STATE_SUCCEEDED,
    pb.ORDER_STATE_DECLINED,
    pb.ORDER_STATE_PARKED,
)
# What anybody may be told who reuses a key, asks for what is not there, or retries what is not
# parked; and what is told while parts of the mesh are away.
_ALLOWED = {
    "REQUEST_ID_REUSED",
    "PAYMENT_NOT_FOUND",
    "WRONG_STATE",
    "DEPENDENCY_DOWN",
    "OUTCOME_UNKNOWN",
    "OVERLOADED",
    "",
}


@dataclass
class Rig:
    """A mesh that outlives the sequences."""

    loop: asyncio.AbstractEventLoop
    mesh: FailingMesh
    books: Sessions


class Machine(RuleBasedStateMachine):
    """Callers, an operator, and what fails."""

    rig: Rig

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[service_pb.CreatePaymentRequest] = []
        self.told: list[Told] = []
        self.nights: list[Reconciling] = []

    # --- what is done -------------------------------------------------------------------

    @rule(token=st.sampled_from(TOKENS), orders=st.integers(1, 3), callers=st.integers(1, 4))
    def pays(self, token: str, orders: int, callers: int) -> None:
        """Callers with one request at once."""
        request = new_checkout(token, *(new_order(1_000 + i) for i in range(orders)))
        self.requests.append(request)
        self._all([partial(self._pay, request)] * callers)

    @rule(which=st.integers(0, 20), callers=st.integers(1, 3))
    def says_it_again(self, which: int, callers: int) -> None:
        """A replay, while others pay."""
        if self.requests:
            again = self.requests[which % len(self.requests)]
            new = new_checkout("tok_ok")
            self.requests.append(new)
            self._all([*[partial(self._pay, again)] * callers, partial(self._pay, new)])

    @rule(which=st.integers(0, 20), known=st.booleans())
    def uses_a_key_for_something_else(self, which: int, known: bool) -> None:
        """Of a payment that is there, or of one that is made at the same moment."""
        if known and self.requests:
            request = self.requests[which % len(self.requests)]
            other = new_checkout("tok_ok", new_order(77, 7), request_id=request.request_id)
            self._all([partial(self._pay, other)])
        else:
            request = new_checkout("tok_ok", new_order(55, 5))
            other = new_checkout("tok_ok", new_order(77, 7), request_id=request.request_id)
            self.requests.append(request)
            self._all([partial(self._pay, request), partial(self._pay, other)])

    @rule(which=st.integers(0, 20))
    def watches_lists_and_gets(self, which: int) -> None:
        if self.requests:
            request = self.requests[which % len(self.requests)]
            self._all(
                [
                    partial(self._get, request),
                    partial(self._watch, request),
                    partial(self._list, request),
                ]
            )

    @rule(which=st.integers(0, 20), times=st.integers(1, 3))
    def an_operator_retries(self, which: int, times: int) -> None:
        """What may be parked; several operators at once."""
        if self.requests:
            request = self.requests[which % len(self.requests)]
            self._all([partial(self._retry, request)] * times)

    @rule(which=st.sampled_from(FAULTS), token=st.sampled_from(TOKENS))
    def something_fails(self, which: Fault, token: str) -> None:
        """While two pay."""
        passages = Passages(Scenario("sequence", (which,)))
        self.rig.mesh.begin(passages)
        requests = [new_checkout(token), new_checkout("tok_ok")]
        self.requests += requests
        self._all([partial(self._pay, request) for request in requests])

    @rule(at_once=st.integers(1, 3))
    def night_falls(self, at_once: int) -> None:
        """The same night, by several crons."""
        night = Reconciling()
        self.nights.append(night)
        self._run(night.prepare(self.rig.mesh))
        self._all([partial(night.drive, self.rig.mesh)] * at_once)

    def teardown(self) -> None:
        """Everything comes to rest, and all books agree with all that was told."""
        self._run(self._settle())
        self._run(self.rig.mesh.deliver_late())
        self._run(self.rig.mesh.end())
        payment_ids = [told.payment.payment_id for told in self.told if told.payment]
        if payment_ids:
            assert check(self.rig.books, self.told, payment_ids=payment_ids) == []
        for night in self.nights:
            assert night.compare(self.rig.books) == []

    # --- how ----------------------------------------------------------------------------

    def _run(self, work: Awaitable[T]) -> T:
        return self.rig.loop.run_until_complete(work)

    def _all(self, works: Sequence[Callable[[], Awaitable[object]]]) -> None:
        async def together() -> None:
            await asyncio.gather(*(work() for work in works))

        self._run(together())

    async def _settle(self) -> None:
        """Each request is asked again until it rests, or is known to be another's key."""
        async with asyncio.timeout(_REST_S):
            for request in self.requests:
                while not await self._pay(request):  # noqa: ASYNC110  # asking is what it is
                    await asyncio.sleep(0.01)

    async def _pay(self, request: service_pb.CreatePaymentRequest) -> bool:
        """One call; whether nothing is left to be asked."""
        call = self.rig.mesh.payments.CreatePayment(request, timeout=_CALL_S)
        answer, reason = await self._told(request, call)
        if answer is None:
            return reason == "REQUEST_ID_REUSED"
        return all(order.state in _RESTING for order in answer.payment.orders)

    async def _get(self, request: service_pb.CreatePaymentRequest) -> pb.Payment | None:
        asked = service_pb.GetPaymentRequest(request_id=request.request_id)
        answer, _ = await self._told(
            asked, self.rig.mesh.payments.GetPayment(asked, timeout=_CALL_S)
        )
        return None if answer is None else answer.payment

    async def _told(self, request: Any, call: Awaitable[Any]) -> tuple[Any, str]:
        started = time.monotonic()
        answer, reason = None, ""
        try:
            answer = await call
        except grpc.RpcError as error:
            reason = _allowed(error)
        payment = None if answer is None else answer.payment
        self.told.append(Told(request, payment, reason, started, time.monotonic()))
        return answer, reason

    async def _watch(self, request: service_pb.CreatePaymentRequest) -> None:
        """What is watched never goes back, and ends at rest."""
        found = await self._get(request)
        if found is None:
            return
        asked = service_pb.WatchPaymentRequest(payment_id=found.payment_id)
        try:
            async for seen in self.rig.mesh.payments.WatchPayment(asked, timeout=_CALL_S):
                self.told.append(
                    Told(
                        service_pb.GetPaymentRequest(payment_id=found.payment_id),
                        seen.payment,
                        answered_s=time.monotonic(),
                    )
                )
        except grpc.RpcError as error:
            _allowed(error)

    async def _list(self, request: service_pb.CreatePaymentRequest) -> None:
        """A buyer's list has each payment of theirs once."""
        asked = service_pb.ListPaymentsRequest(buyer_id=request.buyer_id)
        try:
            answer = await self.rig.mesh.payments.ListPayments(asked, timeout=_CALL_S)
        except grpc.RpcError as error:
            _allowed(error)
        else:
            listed = [payment.payment_id for payment in answer.payments]
            assert len(listed) == len(set(listed))
            assert {payment.buyer_id for payment in answer.payments} <= {request.buyer_id}

    async def _retry(self, request: service_pb.CreatePaymentRequest) -> None:
        found = await self._get(request)
        if found is None:
            return
        asked = service_pb.RetryPaymentRequest(
            payment_id=found.payment_id, request_id=fresh("retry"), note="tried again"
        )
        try:
            await self.rig.mesh.payments.RetryPayment(asked, timeout=_CALL_S)
        except grpc.RpcError as error:
            _allowed(error)


def _allowed(error: grpc.RpcError) -> str:
    reason = from_rpc_error(error).reason.value
    assert reason in _ALLOWED, error
    return reason


def main() -> None:
    """Plays sequences on a mesh of its own: EXAMPLES STEPS. Fails with the shortest that breaks."""
    configure()
    examples, steps = map(int, sys.argv[1:])
    with open_folder(in_memory=True) as folder:
        server = started(folder / "data")
        try:
            _play(server.admin_url, examples, steps)
        finally:
            server.stop(immediate=True)


def _play(admin_url: str, examples: int, steps: int) -> None:
    loop = asyncio.new_event_loop()
    follow_tasks(loop)
    loop.set_exception_handler(lambda *_: None)  # tasks of the dead
    templates = provision(admin_url, prefix="template")
    mesh, books = loop.run_until_complete(new_mesh(admin_url, templates, FLOWS["night"]))

    class OnThisMesh(Machine):
        rig = Rig(loop, mesh, books)

    run_state_machine_as_test(
        OnThisMesh,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
    loop.run_until_complete(mesh.stop())


if __name__ == "__main__":
    main()
