"""GetStatus of each service, through real gRPC, with its database and without."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib.metadata import version
from typing import Any

import grpc
import psycopg
import pytest
from google.protobuf.duration_pb2 import Duration
from paymesh.executor.v1.executor_service_pb2_grpc import ExecutorServiceStub
from paymesh.operations.v1 import status_service_pb2 as pb
from paymesh.operations.v1.status_service_pb2_grpc import StatusServiceStub
from psycopg import sql
from sqlalchemy import make_url

import executor_svc.config
import executor_svc.main
import ledger_svc.config
import ledger_svc.main
import psp_stub.config
import psp_stub.main
import wallet_svc.config
import wallet_svc.main
from mesh.attention import nothing
from mesh.channel import open_channel
from mesh.config import ServiceSettings
from mesh.db import Database
from mesh.errors import Reason
from mesh.migrations import head_revision
from mesh.server import Background, Server
from mesh.status_service import StatusServicer
from tests.support.databases import superuser_url
from tests.support.executor import (
    HANG_MS,
    Client,
    new_operation,
    own_databases,
    stub_serving,
)
from tests.support.ports import free_port
from tests.support.postgres import PostgresServer
from tests.support.serving import error_of, serving

SERVICES: dict[str, tuple[type[Any], Callable[..., tuple[Server, Background]]]] = {
    "executor": (executor_svc.config.Settings, executor_svc.main.wire),
    "wallet": (wallet_svc.config.Settings, wallet_svc.main.wire),
    "ledger": (ledger_svc.config.Settings, ledger_svc.main.wire),
    "psp_stub": (psp_stub.config.Settings, psp_stub.main.wire),
}


@asynccontextmanager
async def running(
    service: str, url: str, *, psp_target: str = "", **more: object
) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to the service, wired as it is in its own process."""
    kind, wire = SERVICES[service]
    settings: ServiceSettings = kind(port=0, database_url=url, drain_s=0, **more)
    async with open_channel(psp_target or f"127.0.0.1:{free_port()}", retries=False) as psp:
        if service == "executor":
            wire = partial(wire, psp_channel=psp)
        async with serving(wire, settings) as channel:
            yield channel


async def status_of(channel: grpc.aio.Channel, age_s: int | None = None) -> pb.GetStatusResponse:
    age = None if age_s is None else Duration(seconds=age_s)
    request = pb.GetStatusRequest(attention_age=age)
    return await StatusServiceStub(channel).GetStatus(request, timeout=10)


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_that_is_well(databases: dict[str, str], service: str) -> None:
    before = datetime.now(UTC)
    async with running(service, databases[service]) as channel:
        status = await status_of(channel)
    after = datetime.now(UTC)
    assert status.service == service
    assert status.version == version("paymesh")
    assert status.process == f"{socket.gethostname()}/{os.getpid()}"
    assert before <= status.start_time.ToDatetime(UTC) <= status.process_time.ToDatetime(UTC)
    assert status.process_time.ToDatetime(UTC) <= after
    database = status.database
    assert database.reachable
    assert database.problem == ""
    assert database.server_version.startswith("18.")
    assert database.revision == database.expected_revision == head_revision(service)
    assert database.address.endswith(f"/{make_url(databases[service]).database}")
    # One machine has one clock, and the way to the database is not taken for a difference.
    assert status.process_time == database.time
    assert not status.attentions
    assert not status.leases
    assert not status.replica_counts


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_whose_database_is_away(databases: dict[str, str], service: str) -> None:
    away = make_url(databases[service]).set(port=free_port())
    async with running(service, away.render_as_string(hide_password=False)) as channel:
        started = time.monotonic()
        status = await status_of(channel)
        assert time.monotonic() - started < 6
    assert status.service == service
    assert not status.database.reachable
    assert "refused" in status.database.problem
    assert str(away.password) not in status.database.problem
    assert status.database.address == f"127.0.0.1:{away.port}/{away.database}"
    assert status.database.expected_revision == head_revision(service)
    assert status.database.revision == status.database.server_version == ""
    assert not status.database.HasField("time")
    assert abs(status.process_time.ToDatetime(UTC) - datetime.now(UTC)) < timedelta(seconds=10)


