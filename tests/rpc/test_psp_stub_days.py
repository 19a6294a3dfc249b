"""When the stub's settlement days end and what belongs to them, through real gRPC."""

from __future__ import annotations

import asyncio

import grpc
import psycopg
import pytest
from paymesh.psp.v1 import psp_stub_control_service_pb2 as control_pb

from mesh.status import from_rpc_error
from tests.support.postgres import PostgresServer
from tests.support.psp_stub import eventually, new_ask, own_database
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


async def test_a_closing_that_is_cut_is_made_again_as_a_whole(
    postgres_server: PostgresServer, url: str
) -> None:
    superuser = f"{postgres_server.admin_url.rpartition('/')[0]}/{url.rpartition('/')[2]}"
    async with settling(url) as stub:
        await stub.charge(*new_days(50))
        with psycopg.connect(superuser) as holder:
            # After the day's row was written, and before its lines are.
            holder.execute("LOCK TABLE settlement_line IN SHARE MODE")
            closing = asyncio.create_task(stub.close())
            await eventually(lambda: cut_waiting(superuser) == 1)
            assert rows(url, "settlement_day") == 0
        closed = await closing
        file = await stub.read(closed.day.settlement_date)
    assert closed.closed_days == rows(url, "settlement_day") == 1
    check_ties(file)
    assert told_captures(file) == true_captures(url)


def cut_waiting(superuser: str) -> int:
    """Ends the connections that wait to write lines; how many there were."""
    with psycopg.connect(superuser, autocommit=True) as connection:
        return len(
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE wait_event_type = 'Lock' AND datname = current_database()"
            ).fetchall()
        )


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
