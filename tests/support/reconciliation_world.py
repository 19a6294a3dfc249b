"""One source, its files and its part of the ledger, through real gRPC."""

from __future__ import annotations

import uuid
from typing import Any

import grpc
import psycopg
from paymesh.common.v1.money_pb2 import Money
from paymesh.ledger.v1 import ledger_posting_service_pb2 as posting_pb
from paymesh.ledger.v1 import ledger_service_pb2 as ledger_pb
from paymesh.ledger.v1 import operation_register_service_pb2 as register_pb
from paymesh.ledger.v1.ledger_posting_service_pb2_grpc import LedgerPostingServiceStub
from paymesh.ledger.v1.ledger_service_pb2_grpc import LedgerServiceStub
from paymesh.ledger.v1.operation_register_service_pb2_grpc import OperationRegisterServiceStub
from paymesh.payment.v1 import payment_pb2
from paymesh.reconciliation.v1 import reconciliation_service_pb2 as pb
from paymesh.reconciliation.v1.reconciliation_service_pb2_grpc import ReconciliationServiceStub

from mesh import ids
from tests.support.reconciliation import DAY, DayFile, ingest, reference

Sql = psycopg.Connection[tuple[Any, ...]]

RECEIVABLE = ledger_pb.ACCOUNT_KIND_PSP_RECEIVABLE
SUSPENSE = ledger_pb.ACCOUNT_KIND_SUSPENSE
FEES = ledger_pb.ACCOUNT_KIND_PSP_FEE_EXPENSE
BANK = ledger_pb.ACCOUNT_KIND_BANK_CASH
ROUNDING = ledger_pb.ACCOUNT_KIND_ROUNDING


class World:
    """One source, its files and its part of the ledger."""

    def __init__(self, source: str, channel: grpc.aio.Channel, sql: Sql) -> None:
        self.source = source
        self.channel = channel
        self.reconciliation = ReconciliationServiceStub(channel)
        self.ledger = LedgerServiceStub(channel)
        self.postings = LedgerPostingServiceStub(channel)
        self.register = OperationRegisterServiceStub(channel)
        self.sql = sql

    def of(self, source: str) -> World:
        """Another source of the same ledger."""
        return World(source, self.channel, self.sql)

    async def capture(self, amount: int, fee: int = 0, **given: Any) -> dict[str, Any]:
        """Books a capture; the cells by which a line names it."""
        cells = given.pop("cells", None) or charge_cells()
        event = posting_pb.CaptureEvent(
            seller_id="seller",
            source=self.source,
            captured=Money(amount_minor=amount, currency_code=given.get("currency", "EUR")),
            seller_pending_minor=amount,
            psp_reference=given.get("psp_reference", cells["psp_reference"]),
        )
        if fee:
            event.fee.CopyFrom(Money(amount_minor=fee, currency_code="EUR"))
        response = await self.postings.PostEvents(
            posting_pb.PostEventsRequest(
                events=[
                    posting_pb.LedgerEvent(
                        operation_id=cells["operation_id"],
                        order_id=cells["order_id"],
                        capture=event,
                    )
                ]
            )
        )
        assert response.results[0].WhichOneof("result") == "posted", response
        return cells

    async def registered(
        self,
        state: register_pb.RegisterState.ValueType,
        cells: dict[str, Any] | None = None,
        **told: Any,
    ) -> dict[str, Any]:
        """Registers how an operation stands; the cells by which a line names it."""
        cells = cells or charge_cells()
        response = await self.register.RegisterOperations(
            register_pb.RegisterOperationsRequest(
                operations=[
                    register_pb.RegisteredOperation(
                        **{
                            "operation_id": cells["operation_id"],
                            "order_id": cells["order_id"],
                            "payment_id": cells["order_id"],
                            "kind": payment_pb2.OPERATION_KIND_CHARGE,
                            "amount": Money(amount_minor=250, currency_code="EUR"),
                            "state": state,
                            "version": 1,
                        }
                        | told
                    )
                ]
            )
        )
        assert response.results[0].WhichOneof("result") == "registered", response
        return cells

    async def run(self, day: str = DAY) -> pb.Run:
        response = await self.reconciliation.Reconcile(
            pb.ReconcileRequest(settlement_date=day, source=self.source)
        )
        return response.run

    async def day(self, file: DayFile, day: str = DAY) -> pb.Run:
        """Sends the file and reconciles its day."""
        stored = await ingest(self.reconciliation, file.content(), self.source)
        assert stored.state == pb.FILE_STATE_INGESTED, stored.problem
        return await self.run(day)

    async def breaks(self, run: pb.Run | None = None, **given: Any) -> list[pb.Break]:
        request = pb.ListBreaksRequest(
            run_id="" if run is None else run.run_id, source=self.source, **given
        )
        return list((await self.reconciliation.ListBreaks(request)).breaks)

    async def balance(self, kind: Any, currency: str = "EUR", source: str = "") -> int:
        account = ledger_pb.Account(kind=kind, source=source or self.source)
        response = await self.ledger.GetBalance(
            ledger_pb.GetBalanceRequest(account=account, currency_code=currency)
        )
        return response.balance_minor

    def booked(self) -> int:
        """How many journals the reconciliation wrote for this source, reversals included."""
        row = self.sql.execute(
            "SELECT count(*) FROM settlement_booking AS b JOIN journal AS j"
            " ON j.journal_id IN (b.journal_id, b.reversal_id) WHERE b.source = %s",
            [self.source],
        ).fetchone()
        assert row is not None
        return int(row[0])

    def matches(self) -> int:
        row = self.sql.execute(
            "SELECT count(*) FROM settlement_match JOIN settlement_file USING (file_id)"
            " WHERE source = %s",
            [self.source],
        ).fetchone()
        assert row is not None
        return int(row[0])

    async def assert_sums_to_zero(self) -> None:
        trial = await self.ledger.GetTrialBalance(ledger_pb.GetTrialBalanceRequest())
        sums: dict[str, int] = {}
        for row in trial.rows:
            sums[row.currency_code] = (
                sums.get(row.currency_code, 0) + row.debit_minor - row.credit_minor
            )
        assert not any(sums.values()), sums


def charge_cells(**cells: str) -> dict[str, Any]:
    """How a file names a charge of ours that no other test knows."""
    operation = ids.first_charge_id(uuid.uuid4())
    return {
        "operation_id": operation.hex,
        "order_id": uuid.uuid4().hex,
        "psp_reference": reference(),
        "idempotency_key": ids.psp_key(operation).hex,
    } | cells


def class_of(found: pb.Break) -> int:
    return int(getattr(found, "class"))


def counts(run: pb.Run) -> dict[int, int]:
    return {int(getattr(one, "class")): one.breaks for one in run.counts}


async def runs_of(world: World, day: str = DAY) -> list[pb.Run]:
    """The versions of the day, the latest first."""
    response = await world.reconciliation.ListRuns(
        pb.ListRunsRequest(source=world.source, settlement_date=day)
    )
    return list(response.runs)
