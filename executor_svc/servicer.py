"""paymesh.executor.v1.ExecutorService: proto → domain → runner → proto."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any
from uuid import UUID

import grpc
import structlog
from paymesh.common.v1 import money_pb2
from paymesh.executor.v1 import executor_read_service_pb2 as read_pb
from paymesh.executor.v1 import executor_read_service_pb2_grpc as read_pb_grpc
from paymesh.executor.v1 import executor_service_pb2 as pb
from paymesh.executor.v1 import executor_service_pb2_grpc as pb_grpc
from paymesh.payment.v1 import payment_pb2

from executor_svc import operations
from executor_svc.clients import Psp
from executor_svc.domain import (
    Answer,
    Captured,
    Declined,
    Kind,
    NoAnswer,
    NotFound,
    Operation,
    Pending,
    Settled,
    Source,
    State,
    Stored,
)
from executor_svc.runner import Runner
from mesh import ids, money
from mesh.cards import looks_like_card_number
from mesh.clock import timestamp
from mesh.db import Database
from mesh.errors import MeshError, Reason, Violation, dependency_down, validation_failed
from mesh.money import Money
from mesh.status import to_status
from mesh.validation import check

log = structlog.get_logger()

Context = grpc.aio.ServicerContext[Any, Any]

# One message, of some 200 bytes an outcome, stays far below what a channel takes.
MAX_OUTCOMES = 1000

# An operation_id that is not one is given back as it came, but not at any length.
_MAX_ID_CHARACTERS = 64


class ExecutorServicer(pb_grpc.ExecutorServiceServicer):
    """Standing streams onto one runner."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._streams: set[_Stream] = set()
        self._draining = False

    async def Execute(
        self, request_iterator: AsyncIterator[pb.ExecuteRequest], context: Context
    ) -> AsyncIterator[pb.ExecuteResponse]:
        stream = _Stream()
        reader = asyncio.create_task(self._read(request_iterator, stream))
        reader.add_done_callback(stream.read_to_end)
        self._streams.add(stream)
        if self._draining:
            stream.end()
        try:
            async for response in stream.responses():
                yield response
        finally:
            self._streams.discard(stream)
            reader.cancel()

    def drain(self) -> None:
        """Takes no more lists; each stream ends when what it brought is answered.

        What a caller sent meanwhile is not answered, and so is sent again elsewhere.
        """
        self._draining = True
        for stream in self._streams:
            stream.end()

    async def _read(
        self, request_iterator: AsyncIterator[pb.ExecuteRequest], stream: _Stream
    ) -> None:
        """Submits what comes, until the caller has no more."""
        async for request in request_iterator:
            if stream.ended:
                return
            self._submit(request, stream)

    def _submit(self, request: pb.ExecuteRequest, stream: _Stream) -> None:
        error = check(request)  # of the list as such
        if error is not None:
            raise error
        stream.expect(len(request.operations))
        operations: list[Operation] = []
        restarts: set[UUID] = set()
        settled: dict[UUID, Settled] = {}
        for item in request.operations:
            operation = _operation(item)
            if isinstance(operation, MeshError):
                log.warning(
                    "operation_refused",
                    payment_id=ids.shown(item.payment_id),
                    order_id=ids.shown(item.order_id),
                    operation_id=ids.shown(item.operation_id),
                    reason=operation.reason.value,
                    fields=[violation.field for violation in operation.violations],
                )
                stream.refuse(item.operation_id[:_MAX_ID_CHARACTERS], operation)
            else:
                operations.append(operation)
                if item.restart:
                    restarts.add(operation.operation_id)
                if item.HasField("settled"):
                    settled[operation.operation_id] = _settled(item.settled)
        self._runner.submit(stream, request.list_id, operations, restarts, settled)


