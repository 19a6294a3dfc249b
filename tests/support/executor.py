"""The executor in this process: a real server with the whole chain, and a client of it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID

import grpc
import psycopg
from paymesh.executor.v1 import executor_read_service_pb2 as read_pb
from paymesh.executor.v1 import executor_service_pb2 as pb
from paymesh.executor.v1.executor_read_service_pb2_grpc import ExecutorReadServiceStub
from paymesh.executor.v1.executor_service_pb2_grpc import ExecutorServiceStub
from psycopg.rows import dict_row

from executor_svc.config import Settings
from executor_svc.domain import Kind, Operation
from executor_svc.main import wire
from mesh import ids
from mesh.channel import open_channel
from mesh.db import Database
from mesh.errors import MeshError
from mesh.migrations import provision
from mesh.status import from_status
from psp_stub.config import Settings as StubSettings
from psp_stub.main import wire as wire_stub
from tests.support.postgres import PostgresServer

if TYPE_CHECKING:
    from paymesh.executor.v1.executor_read_service_pb2_grpc import ExecutorReadServiceAsyncStub
    from paymesh.executor.v1.executor_service_pb2_grpc import ExecutorServiceAsyncStub

# A deadline for calls that hang: it costs a test as much. Long enough for a call that does
# not hang on a busy machine.
HANG_MS = 1_500

# A deadline that no call of a test should reach.
LONG_MS = 30_000

Result = tuple[str, Any]
"""What an outcome is (`captured`, `error` …) and what it says."""


def own_databases(postgres_server: PostgresServer) -> dict[str, str]:
    """The app roles' URLs of new, migrated databases of the executor and the stub."""
    prefix = f"test_{uuid.uuid4().hex[:12]}"
    return provision(postgres_server.admin_url, prefix=prefix, services=["executor", "psp_stub"])


def new_operation(
    token: str = "tok_ok", amount_minor: int = 10_000, currency: str = "EUR"
) -> Operation:
    """A charge that no other test knows."""
    order = ids.order_id(uuid.uuid4(), 0)
    return Operation(
        ids.first_charge_id(order), uuid.uuid4(), order, Kind.CHARGE, amount_minor, currency, token
    )


def new_operations(count: int, token: str = "tok_ok") -> list[Operation]:
    """So many charges that no other test knows."""
    return [new_operation(token) for _ in range(count)]


def item(
    operation: Operation,
    *,
    restart: bool = False,
    settled: pb.SettlementEvidence | None = None,
) -> pb.OperationItem:
    """The operation on the wire."""
    message = pb.OperationItem(
        operation_id=operation.operation_id.hex,
        order_id=operation.order_id.hex,
        payment_id=operation.payment_id.hex,
        kind=operation.kind,  # type: ignore[arg-type]  # the numbers are the wire's
        payment_method=operation.payment_method,
        restart=restart,
        settled=settled,
    )
    message.amount.amount_minor = operation.amount_minor
    message.amount.currency_code = operation.currency_code
    return message


@dataclass
class Stream:
    """A standing stream to the executor, as payment_svc holds one."""

    call: grpc.aio.StreamStreamCall[pb.ExecuteRequest, pb.ExecuteResponse]
    acknowledged: list[int] = field(default_factory=list)
    messages: list[pb.ExecuteResponse] = field(default_factory=list)
    outcomes: list[pb.OperationOutcome] = field(default_factory=list)
    error: grpc.aio.AioRpcError | None = None
    ended: bool = False
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def send(self, operations: Iterable[Operation], list_id: int = 1) -> None:
        """Sends one list."""
        await self.send_items(map(item, operations), list_id)

    async def send_items(self, items: Iterable[pb.OperationItem], list_id: int = 1) -> None:
        """Sends one list as it is."""
        await self.call.write(pb.ExecuteRequest(list_id=list_id, operations=items))

    async def read(self) -> None:
        """Collects what comes until the stream ends."""
        try:
            async for response in self.call:
                async with self.changed:
                    self.messages.append(response)
                    self.acknowledged.extend(response.committed_list_ids)
                    self.outcomes.extend(response.outcomes)
                    self.changed.notify_all()
        except grpc.aio.AioRpcError as error:
            self.error = error
        finally:
            async with self.changed:
                self.ended = True
                self.changed.notify_all()

    async def until(self, condition: Any, timeout_s: float = 20) -> None:
        """Waits until the condition of this stream holds."""
        async with asyncio.timeout(timeout_s), self.changed:
            await self.changed.wait_for(lambda: condition(self))

    async def results(self, operations: Sequence[Operation], timeout_s: float = 20) -> list[Result]:
        """The first outcome of each of the operations, as soon as all are there."""
        wanted = [operation.operation_id.hex for operation in operations]
        told: dict[str, pb.OperationOutcome] = {}

        def complete(stream: Stream) -> bool:
            for outcome in stream.outcomes:
                told.setdefault(outcome.operation_id, outcome)
            return told.keys() >= set(wanted) or stream.ended

        await self.until(complete, timeout_s)
        return [_result(told[operation_id]) for operation_id in wanted]


