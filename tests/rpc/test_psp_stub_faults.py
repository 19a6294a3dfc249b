"""Faults that are ordered: each is in the day's files as ordered, and nothing else changes.

What a day would say without its faults is what it says when it is sent again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from itertools import pairwise
from typing import Any, NamedTuple

import grpc
import psycopg
import pytest
from paymesh.psp.v1 import psp_stub_control_service_pb2 as control_pb

from ledger_svc.reconciliation.readers import Line, ProblemCode
from mesh.errors import Reason
from mesh.status import from_rpc_error
from psp_stub.falsify import UNKNOWN_ACCOUNT
from psp_stub.faults import FaultKind
from tests.support.postgres import PostgresServer
from tests.support.psp_stub import new_ask, own_database
from tests.support.stub_days import (
    BANK,
    Read,
    Stub,
    facts,
    new_days,
    set_clock,
    settling,
    told_captures,
    true_captures,
)

TRANSFERS = ("TRANSFER", "TRANSFER_RETURN")


@pytest.fixture
def url(postgres_server: PostgresServer) -> str:
    """A stub's database of this test alone."""
    return own_database(postgres_server)


class Sent(NamedTuple):
    """A day with faults (the files of revision 0) and without (of revision 1)."""

    day: control_pb.StubSettlementDay
    wrong: Read
    wrong_bank: Read
    right: Read
    right_bank: Read

    def applied(self, kind: str) -> int:
        value = control_pb.StubFaultKind.Value(f"STUB_FAULT_KIND_{kind}")
        return sum(fault.applied for fault in self.day.faults if fault.kind == value)

    def changes(self, currency: str = "EUR") -> tuple[list[Line], list[Line]]:
        """The lines of a statement that are missing, and those that are too many."""
        wrong, right = (
            {key: lines_of(file, currency, key) for key in keys(file, currency)}
            for file in (self.wrong, self.right)
        )
        missing = [one for key in right for one in right[key][len(wrong.get(key, ())) :]]
        added = [one for key in wrong for one in wrong[key][len(right.get(key, ())) :]]
        return missing, added


def keys(file: Read, currency: str) -> set[Any]:
    return {facts([line])[0] for line in file.of(currency) if line.kind not in TRANSFERS}


def lines_of(file: Read, currency: str, key: Any) -> list[Line]:
    return [one for one in file.of(currency) if facts([one])[0] == key]


async def send(stub: Stub, day: str | None = None) -> Sent:
    """Closes a day and reads its files; then sends it again and reads them once more."""
    closed = (await stub.close(day)).day
    day = closed.settlement_date
    wrong, bank = await stub.read(day), await stub.read(day, BANK)
    again = await stub.control.ResendDay(control_pb.ResendDayRequest(settlement_date=day))
    assert again.day.revision == 1
    return Sent(closed, wrong, bank, await stub.read(day), await stub.read(day, BANK))


def check_right(sent: Sent, url: str) -> None:
    """Sent again, the day is as it truly was."""
    for file in (sent.right, sent.right_bank):
        assert all(one.ties and not one.problem for one in file.statements)
        assert file.header.revision == 1
    assert told_captures(sent.right) == true_captures(url)
    assert {one.kind for one in sent.right.lines} <= {"CHARGE", "TRANSFER"}


def check_consistent(sent: Sent) -> None:
    """Whatever the lines say: balances, the transfer and the bank agree with them."""
    for file in (sent.wrong, sent.wrong_bank):
        assert all(one.ties and not one.problem for one in file.statements), file.statements
    for statement in sent.wrong.statements:
        currency = str(statement.currency_code)
        lines = sent.wrong.of(currency)
        rows = [one.amount_minor or 0 for one in lines if one.kind not in TRANSFERS]
        paid = [-(one.amount_minor or 0) for one in lines if one.kind == "TRANSFER"]
        assert sum(paid) == max(sum(rows), 0)
        assert [one.amount_minor for one in sent.wrong_bank.of(currency)] == paid


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
        wrong, right = (file.statement(currency) for file in (sent.wrong, sent.right))
        assert replace(wrong, identity="") == replace(right, identity="")
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


# --- statements, transfers, the bank ---------------------------------------------------