class ExecutorReadServicer(read_pb_grpc.ExecutorReadServiceServicer):
    """The reads of other services: what is stored, and what the PSP says of it."""

    def __init__(self, database: Database, psp: Psp) -> None:
        self._database = database
        self._psp = psp

    async def FindOperations(
        self, request: read_pb.FindOperationsRequest, context: Context
    ) -> read_pb.FindOperationsResponse:
        asked = list(dict.fromkeys(map(ids.parse, request.operation_ids)))
        # The row first: what the PSP says after it can't be older than what the row says.
        stored = await operations.find(self._database, asked)
        looked_up = await self._look_up(asked, stored) if request.look_up and asked else {}
        return read_pb.FindOperationsResponse(
            operations=[
                _found(operation_id, stored.get(operation_id), looked_up.get(operation_id))
                for operation_id in asked
                if operation_id in stored
                or not isinstance(looked_up.get(operation_id), NotFound | None)
            ]
        )

    async def _look_up(
        self, asked: Sequence[UUID], stored: Mapping[UUID, Stored]
    ) -> dict[UUID, Answer]:
        """What the PSP says of each operation. Errors: DEPENDENCY_DOWN.

        One that was sent to another PSP is not asked for: that this one does not know it
        would look like something.
        """
        source = (await self._psp.ask_capabilities()).source
        by_key = {
            ids.psp_key(operation_id).hex: operation_id
            for operation_id in asked
            if operation_id not in stored or stored[operation_id].source == source
        }
        answers: dict[UUID, Answer] = dict.fromkeys(asked, NoAnswer("not told"))
        if not by_key:
            return answers
        try:
            async for told in self._psp.look_up(list(by_key)):
                answers |= {by_key[key]: answer for key, answer in told if key in by_key}
        except MeshError as error:
            log.warning("psp_not_looked_up", operations=len(asked), code=error.code.name)
            raise dependency_down("the PSP") from error
        return answers


class _Stream:
    """What one stream is to be told: filled by the runner, emptied into responses.

    Whatever waits when the caller is ready for a message travels in one.
    """

    def __init__(self) -> None:
        self.ended = False
        self._error: BaseException | None = None
        self._expected = 0
        self._list_ids: list[int] = []
        self._outcomes: list[pb.OperationOutcome] = []
        self._wake = asyncio.Event()

    def expect(self, operations: int) -> None:
        """One more list, with so many operations, has to be answered."""
        self._expected += 1 + operations

    def acknowledge(self, list_id: int) -> None:
        """See runner.Listener."""
        self._list_ids.append(list_id)
        self._wake.set()

    def tell(self, operation_id: UUID, result: Stored | MeshError, detail: str) -> None:
        """See runner.Listener."""
        if isinstance(result, MeshError):
            self.refuse(operation_id.hex, result)
        else:
            self._outcomes.append(_outcome(result, detail))
            self._wake.set()

    def refuse(self, operation_id: str, error: MeshError) -> None:
        """An operation's outcome is an error."""
        self._outcomes.append(
            pb.OperationOutcome(operation_id=operation_id, error=to_status(error))
        )
        self._wake.set()

    def read_to_end(self, reader: asyncio.Task[None]) -> None:
        """The caller has no more, has gone, or sent what can't be read."""
        self.end(None if reader.cancelled() else reader.exception())

    def end(self, error: BaseException | None = None) -> None:
        """Nothing more is expected; an error ends the stream before what is outstanding."""
        if not self.ended:
            self.ended = True
            self._error = error
            self._wake.set()

    async def responses(self) -> AsyncIterator[pb.ExecuteResponse]:
        """Yields until everything expected is told. Raises the error that ended the stream."""
        while True:
            if self._error is not None:
                raise self._error
            if self._list_ids or self._outcomes:
                outcomes, self._outcomes = (
                    self._outcomes[:MAX_OUTCOMES],
                    self._outcomes[MAX_OUTCOMES:],
                )
                list_ids, self._list_ids = self._list_ids, []
                self._expected -= len(list_ids) + len(outcomes)
                yield pb.ExecuteResponse(committed_list_ids=list_ids, outcomes=outcomes)
            elif self.ended and not self._expected:
                return
            else:
                self._wake.clear()
                await self._wake.wait()


def _operation(item: pb.OperationItem) -> Operation | MeshError:
    error = check(item)
    if error is not None:
        return error
    if looks_like_card_number(item.payment_method):
        return MeshError(
            Reason.CARD_NUMBER_REFUSED,
            "the payment method looks like a card number; send the PSP's token instead",
            violations=[Violation("payment_method", "must not be a card number")],
        )
    violations: list[Violation] = []
    if item.amount.amount_minor < 1:
        violations.append(Violation("amount.amount_minor", "must be at least 1"))
    if "\0" in item.payment_method:
        violations.append(Violation("payment_method", "must not hold a NUL"))
    if item.HasField("settled"):
        violations += _unsettled(item)
    if violations:
        return validation_failed(*violations)
    if money.any_exponent(item.amount.currency_code) is None:
        return MeshError(
            Reason.UNKNOWN_CURRENCY,
            "the currency is not money in use by ISO 4217",
            violations=[Violation("amount.currency_code", "not money in use by ISO 4217")],
        )
    return Operation(
        ids.parse(item.operation_id),
        ids.parse(item.payment_id),
        ids.parse(item.order_id),
        Kind(item.kind),
        item.amount.amount_minor,
        item.amount.currency_code,
        item.payment_method,
    )


