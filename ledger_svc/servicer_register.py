"""paymesh.ledger.v1.OperationRegisterService: proto → domain → operation → proto."""

from __future__ import annotations

from typing import Any

import grpc
from paymesh.ledger.v1 import operation_register_service_pb2 as pb
from paymesh.ledger.v1 import operation_register_service_pb2_grpc as pb_grpc

from ledger_svc import operations
from ledger_svc.register import Registered, RegisterState
from mesh import ids, money, told
from mesh.db import Database
from mesh.errors import MeshError, Reason, Violation
from mesh.status import to_status
from mesh.validation import check

Context = grpc.aio.ServicerContext[Any, Any]


class OperationRegisterServicer(pb_grpc.OperationRegisterServiceServicer):
    """Memo rows. Not by the writer of the journals: no payment waits for them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def RegisterOperations(
        self, request: pb.RegisterOperationsRequest, context: Context
    ) -> pb.RegisterOperationsResponse:
        # The length only: the rules of the list leave its items out.
        error = check(request)
        if error is not None:
            raise error
        asked = [_registered(item) for item in request.operations]
        good = [one for one in asked if isinstance(one, Registered)]
        stored = iter(await operations.register_operations(self._database, good))
        answers = [next(stored) if isinstance(one, Registered) else one for one in asked]
        told.refused("registration_refused", request.operations, answers)
        return pb.RegisterOperationsResponse(results=map(_result, answers))


def _registered(item: pb.RegisteredOperation) -> Registered | MeshError:
    error = check(item)
    if error is not None:
        return error
    if money.any_exponent(item.amount.currency_code) is None:
        return MeshError(
            Reason.UNKNOWN_CURRENCY,
            "the currency is not one of ISO 4217",
            violations=[Violation("amount.currency_code", "is not a currency of ISO 4217")],
        )
    return Registered(
        ids.parse(item.operation_id),
        ids.parse(item.order_id),
        ids.parse(item.payment_id),
        item.kind,
        item.amount.amount_minor,
        item.amount.currency_code,
        RegisterState(item.state),
        item.version,
        item.reason,
        item.psp_reference,
    )


def _result(answer: Registered | MeshError) -> pb.RegisterResult:
    if isinstance(answer, MeshError):
        return pb.RegisterResult(error=to_status(answer))
    state = pb.RegisterState.ValueType(answer.state)
    return pb.RegisterResult(registered=pb.RegisteredState(state=state, version=answer.version))
