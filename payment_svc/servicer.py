"""PaymentService: proto → domain → operation → proto."""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, TypeAlias, cast
from uuid import UUID

import grpc
import structlog
from paymesh.payment.v1 import check_mesh_pb2, payment_pb2
from paymesh.payment.v1 import payment_service_pb2 as pb
from paymesh.payment.v1.payment_service_pb2_grpc import PaymentServiceServicer

from mesh import tracing
from mesh.cards import looks_like_issued_card_number
from mesh.clock import utc_now
from mesh.db import CommitFailed, Database, NotCommitted
from mesh.errors import MeshError, Reason, Violation, outcome_unknown, validation_failed
from mesh.paging import (
    MAX_PAGE_BYTES,
    Position,
    decode_token,
    encode_token,
    fitting,
    page_size,
)
from payment_svc import operations
from payment_svc.bulk import Bulk
from payment_svc.checking import Checker
from payment_svc.domain import NewPayment, NewRetry, check_amounts
from payment_svc.intake import Intake
from payment_svc.operations import Accepted
from payment_svc.reader import Reader
from payment_svc.recovery import Recovery
from payment_svc.translate import (
    check_asked,
    check_message,
    list_filters,
    new_payment,
    payment_id_of,
    payment_message,
)
from payment_svc.views import Listed, Payment
from payment_svc.waiting import Waiting
from payment_svc.watching import Watching

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

CALLER_KEY = "paymesh-caller"
DEFAULT_CALLER = "default"
ATTEMPTS_KEY = "grpc-previous-rpc-attempts"
_CALLER = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}")

DEFAULT_DEADLINE_S = 30.0
# What is kept back of the caller's time for the read and the way home. A quarter of a
# short deadline, so that even an impatient caller gets an answer and not a time-out.
MARGIN_S = 0.25
MARGIN_SHARE = 0.25
# Lists at once, of the four connections that accept payments and renew the lease, too: a list
# may walk far.
MOST_LISTS = 2


