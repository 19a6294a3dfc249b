"""One stream of CreatePayments: many payments under way, each answered when it rests."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

import structlog
from paymesh.payment.v1 import payment_pb2
from paymesh.payment.v1 import payment_service_pb2 as pb

from mesh.cards import looks_like_issued_card_number, refuse_card_numbers
from mesh.errors import MeshError, Violation, outcome_unknown, validation_failed
from mesh.interceptor import crashed
from mesh.status import to_status
from mesh.validation import check, check_size

log = structlog.get_logger()

METHOD = "/paymesh.payment.v1.PaymentService/CreatePayments"

MAX_UNDER_WAY = 1024
"""Items of one stream that wait for their answers. While there are as many, no more are
read, and the caller's next messages wait in the network."""

Create = Callable[[pb.CreatePaymentRequest], Awaitable[payment_pb2.Payment]]


class Bulk:
    """One stream. Items are independent: each has a task, and ends by itself."""

    def __init__(self, create: Create) -> None:
        """`create` does for one item what CreatePayment does for a call."""
        self._create = create
        self._room = asyncio.Semaphore(MAX_UNDER_WAY)
        self._under_way: set[asyncio.Task[None]] = set()
        self._answers: deque[pb.CreatePaymentsResponse] = deque()
        self._wake = asyncio.Event()
        self._ended = False
        self._error: BaseException | None = None

    async def responses(
        self, requests: AsyncIterator[pb.CreatePaymentsRequest]
    ) -> AsyncGenerator[pb.CreatePaymentsResponse, None]:
        """Answers in the order of completion, until all that was read is answered.

        Then raises what ended the reading, if that was not the caller. Items under way go
        on when the caller goes away: they are accepted, or are not known to be.
        """
        reading = asyncio.create_task(self._read(requests))
        reading.add_done_callback(self._read_to_end)
        try:
            while True:
                while self._answers:
                    yield self._answers.popleft()
                    self._room.release()
                if self._ended and not self._under_way:
                    break
                self._wake.clear()
                await self._wake.wait()
        finally:
            reading.cancel()
            for task in self._under_way:
                task.cancel()
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Reads no more: the process is about to stop. What was read is still answered."""
        self._end(outcome_unknown("what is not answered was accepted"))

    async def _read(self, requests: AsyncIterator[pb.CreatePaymentsRequest]) -> None:
        async for message in requests:
            await self._room.acquire()
            if self._ended:
                return
            task = asyncio.create_task(self._one(message))
            self._under_way.add(task)
            task.add_done_callback(self._one_ended)

    def _read_to_end(self, reading: asyncio.Task[None]) -> None:
        self._end(None if reading.cancelled() else reading.exception())

    def _end(self, error: BaseException | None) -> None:
        if not self._ended:
            self._ended = True
            self._error = error
            self._wake.set()

    def _one_ended(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        self._wake.set()

    async def _one(self, message: pb.CreatePaymentsRequest) -> None:
        started = time.perf_counter()
        answer = pb.CreatePaymentsResponse(
            index=message.index, request_id=message.request.request_id
        )
        try:
            if refusal := _refusal(message):
                raise refusal
            answer.payment.CopyFrom(await self._create(message.request))
        except MeshError as refused:
            log.info(
                "item_refused",
                method=METHOD,
                reason=refused.reason.value,
                fields=[v.field for v in refused.violations[:10]],
            )
            # What else is wrong may be told before anybody looks for card numbers.
            if any(
                v.field == "request_id" for v in refused.violations
            ) or looks_like_issued_card_number(answer.request_id):
                answer.ClearField("request_id")
            answer.error.CopyFrom(to_status(refused))
        except Exception as error:  # noqa: BLE001  (logged with its id, which is answered)
            answer.error.CopyFrom(
                to_status(crashed(METHOD, error, round((time.perf_counter() - started) * 1000, 1)))
            )
        self._answers.append(answer)


def _refusal(message: pb.CreatePaymentsRequest) -> MeshError | None:
    """What is wrong with an item by itself, as the interceptor finds it of a call."""
    if not message.HasField("request"):
        return validation_failed(Violation("request", "value is required"))
    request = message.request
    return check_size(request.ByteSize()) or check(request) or refuse_card_numbers(request)
