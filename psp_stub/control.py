"""paymesh.psp.v1.PspStubControlService: proto → domain → operation → proto."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc
from paymesh.psp.v1 import psp_stub_control_service_pb2 as pb
from paymesh.psp.v1 import psp_stub_control_service_pb2_grpc as pb_grpc

from mesh.clock import timestamp
from mesh.errors import MeshError, Reason, Violation
from mesh.money import exponent
from psp_stub.closing import Settlement, ToldDay
from psp_stub.faults import Fault, FaultKind
from psp_stub.servicer import parse_day
from psp_stub.settlement import HOME_CURRENCY, Statement

Context = grpc.aio.ServicerContext[Any, Any]

_DEFAULT_MINOR = 100
_ROUNDING_MINOR = 1

_KINDS: Mapping[pb.StubFaultKind.ValueType, FaultKind] = {
    pb.StubFaultKind.Value(f"STUB_FAULT_KIND_{kind.name}"): kind for kind in FaultKind
}
_ON_THE_WIRE = {kind: value for value, kind in _KINDS.items()}


class ControlServicer(pb_grpc.PspStubControlServiceServicer):
    """What tests and demos tell the stub."""

    def __init__(self, settlement: Settlement) -> None:
        self._settlement = settlement

    async def CloseDay(self, request: pb.CloseDayRequest, context: Context) -> pb.CloseDayResponse:
        wanted = None
        if request.HasField("settlement_date"):
            wanted = parse_day(request.settlement_date)
        told = await self._settlement.close(wanted)
        return pb.CloseDayResponse(day=_day(told), closed_days=told.closed)

    async def ResendDay(
        self, request: pb.ResendDayRequest, context: Context
    ) -> pb.ResendDayResponse:
        told = await self._settlement.resend(parse_day(request.settlement_date))
        return pb.ResendDayResponse(day=_day(told))

    async def SeedFault(
        self, request: pb.SeedFaultRequest, context: Context
    ) -> pb.SeedFaultResponse:
        currency = request.currency_code or HOME_CURRENCY
        if exponent(currency) is None:
            raise MeshError(
                Reason.UNKNOWN_CURRENCY,
                "the currency is not money in use by ISO 4217",
                violations=(Violation("currency_code", "not money in use by ISO 4217"),),
            )
        kind = _KINDS[request.kind]
        amount = _ROUNDING_MINOR if kind is FaultKind.CLOSING_DIFFERS else _DEFAULT_MINOR
        if request.HasField("amount_minor"):
            amount = request.amount_minor
        day = None
        if request.HasField("settlement_date"):
            day = parse_day(request.settlement_date)
        fault = Fault(kind, currency, request.count, amount)
        ordered_for = await self._settlement.seed(day, fault)
        return pb.SeedFaultResponse(fault=_fault(fault, ordered_for.isoformat()))


def _day(told: ToldDay) -> pb.StubSettlementDay:
    sent = told.sent
    day = sent.day.settlement_date.isoformat()
    return pb.StubSettlementDay(
        settlement_date=day,
        revision=sent.revision,
        end_time=timestamp(sent.day.end_time),
        close_time=timestamp(sent.day.close_time),
        statements=[_statement(one) for one in sent.statements],
        faults=[_fault(one, day) for one in told.faults],
    )


def _statement(told: Statement) -> pb.StubStatement:
    return pb.StubStatement(
        currency_code=told.currency_code,
        captures=told.captures,
        opening_minor=told.opening_minor,
        gross_minor=told.gross_minor,
        fee_minor=told.fee_minor,
        transfer_minor=told.transfer_minor,
        transfer_reference=told.transfer_reference,
        closing_minor=told.closing_minor,
        bank_opening_minor=told.bank_opening_minor,
        bank_closing_minor=told.bank_closing_minor,
    )


def _fault(fault: Fault, day: str) -> pb.StubFault:
    return pb.StubFault(
        kind=_ON_THE_WIRE[fault.kind],
        settlement_date=day,
        currency_code=fault.currency_code,
        count=fault.ordered,
        applied=fault.applied or 0,
        amount_minor=fault.amount_minor,
    )
