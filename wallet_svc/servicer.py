"""The services of wallet_svc: proto → domain → operation → proto."""

from __future__ import annotations

import time
from typing import Any

import grpc
from paymesh.common.v1 import money_pb2
from paymesh.wallet.v1 import (
    wallet_posting_service_pb2,
    wallet_posting_service_pb2_grpc,
    wallet_read_service_pb2,
    wallet_read_service_pb2_grpc,
    wallet_service_pb2,
    wallet_service_pb2_grpc,
)

from mesh import ids, money, paging, told
from mesh.batching import Writer
from mesh.clock import timestamp
from mesh.db import CommitUnknown, Database, NotCommitted
from mesh.errors import MeshError, Reason, Violation
from mesh.status import to_status
from mesh.validation import check
from wallet_svc import operations
from wallet_svc.domain import Applied, ListedMovement, Movement, MovementKind

Context = grpc.aio.ServicerContext[Any, Any]
WalletWriter = Writer[Movement, Applied]


class WalletServicer(wallet_service_pb2_grpc.WalletServiceServicer):
    """The reads."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def GetWallet(
        self, request: wallet_service_pb2.GetWalletRequest, context: Context
    ) -> wallet_service_pb2.GetWalletResponse:
        balances = await operations.get_balances(self._database, request.seller_id)
        return wallet_service_pb2.GetWalletResponse(
            wallet=wallet_service_pb2.Wallet(
                seller_id=request.seller_id,
                balances=[
                    wallet_service_pb2.Balance(
                        currency_code=balance.currency_code,
                        pending_minor=balance.pending_minor,
                        available_minor=balance.available_minor,
                        reserved_minor=balance.reserved_minor,
                        debt_minor=balance.debt_minor,
                    )
                    for balance in balances
                ],
            )
        )

    async def ListMovements(
        self, request: wallet_service_pb2.ListMovementsRequest, context: Context
    ) -> wallet_service_pb2.ListMovementsResponse:
        after = paging.decode_token(request)
        size = paging.page_size(request.page_size)
        # One more than the page holds tells whether there is another page.
        rows = await operations.list_movements(self._database, request.seller_id, after, size + 1)
        page = list(paging.fitting(map(_listed, rows[:size])))
        token = ""
        if len(page) < len(rows):
            last = rows[len(page) - 1]
            token = paging.encode_token(
                request, paging.Position(last.create_time, last.movement_id)
            )
        return wallet_service_pb2.ListMovementsResponse(movements=page, next_page_token=token)


class WalletPostingServicer(wallet_posting_service_pb2_grpc.WalletPostingServiceServicer):
    """The writes, in lists; lists of concurrent calls are committed together."""

    def __init__(self, writer: WalletWriter) -> None:
        self._writer = writer

    async def ApplyMovements(
        self, request: wallet_posting_service_pb2.ApplyMovementsRequest, context: Context
    ) -> wallet_posting_service_pb2.ApplyMovementsResponse:
        # The length only: the rules of the list leave its items out.
        error = check(request)
        if error is not None:
            raise error
        started_ns = time.time_ns()
        asked = [_movement(item) for item in request.movements]
        good = [movement for movement in asked if isinstance(movement, Movement)]
        written = await self._writer.write(good, durable=False)
        if len(good) == len(asked):
            _raise_if_all_failed(written)
        rest = iter(written)
        answers = [next(rest) if isinstance(m, Movement) else m for m in asked]
        told.refused("movement_refused", request.movements, answers)
        told.spans("apply", started_ns, request.movements, answers)
        return wallet_posting_service_pb2.ApplyMovementsResponse(
            results=[_result(answer) for answer in answers]
        )


class WalletReadServicer(wallet_read_service_pb2_grpc.WalletReadServiceServicer):
    """The reads of other services."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def FindMovements(
        self, request: wallet_read_service_pb2.FindMovementsRequest, context: Context
    ) -> wallet_read_service_pb2.FindMovementsResponse:
        asked = {ids.parse(operation_id) for operation_id in request.operation_ids}
        found = await operations.find_movements(self._database, asked)
        return wallet_read_service_pb2.FindMovementsResponse(movements=map(_found, found))


def _raise_if_all_failed(results: list[Applied | MeshError]) -> None:
    """A database that is down is an error of the call, not of each of its items."""
    first = next(iter(results), None)
    if isinstance(first, NotCommitted | CommitUnknown) and all(r is first for r in results):
        raise first


def _movement(item: wallet_posting_service_pb2.MovementItem) -> Movement | MeshError:
    error = check(item)
    if error is not None:
        return error
    if money.any_exponent(item.amount.currency_code) is None:
        return MeshError(
            Reason.UNKNOWN_CURRENCY,
            "the currency is not one of ISO 4217",
            violations=[Violation("amount.currency_code", "is not a currency of ISO 4217")],
        )
    return Movement(
        ids.parse(item.operation_id),
        item.revision,
        MovementKind(item.kind),
        item.seller_id,
        ids.parse(item.order_id),
        item.amount.currency_code,
        item.amount.amount_minor,
    )


def _result(answer: Applied | MeshError) -> wallet_posting_service_pb2.MovementResult:
    if isinstance(answer, MeshError):
        return wallet_posting_service_pb2.MovementResult(error=to_status(answer))
    return wallet_posting_service_pb2.MovementResult(
        applied=wallet_posting_service_pb2.AppliedMovement(
            movement_id=answer.movement_id.hex,
            pending_minor=answer.split.pending_minor,
            available_minor=answer.split.available_minor,
            debt_minor=answer.split.debt_minor,
        )
    )


def _found(applied: Applied) -> wallet_read_service_pb2.FoundMovement:
    movement, split = applied.movement, applied.split
    return wallet_read_service_pb2.FoundMovement(
        movement_id=applied.movement_id.hex,
        operation_id=movement.operation_id.hex,
        kind=wallet_service_pb2.MovementKind.ValueType(movement.kind),
        seller_id=movement.seller_id,
        order_id=movement.order_id.hex,
        amount=money_pb2.Money(
            amount_minor=movement.amount_minor, currency_code=movement.currency_code
        ),
        pending_minor=split.pending_minor,
        available_minor=split.available_minor,
        debt_minor=split.debt_minor,
    )


def _listed(movement: ListedMovement) -> wallet_service_pb2.Movement:
    return wallet_service_pb2.Movement(
        movement_id=movement.movement_id.hex,
        kind=wallet_service_pb2.MovementKind.ValueType(movement.kind),
        amount=money_pb2.Money(
            amount_minor=movement.amount_minor, currency_code=movement.currency_code
        ),
        order_id=movement.order_id.hex,
        create_time=timestamp(movement.create_time),
    )
