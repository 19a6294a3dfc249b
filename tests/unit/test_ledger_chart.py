"""The chart of accounts and the posting rules."""

from __future__ import annotations

import pickle
import uuid
from collections import Counter
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ledger_svc import chart
from ledger_svc.chart import CaptureEvent
from ledger_svc.domain import (
    Account,
    AccountKind,
    Direction,
    Entry,
    Journal,
    JournalKind,
    UnbalancedError,
)
from mesh import ids
from mesh.errors import Code
from mesh.money import MAX_AMOUNT_MINOR, Money
from tests.support.captures import new_capture

K = AccountKind
currencies = st.sampled_from(["EUR", "USD", "JPY", "BHD"])
names = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=63)
fees = st.none() | st.builds(Money, st.integers(0, MAX_AMOUNT_MINOR), currencies)


@st.composite
def captures(draw: st.DrawFn) -> CaptureEvent:
    captured = draw(st.integers(1, MAX_AMOUNT_MINOR))
    pending = draw(st.integers(0, captured) | st.sampled_from([0, captured]))
    return CaptureEvent(
        draw(st.uuids()),
        draw(st.integers(0, 3)),
        draw(st.uuids()),
        draw(names),
        draw(names),
        Money(captured, draw(currencies)),
        pending,
        captured - pending,
        draw(fees),
    )


def net(journals: tuple[Journal, ...]) -> Counter[tuple[Account, str]]:
    """Debits less credits by account and currency."""
    sums: Counter[tuple[Account, str]] = Counter()
    for journal in journals:
        for entry in journal.entries:
            sign = 1 if entry.direction is Direction.DEBIT else -1
            sums[entry.account, entry.currency_code] += sign * entry.amount_minor
    return sums


@given(captures())
def test_every_capture_balances_and_conserves_money(event: CaptureEvent) -> None:
    journals = chart.journals(event)

    sums = net(journals)
    by_currency: Counter[str] = Counter()
    for (_, currency_code), amount_minor in sums.items():
        by_currency[currency_code] += amount_minor
    assert not any(by_currency.values())

    currency_code = event.captured.currency_code
    seller = sums[Account(K.SELLER_PENDING, owner_id=event.seller_id), currency_code]
    commission = sums[Account(K.COMMISSION_REVENUE), currency_code]
    assert -seller == event.seller_pending_minor
    assert -commission == event.commission_minor
    assert -(seller + commission) == event.captured.amount_minor

    fee = Counter[str]()
    if event.fee is not None:
        fee[event.fee.currency_code] = event.fee.amount_minor
    for code in {currency_code, *fee}:
        receivable = sums[Account(K.PSP_RECEIVABLE, source=event.source), code]
        expense = sums[Account(K.PSP_FEE_EXPENSE, source=event.source), code]
        captured = event.captured.amount_minor if code == currency_code else 0
        assert expense == fee[code]
        assert receivable == captured - fee[code]


@given(captures())
def test_every_journal_is_well_formed(event: CaptureEvent) -> None:
    journals = chart.journals(event)

    assert [j.kind for j in journals] == (
        [JournalKind.CAPTURE, JournalKind.PSP_FEE]
        if event.fee and event.fee.amount_minor
        else [JournalKind.CAPTURE]
    )
    for journal in journals:
        assert journal.journal_id == ids.journal_id(
            journal.kind.name.lower(), event.operation_id, event.revision
        )
        assert journal.journal_id in chart.possible_ids(journals[0])
        assert len(journal.entries) >= 2
        for entry in journal.entries:
            assert entry.amount_minor > 0
            assert chart.violations(entry.account) == []


def test_the_sale_of_the_facts() -> None:
    event = new_capture(
        seller_id="s", source="psp", pending_minor=90, commission_minor=10, fee=Money(3, "EUR")
    )
    capture, fee = chart.journals(event)

    receivable = Account(K.PSP_RECEIVABLE, source="psp")
    assert capture.entries == (
        Entry(receivable, Direction.DEBIT, "EUR", 100),
        Entry(Account(K.SELLER_PENDING, owner_id="s"), Direction.CREDIT, "EUR", 90),
        Entry(Account(K.COMMISSION_REVENUE), Direction.CREDIT, "EUR", 10),
    )
    assert fee.entries == (
        Entry(Account(K.PSP_FEE_EXPENSE, source="psp"), Direction.DEBIT, "EUR", 3),
        Entry(receivable, Direction.CREDIT, "EUR", 3),
    )


