"""The books at the end: what was measured must also be right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import grpc
from paymesh.ledger.v1 import ledger_service_pb2 as pb
from paymesh.ledger.v1.ledger_service_pb2_grpc import LedgerServiceStub

from bench.problem import BenchError
from bench.rig import Rig

_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Equation:
    """Two figures that must be the same."""

    left: str
    left_value: int
    right: str
    right_value: int

    @property
    def holds(self) -> bool:
        """Whether they are."""
        return self.left_value == self.right_value

    def __str__(self) -> str:
        sign = "=" if self.holds else "≠"
        return f"{self.left} {self.left_value:,} {sign} {self.right} {self.right_value:,}"


def check_books(rig: Rig) -> list[Equation]:
    """What must hold when nothing is under way; amounts in cents."""
    ask = rig.server.ask
    payments, succeeded = ask(
        "payment", "SELECT count(*), count(*) FILTER (WHERE state = 4) FROM payment"
    )
    charges, captured = ask(
        "psp_stub",
        "SELECT count(*), sum(amount_minor) FROM truth WHERE state = 'CAPTURED'",
    )
    movements, credited = ask(
        "wallet", "SELECT count(*), (SELECT sum(pending_minor) FROM balance) FROM movement"
    )
    rows = _trial_balance(rig.ledger_target)
    found = [
        Equation("payments", payments, "succeeded", succeeded),
        Equation("payments", payments, "captures at the PSP", charges),
        Equation("payments", payments, "wallet movements", movements),
        Equation(
            "debits",
            sum(row.debit_minor for row in rows),
            "credits",
            sum(row.credit_minor for row in rows),
        ),
        Equation(
            "captured",
            captured,
            "wallets + commission",
            credited + _credit(rows, pb.ACCOUNT_KIND_COMMISSION_REVENUE),
        ),
        Equation(
            "wallets",
            credited,
            "the ledger's seller accounts",
            _credit(rows, pb.ACCOUNT_KIND_SELLER_PENDING),
        ),
    ]
    if not rig.errors:
        found.append(Equation("callers were told of", rig.succeeded, "payments", payments))
    return found


def _trial_balance(target: str) -> Sequence[pb.TrialBalanceRow]:
    with grpc.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            answer = LedgerServiceStub(channel).GetTrialBalance(
                pb.GetTrialBalanceRequest(), timeout=_TIMEOUT_S
            )
        except grpc.RpcError as error:
            raise BenchError(f"the ledger gave no trial balance: {error}") from error
    return list(answer.rows)


def _credit(rows: Sequence[pb.TrialBalanceRow], kind: pb.AccountKind.ValueType) -> int:
    return sum(row.credit_minor - row.debit_minor for row in rows if row.account.kind == kind)
