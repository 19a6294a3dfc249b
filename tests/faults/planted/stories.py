"""What the engine's flows do not do: several callers, a caller who leaves, lists, a drain.

Each is played on a mesh of its own, which may fail on the way as in any scenario, and answers
what is wrong: what the checker finds, or an answer that is wrong by itself.
"""

from __future__ import annotations

import asyncio
import math
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from paymesh.common.v1.money_pb2 import Money
from paymesh.operations.v1 import status_service_pb2 as status_pb
from paymesh.operations.v1.status_service_pb2_grpc import StatusServiceStub
from paymesh.payment.v1 import payment_pb2 as pb
from paymesh.payment.v1 import payment_service_pb2 as service_pb
from paymesh.wallet.v1 import wallet_posting_service_pb2 as wallet_pb
from paymesh.wallet.v1 import wallet_service_pb2
from paymesh.wallet.v1.wallet_posting_service_pb2_grpc import WalletPostingServiceStub

from mesh import failpoints
from mesh.channel import open_channel
from mesh.errors import Reason
from mesh.status import from_rpc_error
from payment_svc import operations
from tests.faults.checker import Sessions, Told, check
from tests.faults.engine.attempt import Flow
from tests.faults.engine.faults import Fault
from tests.faults.engine.flows import Buying
from tests.faults.engine.mesh import FailingMesh
from tests.faults.engine.process import Life
from tests.support.checkout import new_checkout, new_order

CALL_S = 2.0
AT_REST_S = 8.0
"""How long it may take until a payment rests, when nothing fails any more."""
_SETTLED_S = 8.0
_SOON_S = 0.02
_GOES_ON_S = 0.5
_S = pb.OrderState


@dataclass(slots=True)
class Play:
    """A mesh and its books, and what its callers were told."""

    mesh: FailingMesh
    books: Sessions
    told: list[Told] = field(default_factory=list)

    @property
    def fired(self) -> bool:
        """Whether all faults of the scenario have happened."""
        passages = self.mesh._passages
        return passages is not None and passages.all_fired

    def channel(self, service: str) -> grpc.aio.Channel:
        """A caller's channel to a service."""
        with self.mesh._client.installed():
            return open_channel(self.mesh._target(service), retries=False)

    async def create(
        self, request: service_pb.CreatePaymentRequest, timeout_s: float = CALL_S
    ) -> Told:
        """One call, whatever it is answered."""
        return await self._tell(request, self.mesh.payments.CreatePayment, timeout_s)

    async def get(self, request: service_pb.GetPaymentRequest, timeout_s: float = CALL_S) -> Told:
        """One read, whatever it is answered."""
        return await self._tell(request, self.mesh.payments.GetPayment, timeout_s)

    async def _tell(self, request: Any, call: Any, timeout_s: float) -> Told:
        started = time.monotonic()
        payment, reason = None, ""
        try:
            payment = (await call(request, timeout=timeout_s)).payment
        except grpc.RpcError as error:
            reason = from_rpc_error(error).reason.value
        told = Told(request, payment, reason, started, time.monotonic())
        self.told.append(told)
        return told

    async def pays(self, request: service_pb.CreatePaymentRequest) -> pb.Payment:
        """Calls until the payment rests."""
        caller = Buying(request.payment_method, ())
        caller.request, caller.answers = request, self.told
        with suppress(TimeoutError):
            await caller.drive(self.mesh)
        payment = next((told.payment for told in reversed(self.told) if told.payment), None)
        assert payment is not None, "nothing was acknowledged"
        return payment

    async def problems(self, *payment_ids: str) -> list[str]:
        """What the checker says when these rest, or have had the time to; all, if none is named."""
        until = time.monotonic() + AT_REST_S
        while True:
            found = await asyncio.to_thread(
                check, self.books, self.told, payment_ids=list(payment_ids) or None
            )
            if not any(one.invariant == "I7" for one in found) or time.monotonic() > until:
                return [f"{one.invariant}: {one.text}" for one in found]
            await asyncio.sleep(_SOON_S)

    async def row(self, service: str, statement: str, *values: Any) -> Any:
        """Waits for the first column of a row."""
        until = time.monotonic() + _SETTLED_S
        while time.monotonic() < until:
            row = getattr(self.books, service).execute(statement.encode(), values).fetchone()
            if row is not None:
                return row[0]
            await asyncio.sleep(_SOON_S)
        raise AssertionError(f"{service} has nothing for {statement}")