def _unsettled(item: pb.OperationItem) -> list[Violation]:
    """What is wrong with the settlement evidence."""
    settled = item.settled
    violations: list[Violation] = []
    if settled.amount.amount_minor < 1:
        violations.append(Violation("settled.amount.amount_minor", "must be at least 1"))
    if settled.amount.currency_code != item.amount.currency_code:
        violations.append(
            Violation("settled.amount.currency_code", "must be the operation's currency")
        )
    if settled.HasField("fee") and money.any_exponent(settled.fee.currency_code) is None:
        violations.append(Violation("settled.fee.currency_code", "not money in use by ISO 4217"))
    return violations


def _settled(settled: pb.SettlementEvidence) -> Settled:
    amount, fee = settled.amount, settled.fee
    return Settled(
        Captured(
            Money(amount.amount_minor, amount.currency_code),
            settled.psp_reference,
            Money(fee.amount_minor, fee.currency_code) if settled.HasField("fee") else None,
        ),
        settled.source,
    )


def _outcome(stored: Stored, detail: str) -> pb.OperationOutcome:
    outcome = pb.OperationOutcome(operation_id=stored.operation.operation_id.hex)
    match stored.state:
        case State.CAPTURED:
            outcome.captured.CopyFrom(_captured(stored))
        case State.DECLINED:
            outcome.declined.CopyFrom(_declined(stored))
        case State.PENDING:
            outcome.pending.psp_reference = stored.psp_reference
            outcome.pending.SetInParent()
        case State.PARKED | State.PARKED_UNKNOWN:
            outcome.parked.attention_reason = stored.attention_reason
            outcome.parked.poll = stored.state is State.PARKED_UNKNOWN
            outcome.parked.psp_reference = stored.psp_reference
        case State.SENT | State.UNKNOWN:
            outcome.unknown.detail = detail
            outcome.unknown.SetInParent()
    return outcome


def _found(
    operation_id: UUID, stored: Stored | None, answer: Answer | None
) -> read_pb.FoundOperation:
    return read_pb.FoundOperation(
        operation_id=operation_id.hex,
        stored=None if stored is None else _stored_operation(stored),
        look_up=None if answer is None else _psp_look_up(answer),
    )


def _stored_operation(stored: Stored) -> read_pb.StoredOperation:
    operation = stored.operation
    return read_pb.StoredOperation(
        order_id=operation.order_id.hex,
        payment_id=operation.payment_id.hex,
        kind=payment_pb2.OperationKind.ValueType(operation.kind),
        amount=_money(operation.amount),
        state=read_pb.ExecutionState.ValueType(stored.state),
        captured=None if stored.captured is None else _money(stored.captured),
        psp_reference=stored.psp_reference,
        fee=None if stored.fee is None else _money(stored.fee),
        source=stored.source,
        evidence=_evidence(stored.evidence),
        change_time=timestamp(stored.change_time),
    )


def _psp_look_up(answer: Answer) -> read_pb.PspLookUp:
    match answer:
        case Captured(amount, psp_reference, _):
            return read_pb.PspLookUp(
                result=read_pb.PSP_LOOK_UP_RESULT_CAPTURED,
                captured=_money(amount),
                psp_reference=psp_reference,
            )
        case Declined():
            return read_pb.PspLookUp(
                result=read_pb.PSP_LOOK_UP_RESULT_DECLINED, psp_reference=answer.psp_reference
            )
        case Pending():
            return read_pb.PspLookUp(
                result=read_pb.PSP_LOOK_UP_RESULT_PENDING, psp_reference=answer.psp_reference
            )
        case NotFound():
            return read_pb.PspLookUp(result=read_pb.PSP_LOOK_UP_RESULT_NOT_FOUND)
        case _:
            return read_pb.PspLookUp(result=read_pb.PSP_LOOK_UP_RESULT_NO_ANSWER)


def _captured(stored: Stored) -> pb.Captured:
    return pb.Captured(
        amount=_money(stored.operation.amount),
        psp_reference=stored.psp_reference,
        fee=None if stored.fee is None else _money(stored.fee),
        source=stored.source,
        evidence=_evidence(stored.evidence),
        outcome_time=timestamp(stored.change_time),
    )


def _declined(stored: Stored) -> pb.Declined:
    return pb.Declined(
        category=payment_pb2.DeclineCategory.ValueType(stored.decline_category or 0),
        code=stored.decline_code,
        psp_reference=stored.psp_reference,
        evidence=_evidence(stored.evidence),
    )


def _evidence(source: Source) -> payment_pb2.EvidenceSource.ValueType:
    return payment_pb2.EvidenceSource.ValueType(source)


def _money(amount: Money) -> money_pb2.Money:
    return money_pb2.Money(amount_minor=amount.amount_minor, currency_code=amount.currency_code)
