"""The night as a flow: a settlement file comes in, is matched, and its differences are posted."""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import grpc
from paymesh.common.v1.money_pb2 import Money
from paymesh.ledger.v1 import ledger_posting_service_pb2 as posting_pb
from paymesh.ledger.v1 import ledger_service_pb2 as ledger_pb
from paymesh.reconciliation.v1 import reconciliation_service_pb2 as pb

from ledger_svc.reconciliation.sources import Source
from tests.faults.checker import Sessions
from tests.faults.engine.attempt import AGAIN_S, passing
from tests.faults.engine.mesh import PATIENCE_S, FailingMesh
from tests.support.reconciliation import DAY, DayFile, parts, reference
from tests.support.reconciliation_world import charge_cells

T = TypeVar("T")

_CALL_S = 5.0
_SUSPENSE = ledger_pb.ACCOUNT_KIND_SUSPENSE
_NAMES = 5_000

SOURCES: Mapping[str, Source] = {f"psp_{n}": Source(kind="psp") for n in range(_NAMES)}
"""A source for each night of a mesh, so that no night sees the one before it."""

_numbers = itertools.count()


class Reconciling:
    """A day with two captures of ours and one of which we know nothing."""

    def __init__(self) -> None:
        self.source = f"psp_{next(_numbers) % _NAMES}"
        self.told: list[str] = []
        self._known = [(10_000, charge_cells()), (2_500, charge_cells())]
        self._unknown_minor = 777
        file = DayFile()
        for amount, cells in self._known:
            file.line(amount, **cells)
        file.line(self._unknown_minor, psp_reference=reference(), operation_id=uuid.uuid4().hex)
        self._content = file.content()
        self._files: list[pb.SettlementFile] = []
        self._runs: list[pb.Run] = []

    async def prepare(self, mesh: FailingMesh) -> None:
        """Books the captures that we know of."""
        request = posting_pb.PostEventsRequest(
            events=[self._capture(amount, cells) for amount, cells in self._known]
        )
        await self._asked(lambda: mesh.postings.PostEvents(request, timeout=_CALL_S))

    async def drive(self, mesh: FailingMesh) -> None:
        """Sends the file until it is taken; reconciles until that is answered."""
        requests = parts(self._content, self.source)
        answer = await self._asked(
            lambda: mesh.reconciliation.IngestSettlementFile(iter(requests), timeout=_CALL_S)
        )
        self._files.append(answer.file)
        asked = pb.ReconcileRequest(settlement_date=DAY, source=self.source)
        told = await self._asked(lambda: mesh.reconciliation.Reconcile(asked, timeout=_CALL_S))
        self._runs.append(told.run)

    def compare(self, books: Sessions) -> list[str]:
        """One file, one set of matches and journals, and every cent accounted for."""
        wanted = {
            "files": 1,
            "lines": 3,
            "matches": 2,
            "bookings": 1,
            "journals": len(self._known) + 1,
            "suspense": -self._unknown_minor,
            "out of balance": 0,
        }
        found = {
            name: int(row[0])
            for name, query in _QUERIES.items()
            if (row := books.ledger.execute(query.encode(), {"source": self.source}).fetchone())
        }
        problems = [
            f"{name}: {found.get(name)}, expected {number}"
            for name, number in wanted.items()
            if found.get(name) != number
        ]
        if {run.state for run in self._runs} != {pb.RUN_STATE_EXPLAINED}:
            problems.append(f"the day ended as {[run.state for run in self._runs]}")
        if len({file.file_id for file in self._files}) != 1:
            problems.append("one content was told of under several file_ids")
        return problems

    def _capture(self, amount: int, cells: Mapping[str, Any]) -> posting_pb.LedgerEvent:
        return posting_pb.LedgerEvent(
            operation_id=cells["operation_id"],
            order_id=cells["order_id"],
            capture=posting_pb.CaptureEvent(
                seller_id=f"seller_{self.source}",
                source=self.source,
                captured=Money(amount_minor=amount, currency_code="EUR"),
                seller_pending_minor=amount,
                psp_reference=cells["psp_reference"],
            ),
        )

    async def _asked(self, call: Callable[[], Awaitable[T]]) -> T:
        """Calls until it is answered."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    answer = await call()
                except grpc.RpcError as error:
                    self.told.append(passing(error) or "nothing")
                    await asyncio.sleep(AGAIN_S)
                else:
                    self.told.append("an answer")
                    return answer


_QUERIES = {
    "files": "SELECT count(*) FROM settlement_file WHERE source = %(source)s",
    "lines": "SELECT count(*) FROM settlement_line JOIN settlement_file USING (file_id)"
    " WHERE source = %(source)s",
    "matches": "SELECT count(*) FROM settlement_match JOIN settlement_file USING (file_id)"
    " WHERE source = %(source)s",
    "bookings": "SELECT count(*) FROM settlement_booking WHERE source = %(source)s",
    "journals": "SELECT count(DISTINCT journal_id) FROM entry WHERE source = %(source)s",
    "suspense": "SELECT coalesce(sum(CASE direction WHEN 1 THEN amount_minor ELSE -amount_minor"
    f" END), 0) FROM entry WHERE source = %(source)s AND account_kind = {_SUSPENSE}",
    "out of balance": "SELECT count(*) FROM (SELECT FROM entry WHERE journal_id IN (SELECT"
    " journal_id FROM entry WHERE source = %(source)s) GROUP BY journal_id, currency HAVING"
    " sum(CASE direction WHEN 1 THEN amount_minor ELSE -amount_minor END) <> 0) AS j",
}
