"""The services that payment_svc calls: proto on one side, the domain on the other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias
from uuid import UUID

import grpc
import structlog
from paymesh.common.v1 import money_pb2
from paymesh.executor.v1 import executor_service_pb2 as executor_pb
from paymesh.ledger.v1 import ledger_posting_service_pb2 as ledger_pb
from paymesh.payment.v1 import payment_pb2
from paymesh.wallet.v1 import wallet_posting_service_pb2 as wallet_pb
from paymesh.wallet.v1 import wallet_service_pb2

from mesh.errors import MeshError, Reason
from mesh.money import Money
from mesh.status import from_rpc_error, from_status
from payment_svc.domain import (
    Captured,
    Declined,
    Delayed,
    Evidence,
    Item,
    Outcome,
    Parked,
    Pending,
    Settled,
    Unknown,
)

if TYPE_CHECKING:
    from paymesh.executor.v1.executor_service_pb2_grpc import ExecutorServiceAsyncStub
    from paymesh.ledger.v1.ledger_posting_service_pb2_grpc import LedgerPostingServiceAsyncStub
    from paymesh.wallet.v1.wallet_posting_service_pb2_grpc import WalletPostingServiceAsyncStub

log = structlog.get_logger()

Deliver: TypeAlias = Callable[[list[tuple[Item, Outcome]]], None]

MAX_LIST_ITEMS = 500
FIRST_RECONNECT_S = 0.05
MAX_RECONNECT_S = 1.0
# How often items without an answer are looked for; a fraction of any item's timeout.
SWEEP_S = 1.0


@dataclass(slots=True)
class _Asked:
    item: Item
    sent: float


class ExecutorStream:
    """The standing stream to the executor: a hop that never loses an item.

    What was sent and not answered is sent again when the stream broke, or when the item's
    own timer ran out; the executor takes a repeated operation as the same one.
    """

    def __init__(
        self, stub: ExecutorServiceAsyncStub, deliver: Deliver, *, item_timeout_s: float
    ) -> None:
        """`deliver` takes outcomes as they come, in any order."""
        self._stub = stub
        self._deliver = deliver
        self._item_timeout_s = item_timeout_s
        self._asked: dict[UUID, _Asked] = {}
        self._acknowledged: dict[int, asyncio.Event] = {}
        self._last_list_id = 0
        self._to_send: asyncio.Queue[tuple[int, Sequence[Item]] | None] = asyncio.Queue()

    def unanswered(self) -> int:
        """How many operations were sent and not answered."""
        return len(self._asked)

    async def execute(self, items: Sequence[Item]) -> None:
        """Sends a list; returns when its intents are committed, or the stream broke.

        Or after an item's time: an acknowledgement that never comes must not hold up for
        ever who comes next. In any case the outcomes are delivered later.
        """
        now = time.monotonic()
        for item in items:
            self._asked[item.operation_id] = _Asked(item, now)
        self._last_list_id += 1
        list_id = self._last_list_id
        acknowledged = self._acknowledged[list_id] = asyncio.Event()
        self._to_send.put_nowait((list_id, items))
        try:
            async with asyncio.timeout(self._item_timeout_s):
                await acknowledged.wait()
        except TimeoutError:
            log.warning("executor_acknowledges_nothing", items=len(items))
            self._acknowledged.pop(list_id, None)

    async def run(self) -> None:
        """Keeps the stream up until cancelled."""
        backoff_s = FIRST_RECONNECT_S
        again = False
        try:
            while True:
                started = time.monotonic()
                try:
                    await self._stream(again=again)
                    log.info("executor_stream_ended", unanswered=len(self._asked))
                except grpc.RpcError as error:
                    code = from_rpc_error(error).code.name
                    log.warning("executor_stream_broken", code=code, unanswered=len(self._asked))
                again = True
                if time.monotonic() - started > MAX_RECONNECT_S:
                    backoff_s = FIRST_RECONNECT_S
                await asyncio.sleep(backoff_s)
                backoff_s = min(backoff_s * 2, MAX_RECONNECT_S)
        finally:
            self._let_go()  # nobody acknowledges any more

    async def sweep(self) -> None:
        """Sends again, until cancelled, what was not answered within the item's time."""
        while True:
            await asyncio.sleep(SWEEP_S)
            if not self._to_send.empty():
                continue  # the executor takes nothing now: more of the same would pile up
            now = time.monotonic()
            late = [a for a in self._asked.values() if now - a.sent > self._item_timeout_s]
            for asked in late:
                asked.sent = now
                log.warning("order_asked_again", **asked.item.ids, attempt=asked.item.attempt)
            for chunk in _chunks([asked.item for asked in late]):
                log.warning("executor_silent", items=len(chunk))
                self._to_send.put_nowait((0, chunk))

    async def _stream(self, *, again: bool) -> None:
        """One stream until it ends; `again`: what is unanswered was asked before."""
        # All that is unanswered is sent first, so what was queued for the old stream is
        # sent with it, and whoever waits for an acknowledgement is let go.
        self._to_send = asyncio.Queue()
        self._let_go()
        unanswered = _chunks([asked.item for asked in self._asked.values()])
        # No deadline: it stands for as long as both sides live, which keepalive watches.
        requests = self._requests(unanswered, again=again)
        call = self._stub.Execute(requests, wait_for_ready=True)
        try:
            async for response in call:
                self._take(response)
        finally:
            # Ends the generator of requests, which else waits for ever with gRPC's own task.
            self._to_send.put_nowait(None)

    def _take(self, response: executor_pb.ExecuteResponse) -> None:
        for list_id in response.committed_list_ids:
            if list_id in self._acknowledged:
                self._acknowledged.pop(list_id).set()
        if delivered := [d for o in response.outcomes if (d := self._answered(o)) is not None]:
            self._deliver(delivered)

    def _answered(self, outcome: executor_pb.OperationOutcome) -> tuple[Item, Outcome] | None:
        """The item that is told of, and what; None if it was told before or never asked."""
        try:
            asked = self._asked.pop(UUID(outcome.operation_id), None)
        except ValueError:
            log.error("executor_answers_strangely", operation_id=outcome.operation_id[:40])  # noqa: TRY400
            return None
        if asked is None:  # it was sent twice
            return None
        try:
            return asked.item, _outcome(asked.item, outcome)
        except ValueError:
            # What a newer executor says, for example: asked again until one of us is changed.
            log.exception("executor_not_understood", **asked.item.ids)
            return asked.item, Delayed("the executor's answer is not understood")

    def _let_go(self) -> None:
        for acknowledged in self._acknowledged.values():
            acknowledged.set()
        self._acknowledged.clear()

    async def _requests(
        self, unanswered: Sequence[Sequence[Item]], *, again: bool
    ) -> AsyncIterator[executor_pb.ExecuteRequest]:
        queue = self._to_send
        for items in unanswered:
            for item in items if again else ():
                log.info("order_asked_again", **item.ids, attempt=item.attempt)
            yield _execute_request(0, items)
        while (asked := await queue.get()) is not None:
            yield _execute_request(*asked)


