"""Settlement days of the stub through real gRPC, read back by the ledger's readers."""

from __future__ import annotations

import asyncio
import tracemalloc

import grpc
import psycopg
import pytest
from paymesh.psp.v1 import psp_service_pb2 as pb

from mesh.errors import Code, Reason
from mesh.money import MAX_AMOUNT_MINOR, exponent
from mesh.settlement_file import FORMAT
from mesh.status import from_rpc_error
from psp_stub.domain import SOURCE, FeeSchedule
from psp_stub.settlement import ACCOUNT
from tests.support.postgres import PostgresServer
from tests.support.psp_stub import charge, new_ask, own_database
from tests.support.stub_days import (
    BANK,
    check_chain,
    check_ties,
    new_days,
    next_day,
    rows,
    set_clock,
    settling,
    told_captures,
    true_captures,
)


@pytest.fixture
def url(postgres_server: PostgresServer) -> str:
    """A stub's database of this test alone: its days are a chain."""
    return own_database(postgres_server)


# --- what is in a file -----------------------------------------------------------------


async def test_a_day_is_told_as_it_truly_was(url: str) -> None:
    asks = new_days(100)
    async with settling(url) as stub:
        await stub.charge(*asks, new_ask("tok_declined"), new_ask("tok_insufficient_funds"))
        file = await stub.read(await stub.close_today())
    check_ties(file)
    assert told_captures(file) == true_captures(url)
    assert set(told_captures(file)) == {"EUR", "JPY", "BHD", "USD", "CLF"}
    by_key = {line.idempotency_key: line for line in file.lines if line.kind == "CHARGE"}
    fees = FeeSchedule(290, 30)
    for ask in asks:
        line = by_key[ask.idempotency_key]
        fee = fees.fee_minor(ask.amount_minor, ask.currency_code)
        assert (line.operation_id, line.order_id) == (ask.operation_id, ask.order_id)
        assert (line.gross_minor, line.fee_minor) == (ask.amount_minor, fee)
        assert (line.amount_minor, line.currency_code) == (
            ask.amount_minor - fee,
            ask.currency_code,
        )
    with psycopg.connect(url) as connection:
        references = connection.execute(
            "SELECT idempotency_key, psp_reference, create_time FROM truth WHERE state = 'CAPTURED'"
        ).fetchall()
    assert {(key, line.source_reference, line.create_time) for key, line in by_key.items()} == set(
        references
    )


async def test_everything_is_transferred_and_reaches_the_bank(url: str) -> None:
    async with settling(url, bank_account="NL91ABNA0417164300") as stub:
        await stub.charge(*new_days(20))
        day = await stub.close_today()
        file, bank = await stub.read(day), await stub.read(day, BANK)
    check_ties(file, bank)
    for statement in file.statements:
        currency = str(statement.currency_code)
        (transfer,) = file.of(currency, "TRANSFER")
        rows = [one for one in file.of(currency) if one.kind != "TRANSFER"]
        assert {one.batch_reference for one in file.of(currency)} == {transfer.source_reference}
        assert transfer.amount_minor == -sum(one.amount_minor or 0 for one in rows)
        assert statement.closing_minor == 0
        assert statement.account == ACCOUNT
        (credit,) = bank.of(currency)
        assert credit.amount_minor == -transfer.amount_minor
        assert credit.source_reference == transfer.source_reference
        assert ("EndToEndId", transfer.source_reference) in credit.references
        assert bank.statement(currency).account == "NL91ABNA0417164300"
        assert bank.statement(currency).closing_minor == credit.amount_minor
    references = [one.source_reference for one in file.lines if one.kind == "TRANSFER"]
    assert len(set(references)) == len(references)
    assert all(len(reference) <= 35 for reference in references)


async def test_what_was_never_told_is_in_the_file(url: str) -> None:
    silent, wrong = new_ask("tok_silent"), new_ask("tok_wrong_amount")
    lost = new_ask("tok_timeout_captured")
    nothing, pending = new_ask("tok_timeout_nothing"), new_ask("tok_pending_success")
    async with settling(url, pending_ms=3_600_000) as stub:
        await charge(stub.psp, silent, wrong, lost, nothing, pending, timeout_s=1)
        file = await stub.read(await stub.close_today())
    told = {line.idempotency_key: line.gross_minor for line in file.of("EUR", "CHARGE")}
    assert told == {
        silent.idempotency_key: 10_000,
        wrong.idempotency_key: 10_001,
        lost.idempotency_key: 10_000,
    }
    check_ties(file)


async def test_a_pending_capture_is_in_the_file_of_the_day_that_made_it_final(url: str) -> None:
    async with settling(url, pending_ms=300) as stub:
        await stub.charge(new_ask("tok_pending_success"), new_ask("tok_pending_failure"))
        first = await stub.close_today()
        await asyncio.sleep(0.4)
        second = next_day(first)
        await stub.close(second)
        assert (await stub.read(first)).of("EUR", "CHARGE") == []
        assert len((await stub.read(second)).of("EUR", "CHARGE")) == 1


