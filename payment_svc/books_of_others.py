"""What executor, wallet and ledger know of operations, and through the executor the PSP.

Reads only, for the check; the conveyor's calls are in clients.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, TypeVar
from uuid import UUID

import grpc
from paymesh.common.v1 import money_pb2
from paymesh.executor.v1 import executor_read_service_pb2 as executor_pb
from paymesh.ledger.v1 import ledger_read_service_pb2 as ledger_read_pb
from paymesh.ledger.v1 import ledger_service_pb2 as ledger_pb
from paymesh.wallet.v1 import wallet_read_service_pb2 as wallet_pb

from mesh.errors import MeshError, Reason
from mesh.money import Money
from mesh.status import from_rpc_error
from payment_svc.checked import (
    Booked,
    Books,
    CheckedOrder,
    Executed,
    Execution,
    Line,
    LookedUp,
    LookUp,
    Moved,
)

if TYPE_CHECKING:
    from paymesh.executor.v1.executor_read_service_pb2_grpc import ExecutorReadServiceAsyncStub
    from paymesh.ledger.v1.ledger_read_service_pb2_grpc import LedgerReadServiceAsyncStub
    from paymesh.wallet.v1.wallet_read_service_pb2_grpc import WalletReadServiceAsyncStub

T = TypeVar("T")


class BooksOfOthers:
    """Asks all three at once."""

    def __init__(
        self,
        executor: ExecutorReadServiceAsyncStub,
        wallet: WalletReadServiceAsyncStub,
        ledger: LedgerReadServiceAsyncStub,
        *,
        deadline_s: float,
    ) -> None:
        """`deadline_s` is the time of one call with its retries."""
        self._executor = executor
        self._wallet = wallet
        self._ledger = ledger
        self._deadline_s = deadline_s

    async def read(self, orders: Sequence[CheckedOrder], *, look_up: bool) -> Books:
        """What they know of at most 1000 orders. Errors: DEPENDENCY_DOWN, naming whom."""
        operation_ids = [order.operation_id.hex for order in orders]
        refs = [
            ledger_read_pb.BookedOperation(
                operation_id=order.operation_id.hex, order_id=order.order_id.hex
            )
            for order in orders
        ]
        executed, moved, booked = await asyncio.gather(
            _asked(
                "the executor",
                self._executor.FindOperations(
                    executor_pb.FindOperationsRequest(operation_ids=operation_ids, look_up=look_up),
                    timeout=self._deadline_s,
                ),
            ),
            _asked(
                "the wallet",
                self._wallet.FindMovements(
                    wallet_pb.FindMovementsRequest(operation_ids=operation_ids),
                    timeout=self._deadline_s,
                ),
            ),
            _asked(
                "the ledger",
                self._ledger.FindJournals(
                    ledger_read_pb.FindJournalsRequest(operations=refs), timeout=self._deadline_s
                ),
            ),
        )
        try:
            return Books(
                executed={
                    UUID(found.operation_id): _executed(found.stored)
                    for found in executed.operations
                    if found.HasField("stored")
                },
                looked_up={
                    UUID(found.operation_id): _looked_up(found.look_up)
                    for found in executed.operations
                    if found.HasField("look_up")
                },
                moved={UUID(found.operation_id): _moved(found) for found in moved.movements},
                booked=[_booked(journal) for journal in booked.journals],
            )
        except ValueError as error:
            # A state that is newer than this process, for example.
            raise MeshError(
                Reason.DEPENDENCY_DOWN, "an answer is not understood: services of several releases?"
            ) from error


async def _asked(whom: str, call: Awaitable[T]) -> T:
    try:
        return await call
    except grpc.RpcError as error:
        told = from_rpc_error(error)
        raise MeshError(
            Reason.DEPENDENCY_DOWN, f"{whom} can't be asked: {told.code.name}: {told.message}"
        ) from error


def _executed(stored: executor_pb.StoredOperation) -> Executed:
    return Executed(
        order_id=UUID(stored.order_id),
        payment_id=UUID(stored.payment_id),
        amount=_money(stored.amount),
        state=Execution(stored.state),
        captured=_money(stored.captured) if stored.HasField("captured") else None,
        psp_reference=stored.psp_reference,
        fee=_money(stored.fee) if stored.HasField("fee") else None,
        source=stored.source,
        evidence=stored.evidence,
    )


def _looked_up(told: executor_pb.PspLookUp) -> LookedUp:
    return LookedUp(
        LookUp(told.result),
        _money(told.captured) if told.HasField("captured") else None,
        told.psp_reference,
    )


def _moved(found: wallet_pb.FoundMovement) -> Moved:
    return Moved(
        seller_id=found.seller_id,
        order_id=UUID(found.order_id),
        amount=_money(found.amount),
        pending_minor=found.pending_minor,
        available_minor=found.available_minor,
        debt_minor=found.debt_minor,
    )


def _booked(journal: ledger_pb.Journal) -> Booked:
    return Booked(
        journal_id=UUID(journal.journal_id),
        kind=_word(ledger_pb.JournalKind.Name(journal.kind), "JOURNAL_KIND_"),
        operation_id=UUID(journal.operation_id),
        order_id=UUID(journal.order_id),
        lines=[_line(entry) for entry in journal.entries],
    )


def _line(entry: ledger_pb.Entry) -> Line:
    account = entry.account
    parts = (
        _word(ledger_pb.AccountKind.Name(account.kind), "ACCOUNT_KIND_"),
        account.owner_id,
        account.source,
    )
    return Line(
        _word(ledger_pb.Direction.Name(entry.direction), "DIRECTION_"),
        " ".join(part for part in parts if part),
        _money(entry.amount),
    )


def _word(name: str, prefix: str) -> str:
    return name.removeprefix(prefix).lower()


def _money(amount: money_pb2.Money) -> Money:
    return Money(amount.amount_minor, amount.currency_code)