@dataclass(frozen=True, slots=True)
class Applied:
    """What the wallet did, in minor units; the ledger books from this and nothing else."""

    pending_minor: int


class WalletClient:
    """The writes of the wallet."""

    def __init__(self, stub: WalletPostingServiceAsyncStub, *, deadline_s: float) -> None:
        """`deadline_s` is the time of one call with its retries."""
        self._stub = stub
        self._deadline_s = deadline_s

    async def credit(self, items: Sequence[Item]) -> list[Applied | MeshError]:
        """Credits each seller with the captured amount less the commission."""
        request = wallet_pb.ApplyMovementsRequest(
            movements=[
                wallet_pb.MovementItem(
                    operation_id=item.operation_id.hex,
                    kind=wallet_service_pb2.MOVEMENT_KIND_CAPTURE,
                    seller_id=item.seller_id,
                    order_id=item.order_id.hex,
                    amount=_money(item.amount_minor - item.commission_minor, item.currency_code),
                    payment_id=item.payment_id.hex,
                )
                for item in items
            ]
        )
        try:
            response = await self._stub.ApplyMovements(request, timeout=self._deadline_s)
        except grpc.RpcError as error:
            return [_call_failed(error)] * len(items)
        if len(response.results) != len(items):
            return [_not_understood("wallet")] * len(items)
        return [_applied(result) for result in response.results]


@dataclass(frozen=True, slots=True)
class Capture:
    """A captured and credited order, to be booked."""

    item: Item
    outcome: Captured
    applied: Applied


class LedgerClient:
    """The writes of the ledger."""

    def __init__(self, stub: LedgerPostingServiceAsyncStub, *, deadline_s: float) -> None:
        """`deadline_s` is the time of one call with its retries."""
        self._stub = stub
        self._deadline_s = deadline_s

    async def book(self, captures: Sequence[Capture]) -> list[MeshError | None]:
        """Books each capture; None for one that is booked."""
        request = ledger_pb.PostEventsRequest(events=[_event(capture) for capture in captures])
        try:
            response = await self._stub.PostEvents(request, timeout=self._deadline_s)
        except grpc.RpcError as error:
            return [_call_failed(error)] * len(captures)
        if len(response.results) != len(captures):
            return [_not_understood("ledger")] * len(captures)
        return [_posted(result) for result in response.results]