@dataclass(frozen=True, slots=True)
class Story:
    """How it goes, and on what mesh: see Flow."""

    play: Callable[[Play], Awaitable[list[str]]]
    settings: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    replicas: int = 1


async def another_request(play: Play) -> list[str]:
    """A request_id is used again, for another amount."""
    request = new_checkout()
    payment = await play.pays(request)
    other = new_checkout(
        "tok_ok",
        new_order(77_700, seller_id=request.orders[0].seller_id),
        request_id=request.request_id,
        buyer_id=request.buyer_id,
    )
    await play.create(other)
    return await play.problems(payment.payment_id)


async def told_once(play: Play) -> list[str]:
    """A caller calls until it is told of its payment, and never again."""
    request = new_checkout()
    until = time.monotonic() + _SETTLED_S
    while (told := await play.create(request)).payment is None:
        assert time.monotonic() < until, "nothing was acknowledged"
        await asyncio.sleep(_SOON_S)
    return await play.problems(told.payment.payment_id)


async def one_call(play: Play) -> list[str]:
    """A caller calls once. What the mesh can repair by itself, it never hears of."""
    told = await play.create(new_checkout())
    if told.payment is not None:
        return await play.problems(told.payment.payment_id)
    await asyncio.sleep(_GOES_ON_S)
    return [f"the caller was refused: {told.reason}", *await play.problems()]


async def caller_leaves(play: Play) -> list[str]:
    """A caller goes away while its payment is being charged, and asks later how it went."""
    request = new_checkout("tok_slow")
    call = play.mesh.payments.CreatePayment(request, timeout=CALL_S)
    find = "SELECT payment_id::text FROM payment WHERE request_id = %s"
    payment_id = (await play.row("payment", find, request.request_id)).replace("-", "")
    await play.row("executor", "SELECT 1 FROM operation WHERE payment_id = %s::uuid", payment_id)
    call.cancel()
    await asyncio.sleep(_SOON_S)
    # What follows from its leaving has the time to follow.
    await play.row(
        "psp_stub",
        "SELECT 1 FROM truth JOIN idempotency USING (idempotency_key) WHERE truth.order_id ="
        " ANY (%s::uuid[])",
        await _orders(play, payment_id),
    )
    problems = await play.problems(payment_id)
    await play.get(service_pb.GetPaymentRequest(payment_id=payment_id))
    return problems or await play.problems(payment_id)


async def _orders(play: Play, payment_id: str) -> list[str]:
    rows = play.books.payment.execute(
        "SELECT order_id::text FROM payment_order WHERE payment_id = %s::uuid", (payment_id,)
    )
    return [order_id for (order_id,) in rows]


async def halves(play: Play) -> list[str]:
    """A commission that is as near to half of an odd amount as there is."""
    payment = await play.pays(new_checkout("tok_ok", new_order(10_001, 5_000)))
    return await play.problems(payment.payment_id)


async def wallet_is_paused(play: Play) -> list[str]:
    """Somebody reads both books while the wallet says nothing: the ledger first."""
    request = new_checkout()
    paying = asyncio.ensure_future(play.pays(request))
    problems: list[str] = []
    while not paying.done():
        booked = {i for (i,) in play.books.ledger.execute("SELECT order_id FROM journal")}
        credited = {i for (i,) in play.books.wallet.execute("SELECT order_id FROM movement")}
        if booked - credited and not problems:
            problems.append("an order is in the ledger and not in its seller's wallet")
        await asyncio.sleep(_SOON_S)
    return problems + await play.problems((await paying).payment_id)


