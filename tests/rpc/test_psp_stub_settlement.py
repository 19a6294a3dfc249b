"""Settlement days of the stub through real gRPC, read back by the ledger's readers."""

from __future__ import annotations

import asyncio
import tracemalloc
from datetime import date, timedelta
from itertools import pairwise

import grpc
import psycopg
import pytest
from paymesh.psp.v1 import psp_service_pb2 as pb
from paymesh.psp.v1 import psp_stub_control_service_pb2 as control_pb

from mesh.errors import Code, Reason
from mesh.money import MAX_AMOUNT_MINOR, exponent
from mesh.settlement_file import FORMAT
from mesh.status import from_rpc_error
from psp_stub.domain import SOURCE, FeeSchedule
from psp_stub.settlement import ACCOUNT
from tests.support.postgres import PostgresServer
from tests.support.psp_stub import charge, eventually, new_ask, own_database
from tests.support.stub_days import (
    BANK,
    Read,
    new_days,
    set_clock,
    settling,
    told_captures,
    true_captures,
)


@pytest.fixture
def url(postgres_server: PostgresServer) -> str:
    """A stub's database of this test alone: its days are a chain."""
    return own_database(postgres_server)


def next_day(day: str) -> str:
    return (date.fromisoformat(day) + timedelta(days=1)).isoformat()


def check_ties(*files: Read) -> None:
    for file in files:
        assert file.statements
        assert [(one.ties, one.problem) for one in file.statements] == [(True, None)] * len(
            file.statements
        )


def check_chain(*files: Read) -> None:
    """Each day opens with what the day before closed with."""
    for before, after in pairwise(files):
        for one in before.statements:
            assert one.currency_code is not None
            assert after.statement(one.currency_code).opening_minor == one.closing_minor


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


# --- days ------------------------------------------------------------------------------


@pytest.mark.parametrize("delay", [0, 1])
async def test_three_days_are_a_chain(url: str, delay: int) -> None:
    async with settling(url, transfer_delay_days=delay) as stub:
        first = (await stub.close()).day.settlement_date
        days = [next_day(first), next_day(next_day(first)), next_day(next_day(next_day(first)))]
        for day in days:
            await stub.charge(*new_days(30))
            await stub.close(day)
        files = [await stub.read(day) for day in [first, *days]]
        banks = [await stub.read(day, BANK) for day in [first, *days]]
    check_ties(*files, *banks)
    check_chain(*files)
    check_chain(*banks)
    assert told_captures(*files) == true_captures(url)
    lines = [line for file in files for line in file.lines]
    transfers = {one.source_reference: one for one in lines if one.kind == "TRANSFER"}
    for reference, transfer in transfers.items():
        rows = [
            one.amount_minor or 0
            for one in lines
            if one.batch_reference == reference and one is not transfer
        ]
        assert sum(rows) == -(transfer.amount_minor or 0)
    last = files[-1]
    for statement in last.statements:
        rows = [one.amount_minor or 0 for one in last.of(str(statement.currency_code), "CHARGE")]
        assert statement.closing_minor == (sum(rows) if delay else 0)
    assert len(transfers) == 5 * (3 - delay)


async def test_what_comes_late_is_in_the_next_days_file(url: str) -> None:
    async with settling(url) as stub:
        early = await stub.capture(100)
        first = await stub.close_today()
        before = await stub.fetch(first)
        late = await stub.capture(200, 300)
        assert (await stub.close(first)).closed_days == 0
        assert await stub.fetch(first) == before
        await stub.close(next_day(first))
        assert await stub.fetch(first) == before
        files = [await stub.read(first), await stub.read(next_day(first))]
    for file, asks in zip(files, (early, late), strict=True):
        keys = [line.idempotency_key for line in file.of("EUR", "CHARGE")]
        assert keys == [ask.idempotency_key for ask in asks]


async def test_closing_again_changes_nothing(url: str) -> None:
    async with settling(url) as stub:
        await stub.charge(*new_days(10))
        first = await stub.close()
        again = await stub.close(first.day.settlement_date)
        by_default = await stub.close()
    assert first.closed_days == 1
    assert (again.closed_days, by_default.closed_days) == (0, 0)
    assert again.day == by_default.day == first.day
    assert rows(url, "settlement_day") == 1


async def test_eight_callers_close_a_day_once(url: str) -> None:
    async with settling(url) as one, settling(url) as other:
        await one.charge(*new_days(200))
        closed = await asyncio.gather(*(stub.close() for stub in (one, other) * 4))
        days = {answer.day.SerializeToString(deterministic=True) for answer in closed}
        assert len(days) == 1
        assert sum(answer.closed_days for answer in closed) == 1
        day = closed[0].day.settlement_date
        assert (await one.fetch(day)) == (await other.fetch(day))
        assert told_captures(await one.read(day)) == true_captures(url)