async def test_a_forgotten_key_is_two_lines(url: str) -> None:
    ask = new_ask()
    async with settling(url, key_memory_s=0.2) as stub:
        await stub.charge(ask)
        await asyncio.sleep(0.3)
        await stub.charge(ask)
        file = await stub.read(await stub.close_today())
    lines = file.of("EUR", "CHARGE")
    assert [line.idempotency_key for line in lines] == [ask.idempotency_key] * 2
    assert len({line.source_reference for line in lines}) == 2


@pytest.mark.parametrize("key", ["kit-1", "A" * 32, "0" * 33, 'a,"b"\r\nEND', " ", "\u00e4" * 255])
async def test_a_key_that_is_not_the_meshs_breaks_no_file(url: str, key: str) -> None:
    ask = new_ask()._replace(idempotency_key=key)
    async with settling(url) as stub:
        await stub.charge(ask, new_ask())
        file = await stub.read(await stub.close_today())
    check_ties(file)
    told = {one.operation_id: one.idempotency_key for one in file.of("EUR", "CHARGE")}
    assert told[ask.operation_id] == ""
    assert len(told) == 2


async def test_an_empty_day_has_a_file(url: str) -> None:
    async with settling(url) as stub:
        first = await stub.close_today()
        files = [await stub.read(first), await stub.read(first, BANK)]
        await stub.charge(new_ask(currency="BHD"))
        for day in (next_day(first), next_day(next_day(first))):
            await stub.close(day)
        last = await stub.read(next_day(next_day(first)))
    check_ties(*files, last)
    for file in files:
        assert file.lines == []
        assert [one.currency_code for one in file.statements] == ["EUR"]
    # A currency that was once there stays, so that its chain goes on.
    assert last.lines == []
    assert [one.currency_code for one in last.statements] == ["BHD", "EUR"]


async def test_a_file_has_pages(url: str) -> None:
    async with settling(url) as stub:
        await stub.charge(*(new_ask(amount_minor=1_000 + at) for at in range(2_500)))
        file = await stub.read(await stub.close_today())
    check_ties(file)
    assert len(file.lines) == 2_501
    pages = [row.split(b",")[6:8] for row in file.content.splitlines() if b"OPENING" in row]
    assert pages == [[b"1", b"false"], [b"2", b"false"], [b"3", b"true"]]
    # In the order of capture, and captures of one moment in that of their references.
    lines = file.of("EUR", "CHARGE")
    assert lines == sorted(lines, key=lambda one: (one.create_time, one.source_reference))


@pytest.mark.parametrize("lines", [999, 1_000, 1_001])
async def test_a_full_page_is_the_last_one(url: str, lines: int) -> None:
    async with settling(url, transfer_delay_days=1) as stub:
        await stub.charge(*(new_ask() for _ in range(lines)))
        file = await stub.read(await stub.close_today())
    check_ties(file)
    assert len(file.lines) == lines
    assert file.content.count(b"OPENING") == (2 if lines > 1_000 else 1)


async def test_the_memory_for_a_file_does_not_grow_with_it(url: str) -> None:
    peaks: list[int] = []
    days: list[str] = []
    async with settling(url) as stub:
        for captures in (1_500, 5_000):
            await stub.charge(*(new_ask() for _ in range(captures)))
            days.append(next_day(days[-1]) if days else await stub.close_today())
            await stub.close(days[-1])
            request = pb.GetSettlementFileRequest(settlement_date=days[-1])
            size = len((await stub.fetch(days[-1]))[1])  # what is loaded once is loaded now
            tracemalloc.start()
            try:
                # One process serves and reads; what was read is let go of.
                async for part in stub.psp.GetSettlementFile(request):
                    size -= len(part.chunk)
                peaks.append(tracemalloc.get_traced_memory()[1])
            finally:
                tracemalloc.stop()
            assert size == 0
        files = [await stub.read(day) for day in days]
    assert peaks[1] < peaks[0] * 1.5
    assert told_captures(*files) == true_captures(url)
    check_ties(*files)
    check_chain(*files)


async def test_a_day_takes_no_more_than_an_amount_can_be(url: str) -> None:
    async with settling(url) as stub:
        await stub.capture(6 * 10**14, 6 * 10**14, 5)
        first = await stub.close_today()
        await stub.close(next_day(first))
        files = [await stub.read(first), await stub.read(next_day(first))]
    check_ties(*files)
    assert [len(file.of("EUR", "CHARGE")) for file in files] == [1, 2]
    assert all((file.statement("EUR").credits_minor) <= MAX_AMOUNT_MINOR for file in files)
    assert told_captures(*files) == true_captures(url)


# --- what is asked for, and what the stub says of itself ---------------------------------