async def parked(play: Play) -> list[str]:
    """An operator asks what needs attention, when something does."""
    payment = await play.pays(new_checkout("tok_wrong_amount"))
    problems = await play.problems(payment.payment_id)
    async with play.channel("payment") as channel:
        status = await StatusServiceStub(channel).GetStatus(
            status_pb.GetStatusRequest(attention_age=Duration()), timeout=CALL_S
        )
    shown = {
        payment_id
        for one in status.attentions
        if one.kind == status_pb.ATTENTION_KIND_ORDERS_PARKED
        for payment_id in one.payment_ids
    }
    listed = await play.mesh.payments.ListPayments(
        service_pb.ListPaymentsRequest(state=pb.PAYMENT_STATE_NEEDS_ATTENTION), timeout=CALL_S
    )
    if payment.payment_id not in shown:
        problems.append("GetStatus shows nothing of an order that is parked")
    if payment.payment_id not in {one.payment_id for one in listed.payments}:
        problems.append("ListPayments has nothing of a payment that needs attention")
    return problems


# --- lists ---------------------------------------------------------------------------------


def _movement(amount_minor: int, currency: str = "EUR", seller: str = "") -> wallet_pb.MovementItem:
    return wallet_pb.MovementItem(
        operation_id=uuid.uuid4().hex,
        order_id=uuid.uuid4().hex,
        payment_id=uuid.uuid4().hex,
        kind=wallet_service_pb2.MOVEMENT_KIND_CAPTURE,
        seller_id=seller or f"seller_{uuid.uuid4().hex}",
        amount=Money(amount_minor=amount_minor, currency_code=currency),
    )


async def twice_in_a_list(play: Play) -> list[str]:
    """A list has one movement twice."""
    asked = _movement(1_234)
    await _apply(play, asked, asked)
    row = play.books.wallet.execute(
        "SELECT (SELECT sum(pending_minor) FROM balance WHERE seller_id = %(seller)s),"
        " (SELECT sum(pending_minor) FROM movement WHERE seller_id = %(seller)s)",
        {"seller": asked.seller_id},
    ).fetchone()
    assert row is not None
    balance, moved = row
    return [] if balance == moved == 1_234 else [f"a balance of {balance}, movements of {moved}"]


async def bad_one_in_a_list(play: Play) -> list[str]:
    """A list has a movement in a currency that there is not, before two good ones."""
    asked = [_movement(100, currency="XXQ"), _movement(200), _movement(300)]
    try:
        results = await _apply(play, *asked)
    except grpc.RpcError as error:
        return [f"all of a list was refused for one: {from_rpc_error(error).reason}"]
    problems = []
    for item, result in zip(asked, results, strict=True):
        rows = play.books.wallet.execute(
            "SELECT movement_id FROM movement WHERE operation_id = %s::uuid", (item.operation_id,)
        ).fetchall()
        stored = [movement_id.hex for (movement_id,) in rows]
        told = [result.applied.movement_id] if result.WhichOneof("result") == "applied" else []
        if stored != told:
            problems.append(f"of {item.amount.amount_minor} is stored {stored}, told {told}")
    return problems


async def _apply(play: Play, *items: wallet_pb.MovementItem) -> list[wallet_pb.MovementResult]:
    async with play.channel("wallet") as channel:
        response = await WalletPostingServiceStub(channel).ApplyMovements(
            wallet_pb.ApplyMovementsRequest(movements=items), timeout=CALL_S
        )
    return list(response.results)


# --- replicas ------------------------------------------------------------------------------


def sleeping(token: str, seconds: float) -> Callable[[Play], Awaitable[list[str]]]:
    """Two replicas; the one that passes the fault sleeps for so long, and then goes on."""

    async def play_it(play: Play) -> list[str]:
        mesh = play.mesh
        real, loop = mesh.at, asyncio.get_running_loop()

        def at(point: str) -> Fault | None:
            fault, life = real(point), failpoints.installed()
            if fault is not None and isinstance(life, Life):
                life.running.clear()
                loop.call_later(seconds, life.running.set)
            return fault

        mesh.at = at  # type: ignore[method-assign]
        try:
            return await _watched(play, new_checkout(token), seconds + _GOES_ON_S)
        finally:
            del mesh.at

    return play_it


