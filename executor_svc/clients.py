"""The PSP, as the executor sees it: calls in, domain answers out.

Nothing is retried here: what is not known is found out by the ladder (runner.py). Texts
of the PSP are cut to what the table holds and the ledger takes, and those of its errors are
left behind.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import suppress
from typing import NamedTuple, TypeVar

import grpc
import structlog
from google.protobuf.message import DecodeError
from google.rpc import status_pb2
from paymesh.common.v1 import money_pb2
from paymesh.psp.v1 import psp_service_pb2 as pb
from paymesh.psp.v1 import psp_service_pb2_grpc as pb_grpc

from executor_svc.domain import (
    Answer,
    Captured,
    DeclineCategory,
    Declined,
    NoAnswer,
    NotFound,
    Operation,
    Pending,
    Refused,
)
from executor_svc.texts import plain
from mesh import ids, money
from mesh.clock import elapsed_s
from mesh.errors import Code, MeshError, Reason, dependency_down
from mesh.money import Money
from mesh.status import from_rpc_error, from_status

log = structlog.get_logger()

_Message = TypeVar("_Message")

Answers = list[tuple[str, Answer]]
"""Answers by our own keys, as they came together."""

# A PSP's name and key window change when its adapter is configured anew, or exchanged.
REFRESH_S = 60.0

MAX_SOURCE_CHARACTERS = 63
"""Of a PSP's name: what the ledger's accounts take."""

_MAX_TEXT_CHARACTERS = 255

# The PSP's typed refusals: it did nothing because of this call. The two that the contract
# names, and the finer words for VALIDATION_FAILED that the mesh has.
_REFUSALS = frozenset(
    {
        Reason.VALIDATION_FAILED,
        Reason.OPERATION_CONFLICT,
        Reason.UNKNOWN_CURRENCY,
        Reason.CARD_NUMBER_REFUSED,
    }
)


class Capabilities(NamedTuple):
    """What the executor needs to know of the PSP.

    source: its stable name in our books. safe_s: how long after its first send a key may
    be sent again, in seconds: half of the time that the PSP surely remembers it, so that a
    call that is long under way still meets that memory.
    """

    source: str
    safe_s: float


class Unreadable(MeshError):
    """A message of the PSP can't be read: no answer to anything that it may have answered."""

    def __init__(self) -> None:
        super().__init__(
            Reason.UNSPECIFIED, "a message of the PSP can't be read", peer_code=Code.INTERNAL
        )


class Psp:
    """Calls to the PSP adapter. Belongs to one event loop."""

    def __init__(
        self, channel: grpc.aio.Channel, *, look_up_deadline_s: float, key_window_s: float
    ) -> None:
        """key_window_s: used if the adapter does not say less."""
        self._stub = pb_grpc.PspServiceStub(channel)
        self._look_up_deadline_s = look_up_deadline_s
        self._key_window_s = key_window_s
        self._known: Capabilities | None = None
        self._known_at = 0.0
        self._asking: asyncio.Task[Capabilities] | None = None

    async def capabilities(self) -> Capabilities:
        """What is known of the PSP, at most a minute old, or older while it can't be asked.

        Errors: DEPENDENCY_DOWN if it could never be asked.
        """
        if self._known is None:
            return await self.ask_capabilities()
        age_s = elapsed_s() - self._known_at
        if age_s > REFRESH_S:
            with suppress(MeshError):  # which _asked has logged
                return await self.ask_capabilities()
        elif age_s > REFRESH_S / 2:
            self._ask()  # so that nobody has to wait for it where calls follow one another
        return self._known

    async def ask_capabilities(self) -> Capabilities:
        """What the PSP says now. Errors: DEPENDENCY_DOWN. Concurrent callers share a call."""
        return await asyncio.shield(self._ask())

    def _ask(self) -> asyncio.Task[Capabilities]:
        if self._asking is None:
            self._asking = asyncio.create_task(self._get_capabilities())
            self._asking.add_done_callback(self._asked)
        return self._asking

    def _asked(self, task: asyncio.Task[Capabilities]) -> None:
        self._asking = None
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("psp_capabilities_unknown", error=str(error))

    async def _get_capabilities(self) -> Capabilities:
        try:
            answer = await self._stub.GetCapabilities(
                pb.GetCapabilitiesRequest(), timeout=self._look_up_deadline_s
            )
            answer = _readable(answer)
        except (grpc.RpcError, Unreadable) as error:
            raise dependency_down("the PSP") from error
        source = answer.source
        window_s = min(answer.key_window.ToMicroseconds() / 1_000_000, self._key_window_s)
        # A name that the ledger can't book under would be found out after the capture.
        is_name = 1 <= len(source) <= MAX_SOURCE_CHARACTERS and plain(source) == source
        if not is_name or window_s <= 0:
            raise MeshError(
                Reason.DEPENDENCY_DOWN,
                "the PSP adapter does not say what its name is, in at most "
                f"{MAX_SOURCE_CHARACTERS} characters and no control characters, and how long it "
                "remembers a key",
            )
        if self._known is not None and self._known.source != source:
            log.warning("psp_changed", before=self._known.source, now=source)
        self._known = Capabilities(source, window_s / 2)
        self._known_at = elapsed_s()
        return self._known

    async def charge(
        self, items: Iterable[tuple[str, Operation]], timeout_s: float
    ) -> AsyncGenerator[Answers, None]:
        """Charges the operations, each under its key; yields what is known as it comes.

        Ends with the PSP's stream, after which whatever was not answered is unknown.
        Raises MeshError if the call as a whole fails, with the same meaning.
        """
        request = pb.ChargeRequest(
            items=[
                pb.ChargeItem(
                    idempotency_key=key,
                    operation_id=operation.operation_id.hex,
                    order_id=operation.order_id.hex,
                    payment_id=operation.payment_id.hex,
                    payment_method=operation.payment_method,
                    amount=money_pb2.Money(
                        amount_minor=operation.amount_minor,
                        currency_code=operation.currency_code,
                    ),
                )
                for key, operation in items
            ]
        )
        call = self._stub.Charge(request, timeout=timeout_s)
        try:
            async for response in call:
                yield [(o.idempotency_key, _answer(o)) for o in _readable(response).outcomes]
        except grpc.RpcError as error:
            raise self._failed(error) from error
        finally:
            call.cancel()

    async def look_up(self, keys: Sequence[str]) -> AsyncGenerator[Answers, None]:
        """Asks what became of keys; otherwise as `charge`. Raises Unreadable for a bad message."""
        request = pb.LookUpRequest(idempotency_keys=keys)
        call = self._stub.LookUp(request, timeout=self._look_up_deadline_s)
        try:
            async for response in call:
                yield [(r.idempotency_key, _answer(r)) for r in _readable(response).results]
        except grpc.RpcError as error:
            raise self._failed(error) from error
        finally:
            call.cancel()

    def _failed(self, error: grpc.RpcError) -> MeshError:
        failed = from_rpc_error(error)
        if failed.code is Code.UNAVAILABLE:
            # Whoever is there next may be another adapter.
            self._known_at = -math.inf
        return failed