async def day_with(url: str, kind: str, **fields: Any) -> Sent:
    async with settling(url) as stub:
        await stub.charge(*new_days(20))
        await stub.seed(kind, 1, **fields)
        sent = await send(stub)
    assert sent.applied(kind) == 1
    assert sent.changes() == ([], [])
    check_right(sent, url)
    return sent


def transfer(file: Read, currency: str = "EUR") -> int:
    (line,) = file.of(currency, "TRANSFER")
    return line.amount_minor or 0


async def test_the_transfer_is_less_than_its_lines(url: str) -> None:
    sent = await day_with(url, "TRANSFER_DIFFERS", amount_minor=77)
    assert transfer(sent.wrong) == transfer(sent.right) + 77
    assert sent.wrong_bank.of("EUR")[0].amount_minor == -transfer(sent.wrong)
    assert sent.wrong.statement("EUR").closing_minor == 77
    assert all(one.ties for one in (*sent.wrong.statements, *sent.wrong_bank.statements))


async def test_the_bank_lacks_the_transfer(url: str) -> None:
    sent = await day_with(url, "BANK_LINE_MISSING")
    assert facts(sent.wrong.lines) == facts(sent.right.lines)
    assert sent.wrong_bank.of("EUR") == []
    assert sent.wrong_bank.statement("EUR").closing_minor == 0
    assert sent.wrong_bank.of("USD")[0].amount_minor == sent.right_bank.of("USD")[0].amount_minor
    assert all(one.ties for one in sent.wrong_bank.statements)


async def test_the_bank_has_credits_that_are_no_transfer(url: str) -> None:
    async with settling(url) as stub:
        await stub.charge(*new_days(20))
        await stub.seed("UNKNOWN_BANK_LINE", 2, currency_code="JPY", amount_minor=5)
        sent = await send(stub)
    assert facts(sent.wrong.lines) == facts(sent.right.lines)
    credit, *unknown = sent.wrong_bank.of("JPY")
    assert credit.source_reference == sent.wrong.of("JPY", "TRANSFER")[0].source_reference
    assert [one.amount_minor for one in unknown] == [5, 5]
    assert all("EndToEndId" not in dict(one.references) for one in unknown)
    assert all(one.ties for one in sent.wrong_bank.statements)
    assert sent.wrong_bank.statement("JPY").closing_minor == (credit.amount_minor or 0) + 10


async def test_the_bank_sends_the_transfer_back_and_it_is_paid_again(url: str) -> None:
    async with settling(url) as stub:
        await stub.charge(*new_days(20))
        await stub.seed("TRANSFER_RETURN")
        first = (await stub.close()).day.settlement_date
        file, bank = await stub.read(first), await stub.read(first, BANK)
        second = (await stub.close(next_day(first))).day.settlement_date
        next_file, next_bank = await stub.read(second), await stub.read(second, BANK)
    (back,) = file.of("EUR", "TRANSFER_RETURN")
    paid, returned = bank.of("EUR")
    assert back.amount_minor == -transfer(file) == paid.amount_minor
    assert returned.amount_minor == -(paid.amount_minor or 0)
    assert (back.reversal, returned.reversal, paid.reversal) == (True, True, False)
    assert back.related_reference == file.of("EUR", "TRANSFER")[0].source_reference
    assert transfer(next_file) == transfer(file)
    assert next_file.of("EUR", "TRANSFER")[0].source_reference == back.batch_reference
    assert next_bank.statement("EUR").closing_minor == paid.amount_minor
    for one in (file, bank, next_file, next_bank):
        assert all(statement.ties for statement in one.statements)


async def test_the_closing_balance_is_not_what_the_lines_make(url: str) -> None:
    sent = await day_with(url, "ARITHMETIC_BROKEN", amount_minor=9, currency_code="BHD")
    broken = sent.wrong.statement("BHD")
    assert (broken.ties, [one.code for one in broken.problems]) == (
        False,
        [ProblemCode.DOES_NOT_TIE],
    )
    assert broken.closing_minor == (sent.right.statement("BHD").closing_minor or 0) + 9
    assert [one.ties for one in sent.wrong.statements].count(False) == 1
    assert facts(sent.wrong.lines) == facts(sent.right.lines)