async def test_capabilities_tell_when_days_end_and_where_money_goes(url: str) -> None:
    async with settling(url) as stub:
        told = await stub.psp.GetCapabilities(pb.GetCapabilitiesRequest())
    assert (told.day_time_zone, told.day_cut_off.ToSeconds()) == ("UTC", 0)
    assert list(told.settlement_formats) == [FORMAT, "camt.053.001.08"]
    assert (told.settlement_account, told.bank_account) == (ACCOUNT, "DE89370400440532013000")
    async with settling(url, day_time_zone="Asia/Tokyo", day_cut_off_min=90) as stub:
        told = await stub.psp.GetCapabilities(pb.GetCapabilitiesRequest())
    assert (told.day_time_zone, told.day_cut_off.ToSeconds()) == ("Asia/Tokyo", 5_400)


async def test_a_file_says_what_it_is(url: str) -> None:
    async with settling(url) as stub:
        day = await stub.close_today()
        for asked, given in (
            ("", FORMAT),
            (FORMAT, FORMAT),
            ("camt.053", "camt.053.001.08"),
            ("camt.053.001.08", "camt.053.001.08"),
        ):
            header, _ = await stub.fetch(day, asked)
            assert (header.settlement_date, header.format, header.revision) == (day, given, 0)
            assert header.file_name.startswith(SOURCE)
            assert day in header.file_name
            assert "/" not in header.file_name


@pytest.mark.parametrize(
    ("day", "format_name", "revision", "code", "reason"),
    [
        ("2026-02-30", "", None, Code.INVALID_ARGUMENT, Reason.VALIDATION_FAILED),
        ("2026-1-1", "", None, Code.INVALID_ARGUMENT, Reason.VALIDATION_FAILED),
        ("", "", None, Code.INVALID_ARGUMENT, Reason.VALIDATION_FAILED),
        ("0001-01-01", "", None, Code.INVALID_ARGUMENT, Reason.VALIDATION_FAILED),
        ("9999-12-31", "", None, Code.INVALID_ARGUMENT, Reason.VALIDATION_FAILED),
        ("2026-03-10", "", -1, Code.INVALID_ARGUMENT, Reason.VALIDATION_FAILED),
        ("2026-03-10", "x" * 65, None, Code.INVALID_ARGUMENT, Reason.VALIDATION_FAILED),
        ("2026-03-10", "MT940", None, Code.INVALID_ARGUMENT, Reason.UNSUPPORTED_FORMAT),
        ("2026-03-10", "camt.053.001.02", None, Code.INVALID_ARGUMENT, Reason.UNSUPPORTED_FORMAT),
        ("2026-03-10", "", 1, Code.NOT_FOUND, Reason.SETTLEMENT_FILE_NOT_FOUND),
        ("2026-03-09", "", None, Code.NOT_FOUND, Reason.SETTLEMENT_FILE_NOT_FOUND),
        ("1970-01-01", "camt.053", None, Code.NOT_FOUND, Reason.SETTLEMENT_FILE_NOT_FOUND),
        ("2026-03-11", "", None, Code.NOT_FOUND, Reason.SETTLEMENT_NOT_READY),
        ("9998-12-31", "", None, Code.NOT_FOUND, Reason.SETTLEMENT_NOT_READY),
    ],
)
async def test_files_that_there_are_not(
    postgres_server: PostgresServer,
    url: str,
    *,
    day: str,
    format_name: str,
    revision: int | None,
    code: Code,
    reason: Reason,
) -> None:
    set_clock(postgres_server, url, "2026-03-10T12:00:00Z")
    async with settling(url) as stub:
        await stub.close()
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.fetch(day, format_name, revision)
    error = from_rpc_error(refused.value)
    assert (error.code, error.reason) == (code, reason)


@pytest.mark.parametrize("day", ["2026-02-30", "x", "2028-01-01", "9999-01-01"])
async def test_days_that_can_not_be_closed(
    postgres_server: PostgresServer, url: str, day: str
) -> None:
    set_clock(postgres_server, url, "2026-03-10T12:00:00Z")
    async with settling(url) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.close(day)
    error = from_rpc_error(refused.value)
    assert error.reason is Reason.VALIDATION_FAILED
    assert [bad.field for bad in error.violations] == ["settlement_date"]
    assert rows(url, "settlement_day") == 0


async def test_a_day_before_the_first_one_is_not_closed(
    postgres_server: PostgresServer, url: str
) -> None:
    set_clock(postgres_server, url, "2026-03-10T12:00:00Z")
    async with settling(url) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.close("2026-03-09")
    assert from_rpc_error(refused.value).reason is Reason.SETTLEMENT_FILE_NOT_FOUND


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE settlement_line SET line_no = 7",
        "UPDATE settlement_statement SET closing_minor = 1",
        "DELETE FROM settlement_day",
        "DELETE FROM settlement_altered_line",
        "TRUNCATE settlement_bank_line",
        "UPDATE settlement_revision SET is_missing = true",
    ],
)
def test_a_closed_day_can_not_be_changed(url: str, statement: str) -> None:
    with (
        psycopg.connect(url) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute(statement)


def test_the_currencies_of_these_tests_have_all_numbers_of_decimals() -> None:
    used = {ask.currency_code for ask in new_days(5)}
    assert {exponent(currency) for currency in used} == {0, 2, 3, 4}
