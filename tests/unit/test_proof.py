"""The demo's proof fails where the books do not agree."""

from __future__ import annotations

import json

import pytest
from paymesh.common.v1.money_pb2 import Money
from paymesh.ledger.v1 import ledger_service_pb2 as ledger_pb
from paymesh.payment.v1 import payment_pb2
from paymesh.wallet.v1 import wallet_service_pb2 as wallet_pb
from rich.console import Console

from paymeshctl.demo import show
from paymeshctl.proof import Books, Story, equations, problems, way_table
from tests.support.nights import the_night

ORDER = "0" * 32


def story(state: payment_pb2.PaymentState.ValueType = payment_pb2.PAYMENT_STATE_SUCCEEDED) -> Story:
    euros = Money(amount_minor=1000, currency_code="EUR")
    order = payment_pb2.PaymentOrder(
        order_id=ORDER,
        seller_id="alice",
        amount=euros,
        captured=euros,
        state=payment_pb2.ORDER_STATE_SUCCEEDED,
        operations=[
            payment_pb2.Operation(
                psp_reference="psp-1", source=payment_pb2.EVIDENCE_SOURCE_PSP_LOOK_UP
            )
        ],
    )
    entries = [
        ledger_pb.Entry(
            account=ledger_pb.Account(kind=ledger_pb.ACCOUNT_KIND_PSP_RECEIVABLE),
            direction=ledger_pb.DIRECTION_DEBIT,
            amount=euros,
        )
    ]
    return Story(
        title="a checkout",
        method="tok_ok",
        expected=payment_pb2.PAYMENT_STATE_SUCCEEDED,
        payment=payment_pb2.Payment(payment_id="1" * 32, state=state, orders=[order]),
        seconds=0.1,
        journals={ORDER: [ledger_pb.Journal(journal_id="2" * 32, entries=entries)]},
        movements={
            ORDER: wallet_pb.Movement(
                movement_id="3" * 32, amount=Money(amount_minor=900, currency_code="EUR")
            )
        },
    )


def row(
    kind: ledger_pb.AccountKind.ValueType, debit: int = 0, credit: int = 0
) -> ledger_pb.TrialBalanceRow:
    return ledger_pb.TrialBalanceRow(
        account=ledger_pb.Account(kind=kind),
        currency_code="EUR",
        debit_minor=debit,
        credit_minor=credit,
    )


def books(*, pending: int = 900, receivable: int = 1000, commission: int = 100) -> Books:
    return Books(
        wallets=[
            wallet_pb.Wallet(
                seller_id="alice",
                balances=[wallet_pb.Balance(currency_code="EUR", pending_minor=pending)],
            )
        ],
        trial_balance=ledger_pb.GetTrialBalanceResponse(
            rows=[
                row(ledger_pb.ACCOUNT_KIND_PSP_RECEIVABLE, debit=receivable),
                row(ledger_pb.ACCOUNT_KIND_SELLER_PENDING, credit=900),
                row(ledger_pb.ACCOUNT_KIND_COMMISSION_REVENUE, credit=commission),
            ]
        ),
    )


def test_books_that_agree_have_no_problems() -> None:
    assert problems([story()], books()) == []
    assert [str(equation) for equation in equations([story()], books())] == [
        "debits 10.00 EUR = credits 10.00 EUR",
        "captured 10.00 EUR = wallets + commission 10.00 EUR",
        "wallets 9.00 EUR = the ledger's seller accounts 9.00 EUR",
    ]


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        (books(pending=899), "wallets"),
        (books(receivable=999), "debits"),
        (books(commission=101, receivable=1001), "captured"),
        (Books([], ledger_pb.GetTrialBalanceResponse()), "no entries"),
    ],
)
def test_books_that_disagree_are_a_problem(wrong: Books, what: str) -> None:
    assert what in " ".join(problems([story()], wrong))


def test_a_payment_that_ended_otherwise_is_a_problem() -> None:
    (problem,) = problems([story(payment_pb2.PAYMENT_STATE_NEEDS_ATTENTION)], books())
    assert "NEEDS_ATTENTION, not SUCCEEDED" in problem


def test_the_way_names_every_id(capsys: pytest.CaptureFixture[str]) -> None:
    Console(width=200).print(way_table(story()))
    shown = capsys.readouterr().out
    for text in (ORDER, "psp-1", "1" * 32, "2" * 32, "3" * 32, "known by its look-up", "debit"):
        assert text in shown


def test_it_is_shown_as_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    show([story()], books(), the_night(), ["a problem"], as_json=True)
    facts = json.loads(capsys.readouterr().out)
    assert facts["problems"] == ["a problem"]
    assert facts["payments"][0]["payment_id"] == "1" * 32
    assert facts["trial_balance"]["rows"][0]["debit_minor"] == 1000
    assert facts["run"]["state"] == "RUN_STATE_EXPLAINED"
    assert [one["amount_minor"] for one in facts["breaks"]] == [1234]