def _readable(message: _Message | None) -> _Message:
    """The message. grpc.aio gives None for one that it can't parse, and goes on."""
    if message is None:
        raise Unreadable
    return message


def _answer(told: pb.ChargeOutcome | pb.LookUpResult) -> Answer:
    match told.WhichOneof("result"):
        case "captured":
            captured = told.captured
            return Captured(
                Money(captured.amount.amount_minor, _text(captured.amount.currency_code)),
                _text(captured.psp_reference),
                _fee(captured, told) if captured.HasField("fee") else None,
            )
        case "declined":
            declined = told.declined
            return Declined(
                _category(declined.category), _text(declined.code), _text(declined.psp_reference)
            )
        case "pending":
            return Pending(_text(told.pending.psp_reference))
        case "not_found":
            return NotFound()
        case "error":
            return _error(told.error)
        case _:
            return NoAnswer("an empty answer")


def _error(status: status_pb2.Status) -> Answer:
    try:
        error = from_status(status)
    except DecodeError:
        return NoAnswer("an error that can't be read")
    if error.reason not in _REFUSALS:
        return NoAnswer(error.code.name)
    fields = [violation.field for violation in error.violations]
    named = ", ".join(fields) or error.metadata.get("fields", "")
    return Refused(_text(f"{error.reason} ({named})" if named else error.reason.value))


def _category(number: int) -> DeclineCategory:
    """A category that is newer than this executor, or none, says only that it is a no."""
    try:
        return DeclineCategory(number)
    except ValueError:
        return DeclineCategory.GENERIC


def _fee(captured: pb.ChargeCaptured, told: pb.ChargeOutcome | pb.LookUpResult) -> Money | None:
    """A fee that can't be booked is left to the settlement file, which tells it again.

    So is one in another currency than the capture: there it is a line of its own, in another
    statement, which names no fee that is booked already, and would be booked once more.
    """
    fee = captured.fee
    in_range = 0 <= fee.amount_minor <= money.MAX_AMOUNT_MINOR
    is_money = money.any_exponent(fee.currency_code) is not None
    if not in_range or not is_money or fee.currency_code != captured.amount.currency_code:
        log.warning("psp_fee_left_out", psp_key=ids.shown(told.idempotency_key))
        return None
    return Money(fee.amount_minor, fee.currency_code)


def _text(text: str) -> str:
    """What can be stored and booked, and not too much of it."""
    return plain(text[:_MAX_TEXT_CHARACTERS])
