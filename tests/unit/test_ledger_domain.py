"""What a ledger is: accounts with numbers, and journals that balance per currency."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paymesh.ledger.v1 import ledger_service_pb2 as pb

from ledger_svc.domain import (
    Account,
    AccountKind,
    Direction,
    Entry,
    Journal,
    JournalKind,
    UnbalancedError,
    check_balanced,
)
from mesh.errors import Reason
from tests.support.values import numbers, on_the_wire

K = AccountKind
DEBIT, CREDIT = Direction.DEBIT, Direction.CREDIT
LOSS, REVENUE = Account(K.CHARGEBACK_LOSS), Account(K.COMMISSION_REVENUE)


def journal(*entries: Entry) -> Journal:
    return Journal(uuid.uuid4(), JournalKind.ADJUSTMENT, uuid.uuid4(), 0, uuid.uuid4(), entries)


entries = st.builds(
    Entry,
    st.sampled_from([LOSS, REVENUE]),
    st.sampled_from(Direction),
    st.sampled_from(["EUR", "USD"]),
    st.integers(1, 5),
)


@given(st.lists(entries, max_size=6))
def test_a_journal_balances_if_debits_equal_credits_in_each_currency(lines: list[Entry]) -> None:
    def side(direction: Direction, currency: str) -> int:
        return sum(
            e.amount_minor for e in lines if (e.direction, e.currency_code) == (direction, currency)
        )

    differing = {c for c in ("EUR", "USD") if side(DEBIT, c) != side(CREDIT, c)}
    if not differing:
        check_balanced(journal(*lines))
        return
    with pytest.raises(UnbalancedError) as raised:
        check_balanced(journal(*lines))
    currency = raised.value.metadata["currency_code"]
    assert currency in differing
    assert raised.value.metadata["debit_less_credit_minor"] == str(
        side(DEBIT, currency) - side(CREDIT, currency)
    )


def test_one_currency_does_not_make_up_for_another() -> None:
    with pytest.raises(UnbalancedError) as raised:
        check_balanced(journal(Entry(LOSS, DEBIT, "EUR", 5), Entry(REVENUE, CREDIT, "USD", 5)))
    assert raised.value.reason is Reason.VALIDATION_FAILED
    assert "adjustment journal" in str(raised.value)


@pytest.mark.parametrize(
    ("ours", "wire", "prefix"),
    [
        (AccountKind, pb.AccountKind, "ACCOUNT_KIND_"),
        (JournalKind, pb.JournalKind, "JOURNAL_KIND_"),
        (Direction, pb.Direction, "DIRECTION_"),
    ],
)
def test_the_numbers_are_those_of_the_wire(ours: Any, wire: Any, prefix: str) -> None:
    assert numbers(ours) == on_the_wire(wire, prefix)
