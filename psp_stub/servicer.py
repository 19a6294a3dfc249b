"""paymesh.psp.v1.PspService: proto → domain → operation → proto."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from datetime import date
from typing import Any

import grpc
from google.protobuf import duration_pb2
from iso4217 import Currency
from paymesh.common.v1 import money_pb2
from paymesh.payment.v1 import payment_pb2
from paymesh.psp.v1 import psp_service_pb2 as pb
from paymesh.psp.v1 import psp_service_pb2_grpc as pb_grpc

from mesh import told, tracing
from mesh.cards import looks_like_card_number, looks_like_issued_card_number, refuse_card_numbers
from mesh.errors import MeshError, Reason, Violation, validation_failed
from mesh.money import exponent
from mesh.status import to_status
from mesh.validation import check
from psp_stub.closing import FORMATS, Settlement
from psp_stub.config import Settings
from psp_stub.domain import SOURCE, Ask, Charge, DeclineCategory, State
from psp_stub.operations import Answer, Operations
from psp_stub.processor import Processor, Told
from psp_stub.settlement import ACCOUNT

Context = grpc.aio.ServicerContext[Any, Any]

MAX_ITEMS = 1000
MAX_KEY_CHARACTERS = 255

_FIRST_DAY = date(1970, 1, 1)
_LAST_DAY = date(9998, 12, 31)

_CATEGORIES: Mapping[DeclineCategory, payment_pb2.DeclineCategory.ValueType] = {
    category: payment_pb2.DeclineCategory.Value(f"DECLINE_CATEGORY_{category.name}")
    for category in DeclineCategory
}


class PspServicer(pb_grpc.PspServiceServicer):
    """The adapter contract, served by the stub."""

    def __init__(
        self,
        processor: Processor,
        operations: Operations,
        settlement: Settlement,
        capabilities: pb.GetCapabilitiesResponse,
    ) -> None:
        self._processor = processor
        self._operations = operations
        self._settlement = settlement
        self._capabilities = capabilities

    async def Charge(
        self, request: pb.ChargeRequest, context: Context
    ) -> AsyncIterator[pb.ChargeResponse]:
        _refuse_long_list("items", len(request.items))
        started_ns = time.time_ns()
        asks: list[Ask] = []
        refused: list[tuple[pb.ChargeItem, MeshError]] = []
        for item in request.items:
            ask = _ask(item)
            if isinstance(ask, MeshError):
                refused.append((item, ask))
            else:
                asks.append(ask)
        if refused:
            items, errors = zip(*refused, strict=True)
            told.refused("charge_refused", items, errors)
            outcomes = [_outcome(item.idempotency_key, error) for item, error in refused]
            yield pb.ChargeResponse(outcomes=outcomes)
        is_silent = False
        async for known in self._processor.process(asks):
            _tell(request, started_ns, known)
            outcomes = [
                _outcome(ask.idempotency_key, answer) for ask, answer in known if answer is not None
            ]
            is_silent = is_silent or len(outcomes) < len(known)
            if outcomes:
                yield pb.ChargeResponse(outcomes=outcomes)
        if is_silent:
            await asyncio.Event().wait()  # until the client's deadline cancels the call

    async def LookUp(
        self, request: pb.LookUpRequest, context: Context
    ) -> AsyncIterator[pb.LookUpResponse]:
        _refuse_long_list("idempotency_keys", len(request.idempotency_keys))
        right: list[str] = []
        results: list[pb.LookUpResult] = []
        for key in request.idempotency_keys:
            violation = _key_violation(key)
            if violation is None:
                right.append(key)
            else:
                results.append(_result(key, validation_failed(violation)))
        try:
            found = await self._operations.look_up(right)
        except MeshError as error:
            results += [_result(key, error) for key in right]
        else:
            results += [_result(key, found.get(key)) for key in right]
        if results:
            yield pb.LookUpResponse(results=results)

    async def GetSettlementFile(
        self, request: pb.GetSettlementFileRequest, context: Context
    ) -> AsyncIterator[pb.GetSettlementFileResponse]:
        if (error := check(request)) is not None:
            raise error
        file = await self._settlement.open_file(
            parse_day(request.settlement_date),
            request.format,
            request.revision if request.HasField("revision") else None,
        )
        header = pb.SettlementFileHeader(
            settlement_date=request.settlement_date,
            format=file.format,
            revision=file.sent.revision,
            file_name=file.name,
        )
        yield pb.GetSettlementFileResponse(header=header)
        async for chunk in self._settlement.chunks(file):
            yield pb.GetSettlementFileResponse(chunk=chunk)

    async def GetCapabilities(
        self, request: pb.GetCapabilitiesRequest, context: Context
    ) -> pb.GetCapabilitiesResponse:
        return self._capabilities


def _tell(request: pb.ChargeRequest, started_ns: int, known: Told) -> None:
    """The spans of what was carried out, also of what is not told to the caller."""
    if tracing.recorder() is None:
        return
    items = {item.idempotency_key: item for item in request.items}
    asked = [items[ask.idempotency_key] for ask, _ in known]
    answers = [answer for _, answer in known]
    told.spans("psp charge", started_ns, asked, answers)


def capabilities(settings: Settings) -> pb.GetCapabilitiesResponse:
    """What the stub says of itself."""
    key_window = duration_pb2.Duration()
    key_window.FromMicroseconds(int(settings.key_memory_s * 1_000_000))
    return pb.GetCapabilitiesResponse(
        source=SOURCE,
        key_window=key_window,
        currencies=[
            pb.CurrencyCapability(currency_code=currency.code, exponent=digits)
            for currency in sorted(Currency, key=lambda currency: currency.code)
            if (digits := exponent(currency.code)) is not None
        ],
        funding_account=pb.FUNDING_ACCOUNT_PSP_RECEIVABLE,
        day_time_zone=settings.day_time_zone,
        day_cut_off=duration_pb2.Duration(seconds=settings.day_cut_off_min * 60),
        settlement_formats=FORMATS,
        settlement_account=ACCOUNT,
        bank_account=settings.bank_account,
    )


def parse_day(text: str) -> date:
    """A settlement day. Raises MeshError: VALIDATION_FAILED."""
    try:
        day = date.fromisoformat(text)
    except ValueError:
        day = date.min
    if not _FIRST_DAY <= day <= _LAST_DAY:
        raise validation_failed(
            Violation("settlement_date", f"must be a day from {_FIRST_DAY} to {_LAST_DAY}")
        )
    return day


def _refuse_long_list(field: str, length: int) -> None:
    if length > MAX_ITEMS:
        raise validation_failed(Violation(field, f"at most {MAX_ITEMS}"))


def _ask(item: pb.ChargeItem) -> Ask | MeshError:
    error = check(item)
    if error is not None:
        return error
    # The thorough search costs as much as all other rules, and only these two are free text.
    if looks_like_card_number(item.payment_method) or looks_like_issued_card_number(
        item.idempotency_key
    ):
        error = refuse_card_numbers(item)
        if error is not None:
            return error
    if "\0" in item.idempotency_key or "\0" in item.payment_method:
        field = "idempotency_key" if "\0" in item.idempotency_key else "payment_method"
        return validation_failed(Violation(field, "must not hold a NUL"))
    if exponent(item.amount.currency_code) is None:
        return MeshError(
            Reason.UNKNOWN_CURRENCY,
            "the currency is not money in use by ISO 4217",
            violations=(Violation("amount.currency_code", "not money in use by ISO 4217"),),
        )
    return Ask(
        item.idempotency_key,
        item.operation_id,
        item.order_id,
        item.payment_method,
        item.amount.amount_minor,
        item.amount.currency_code,
    )


def _key_violation(key: str) -> Violation | None:
    if not 1 <= len(key) <= MAX_KEY_CHARACTERS:
        return Violation("idempotency_keys", f"must have 1 to {MAX_KEY_CHARACTERS} characters")
    if "\0" in key:
        return Violation("idempotency_keys", "must not hold a NUL")
    return None


def _outcome(key: str, answer: Charge | MeshError) -> pb.ChargeOutcome:
    if isinstance(answer, MeshError):
        return pb.ChargeOutcome(idempotency_key=key, error=to_status(answer))
    match answer.state:
        case State.CAPTURED:
            return pb.ChargeOutcome(idempotency_key=key, captured=_captured(answer))
        case State.DECLINED:
            return pb.ChargeOutcome(idempotency_key=key, declined=_declined(answer))
        case State.PENDING:
            return pb.ChargeOutcome(idempotency_key=key, pending=_pending(answer))


def _result(key: str, answer: Answer) -> pb.LookUpResult:
    """None: not found."""
    if answer is None:
        return pb.LookUpResult(idempotency_key=key, not_found=pb.NotFound())
    if isinstance(answer, MeshError):
        return pb.LookUpResult(idempotency_key=key, error=to_status(answer))
    match answer.state:
        case State.CAPTURED:
            return pb.LookUpResult(idempotency_key=key, captured=_captured(answer))
        case State.DECLINED:
            return pb.LookUpResult(idempotency_key=key, declined=_declined(answer))
        case State.PENDING:
            return pb.LookUpResult(idempotency_key=key, pending=_pending(answer))


def _captured(charge: Charge) -> pb.ChargeCaptured:
    return pb.ChargeCaptured(
        amount=_money(charge.captured_minor, charge.currency_code),
        psp_reference=charge.psp_reference,
        fee=_money(charge.fee_minor, charge.currency_code),
    )


def _declined(charge: Charge) -> pb.ChargeDeclined:
    assert charge.decline is not None  # noqa: S101 - the table's own CHECK
    return pb.ChargeDeclined(
        category=_CATEGORIES[charge.decline.category],
        code=charge.decline.code,
        psp_reference=charge.psp_reference,
    )


def _pending(charge: Charge) -> pb.ChargePending:
    return pb.ChargePending(psp_reference=charge.psp_reference)


def _money(amount_minor: int, currency_code: str) -> money_pb2.Money:
    return money_pb2.Money(amount_minor=amount_minor, currency_code=currency_code)