class Client:
    """Calls of one executor."""

    def __init__(
        self,
        stub: ExecutorServiceAsyncStub,
        *,
        reads: ExecutorReadServiceAsyncStub | None = None,
        wait_for_ready: bool = False,
    ) -> None:
        self._stub = stub
        self._reads = reads
        self._wait_for_ready = wait_for_ready

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[Stream]:
        """A standing stream, broken at the end if it still stands."""
        stream = Stream(self._stub.Execute(wait_for_ready=self._wait_for_ready))
        reader = asyncio.create_task(stream.read())
        try:
            yield stream
        finally:
            stream.call.cancel()
            with suppress(asyncio.CancelledError):
                await reader

    async def execute(self, *operations: Operation, timeout_s: float = 20) -> list[Result]:
        """The outcomes of one list on a stream of its own."""
        async with self.stream() as stream:
            await stream.send(operations)
            results = await stream.results(operations, timeout_s)
            await stream.until(lambda s: s.acknowledged == [1])
            return results

    async def execute_one(self, operation: Operation, timeout_s: float = 20) -> Result:
        """The outcome of one operation."""
        return (await self.execute(operation, timeout_s=timeout_s))[0]

    async def restart(self, operation: Operation, timeout_s: float = 20) -> Result:
        """The outcome of one operation, in a round that an operator asked for."""
        async with self.stream() as stream:
            await stream.send_items([item(operation, restart=True)])
            return (await stream.results([operation], timeout_s))[0]

    async def settle(
        self, operation: Operation, settled: pb.SettlementEvidence, timeout_s: float = 20
    ) -> Result:
        """The outcome of one operation that comes with what a settlement file says."""
        async with self.stream() as stream:
            await stream.send_items([item(operation, settled=settled)])
            return (await stream.results([operation], timeout_s))[0]

    async def find(
        self, *operations: Operation, look_up: bool = False
    ) -> dict[UUID, read_pb.FoundOperation]:
        """FindOperations, by operation."""
        assert self._reads is not None
        request = read_pb.FindOperationsRequest(
            operation_ids=[o.operation_id.hex for o in operations], look_up=look_up
        )
        found = (await self._reads.FindOperations(request, timeout=10)).operations
        by_id = {UUID(one.operation_id): one for one in found}
        assert len(by_id) == len(found)
        return by_id

    async def ask_until(self, operation: Operation, wanted: str) -> Any:
        """Submits the operation, as payment_svc's schedule would, until its outcome is this."""
        for _ in range(100):
            name, outcome = await self.execute_one(operation)
            if name == wanted:
                return outcome
            assert name in ("unknown", "pending", "error"), outcome
            await asyncio.sleep(0.1)
        raise AssertionError(f"it never was {wanted}")


@asynccontextmanager
async def serving(
    database_url: str, psp_target: str, *, database: Database | None = None, **settings: Any
) -> AsyncIterator[Client]:
    """An executor of `database_url` that calls the PSP at `psp_target`; drops all at the end."""
    given = Settings(
        port=0,
        database_url=database_url,
        psp_target=psp_target,
        drain_s=0,
        **{
            "psp_deadline_ms": LONG_MS,
            "look_up_deadline_ms": LONG_MS,
            "ladder_backoff_ms": 10,
            **settings,
        },
    )
    database = database or Database(database_url, application_name="test")
    async with open_channel(psp_target, retries=False) as psp_channel:
        server, writer = wire(given, database, psp_channel)
        background = asyncio.ensure_future(writer())
        await server.start()
        try:
            async with open_channel(f"{given.host}:{server.port}") as channel:
                yield Client(ExecutorServiceStub(channel), reads=ExecutorReadServiceStub(channel))
        finally:
            await server.stop()
            background.cancel()
            with suppress(asyncio.CancelledError):
                await background
            await database.close()


@asynccontextmanager
async def stub_serving(database_url: str, **settings: Any) -> AsyncIterator[str]:
    """The real PSP stub; yields its target."""
    given = StubSettings(port=0, database_url=database_url, drain_s=0, **settings)
    database = Database(database_url, application_name="test")
    server, writer = wire_stub(given, database)
    background = asyncio.ensure_future(writer())
    await server.start()
    try:
        yield f"{given.host}:{server.port}"
    finally:
        await server.stop()
        background.cancel()
        with suppress(asyncio.CancelledError):
            await background
        await database.close()


@asynccontextmanager
async def mesh(
    urls: dict[str, str], *, stub: dict[str, Any] | None = None, **settings: Any
) -> AsyncIterator[Client]:
    """The executor with the real PSP stub behind it; `stub` has the settings of the latter."""
    given = {"slow_ms": 300, "pending_ms": 300, **(stub or {})}
    async with (
        stub_serving(urls["psp_stub"], **given) as target,
        serving(urls["executor"], target, **settings) as client,
    ):
        yield client


def row(database_url: str, operation: Operation) -> dict[str, Any] | None:
    """The operation's row, or None."""
    with psycopg.connect(database_url, row_factory=dict_row) as connection:
        return connection.execute(
            "SELECT * FROM operation WHERE operation_id = %s", (operation.operation_id,)
        ).fetchone()


def captures(stub_url: str, operations: Iterable[Operation]) -> dict[UUID, int]:
    """How often the stub really captured each operation, by its own truth."""
    with psycopg.connect(stub_url) as connection:
        rows = connection.execute(
            "SELECT operation_id, count(*) FROM truth"
            " WHERE state = 'CAPTURED' AND operation_id = ANY (%s) GROUP BY operation_id",
            ([operation.operation_id for operation in operations],),
        ).fetchall()
    return dict(rows)


def sent_earlier(database_url: str, operation: Operation, ago: str) -> None:
    """Makes the operation's first send so much older (an interval)."""
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "UPDATE operation SET first_send_time = first_send_time - %s::interval"
            " WHERE operation_id = %s",
            (ago, operation.operation_id),
        )


def error_of(result: Result) -> MeshError:
    """The error that an operation was answered with."""
    name, status = result
    assert name == "error", result
    return from_status(status)


def _result(outcome: pb.OperationOutcome) -> Result:
    name = outcome.WhichOneof("result")
    assert name is not None
    return name, getattr(outcome, name)
