"""The PSP stub in this process: a real server with the whole chain, on a database of its own."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import grpc
import psycopg
from paymesh.psp.v1 import psp_service_pb2 as pb
from paymesh.psp.v1.psp_service_pb2_grpc import PspServiceStub

from mesh.channel import open_channel
from mesh.db import Database
from mesh.errors import MeshError
from mesh.migrations import provision
from mesh.status import from_status
from psp_stub.config import Settings
from psp_stub.domain import Ask
from psp_stub.main import wire
from tests.support.postgres import PostgresServer

if TYPE_CHECKING:
    from paymesh.psp.v1.psp_service_pb2_grpc import PspServiceAsyncStub


def own_database(postgres_server: PostgresServer) -> str:
    """The app role's URL of a new, migrated database of the stub."""
    prefix = f"test_{uuid.uuid4().hex[:12]}"
    return provision(postgres_server.admin_url, prefix=prefix, services=["psp_stub"])["psp_stub"]


@asynccontextmanager
async def serving(
    database_url: str, *, database: Database | None = None, **settings: Any
) -> AsyncIterator[PspServiceAsyncStub]:
    """A stub of `database_url` with these settings, and a client of it."""
    async with serving_channel(database_url, database=database, **settings) as channel:
        yield PspServiceStub(channel)


@asynccontextmanager
async def serving_channel(
    database_url: str, *, database: Database | None = None, **settings: Any
) -> AsyncIterator[grpc.aio.Channel]:
    """A stub of `database_url` with these settings, and a channel to it."""
    given = Settings(port=0, database_url=database_url, drain_s=0, **settings)
    database = database or Database(database_url, application_name="test", by_key=False)
    server, writer = wire(given, database)
    background = asyncio.ensure_future(writer())
    await server.start()
    try:
        target = f"{given.host}:{server.port}"
        async with open_channel(target, retries=False, default_timeout_s=10) as channel:
            yield channel
    finally:
        await server.stop()
        background.cancel()
        with suppress(asyncio.CancelledError):
            await background
        await database.close()


def truth(database_url: str, *asks: Ask) -> list[tuple[str, int, int]]:
    """(state, amount, fee) of each real charge under the asks' keys."""
    with psycopg.connect(database_url) as connection:
        return connection.execute(
            "SELECT state, amount_minor, fee_minor FROM truth WHERE idempotency_key = ANY (%s)"
            " ORDER BY state, amount_minor",
            ([ask.idempotency_key for ask in asks],),
        ).fetchall()


def new_ask(token: str = "tok_ok", amount_minor: int = 10_000, currency: str = "EUR") -> Ask:
    """A charge that no other test knows."""
    return Ask(uuid.uuid4().hex, uuid.uuid4().hex, uuid.uuid4().hex, token, amount_minor, currency)


def item(ask: Ask) -> pb.ChargeItem:
    """The ask on the wire."""
    charge = pb.ChargeItem(
        idempotency_key=ask.idempotency_key,
        operation_id=ask.operation_id,
        order_id=ask.order_id,
        payment_method=ask.payment_method,
    )
    charge.amount.amount_minor = ask.amount_minor
    charge.amount.currency_code = ask.currency_code
    return charge


async def messages(
    stub: PspServiceAsyncStub, *items: pb.ChargeItem, timeout_s: float = 10
) -> list[pb.ChargeResponse]:
    """What one call of Charge brings until it ends or its time is up."""
    responses: list[pb.ChargeResponse] = []
    try:
        async for response in stub.Charge(pb.ChargeRequest(items=items), timeout=timeout_s):
            responses.append(response)  # noqa: PERF401 - those before the error count
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
            raise
    return responses


async def charge(
    stub: PspServiceAsyncStub, *asks: Ask, timeout_s: float = 10
) -> dict[str, pb.ChargeOutcome]:
    """By key, the outcomes of one call; none for what was not answered in time."""
    responses = await messages(stub, *map(item, asks), timeout_s=timeout_s)
    outcomes = [outcome for response in responses for outcome in response.outcomes]
    by_key = {outcome.idempotency_key: outcome for outcome in outcomes}
    assert len(by_key) == len(outcomes)
    return by_key


async def charge_one(stub: PspServiceAsyncStub, ask: Ask) -> pb.ChargeOutcome:
    """The outcome of one charge."""
    return (await charge(stub, ask))[ask.idempotency_key]


async def look_up(stub: PspServiceAsyncStub, *keys: str) -> dict[str, pb.LookUpResult]:
    """By key, what the stub tells of it."""
    request = pb.LookUpRequest(idempotency_keys=keys)
    results = [result async for response in stub.LookUp(request) for result in response.results]
    assert len(results) == len(set(keys))
    return {result.idempotency_key: result for result in results}


async def look_up_one(stub: PspServiceAsyncStub, ask: Ask) -> pb.LookUpResult:
    """What the stub tells of one charge."""
    return (await look_up(stub, ask.idempotency_key))[ask.idempotency_key]


def error_of(answer: pb.ChargeOutcome | pb.LookUpResult) -> MeshError:
    """The error that an item was answered with."""
    assert answer.WhichOneof("result") == "error", answer
    return from_status(answer.error)


async def eventually(truth_is: Callable[[], bool]) -> None:
    """Waits, at most five seconds, until it is so."""
    for _ in range(100):
        if truth_is():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it never became so")
