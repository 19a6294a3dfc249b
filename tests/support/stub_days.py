"""The stub's settlement in this process: its days, its files read back, and its truth."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import date, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg
from paymesh.psp.v1 import psp_service_pb2 as pb
from paymesh.psp.v1 import psp_stub_control_service_pb2 as control_pb
from paymesh.psp.v1.psp_service_pb2_grpc import PspServiceStub
from paymesh.psp.v1.psp_stub_control_service_pb2_grpc import PspStubControlServiceStub
from psycopg import sql

from ledger_svc.reconciliation import readers
from tests.support.postgres import PostgresServer
from tests.support.psp_stub import charge, new_ask, serving_channel

if TYPE_CHECKING:
    from paymesh.psp.v1.psp_service_pb2_grpc import PspServiceAsyncStub
    from paymesh.psp.v1.psp_stub_control_service_pb2_grpc import PspStubControlServiceAsyncStub

    from psp_stub.domain import Ask

BANK = "camt.053"


class Read(NamedTuple):
    """A file, read back by the ledger's readers."""

    header: pb.SettlementFileHeader
    content: bytes
    lines: list[readers.Line]
    statements: list[readers.Statement]

    def statement(self, currency_code: str) -> readers.Statement:
        """The one statement of a currency."""
        (found,) = (one for one in self.statements if one.currency_code == currency_code)
        return found

    def of(self, currency_code: str, *kinds: str) -> list[readers.Line]:
        """The lines of a currency, of these kinds if some are named."""
        return [
            one
            for one in self.lines
            if one.currency_code == currency_code and (not kinds or one.kind in kinds)
        ]


class Stub(NamedTuple):
    """Clients of one stub."""

    psp: PspServiceAsyncStub
    control: PspStubControlServiceAsyncStub

    async def fetch(
        self, day: str, format_name: str = "", revision: int | None = None
    ) -> tuple[pb.SettlementFileHeader, bytes]:
        """A file's header and bytes."""
        request = pb.GetSettlementFileRequest(
            settlement_date=day, format=format_name, revision=revision
        )
        parts = [part async for part in self.psp.GetSettlementFile(request)]
        assert [part.WhichOneof("part") for part in parts] == [
            "header",
            *["chunk"] * (len(parts) - 1),
        ]
        return parts[0].header, b"".join(part.chunk for part in parts)

    async def read(self, day: str, format_name: str = "", revision: int | None = None) -> Read:
        """A file, read back."""
        header, content = await self.fetch(day, format_name, revision)
        items = list(readers.read(io.BytesIO(content), expected=header.format).items)
        return Read(
            header,
            content,
            [one for one in items if isinstance(one, readers.Line)],
            [one for one in items if isinstance(one, readers.Statement)],
        )

    async def close(self, day: str | None = None) -> control_pb.CloseDayResponse:
        """Closes a day."""
        return await self.control.CloseDay(control_pb.CloseDayRequest(settlement_date=day))

    async def close_today(self) -> str:
        """Closes the day that it is, and says which one that is."""
        return (await self.close()).day.settlement_date

    async def seed(self, kind: str, count: int = 1, **fields: Any) -> control_pb.StubFault:
        """Orders a fault."""
        request = control_pb.SeedFaultRequest(
            kind=control_pb.StubFaultKind.Value(f"STUB_FAULT_KIND_{kind}"), count=count, **fields
        )
        return (await self.control.SeedFault(request)).fault

    async def charge(self, *asks: Ask) -> None:
        """Charges, all of which are answered."""
        for at in range(0, len(asks), 1_000):
            part = asks[at : at + 1_000]
            assert len(await charge(self.psp, *part)) == len(part)

    async def capture(self, *amounts: int, currency: str = "EUR") -> list[Ask]:
        """Captures these amounts, in this order."""
        asks = [new_ask(amount_minor=amount, currency=currency) for amount in amounts]
        for ask in asks:
            await self.charge(ask)
        return asks


@asynccontextmanager
async def settling(database_url: str, **settings: Any) -> AsyncIterator[Stub]:
    """A stub with these settings."""
    async with serving_channel(database_url, **settings) as channel:
        yield Stub(PspServiceStub(channel), PspStubControlServiceStub(channel))


def set_clock(server: PostgresServer, url: str, moment: str) -> None:
    """It is this moment (ISO 8601) now, for the sessions that begin from now on; time goes on."""
    with psycopg.connect(server.admin_url, autocommit=True) as connection:
        row = connection.execute(
            "SELECT extract(epoch FROM %s::timestamptz - now())", (moment,)
        ).fetchone()
        assert row is not None
        connection.execute(
            sql.SQL("ALTER DATABASE {} SET paymesh.clock_offset = {}").format(
                sql.Identifier(url.rpartition("/")[2]), sql.Literal(f"{row[0]} seconds")
            )
        )


def true_captures(url: str) -> dict[str, tuple[int, int, int]]:
    """By currency: captures, their sum and their fees, as the stub's truth has them."""
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "SELECT currency, count(*), sum(amount_minor)::bigint, sum(fee_minor)::bigint"
            " FROM truth WHERE state = 'CAPTURED' GROUP BY currency"
        ).fetchall()
    return {currency: (count, gross, fee) for currency, count, gross, fee in rows}


def told_captures(*files: Read) -> dict[str, tuple[int, int, int]]:
    """The same, as the files tell it."""
    count: Counter[str] = Counter()
    gross: Counter[str] = Counter()
    fee: Counter[str] = Counter()
    for line in (line for file in files for line in file.lines if line.kind == "CHARGE"):
        assert line.gross_minor is not None
        assert line.fee_minor is not None
        count[line.currency_code] += 1
        gross[line.currency_code] += line.gross_minor
        fee[line.currency_code] += line.fee_minor
    return {currency: (count[currency], gross[currency], fee[currency]) for currency in count}


def facts(lines: Sequence[readers.Line]) -> list[tuple[Any, ...]]:
    """What tells lines apart, without their places."""
    return sorted(
        (
            str(one.kind),
            one.source_reference,
            one.related_reference,
            one.idempotency_key,
            one.operation_id,
            one.order_id,
            one.gross_minor or 0,
            one.fee_minor or 0,
            one.amount_minor or 0,
            one.batch_reference,
        )
        for one in lines
    )


def new_days(count: int) -> list[Ask]:
    """Asks in many currencies and amounts, with all decimals that there are."""
    currencies = ("EUR", "JPY", "BHD", "USD", "CLF")
    return [
        new_ask(amount_minor=50_000 + 137 * number, currency=currencies[number % len(currencies)])
        for number in range(count)
    ]


def next_day(day: str) -> str:
    """The day after."""
    return (date.fromisoformat(day) + timedelta(days=1)).isoformat()


def check_ties(*files: Read) -> None:
    """Every statement ties, without a word."""
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


def rows(url: str, table: str) -> int:
    """How many rows a table has."""
    with psycopg.connect(url) as connection:
        row = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    assert row is not None
    return int(row[0])