class PaymentServicer(PaymentServiceServicer):
    """What callers call."""

    def __init__(
        self,
        database: Database,
        *,
        intake: Intake,
        waiting: Waiting,
        watching: Watching,
        reader: Reader,
        recovery: Recovery,
        checker: Checker,
    ) -> None:
        """All state is in the database and in the given parts."""
        self._database = database
        self._intake = intake
        self._waiting = waiting
        self._watching = watching
        self._reader = reader
        self._recovery = recovery
        self._checker = checker
        self._lists = asyncio.Semaphore(MOST_LISTS)
        self._bulks: set[Bulk] = set()
        self._draining = False

    async def CreatePayment(
        self, request: pb.CreatePaymentRequest, context: Context
    ) -> pb.CreatePaymentResponse:
        return pb.CreatePaymentResponse(
            payment=await self._create(
                new_payment(request, _caller(context)),
                _answer_at(context),
                _traceparent(context),
                repeated=_repeated(context),
            )
        )

    async def CreatePayments(
        self, request_iterator: AsyncIterator[pb.CreatePaymentsRequest], context: Context
    ) -> AsyncGenerator[pb.CreatePaymentsResponse, None]:
        caller, end_at = _caller(context), _answer_at(context, default_s=math.inf)
        traceparent, repeated = _traceparent(context), _repeated(context)

        async def create(request: pb.CreatePaymentRequest) -> payment_pb2.Payment:
            answer_at = min(end_at, asyncio.get_running_loop().time() + DEFAULT_DEADLINE_S)
            return await self._create(
                new_payment(request, caller), answer_at, traceparent, repeated=repeated
            )

        bulk = Bulk(create)
        self._bulks.add(bulk)
        if self._draining:
            bulk.stop()
        try:
            async with aclosing(bulk.responses(request_iterator)) as responses:
                async for response in responses:
                    yield response
        finally:
            self._bulks.discard(bulk)

    async def _create(
        self, payment: NewPayment, answer_at: float, traceparent: str, *, repeated: bool
    ) -> payment_pb2.Payment:
        """Makes a payment, and tells its span. The answer comes by `answer_at` of the loop.

        repeated: whether gRPC sent this call before.
        """
        started_ns = time.time_ns()
        try:
            accepted, stored = await self._accepted(payment, answer_at)
        except BaseException as error:
            # For the line that the call's end has in the log, and only then.
            structlog.contextvars.bind_contextvars(payment_id=payment.payment_id.hex)
            _tell(payment, started_ns, traceparent, type(error).__name__)
            if isinstance(error, NotCommitted):
                raise _not_accepted(repeated=repeated) from error
            if repeated and isinstance(error, MeshError) and error.reason is Reason.OVERLOADED:
                raise _not_accepted(repeated=True) from error
            raise
        _tell(payment, started_ns, traceparent, state=stored.state.name, new=accepted.new)
        return payment_message(stored)

    async def _accepted(self, payment: NewPayment, answer_at: float) -> tuple[Accepted, Payment]:
        """Accepts the payment and waits until it rests, or for as long as the caller may."""
        refusal = check_amounts(payment.orders)
        # A rule that was tightened since must not refuse the retry of what was accepted.
        if refusal is not None and await self._reader.get(payment.payment_id) is None:
            raise refusal
        loop = asyncio.get_running_loop()
        accepting, joined = self._intake.accept(payment)
        await asyncio.wait([accepting], timeout=max(0.0, answer_at - loop.time()))
        if not accepting.done():
            raise outcome_unknown("the payment was accepted")
        accepted = accepting.result()
        if joined:  # it is the earlier call that made the payment
            accepted = replace(accepted, create_time=None)
        try:
            stored = None if accepted.new else await self._reader.get(payment.payment_id)
            if stored is None or not stored.rests:
                stored = await self._rested(payment.payment_id, answer_at)
        except CommitFailed:
            # It is accepted, and goes on; only how it stands can't be told now.
            raise outcome_unknown("the payment ended") from None
        return accepted, _found(stored)

    async def _rested(self, payment_id: UUID, answer_at: float) -> Payment | None:
        """The payment when it rests, or as it stands at `answer_at`. Errors: CommitFailed."""
        left_s = max(0.0, answer_at - asyncio.get_running_loop().time())
        stored = await self._waiting.wait(payment_id, left_s)
        return stored or await self._reader.get(payment_id)

    async def GetPayment(
        self, request: pb.GetPaymentRequest, context: Context
    ) -> pb.GetPaymentResponse:
        stored = await self._reader.get(payment_id_of(request, _caller(context)))
        return pb.GetPaymentResponse(payment=payment_message(_found(stored)))

    async def WatchPayment(
        self, request: pb.WatchPaymentRequest, context: Context
    ) -> AsyncGenerator[pb.WatchPaymentResponse, None]:
        async with aclosing(self._watching.changes(UUID(request.payment_id))) as changes:
            async for payment in changes:
                yield pb.WatchPaymentResponse(payment=payment_message(payment))

    async def RetryPayment(
        self, request: pb.RetryPaymentRequest, context: Context
    ) -> pb.RetryPaymentResponse:
        answer_at = _answer_at(context)
        payment_id = UUID(request.payment_id)
        _found(await self._reader.get(payment_id))
        await self._recovery.retry(
            NewRetry(payment_id, _caller(context), request.request_id, request.note)
        )
        try:
            stored = _found(await self._reader.get(payment_id))
            if not stored.rests:
                stored = _found(await self._rested(payment_id, answer_at))
        except CommitFailed:
            raise outcome_unknown("the round ended") from None
        return pb.RetryPaymentResponse(payment=payment_message(stored))

    async def CheckMesh(
        self, request: check_mesh_pb2.CheckMeshRequest, context: Context
    ) -> AsyncGenerator[check_mesh_pb2.CheckMeshResponse, None]:
        asked = check_asked(request, utc_now())
        async with aclosing(self._checker.check(asked, lambda: self._draining)) as pages:
            async for page in pages:
                yield check_message(page)

    def drain(self) -> None:
        """Takes nothing more from streams, now or later: the process is about to stop."""
        self._draining = True
        for bulk in self._bulks:
            bulk.stop()
        self._watching.let_go()

    async def ListPayments(
        self, request: pb.ListPaymentsRequest, context: Context
    ) -> pb.ListPaymentsResponse:
        size = page_size(request.page_size)
        filters = list_filters(request, decode_token(request))
        async with self._lists:
            listed = await operations.list_payments(self._database, filters, size + 1)
            messages = await self._page(listed[:size])
        token = ""
        if len(messages) < len(listed):
            last = listed[len(messages) - 1]
            token = encode_token(request, Position(last.create_time, last.payment_id))
        return pb.ListPaymentsResponse(payments=messages, next_page_token=token)

    async def _page(self, listed: Sequence[Listed]) -> list[payment_pb2.Payment]:
        """The first of them, up to 2 MiB together; what comes after is not read."""
        messages: list[payment_pb2.Payment] = []
        size_bytes = 0
        async with aclosing(operations.listed_payments(self._database, listed)) as parts:
            async for payments in parts:
                part = [payment_message(payment) for payment in payments]
                messages += part
                size_bytes += sum(message.ByteSize() for message in part)
                if size_bytes > MAX_PAGE_BYTES:
                    break
        return list(fitting(messages))