async def test_the_chain_breaks_once(url: str) -> None:
    async with settling(url) as stub:
        first = await stub.close_today()
        days = [first]
        for count in (0, 1, 0):
            await stub.charge(*new_days(5))
            if count:
                await stub.seed("CHAIN_BROKEN", amount_minor=33)
            days.append(next_day(days[-1]))
            await stub.close(days[-1])
        files = [await stub.read(day) for day in days]
    assert all(one.ties for file in files for one in file.statements)
    euros = [file.statement("EUR") for file in files]
    gaps = [
        (after.opening_minor or 0) - (before.closing_minor or 0)
        for before, after in pairwise(euros)
    ]
    assert gaps == [0, 33, 0]
    assert told_captures(*files) == true_captures(url)


async def test_the_file_can_not_be_had_until_it_is_sent_again(url: str) -> None:
    async with settling(url) as stub:
        await stub.charge(*new_days(5))
        await stub.seed("FILE_MISSING")
        day = await stub.close_today()
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.fetch(day)
        assert from_rpc_error(refused.value).reason is Reason.SETTLEMENT_FILE_NOT_FOUND
        assert (await stub.read(day, BANK)).of("EUR")
        await stub.control.ResendDay(control_pb.ResendDayRequest(settlement_date=day))
        file = await stub.read(day)
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.fetch(day, "", 0)
    assert told_captures(file) == true_captures(url)


@pytest.mark.parametrize("captures", [1, 1_500])
async def test_the_last_page_is_missing(url: str, captures: int) -> None:
    async with settling(url) as stub:
        await stub.charge(*(new_ask() for _ in range(captures)))
        await stub.seed("PAGES_INCOMPLETE")
        sent = await send(stub)
    statement = sent.wrong.statement("EUR")
    assert statement.ties is False
    assert ProblemCode.PAGES_MISSING in {one.code for one in statement.problems}
    assert facts(sent.wrong.lines) == facts(sent.right.lines[:-1])
    assert sent.right.statement("EUR").ties


async def test_the_account_is_not_ours(url: str) -> None:
    sent = await day_with(url, "UNKNOWN_ACCOUNT", currency_code="USD")
    accounts = {one.currency_code: one.account for one in sent.wrong.statements}
    assert accounts["USD"] == UNKNOWN_ACCOUNT
    assert set(accounts.values()) - {UNKNOWN_ACCOUNT} == {sent.right.statement("EUR").account}
    assert facts(sent.wrong.lines) == facts(sent.right.lines)


# --- orders ----------------------------------------------------------------------------


async def test_every_kind_is_known_to_the_contract() -> None:
    names = {name.removeprefix("STUB_FAULT_KIND_") for name, _ in control_pb.StubFaultKind.items()}
    assert names - {"UNSPECIFIED"} == {kind.name for kind in FaultKind}


async def test_an_order_is_set_anew_and_taken_back(url: str) -> None:
    async with settling(url) as stub:
        await stub.charge(*new_days(20))
        await stub.seed("MISSING_LINE", 4)
        fault = await stub.seed("MISSING_LINE", 1)
        assert (fault.count, fault.currency_code, fault.amount_minor) == (1, "EUR", 100)
        await stub.seed("FEE_LINE", 2)
        assert (await stub.seed("FEE_LINE", 0)).count == 0
        sent = await send(stub)
    assert len(sent.day.faults) == 1
    missing, added = sent.changes()
    assert (len(missing), added) == (1, [])


async def test_an_order_is_for_its_day_alone(url: str) -> None:
    async with settling(url) as stub:
        await stub.charge(*new_days(10))
        today = await stub.seed("MISSING_LINE", 0)
        day = next_day(today.settlement_date)
        await stub.seed("MISSING_LINE", 2, settlement_date=day)
        first = await stub.read(await stub.close_today())
        await stub.charge(*new_days(10))
        sent = await send(stub, day)
    assert all(one.ties for one in first.statements)
    assert len(sent.changes()[0]) == 2
    assert sent.day.settlement_date == day


