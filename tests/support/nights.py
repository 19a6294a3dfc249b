"""A night of the demo, as the mesh would tell it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from paymesh.common.v1.money_pb2 import Money
from paymesh.ledger.v1 import ledger_service_pb2 as ledger_pb
from paymesh.reconciliation.v1 import reconciliation_service_pb2 as reconciliation_pb

from paymeshctl.night import Night


def the_night(
    state: reconciliation_pb.RunState.ValueType = reconciliation_pb.RUN_STATE_EXPLAINED,
    *,
    difference_minor: int = 0,
    classes: Sequence[int] = (reconciliation_pb.BREAK_CLASS_UNKNOWN_TO_US,),
    credit_minor: int = 1_234,
) -> Night:
    """By default one that went well: what was seeded is the one difference."""
    euros = Money(amount_minor=1_234, currency_code="EUR")
    suspense = ledger_pb.Account(kind=ledger_pb.ACCOUNT_KIND_SUSPENSE, source="psp_stub")
    entry = ledger_pb.Entry(account=suspense, direction=ledger_pb.DIRECTION_CREDIT, amount=euros)
    return Night(
        run=reconciliation_pb.Run(
            source="psp_stub",
            settlement_date="2026-11-22",
            state=state,
            balances=[
                reconciliation_pb.RunBalance(currency_code="EUR", difference_minor=difference_minor)
            ],
        ),
        breaks=[
            reconciliation_pb.Break(
                amount_minor=1_234,
                currency_code="EUR",
                psp_reference="stub_x",
                place="line 7",
                proposal=[entry],
                **_class(each),
            )
            for each in classes
        ],
        trial_balance=ledger_pb.GetTrialBalanceResponse(
            rows=[
                _row(ledger_pb.ACCOUNT_KIND_PSP_RECEIVABLE, debit=1_234),
                _row(ledger_pb.ACCOUNT_KIND_SUSPENSE, credit=credit_minor),
            ]
        ),
    )


def _class(number: int) -> dict[str, Any]:
    return {"class": number}


def _row(
    kind: ledger_pb.AccountKind.ValueType, debit: int = 0, credit: int = 0
) -> ledger_pb.TrialBalanceRow:
    return ledger_pb.TrialBalanceRow(
        account=ledger_pb.Account(kind=kind, source="psp_stub"),
        currency_code="EUR",
        debit_minor=debit,
        credit_minor=credit,
    )