def _caller(context: Context) -> str:
    """The configured name of the caller: the metadata entry, else `default`."""
    for key, value in context.invocation_metadata() or ():
        if key == CALLER_KEY:
            return _caller_name(value)
    return DEFAULT_CALLER


def _caller_name(value: str | bytes) -> str:
    field = f"metadata.{CALLER_KEY}"
    if not isinstance(value, str) or not _CALLER.fullmatch(value):
        raise validation_failed(
            Violation(
                field,
                "must be 1 to 63 of a-z, 0-9, '_', '.', '-', and start with a letter or digit",
            )
        )
    if looks_like_issued_card_number(value):
        raise MeshError(
            Reason.CARD_NUMBER_REFUSED,
            "the caller's name looks like a card number",
            violations=[Violation(field, "must not be a card number")],
        )
    return value


def _repeated(context: Context) -> bool:
    """Whether gRPC sent the call before, by itself; its caller knows nothing of it."""
    return any(key == ATTEMPTS_KEY for key, _ in context.invocation_metadata() or ())


def _not_accepted(*, repeated: bool) -> MeshError:
    """The answer to a call whose payment was provably not stored by it."""
    if repeated:
        # The answer to the first attempt may have got lost, and the payment may be stored.
        return outcome_unknown("an earlier attempt of the call was accepted")
    return MeshError(
        Reason.DEPENDENCY_DOWN,
        "the database can't be reached or is too busy: this call accepted nothing; of an earlier"
        " one with this request_id it says nothing: call again with the same request_id",
    )


def _traceparent(context: Context) -> str:
    """The caller's own trace, if spans are recorded and it sent one."""
    if tracing.recorder() is None:
        return ""
    theirs = [v for k, v in context.invocation_metadata() or () if k == "traceparent"]
    return str(theirs[0]) if theirs else ""


def _tell(
    payment: NewPayment,
    started_ns: int,
    traceparent: str,
    problem: str = "",
    *,
    state: str = "",
    new: bool = False,
) -> None:
    """The span of a call: the root of the payment's trace, if this call made it."""
    spans = tracing.recorder()
    if spans is None:
        return
    spans.payment(
        payment.payment_id,
        started_ns,
        new=new,
        attributes={"paymesh.state": state, "paymesh.caller": payment.caller},
        traceparent=traceparent,
        problem=problem,
    )


def _answer_at(context: Context, *, default_s: float = DEFAULT_DEADLINE_S) -> float:
    """Until when the caller may be kept waiting, by the loop's clock."""
    # The stubs forget that a call may have no deadline.
    remaining = cast("float | None", context.time_remaining())
    if remaining is None:
        patience_s = default_s
    else:
        patience_s = max(0.0, remaining - min(MARGIN_S, remaining * MARGIN_SHARE))
    return asyncio.get_running_loop().time() + patience_s


def _found(payment: Payment | None) -> Payment:
    if payment is None:
        raise MeshError(Reason.PAYMENT_NOT_FOUND, "there is no such payment")
    return payment
