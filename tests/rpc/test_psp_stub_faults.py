"""Faults that are ordered: each is in the day's files as ordered, and nothing else changes.

What a day would say without its faults is what it says when it is sent again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from ledger_svc.reconciliation.readers import Line
from tests.support.postgres import PostgresServer
from tests.support.psp_stub import new_ask, own_database
from tests.support.stub_days import (
    facts,
    new_days,
    next_day,
    settling,
    told_captures,
    true_captures,
)
from tests.support.stub_faults import balances, check_consistent, check_right, send


@pytest.fixture
def url(postgres_server: PostgresServer) -> str:
    """A stub's database of this test alone."""
    return own_database(postgres_server)


def gross(lines: list[Line]) -> list[int]:
    return [one.gross_minor or 0 for one in lines]


def same_but(field: str, missing: list[Line], added: list[Line]) -> list[tuple[int, int]]:
    """Of lines that differ in an amount alone, that amount before and after."""
    added_by_key = {one.idempotency_key: one for one in added}
    pairs = []
    for one in missing:
        other = added_by_key[one.idempotency_key]
        ours = ("source_reference", "operation_id", "order_id", "create_time", "kind")
        assert [getattr(one, name) for name in ours] == [getattr(other, name) for name in ours]
        pairs.append((getattr(one, field), getattr(other, field)))
    return pairs


# --- lines -----------------------------------------------------------------------------


def missing_line(missing: list[Line], added: list[Line]) -> None:
    assert (len(missing), added) == (3, [])


def unknown_line(missing: list[Line], added: list[Line]) -> None:
    assert (missing, [one.kind for one in added]) == ([], ["CHARGE"] * 3)
    assert gross(added) == [250] * 3
    for field in ("source_reference", "idempotency_key", "operation_id", "order_id"):
        assert len({getattr(one, field) for one in added} - {""}) == 3


def amount_differs(missing: list[Line], added: list[Line]) -> None:
    assert all(new == old + 250 for old, new in same_but("gross_minor", missing, added))
    assert all(new == old for old, new in same_but("fee_minor", missing, added))
    assert len(added) == 3


def fee_differs(missing: list[Line], added: list[Line]) -> None:
    assert all(new == old + 250 for old, new in same_but("fee_minor", missing, added))
    assert all(new == old for old, new in same_but("gross_minor", missing, added))
    assert len(added) == 3


def duplicate_line(missing: list[Line], added: list[Line]) -> None:
    assert missing == []
    assert len({one.idempotency_key for one in added}) == len(added) == 3


def offsetting(missing: list[Line], added: list[Line]) -> None:
    by = sorted(new - old for old, new in same_but("gross_minor", missing, added))
    assert by == [-250] * 3 + [250] * 3


def ambiguous(missing: list[Line], added: list[Line]) -> None:
    assert Counter(gross(missing)) == Counter(gross(added)) == {7_000: 6}
    assert {(one.idempotency_key, one.operation_id, one.order_id) for one in added} == {
        ("", "", "")
    }
    assert not {one.source_reference for one in added} & {one.source_reference for one in missing}


def about_a_charge(kind: str, sign: int) -> Callable[[list[Line], list[Line]], None]:
    def check(missing: list[Line], added: list[Line]) -> None:
        assert missing == []
        assert [one.kind for one in added] == [kind] * 3
        assert len({one.related_reference for one in added} - {""}) == 3
        assert len({one.order_id for one in added} - {""}) == 3
        assert all((one.gross_minor or 0) * sign > 0 for one in added)

    return check


def free(kind: str, gross_minor: int, fee_minor: int = 0) -> Callable[..., None]:
    def check(missing: list[Line], added: list[Line]) -> None:
        assert missing == []
        assert [(one.kind, one.gross_minor, one.fee_minor) for one in added] == [
            (kind, gross_minor, fee_minor)
        ] * 3
        assert {one.order_id for one in added} == {""}

    return check


LINE_FAULTS: dict[str, Callable[[list[Line], list[Line]], None]] = {
    "MISSING_LINE": missing_line,
    "UNKNOWN_LINE": unknown_line,
    "AMOUNT_DIFFERS": amount_differs,
    "FEE_DIFFERS": fee_differs,
    "FEE_LINE": free("FEE", 0, 250),
    "DUPLICATE_LINE": duplicate_line,
    "UNKNOWN_REFUND": about_a_charge("REFUND", -1),
    "CHARGEBACK": about_a_charge("DISPUTE", -1),
    "CHARGE_REVERSAL": about_a_charge("CHARGE_REVERSAL", -1),
    "FX_DIFFERENCE": about_a_charge("FX", -1),
    "RESERVE_HOLD": free("RESERVE_HOLD", -250),
    "RESERVE_RELEASE": free("RESERVE_RELEASE", 250),
    "BALANCE_TRANSFER": free("BALANCE_TRANSFER", -250),
    "INVOICE_DEDUCTION": free("INVOICE_DEDUCTION", -250),
    "OFFSETTING_ERRORS": offsetting,
    "AMBIGUOUS_LINES": ambiguous,
    "CLOSING_DIFFERS": free("ADJUSTMENT", 250),
}


@pytest.mark.parametrize("kind", LINE_FAULTS)
async def test_lines_are_wrong_as_ordered(url: str, kind: str) -> None:
    async with settling(url) as stub:
        await stub.charge(*new_days(100), *(new_ask(amount_minor=7_000) for _ in range(6)))
        await stub.seed(kind, 3, amount_minor=250)
        truth = true_captures(url)
        sent = await send(stub)
    assert sent.applied(kind) == 3
    LINE_FAULTS[kind](*sent.changes())
    for currency in ("USD", "JPY", "BHD", "CLF"):
        assert sent.changes(currency) == ([], [])
        assert balances(sent.wrong, currency) == balances(sent.right, currency)
        assert facts(sent.wrong.of(currency)) == facts(sent.right.of(currency))
    check_consistent(sent)
    check_right(sent, url)
    assert true_captures(url) == truth