async def test_captures_during_closings_are_in_one_file_each(url: str) -> None:
    async with settling(url) as one, settling(url) as other:
        day = await one.close_today()
        days = [day]

        async def pay() -> None:
            for _ in range(20):
                await one.charge(*(new_ask() for _ in range(20)))

        paying = asyncio.create_task(pay())
        while not paying.done():
            days.append(next_day(days[-1]))
            await other.close(days[-1])
        await paying
        days.append(next_day(days[-1]))
        await one.close(days[-1])
        files = [await one.read(day) for day in days]
    check_ties(*files)
    check_chain(*files)
    keys = [one.idempotency_key for file in files for one in file.of("EUR", "CHARGE")]
    assert len(keys) == len(set(keys)) == 400
    assert sum(1 for file in files if file.lines) > 1


async def test_a_caller_that_gives_up_does_not_undo_the_closing(url: str) -> None:
    async with settling(url) as stub:
        await stub.charge(*(new_ask() for _ in range(3_000)))
        with pytest.raises(grpc.aio.AioRpcError) as given_up:
            await stub.control.CloseDay(control_pb.CloseDayRequest(), timeout=0.02)
        assert given_up.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await eventually(lambda: rows(url, "settlement_day") == 1)
        closed = await stub.close()
    assert closed.closed_days == 0
    assert [one.captures for one in closed.day.statements] == [3_000]


async def test_a_closed_day_survives_restarts(url: str) -> None:
    async with settling(url) as stub:
        await stub.charge(*new_days(50))
        day = await stub.close_today()
        before = [await stub.fetch(day), await stub.fetch(day, BANK)]
        await stub.charge(*new_days(50))
    async with settling(url) as stub:
        assert (await stub.close(day)).closed_days == 0
        await stub.close(next_day(day))
        assert [await stub.fetch(day), await stub.fetch(day, BANK)] == before
        files = [await stub.read(day), await stub.read(next_day(day))]
    check_chain(*files)
    assert told_captures(*files) == true_captures(url)


async def test_days_that_are_over_close_when_their_file_is_asked_for(
    postgres_server: PostgresServer, url: str
) -> None:
    set_clock(postgres_server, url, "2026-03-10T12:00:00Z")
    async with settling(url) as stub:
        await stub.charge(*new_days(10))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.fetch("2026-03-10")
        assert from_rpc_error(refused.value).metadata["ready_time"] == "2026-03-11T00:00:00Z"
    assert rows(url, "settlement_day") == 0
    set_clock(postgres_server, url, "2026-03-14T00:00:01Z")
    async with settling(url) as stub:
        await stub.charge(*new_days(10))
        files = await asyncio.gather(
            *(stub.read(f"2026-03-{day}") for day in ("13", "10", "12", "11", "10"))
        )
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.fetch("2026-03-14")
    assert files[1] == files[4]
    assert [len(file.lines) for file in files] == [0, 15, 0, 0, 15]
    check_ties(*files)
    assert rows(url, "settlement_day") == 4


@pytest.mark.parametrize(
    ("zone", "cut_off_min", "day", "before", "after"),
    [
        ("UTC", 0, "2026-03-10", "2026-03-10T23:59:55Z", "2026-03-11T00:00:00Z"),
        ("UTC", 17 * 60, "2026-03-10", "2026-03-10T16:59:55Z", "2026-03-10T17:00:00Z"),
        ("Europe/Berlin", 0, "2026-03-28", "2026-03-28T22:59:55Z", "2026-03-28T23:00:00Z"),
        # The clock goes forward at 01:00 UTC, and back at 01:00 UTC.
        ("Europe/Berlin", 0, "2026-03-29", "2026-03-29T21:59:55Z", "2026-03-29T22:00:00Z"),
        ("Europe/Berlin", 150, "2026-03-29", "2026-03-29T01:29:55Z", "2026-03-29T01:30:00Z"),
        ("Europe/Berlin", 0, "2026-10-25", "2026-10-25T22:59:55Z", "2026-10-25T23:00:00Z"),
        ("Europe/Berlin", 150, "2026-10-25", "2026-10-25T00:29:55Z", "2026-10-25T00:30:00Z"),
        ("America/New_York", 1_020, "2026-11-01", "2026-11-01T21:59:55Z", "2026-11-01T22:00:00Z"),
        ("Pacific/Kiritimati", 0, "2026-03-10", "2026-03-10T09:59:55Z", "2026-03-10T10:00:00Z"),
    ],
)
async def test_a_day_ends_at_its_cut_off(
    postgres_server: PostgresServer,
    url: str,
    *,
    zone: str,
    cut_off_min: int,
    day: str,
    before: str,
    after: str,
) -> None:
    terms = {"day_time_zone": zone, "day_cut_off_min": cut_off_min}
    for moment in (before, after):
        set_clock(postgres_server, url, moment)
        async with settling(url, **terms) as stub:
            await stub.capture(1_000 if moment == before else 2_000)
            if moment == before:
                with pytest.raises(grpc.aio.AioRpcError):
                    await stub.fetch(day)
            else:
                assert (await stub.read(day)).of("EUR", "CHARGE")[0].gross_minor == 1_000
                closed = await stub.close()
                assert closed.day.settlement_date == next_day(day)
                file = await stub.read(next_day(day))
                assert [one.gross_minor for one in file.of("EUR", "CHARGE")] == [2_000]


# --- what is asked for, and what the stub says of itself ---------------------------------


def rows(url: str, table: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    assert row is not None
    return int(row[0])


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
