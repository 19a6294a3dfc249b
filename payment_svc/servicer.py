"""PaymentService: proto → domain → operation → proto."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any, TypeAlias, cast

import grpc
import structlog
from paymesh.payment.v1 import payment_service_pb2 as pb
from paymesh.payment.v1.payment_service_pb2_grpc import PaymentServiceServicer

from mesh import tracing
from mesh.cards import looks_like_issued_card_number
from mesh.db import CommitFailed, Database
from mesh.errors import MeshError, Reason, Violation, outcome_unknown, validation_failed
from mesh.paging import Position, decode_token, encode_token, fitting, page_size
from payment_svc import operations
from payment_svc.domain import NewPayment, check_amounts
from payment_svc.intake import Intake
from payment_svc.operations import Accepted
from payment_svc.reader import Reader
from payment_svc.translate import list_filters, new_payment, payment_id_of, payment_message
from payment_svc.views import Payment
from payment_svc.waiting import Waiting

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

CALLER_KEY = "paymesh-caller"
DEFAULT_CALLER = "default"
_CALLER = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}")

DEFAULT_DEADLINE_S = 30.0
# What is kept back of the caller's time for the read and the way home. A quarter of a
# short deadline, so that even an impatient caller gets an answer and not a time-out.
MARGIN_S = 0.25
MARGIN_SHARE = 0.25


class PaymentServicer(PaymentServiceServicer):
    """What callers call."""

    def __init__(
        self, database: Database, intake: Intake, waiting: Waiting, reader: Reader
    ) -> None:
        """All state is in the database and in the given parts."""
        self._database = database
        self._intake = intake
        self._waiting = waiting
        self._reader = reader

    async def CreatePayment(
        self, request: pb.CreatePaymentRequest, context: Context
    ) -> pb.CreatePaymentResponse:
        payment = new_payment(request, _caller(context))
        started_ns = time.time_ns()
        try:
            accepted, stored = await self._create(payment, context)
        except BaseException as error:
            # For the line that the call's end has in the log, and only then.
            structlog.contextvars.bind_contextvars(payment_id=payment.payment_id.hex)
            _tell(payment, started_ns, context, type(error).__name__)
            raise
        _tell(payment, started_ns, context, state=stored.state.name, new=accepted.new)
        return pb.CreatePaymentResponse(payment=payment_message(stored))

    async def _create(self, payment: NewPayment, context: Context) -> tuple[Accepted, Payment]:
        """Accepts the payment and waits until it rests, or for as long as the caller may."""
        if refusal := check_amounts(payment.orders):
            raise refusal
        loop = asyncio.get_running_loop()
        patience_s = _patience_s(context)
        answer_at = loop.time() + patience_s
        accepting = self._intake.accept(payment)
        await asyncio.wait([accepting], timeout=patience_s)
        if not accepting.done():
            raise outcome_unknown("the payment was accepted")
        accepted = accepting.result()
        try:
            stored = None if accepted.new else await self._reader.get(payment.payment_id)
            if stored is None or not stored.rests:
                left_s = max(0.0, answer_at - loop.time())
                stored = await self._waiting.wait(payment.payment_id, left_s)
            if stored is None:
                stored = await self._reader.get(payment.payment_id)
        except CommitFailed:
            # It is accepted, and goes on; only how it stands can't be told now.
            raise outcome_unknown("the payment ended") from None
        return accepted, _found(stored)

    async def GetPayment(
        self, request: pb.GetPaymentRequest, context: Context
    ) -> pb.GetPaymentResponse:
        stored = await self._reader.get(payment_id_of(request, _caller(context)))
        return pb.GetPaymentResponse(payment=payment_message(_found(stored)))

    async def ListPayments(
        self, request: pb.ListPaymentsRequest, context: Context
    ) -> pb.ListPaymentsResponse:
        size = page_size(request.page_size)
        filters = list_filters(request, decode_token(request))
        found = await operations.list_payments(self._database, filters, size + 1)
        messages = list(fitting(payment_message(payment) for payment in found[:size]))
        token = ""
        if len(messages) < len(found):
            last = found[len(messages) - 1]
            token = encode_token(request, Position(last.create_time, last.payment_id))
        return pb.ListPaymentsResponse(payments=messages, next_page_token=token)


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


def _tell(
    payment: NewPayment,
    started_ns: int,
    context: Context,
    problem: str = "",
    *,
    state: str = "",
    new: bool = False,
) -> None:
    """The span of a call: the root of the payment's trace, if this call made it."""
    spans = tracing.recorder()
    if spans is None:
        return
    theirs = [v for k, v in context.invocation_metadata() or () if k == "traceparent"]
    spans.payment(
        payment.payment_id,
        started_ns,
        new=new,
        attributes={"paymesh.state": state, "paymesh.caller": payment.caller},
        traceparent=str(theirs[0]) if theirs else "",
        problem=problem,
    )


def _patience_s(context: Context) -> float:
    """How long the caller may be kept waiting, in seconds."""
    # The stubs forget that a call may have no deadline.
    remaining = cast("float | None", context.time_remaining())
    if remaining is None:
        return DEFAULT_DEADLINE_S
    return max(0.0, remaining - min(MARGIN_S, remaining * MARGIN_SHARE))


def _found(payment: Payment | None) -> Payment:
    if payment is None:
        raise MeshError(Reason.PAYMENT_NOT_FOUND, "there is no such payment")
    return payment