async def _watched(
    play: Play, request: service_pb.CreatePaymentRequest, seconds: float
) -> list[str]:
    """One caller pays, another looks all the time, for some seconds after the fault."""
    paying = asyncio.ensure_future(play.create(request))
    read = service_pb.GetPaymentRequest(request_id=request.request_id)
    seen = ""
    started, until = time.monotonic(), math.inf
    while time.monotonic() < until or not paying.done():
        if play.fired and until == math.inf:
            until = time.monotonic() + seconds
        assert time.monotonic() < started + _SETTLED_S, "the fault does not happen"
        told = await play.get(read, timeout_s=0.1)
        if told.reason == Reason.PAYMENT_NOT_FOUND:
            play.told.pop()  # the other caller is still to be answered: no order is known yet
        seen = told.payment.payment_id if told.payment else seen
        await asyncio.sleep(_SOON_S)
    return await play.problems(seen)


async def drained(play: Play) -> list[str]:
    """A replica is told to stop, as by SIGTERM, while the PSP is silent; then one starts."""
    mesh = play.mesh
    (life,) = mesh._lives["payment"]
    request = new_checkout("tok_timeout_captured")
    paying = asyncio.ensure_future(play.create(request))
    find = "SELECT payment_id::text FROM payment WHERE request_id = %s"
    payment_id = (await play.row("payment", find, request.request_id)).replace("-", "")
    assert life.server is not None
    with life.installed():
        # As Server.run and payment_svc's serve do it.
        await life.server.stop()
        tasks = [task for task in life.tasks if not task.done()]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=1.0)
        epoch = await play.row("payment", "SELECT epoch FROM replica WHERE NOT dead")
        await operations.release_epoch(life.databases[0], epoch)
    life.crash()
    mesh.died("payment", replicas=1)
    await mesh.quiet()
    await paying
    return await play.problems(payment_id)


FLOWS: Mapping[str, Flow] = {
    # The PSP remembers a key for less than a process that is paused takes to ask again. Not
    # among the engine's flows: a resend that is under way for so long is charged twice by any
    # PSP, and only the settings of production leave the room for it.
    "key-forgotten": Flow(
        partial(Buying, "tok_ok", [frozenset({_S.ORDER_STATE_SUCCEEDED, _S.ORDER_STATE_PARKED})]),
        {"executor": {"key_window_s": 0.5}, "psp_stub": {"key_memory_s": 0.5}},
    ),
}
"""Ways of paying beside those of the engine."""

STORIES: Mapping[str, Story] = {
    "another-request": Story(another_request),
    "told-once": Story(told_once),
    "one-call": Story(one_call),
    "caller-leaves": Story(caller_leaves, {"psp_stub": {"slow_ms": 200.0}}),
    "halves": Story(halves),
    "wallet-is-paused": Story(wallet_is_paused),
    "parked": Story(parked),
    "twice-in-a-list": Story(twice_in_a_list),
    "bad-one-in-a-list": Story(bad_one_in_a_list),
    # It sleeps for longer than its lease, and what it would write would stay.
    "owner-sleeps": Story(
        sleeping("tok_ok", 1.2),
        {"payment": {"delayed_first_ms": 60_000, "delayed_most_ms": 60_000}},
        replicas=2,
    ),
    # It sleeps within its lease, and what it writes stands for a while.
    "one-of-two-sleeps": Story(
        sleeping("tok_pending_success", 1.5),
        {"payment": {"lease_ms": 4_000, "delayed_first_ms": 500, "delayed_most_ms": 500}},
        replicas=2,
    ),
    "drained": Story(drained, {"payment": {"drain_s": 0.1}}),
}