async def test_it_tells_what_was_started_with_it(databases: dict[str, str]) -> None:
    async with running("wallet", databases["wallet"], replicas="payment=2,wallet=1") as channel:
        status = await status_of(channel)
    assert dict(status.replica_counts) == {"payment": 2, "wallet": 1}


async def test_a_revision_that_was_not_reached(postgres_server: PostgresServer) -> None:
    """As it is while an older database is served from."""
    urls = own_databases(postgres_server)
    async with running("psp_stub", urls["psp_stub"]) as channel:
        with psycopg.connect(_superuser(postgres_server, urls["psp_stub"])) as connection:
            connection.execute("UPDATE alembic_version SET version_num = '0000'")
        status = await status_of(channel)
    assert status.database.revision == "0000"
    assert status.database.expected_revision == head_revision("psp_stub")


@pytest.mark.parametrize(("offset", "seconds"), [("1 hour", 3600), ("-90 seconds", -90)])
async def test_clocks_that_differ(
    postgres_server: PostgresServer, offset: str, seconds: int
) -> None:
    url = own_databases(postgres_server)["psp_stub"]
    with psycopg.connect(postgres_server.admin_url, autocommit=True) as connection:
        connection.execute(
            sql.SQL("ALTER DATABASE {} SET paymesh.clock_offset = {}").format(
                sql.Identifier(str(make_url(url).database)), sql.Literal(offset)
            )
        )
    async with running("psp_stub", url) as channel:
        status = await status_of(channel)
    ahead = status.database.time.ToDatetime(UTC) - status.process_time.ToDatetime(UTC)
    assert abs(ahead.total_seconds() - seconds) < 5


@pytest.mark.parametrize("age", [Duration(seconds=-1), Duration(nanos=-1), Duration(seconds=10**9)])
async def test_an_age_that_is_none_is_refused(databases: dict[str, str], age: Duration) -> None:
    async with running("wallet", databases["wallet"]) as channel:
        call = StatusServiceStub(channel).GetStatus(
            pb.GetStatusRequest(attention_age=age), timeout=10
        )
        error = await error_of(call)
    assert error.reason is Reason.VALIDATION_FAILED
    assert [violation.field for violation in error.violations] == ["attention_age"]


async def test_the_time_here_is_the_one_that_agrees_best(databases: dict[str, str]) -> None:
    """By a clock of our own that goes ten seconds behind, and by one that goes ahead."""
    database = Database(databases["wallet"], application_name="test")
    try:
        for seconds in (-10, 10):
            shift = timedelta(seconds=seconds)
            servicer = StatusServicer(
                "wallet",
                database,
                nothing,
                replica_counts={},
                now=partial(lambda by: datetime.now(UTC) + by, shift),
            )
            process_time, status = await servicer._ask_database()
            difference = process_time - status.time.ToDatetime(UTC)
            assert abs(difference.total_seconds() - seconds) < 5
    finally:
        await database.close()


async def test_what_the_executor_drives_for_long(postgres_server: PostgresServer) -> None:
    urls = own_databases(postgres_server)
    operation = new_operation("tok_silent")
    async with (
        stub_serving(urls["psp_stub"]) as target,
        running("executor", urls["executor"], psp_target=target, psp_deadline_ms=HANG_MS) as there,
    ):
        client = Client(ExecutorServiceStub(there))
        waiting = asyncio.ensure_future(client.execute_one(operation))
        await asyncio.sleep(0.5)
        status = await status_of(there, 0)
        assert not (await status_of(there, 60)).attentions
        assert not (await status_of(there)).attentions
        await waiting
        assert not (await status_of(there, 0)).attentions
    (attention,) = status.attentions
    assert attention.kind == pb.ATTENTION_KIND_OPERATIONS_UNDER_WAY
    assert attention.count == 1
    assert list(attention.payment_ids) == [operation.payment_id.hex]
    assert attention.advice
    age = status.process_time.ToDatetime(UTC) - attention.oldest_time.ToDatetime(UTC)
    assert timedelta() < age < timedelta(seconds=5)


def _superuser(server: PostgresServer, url: str) -> str:
    return superuser_url({"admin": server.admin_url, "service": url}, "service")