def _chunks(items: Sequence[Item]) -> list[Sequence[Item]]:
    return [items[i : i + MAX_LIST_ITEMS] for i in range(0, len(items), MAX_LIST_ITEMS)]


def _money(amount_minor: int, currency_code: str) -> money_pb2.Money:
    return money_pb2.Money(amount_minor=amount_minor, currency_code=currency_code)


def _execute_request(list_id: int, items: Sequence[Item]) -> executor_pb.ExecuteRequest:
    return executor_pb.ExecuteRequest(
        list_id=list_id,
        operations=[
            executor_pb.OperationItem(
                operation_id=item.operation_id.hex,
                order_id=item.order_id.hex,
                payment_id=item.payment_id.hex,
                kind=payment_pb2.OPERATION_KIND_CHARGE,
                amount=_money(item.amount_minor, item.currency_code),
                payment_method=item.payment_method,
                restart=item.restart,
                settled=None if item.settled is None else _settled(item.settled),
            )
            for item in items
        ],
    )


def _settled(settled: Settled) -> executor_pb.SettlementEvidence:
    fee = settled.fee
    return executor_pb.SettlementEvidence(
        amount=_money(settled.amount.amount_minor, settled.amount.currency_code),
        psp_reference=settled.psp_reference,
        fee=None if fee is None else _money(fee.amount_minor, fee.currency_code),
        source=settled.source,
    )


def _call_failed(error: grpc.RpcError) -> MeshError:
    """The error of a whole call, which says nothing about any item, whatever its reason."""
    return MeshError(Reason.UNSPECIFIED, f"the call failed: {from_rpc_error(error)}")


def _not_understood(whose: str) -> MeshError:
    return MeshError(Reason.UNSPECIFIED, f"the {whose}'s answer is not understood")


def _applied(result: wallet_pb.MovementResult) -> Applied | MeshError:
    match result.WhichOneof("result"):
        case "applied":
            return Applied(result.applied.pending_minor)
        case "error":
            return from_status(result.error)
        case _:
            return _not_understood("wallet")


def _posted(result: ledger_pb.PostEventResult) -> MeshError | None:
    match result.WhichOneof("result"):
        case "posted":
            return None
        case "error":
            return from_status(result.error)
        case _:
            return _not_understood("ledger")


def _outcome(item: Item, outcome: executor_pb.OperationOutcome) -> Outcome:
    """ValueError if it holds a value that is not known here."""
    match outcome.WhichOneof("result"):
        case "captured":
            captured = outcome.captured
            if captured.amount != _money(item.amount_minor, item.currency_code):
                return Parked(
                    f"WRONG_AMOUNT: captured {captured.amount.amount_minor}"
                    f" {captured.amount.currency_code}, asked {item.amount_minor}"
                    f" {item.currency_code}",
                    poll=False,
                    psp_reference=captured.psp_reference,
                )
            fee = captured.fee
            return Captured(
                captured.psp_reference,
                Money(fee.amount_minor, fee.currency_code) if captured.HasField("fee") else None,
                captured.source,
                Evidence(captured.evidence),
            )
        case "declined":
            declined = outcome.declined
            return Declined(
                declined.category,
                declined.code,
                declined.psp_reference,
                Evidence(declined.evidence),
            )
        case "pending":
            return Pending(outcome.pending.psp_reference)
        case "unknown":
            return Unknown()
        case "parked":
            parked = outcome.parked
            return Parked(parked.attention_reason, parked.poll, parked.psp_reference)
        case "error":
            error = from_status(outcome.error)
            if error.is_permanent:
                return Parked(f"EXECUTOR_REFUSED: {error}", poll=False)
            return Delayed(str(error))
        case _:
            return Delayed("the executor answered without a result")


def _event(capture: Capture) -> ledger_pb.LedgerEvent:
    item, outcome = capture.item, capture.outcome
    event = ledger_pb.CaptureEvent(
        seller_id=item.seller_id,
        source=outcome.source,
        captured=_money(item.amount_minor, item.currency_code),
        seller_pending_minor=capture.applied.pending_minor,
        commission_minor=item.commission_minor,
        psp_reference=outcome.psp_reference,
    )
    if outcome.fee is not None:
        event.fee.CopyFrom(_money(outcome.fee.amount_minor, outcome.fee.currency_code))
    return ledger_pb.LedgerEvent(
        operation_id=item.operation_id.hex,
        order_id=item.order_id.hex,
        capture=event,
        payment_id=item.payment_id.hex,
    )