async def test_orders_survive_a_restart_and_files_keep_their_bytes(url: str) -> None:
    async with settling(url) as stub:
        await stub.charge(*new_days(30))
        for kind in ("MISSING_LINE", "CHARGEBACK", "UNKNOWN_LINE", "TRANSFER_DIFFERS"):
            await stub.seed(kind)
    async with settling(url) as stub:
        day = await stub.close_today()
        before = [await stub.fetch(day), await stub.fetch(day, BANK)]
    async with settling(url) as stub:
        assert [await stub.fetch(day), await stub.fetch(day, BANK)] == before
        await stub.control.ResendDay(control_pb.ResendDayRequest(settlement_date=day))
        assert [await stub.fetch(day, "", 0), await stub.fetch(day, BANK, 0)] == before
        assert (await stub.fetch(day))[1] != before[0][1]
        newest = await stub.fetch(day)
        again = await stub.control.ResendDay(control_pb.ResendDayRequest(settlement_date=day))
        assert again.day.revision == 1
        assert await stub.fetch(day) == newest


async def test_only_the_last_closed_day_is_sent_again(
    postgres_server: PostgresServer, url: str
) -> None:
    set_clock(postgres_server, url, "2026-03-10T12:00:00Z")
    async with settling(url) as stub:
        await stub.close("2026-03-11")
        for day, reason in (
            ("2026-03-10", Reason.WRONG_STATE),
            ("2026-03-12", Reason.SETTLEMENT_NOT_READY),
            ("2026-03-09", Reason.SETTLEMENT_FILE_NOT_FOUND),
            ("2026-02-30", Reason.VALIDATION_FAILED),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.control.ResendDay(control_pb.ResendDayRequest(settlement_date=day))
            assert from_rpc_error(refused.value).reason is reason


async def test_the_next_day_goes_on_from_what_was_sent_last(url: str) -> None:
    async with settling(url) as stub:
        await stub.charge(*new_days(10))
        await stub.seed("TRANSFER_DIFFERS", amount_minor=50)
        await stub.seed("UNKNOWN_BANK_LINE")
        sent = await send(stub)
        day = next_day(sent.day.settlement_date)
        await stub.close(day)
        file, bank = await stub.read(day), await stub.read(day, BANK)
    assert sent.wrong.statement("EUR").closing_minor == 50
    assert file.statement("EUR").opening_minor == 0
    assert bank.statement("EUR").opening_minor == sent.right_bank.statement("EUR").closing_minor


@pytest.mark.parametrize(
    ("fields", "reason", "field"),
    [
        ({"kind": 0}, "VALIDATION_FAILED", "kind"),
        ({"kind": 31}, "VALIDATION_FAILED", "kind"),
        ({"count": -1}, "VALIDATION_FAILED", "count"),
        ({"count": 1_001}, "VALIDATION_FAILED", "count"),
        ({"settlement_date": "2026-02-30"}, "VALIDATION_FAILED", "settlement_date"),
        ({"settlement_date": "tomorrow"}, "VALIDATION_FAILED", "settlement_date"),
        ({"settlement_date": "2028-03-10"}, "VALIDATION_FAILED", "settlement_date"),
        ({"currency_code": "eur"}, "VALIDATION_FAILED", "currency_code"),
        ({"currency_code": "XAU"}, "UNKNOWN_CURRENCY", "currency_code"),
        ({"amount_minor": 0}, "VALIDATION_FAILED", "amount_minor"),
        ({"amount_minor": 10**12 + 1}, "VALIDATION_FAILED", "amount_minor"),
        ({"settlement_date": "2026-03-10"}, "WRONG_STATE", None),
        ({"settlement_date": "1999-01-01"}, "WRONG_STATE", None),
    ],
)
async def test_orders_that_are_refused(
    postgres_server: PostgresServer,
    url: str,
    *,
    fields: dict[str, Any],
    reason: str,
    field: str | None,
) -> None:
    set_clock(postgres_server, url, "2026-03-10T12:00:00Z")
    async with settling(url) as stub:
        await stub.close()
        request = control_pb.SeedFaultRequest(**{"kind": 2, "count": 1, **fields})
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.control.SeedFault(request)
    error = from_rpc_error(refused.value)
    assert error.reason == reason
    assert [bad.field for bad in error.violations] == ([field] if field else [])
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT count(*) FROM settlement_fault").fetchone() == (0,)


def next_day(day: str) -> str:
    return (date.fromisoformat(day) + timedelta(days=1)).isoformat()