async def test_a_late_line_is_in_the_next_file(url: str) -> None:
    async with settling(url) as stub:
        asks = await stub.capture(100, 200, 300, 400)
        await stub.seed("LATE_LINE", 2)
        closed = (await stub.close()).day
        file = await stub.read(closed.settlement_date)
        following = next_day(closed.settlement_date)
        await stub.close(following)
        next_file = await stub.read(following)
    assert closed.faults[0].applied == 2
    told = [line.idempotency_key for line in file.of("EUR", "CHARGE")]
    assert told == [ask.idempotency_key for ask in asks[:2]]
    later = [line.idempotency_key for line in next_file.of("EUR", "CHARGE")]
    assert later == [ask.idempotency_key for ask in asks[2:]]
    assert all(one.ties for one in (*file.statements, *next_file.statements))
    assert told_captures(file, next_file) == true_captures(url)


async def test_lines_are_in_the_wrong_currency(url: str) -> None:
    async with settling(url) as stub:
        await stub.charge(*new_days(50))
        await stub.seed("CURRENCY_DIFFERS", 2)
        await stub.seed("CURRENCY_DIFFERS", 1, currency_code="USD")
        sent = await send(stub)
    euros_missing, euros_added = sent.changes("EUR")
    dollars_missing, dollars_added = sent.changes("USD")
    assert (len(euros_missing), len(dollars_missing)) == (2, 1)
    for missing, added in ((euros_missing, dollars_added), (dollars_missing, euros_added)):
        assert facts(missing) == [(*one[:-1], missing[0].batch_reference) for one in facts(added)]
    check_consistent(sent)
    check_right(sent, url)


async def test_declined_charges_are_settled(url: str) -> None:
    asks = [new_ask("tok_declined"), new_ask("tok_insufficient_funds"), new_ask()]
    async with settling(url) as stub:
        await stub.charge(*asks)
        await stub.seed("DECLINED_SETTLED", 5)
        sent = await send(stub)
        following = next_day(sent.day.settlement_date)
        await stub.seed("DECLINED_SETTLED", 5)
        # Told once, though that was taken back; a third was not declined.
        assert (await stub.close(following)).day.faults[0].applied == 0
    missing, added = sent.changes()
    assert (missing, sent.applied("DECLINED_SETTLED")) == ([], 2)
    assert {one.idempotency_key for one in added} == {ask.idempotency_key for ask in asks[:2]}
    assert gross(added) == [10_000] * 2
    check_consistent(sent)
    check_right(sent, url)


async def test_a_chargeback_is_reversed_on_a_later_day(url: str) -> None:
    async with settling(url) as stub:
        await stub.charge(*new_days(10))
        await stub.seed("CHARGEBACK", 2)
        await stub.seed("CHARGEBACK_REVERSAL", 1)
        first = (await stub.close()).day
        second = next_day(first.settlement_date)
        await stub.seed("CHARGEBACK_REVERSAL", 5)
        await stub.charge(*new_days(10))
        closed = (await stub.close(second)).day
        files = [await stub.read(first.settlement_date), await stub.read(second)]
        await stub.seed("CHARGEBACK_REVERSAL", 1)
        third = (await stub.close(next_day(second))).day
    assert {fault.applied for fault in first.faults} == {0, 2}
    assert [fault.applied for fault in closed.faults] == [2]
    assert [fault.applied for fault in third.faults] == [0]
    disputes, won = files[0].of("EUR", "DISPUTE"), files[1].of("EUR", "DISPUTE_REVERSAL")
    assert {one.source_reference for one in disputes} == {one.related_reference for one in won}
    assert sorted(gross(won)) == sorted(-amount for amount in gross(disputes))
    assert [one.fee_minor for one in disputes] == [1_500] * 2
    assert all(one.reversal and not one.fee_minor for one in won)
    assert files[1].statement("EUR").opening_minor == files[0].statement("EUR").closing_minor


async def test_faults_take_lines_of_their_own(url: str) -> None:
    kinds = ["MISSING_LINE", "AMOUNT_DIFFERS", "FEE_DIFFERS", "DUPLICATE_LINE", "CHARGEBACK"]
    async with settling(url) as stub:
        await stub.charge(*(new_ask() for _ in range(10)))
        for kind in kinds:
            await stub.seed(kind, 2)
        sent = await send(stub)
    assert [sent.applied(kind) for kind in kinds] == [2] * 5
    missing, added = sent.changes()
    assert len(missing) == 6
    assert len(added) == 8
    check_consistent(sent)
    check_right(sent, url)


async def test_more_than_the_day_has_is_told(url: str) -> None:
    async with settling(url) as stub:
        await stub.charge(*(new_ask(amount_minor=100 + at) for at in range(3)))
        await stub.seed("MISSING_LINE", 1_000)
        await stub.seed("AMBIGUOUS_LINES", 1)
        await stub.seed("FEE_LINE", 1, currency_code="GBP")
        sent = await send(stub)
    assert sent.applied("MISSING_LINE") == 3
    assert sent.applied("AMBIGUOUS_LINES") == 0
    assert sent.applied("FEE_LINE") == 1
    assert sent.wrong.of("EUR") == []
    # Nothing to pay: the fee waits for the next transfer.
    assert sent.wrong.statement("GBP").closing_minor == -100
