"""A mesh whose PSP's and bank's days are seeded with faults, and reconciled by the real RPCs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import NamedTuple, TypeVar

from paymesh.ledger.v1 import ledger_service_pb2 as ledger_pb
from paymesh.psp.v1 import psp_service_pb2 as psp_pb
from paymesh.psp.v1 import psp_stub_control_service_pb2 as control_pb
from paymesh.psp.v1.psp_service_pb2_grpc import PspServiceStub
from paymesh.psp.v1.psp_stub_control_service_pb2_grpc import PspStubControlServiceStub
from paymesh.reconciliation.v1 import reconciliation_service_pb2 as pb
from paymesh.reconciliation.v1.reconciliation_service_pb2_grpc import ReconciliationServiceStub

from psp_stub.faults import FaultKind
from tests.support.mesh import RunningMesh
from tests.support.mixture_load import SOURCE, Books
from tests.support.mixture_truth import Finding, differences, finding
from tests.support.reconciliation import parts

BANK = "psp_stub_bank"
CSV, CAMT = "", "camt.053"
_DEADLINE_S = 900.0

T = TypeVar("T")


class Reconciled(NamedTuple):
    """A run, all that it found, and how long the call took."""

    run: pb.Run
    breaks: list[pb.Break]
    seconds: float


class Compared(NamedTuple):
    """Of one run: what was to be found, what was not, what was found falsely, and as what."""

    expected: Counter[Finding]
    missing: Counter[Finding]
    false: Counter[Finding]
    states: Mapping[Finding, pb.BreakState.ValueType]


@dataclass
class Nights:
    """Days of the stub, as they are sent and reconciled."""

    mesh: RunningMesh
    seconds: dict[str, float] = field(default_factory=dict)
    compared: list[Compared] = field(default_factory=list)

    def __post_init__(self) -> None:
        psp, ledger = self.mesh.new_channel("psp_stub"), self.mesh.new_channel("ledger")
        self.books = Books(psp, ledger)
        self._psp = PspServiceStub(psp)
        self._control = PspStubControlServiceStub(psp)
        self._reconciliation = ReconciliationServiceStub(ledger)
        self._channels = (psp, ledger)

    def close(self) -> None:
        """Closes the clients."""
        for channel in self._channels:
            channel.close()

    def timed(self, name: str, work: Callable[[], T]) -> T:
        """What the work answers; its seconds are added under the name."""
        started = time.monotonic()
        done = work()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - started
        return done

    def seed(
        self,
        orders: Mapping[FaultKind, int],
        *,
        currency: str = "EUR",
        amounts: Mapping[FaultKind, int] | None = None,
        day: str | None = None,
    ) -> None:
        """Orders faults for the day, by default the first that is not closed."""
        for kind, count in orders.items():
            request = control_pb.SeedFaultRequest(
                kind=control_pb.StubFaultKind.Value(f"STUB_FAULT_KIND_{kind}"),
                count=count,
                currency_code=currency,
                amount_minor=(amounts or {}).get(kind),
                settlement_date=day,
            )
            self._control.SeedFault(request, timeout=_DEADLINE_S)

    def close_day(self, day: str | None = None) -> str:
        """Closes the day, by default that of today; all that was ordered for it is done."""
        request = control_pb.CloseDayRequest(settlement_date=day)
        closed = self.timed(
            "close days", lambda: self._control.CloseDay(request, timeout=_DEADLINE_S)
        )
        assert closed.closed_days == 1, "midnight passed, or the days before were not closed"
        not_done = [one for one in closed.day.faults if one.applied != one.count]
        assert not_done == [], not_done
        return closed.day.settlement_date

    def resend_day(self, day: str) -> None:
        """Sends the last closed day again, without its faults."""
        self._control.ResendDay(
            control_pb.ResendDayRequest(settlement_date=day), timeout=_DEADLINE_S
        )

    def fetch(self, day: str, format_name: str = CSV) -> bytes:
        """The bytes of the day's newest file."""
        request = psp_pb.GetSettlementFileRequest(settlement_date=day, format=format_name)
        return b"".join(
            part.chunk for part in self._psp.GetSettlementFile(request, timeout=_DEADLINE_S)
        )

    def ingest(self, content: bytes, source: str = SOURCE) -> pb.SettlementFile:
        """Brings a file to the ledger."""
        messages = parts(content, source)
        call = self._reconciliation.IngestSettlementFile
        return self.timed("ingest", lambda: call(iter(messages), timeout=_DEADLINE_S).file)

    def reconcile(self, day: str, source: str = SOURCE) -> Reconciled:
        """Reconciles a day, and lists what stands of what the run found."""
        started = time.monotonic()
        request = pb.ReconcileRequest(settlement_date=day, source=source)
        run = self._reconciliation.Reconcile(request, timeout=_DEADLINE_S).run
        seconds = time.monotonic() - started
        return Reconciled(run, list(self._breaks(run.run_id)), seconds)

    def compare(self, done: Reconciled, expected: Counter[Finding]) -> Compared:
        """Keeps what was found against what was to be found, for the report."""
        missing, false = differences(expected, map(finding, done.breaks))
        states = {finding(one): one.state for one in done.breaks}
        compared = Compared(expected, missing, false, states)
        self.compared.append(compared)
        return compared

    def balance(self, kind: ledger_pb.AccountKind.ValueType, currency: str) -> int:
        """What an account at the stub says."""
        account = ledger_pb.Account(kind=kind, source=SOURCE)
        request = ledger_pb.GetBalanceRequest(account=account, currency_code=currency)
        return self.mesh.ledger.GetBalance(request, timeout=_DEADLINE_S).balance_minor

    def trial_balance_differs(self) -> dict[str, int]:
        """By currency, debits less credits, where they are not the same."""
        rows = self.mesh.ledger.GetTrialBalance(
            ledger_pb.GetTrialBalanceRequest(), timeout=_DEADLINE_S
        ).rows
        sums: Counter[str] = Counter()
        for row in rows:
            sums[row.currency_code] += row.debit_minor - row.credit_minor
        return {currency: amount for currency, amount in sums.items() if amount}

    def _breaks(self, run_id: str) -> Iterable[pb.Break]:
        token = ""
        while True:
            request = pb.ListBreaksRequest(run_id=run_id, page_size=1_000, page_token=token)
            page = self._reconciliation.ListBreaks(request, timeout=_DEADLINE_S)
            yield from page.breaks
            token = page.next_page_token
            if not token:
                return


def later(day: str, days: int) -> str:
    """The day so many days after."""
    return (date.fromisoformat(day) + timedelta(days=days)).isoformat()
