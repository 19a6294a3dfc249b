"""What the ledger's reconciliation is asked for and told: proto on one side, views on the other.

None of it is on the way of a payment: errors are raised, and the caller asks again later.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import grpc
from paymesh.common.v1 import money_pb2
from paymesh.ledger.v1 import operation_register_service_pb2 as register_pb
from paymesh.payment.v1 import payment_pb2
from paymesh.reconciliation.v1 import reconciliation_service_pb2 as reconciliation_pb

from mesh.errors import MeshError, Reason
from mesh.status import from_rpc_error, from_status
from payment_svc.domain import OrderState
from payment_svc.settlement import Line
from payment_svc.views import Unregistered

if TYPE_CHECKING:
    from paymesh.ledger.v1.operation_register_service_pb2_grpc import (
        OperationRegisterServiceAsyncStub,
    )
    from paymesh.reconciliation.v1.reconciliation_service_pb2_grpc import (
        ReconciliationServiceAsyncStub,
    )

MAX_LIST_ITEMS = 500

_STATES: Mapping[OrderState, register_pb.RegisterState.ValueType] = {
    OrderState.PROCESSING: register_pb.REGISTER_STATE_PENDING,
    OrderState.UNKNOWN: register_pb.REGISTER_STATE_UNKNOWN,
    OrderState.PARKED: register_pb.REGISTER_STATE_PARKED,
    OrderState.DECLINED: register_pb.REGISTER_STATE_DECLINED,
    OrderState.CAPTURED: register_pb.REGISTER_STATE_CAPTURED,
    OrderState.SUCCEEDED: register_pb.REGISTER_STATE_CAPTURED,
}


class SettlementClient:
    """What settlement files say."""

    def __init__(self, stub: ReconciliationServiceAsyncStub, *, deadline_s: float) -> None:
        """`deadline_s` is the time of one call with its retries."""
        self._stub = stub
        self._deadline_s = deadline_s

    async def find(self, operation_ids: Sequence[str]) -> dict[str, list[Line]]:
        """The lines that name each of at most 500 operations, of those that any line names.

        Errors: those of the call.
        """
        request = reconciliation_pb.FindSettlementLinesRequest(operation_ids=operation_ids)
        try:
            response = await self._stub.FindSettlementLines(request, timeout=self._deadline_s)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
        if response.has_more and len(operation_ids) > 1:
            # Never a part of what is said of an operation: the rest may take it back.
            half = len(operation_ids) // 2
            return await self.find(operation_ids[:half]) | await self.find(operation_ids[half:])
        found: defaultdict[str, list[Line]] = defaultdict(list)
        for line in response.lines:
            found[line.operation_id].append(_line(line))
        return {key: found[key] for key in operation_ids if key in found}


class RegisterClient:
    """The ledger's register of what is in no journal."""

    def __init__(self, stub: OperationRegisterServiceAsyncStub, *, deadline_s: float) -> None:
        """`deadline_s` is the time of one call with its retries."""
        self._stub = stub
        self._deadline_s = deadline_s

    async def register(self, operations: Sequence[Unregistered]) -> list[MeshError | None]:
        """Tells how at most 500 operations stand; None for one that is registered.

        Errors: those of the call, which say nothing about any item.
        """
        request = register_pb.RegisterOperationsRequest(operations=map(_registered, operations))
        try:
            response = await self._stub.RegisterOperations(request, timeout=self._deadline_s)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
        if len(response.results) != len(operations):
            raise MeshError(Reason.UNSPECIFIED, "the ledger's answer is not understood")
        return [
            None if result.WhichOneof("result") == "registered" else from_status(result.error)
            for result in response.results
        ]


def _line(line: reconciliation_pb.SettlementLine) -> Line:
    return Line(
        line.file_id,
        line.sequence,
        line.source,
        line.kind,
        line.currency_code,
        line.amount_minor,
        line.gross_minor if line.HasField("gross_minor") else None,
        line.fee_minor if line.HasField("fee_minor") else None,
        line.psp_reference,
    )


def _registered(one: Unregistered) -> register_pb.RegisteredOperation:
    return register_pb.RegisteredOperation(
        operation_id=one.operation_id.hex,
        order_id=one.order_id.hex,
        payment_id=one.payment_id.hex,
        kind=payment_pb2.OperationKind.ValueType(one.kind),
        amount=money_pb2.Money(
            amount_minor=one.amount.amount_minor, currency_code=one.amount.currency_code
        ),
        # A state that is not told of is refused there, and logged, rather than left out here.
        state=_STATES.get(one.state, register_pb.REGISTER_STATE_UNSPECIFIED),
        version=one.attempt,
        reason=one.reason,
        psp_reference=one.psp_reference,
    )