@pytest.mark.parametrize(("pending", "commission"), [(100, 0), (0, 100)])
def test_a_line_of_zero_is_left_out(pending: int, commission: int) -> None:
    (journal,) = chart.journals(new_capture(pending_minor=pending, commission_minor=commission))
    assert len(journal.entries) == 2


@given(captures(), st.integers(-10, 10))
def test_an_event_that_conserves_nothing_is_refused(event: CaptureEvent, off_minor: int) -> None:
    assume(off_minor)
    assume(event.commission_minor + off_minor >= 0)
    with pytest.raises(UnbalancedError) as raised:
        chart.journals(event._replace(commission_minor=event.commission_minor + off_minor))
    assert raised.value.code is Code.INVALID_ARGUMENT
    assert raised.value.is_permanent
    assert raised.value.metadata["currency_code"] == event.captured.currency_code
    assert raised.value.metadata["debit_less_credit_minor"] == str(-off_minor)


@given(captures())
def test_the_same_event_is_a_replay(event: CaptureEvent) -> None:
    assert chart.differences(chart.journals(event), chart.journals(event)) == ()


EUR_3 = Money(3, "EUR")
CAPTURED = "capture.captured"


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        ({"order_id": uuid.uuid4()}, {"order_id"}),
        ({"seller_id": "other"}, {"capture.seller_id"}),
        ({"source": "other"}, {"capture.source"}),
        ({"captured": Money(100, "USD")}, {f"{CAPTURED}.currency_code"}),
        (
            {"captured": Money(101, "EUR"), "commission_minor": 11},
            {f"{CAPTURED}.amount_minor", "capture.commission_minor"},
        ),
        (
            {"seller_pending_minor": 80, "commission_minor": 20},
            {"capture.seller_pending_minor", "capture.commission_minor"},
        ),
        (
            {"seller_pending_minor": 0, "commission_minor": 100},
            {"capture.seller_pending_minor", "capture.commission_minor"},
        ),
        ({"fee": None}, {"capture.fee.amount_minor"}),
        ({"fee": Money(0, "EUR")}, {"capture.fee.amount_minor"}),
        ({"fee": Money(4, "EUR")}, {"capture.fee.amount_minor"}),
        ({"fee": Money(3, "USD")}, {"capture.fee.currency_code"}),
    ],
)
def test_another_event_names_the_fields(change: dict[str, Any], fields: set[str]) -> None:
    event = new_capture(fee=EUR_3)
    stored, asked = chart.journals(event), chart.journals(event._replace(**change))
    assert set(chart.differences(asked, stored)) == fields
    assert set(chart.differences(stored, asked)) == fields


def test_a_line_that_is_not_there_differs_from_the_smallest() -> None:
    event = new_capture(pending_minor=100, commission_minor=0)
    without = chart.journals(event)
    smallest = chart.journals(event._replace(seller_pending_minor=99, commission_minor=1))
    named = ("capture.commission_minor", "capture.seller_pending_minor")
    assert chart.differences(without, smallest) == named
    assert chart.differences(smallest, without) == named


def test_equal_amounts_of_two_reads_are_no_difference() -> None:
    event = new_capture(pending_minor=9_000, commission_minor=1_000, fee=Money(320, "EUR"))
    stored = pickle.loads(pickle.dumps(chart.journals(event)))
    asked = chart.journals(event._replace(seller_id="other"))
    assert chart.differences(asked, stored) == ("capture.seller_id",)


def test_the_first_event_of_an_operation_is_its_revision_0() -> None:
    event = new_capture(fee=EUR_3)._replace(revision=0)
    booked = chart.journals(event)
    assert chart.first_ids(event.operation_id) == tuple(j.journal_id for j in booked)
    corrected = chart.journals(event._replace(revision=1))
    assert not {j.journal_id for j in corrected} & set(chart.first_ids(event.operation_id))


