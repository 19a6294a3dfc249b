"""Faults of whole statements, of transfers and at the bank; and how faults are ordered.

What a day would say without its faults is what it says when it is sent again.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import grpc
import psycopg
import pytest
from paymesh.psp.v1 import psp_stub_control_service_pb2 as control_pb

from ledger_svc.reconciliation.readers import ProblemCode
from mesh.errors import Reason
from mesh.status import from_rpc_error
from psp_stub.falsify import UNKNOWN_ACCOUNT
from psp_stub.faults import FaultKind
from tests.support.postgres import PostgresServer
from tests.support.psp_stub import new_ask, own_database
from tests.support.stub_days import (
    BANK,
    Read,
    facts,
    new_days,
    next_day,
    set_clock,
    settling,
    told_captures,
    true_captures,
)
from tests.support.stub_faults import Sent, check_right, send


@pytest.fixture
def url(postgres_server: PostgresServer) -> str:
    """A stub's database of this test alone."""
    return own_database(postgres_server)


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
        ({"amount_minor": 10**11 + 1}, "VALIDATION_FAILED", "amount_minor"),
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