@pytest.mark.parametrize(
    ("one", "other", "fields"),
    [("", "psp_1", ()), ("psp_1", "psp_1", ()), ("psp_1", "psp_2", ("capture.psp_reference",))],
)
def test_whether_the_psps_reference_was_known_is_no_difference_and_another_is(
    one: str, other: str, fields: tuple[str, ...]
) -> None:
    event = new_capture(fee=EUR_3)
    first, second = (chart.journals(event._replace(psp_reference=told)) for told in (one, other))
    assert chart.differences(first, second) == chart.differences(second, first) == fields


@pytest.mark.parametrize("source", ["", "zzz"])
def test_a_difference_that_no_field_tells_of_is_one_of_the_entries(source: str) -> None:
    capture, fee = booked = chart.journals(new_capture(source="psp", fee=EUR_3))
    elsewhere = fee.entries[1]._replace(account=Account(K.PSP_RECEIVABLE, source=source))
    odd = (capture, fee._replace(entries=(fee.entries[0], elsewhere)))
    assert chart.differences(odd, booked) == chart.differences(booked, odd) == ("entries",)


@given(captures(), captures())
def test_no_difference_goes_unnamed(one: CaptureEvent, other: CaptureEvent) -> None:
    stored = chart.journals(one)
    asked = chart.journals(other._replace(operation_id=one.operation_id, revision=one.revision))
    assert (chart.differences(asked, stored) == ()) == (asked == stored)


def test_every_kind_is_in_the_chart() -> None:
    assert set(chart.CHART) == set(AccountKind)


# What we owe, or what is ours for good; all other kinds are on the debit side.
CREDIT_SIDE = {
    K.SELLER_PENDING, K.SELLER_AVAILABLE, K.SELLER_RESERVED, K.COMMISSION_REVENUE,
    K.BUYER_REFUND_PAYABLE, K.PAYOUT_IN_TRANSIT, K.SUSPENSE,
}  # fmt: skip
# A seller's, and what one has to ask a PSP or a bank about.
OWNED = {K.SELLER_PENDING, K.SELLER_AVAILABLE, K.SELLER_RESERVED, K.SELLER_DEBT}
SOURCED = {
    K.PSP_RECEIVABLE, K.PSP_FEE_EXPENSE, K.BANK_CASH, K.DISPUTE_RECEIVABLE,
    K.DISPUTE_FEE_EXPENSE, K.SUSPENSE, K.ROUNDING, K.FX,
}  # fmt: skip


@pytest.mark.parametrize("kind", AccountKind)
def test_each_kind_has_its_normal_side_and_its_owner_or_source(kind: AccountKind) -> None:
    side = Direction.CREDIT if kind in CREDIT_SIDE else Direction.DEBIT
    assert chart.CHART[kind] == chart.AccountRule(side, kind in OWNED, kind in SOURCED)
    owner_id, source = "s" * (kind in OWNED), "psp" * (kind in SOURCED)
    assert chart.violations(Account(kind, owner_id, source)) == []


def test_no_account_has_both_owner_and_source() -> None:
    assert not any(rule.owned and rule.sourced for rule in chart.CHART.values())


@pytest.mark.parametrize(
    ("account", "fields"),
    [
        (Account(K.SELLER_PENDING, owner_id="s"), []),
        (Account(K.SELLER_PENDING), ["owner_id"]),
        (Account(K.SELLER_PENDING, source="psp"), ["owner_id", "source"]),
        (Account(K.PSP_RECEIVABLE, source="psp"), []),
        (Account(K.PSP_RECEIVABLE), ["source"]),
        (Account(K.COMMISSION_REVENUE), []),
        (Account(K.COMMISSION_REVENUE, "s", "psp"), ["owner_id", "source"]),
    ],
)
def test_owner_and_source_go_with_the_kind(account: Account, fields: list[str]) -> None:
    assert [violation.field for violation in chart.violations(account)] == fields
