"""paymesh.operations.v1.StatusService, which every service serves: how this process is doing.

What needs attention differs by service, and is read by a function that the service gives:
see mesh/attention.py.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from datetime import datetime, timedelta
from importlib.metadata import version
from typing import Any, TypeAlias

import grpc
import structlog
from paymesh.operations.v1 import status_service_pb2 as pb
from paymesh.operations.v1.status_service_pb2_grpc import (
    StatusServiceServicer,
    add_StatusServiceServicer_to_server,
)
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.attention import MOST_IDS, Attention, Found, Lease, Look, nothing
from mesh.clock import timestamp, utc_now
from mesh.config import ServiceSettings
from mesh.db import CommitFailed, Database
from mesh.migrations import head_revision
from mesh.server import Server

log = structlog.get_logger()

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

DEFAULT_AGE = timedelta(minutes=5)

_READ_SELF = text("""
SELECT current_setting('server_version') AS server_version, paymesh_now() AS time,
  (SELECT version_num FROM alembic_version) AS revision
""")


def process_name() -> str:
    """What operators know this process by: host name and process id."""
    return f"{socket.gethostname()}/{os.getpid()}"


def serve_status(
    server: Server,
    service: str,
    settings: ServiceSettings,
    database: Database,
    look: Look = nothing,
) -> None:
    """Adds the StatusService to a server. service: as in mesh.migrations.PACKAGES."""
    servicer = StatusServicer(service, database, look, replica_counts=settings.replica_counts())
    add_StatusServiceServicer_to_server(servicer, server.grpc)
    server.add(pb.DESCRIPTOR.services_by_name["StatusService"].full_name)


class StatusServicer(StatusServiceServicer):
    """One process's answers."""

    def __init__(
        self,
        service: str,
        database: Database,
        look: Look,
        *,
        replica_counts: dict[str, int],
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        """`look`: see the module. replica_counts: as in the contract."""
        self._service = service
        self._database = database
        self._look = look
        self._replica_counts = replica_counts
        self._now = now
        self._start_time = now()
        self._expected_revision = head_revision(service)

    async def GetStatus(  # noqa: N802 - gRPC names methods as the .proto does
        self, request: pb.GetStatusRequest, context: Context
    ) -> pb.GetStatusResponse:
        age = DEFAULT_AGE
        if request.HasField("attention_age"):
            age = request.attention_age.ToTimedelta()
        process_time, database = await self._ask_database()
        found = Found()
        if database.reachable:
            try:
                found = await self._look(age)
            except CommitFailed as failed:
                # It went away in between, or is too busy to be looked through.
                log.warning("status_incomplete", cause=str(failed))
                database.problem = str(failed)
        return pb.GetStatusResponse(
            service=self._service,
            version=version("paymesh"),
            process=process_name(),
            start_time=timestamp(self._start_time),
            process_time=timestamp(process_time),
            database=database,
            leases=[_lease(lease) for lease in found.leases],
            attentions=[_attention(attention) for attention in found.attentions],
            replica_counts=self._replica_counts,
        )

    async def _ask_database(self) -> tuple[datetime, pb.DatabaseStatus]:
        """What the database says of itself, and the time here when it did."""
        status = pb.DatabaseStatus(
            address=self._database.address, expected_revision=self._expected_revision
        )

        asked = self._now()

        async def work(connection: AsyncConnection) -> Any:
            nonlocal asked
            asked = self._now()  # without what it took to connect
            return (await connection.execute(_READ_SELF)).one()

        try:
            row = await self._database.read("status", work)
        except CommitFailed as failed:
            status.problem = failed.said or str(failed)
            return self._now(), status
        status.reachable = True
        status.server_version = row.server_version
        status.revision = row.revision
        status.time.CopyFrom(timestamp(row.time))
        return min(max(asked, row.time), self._now()), status


def _lease(lease: Lease) -> pb.Lease:
    return pb.Lease(
        epoch=lease.epoch,
        process=lease.process,
        lease_until_time=timestamp(lease.lease_until),
        dead=lease.dead,
    )


def _attention(found: Attention) -> pb.Attention:
    return pb.Attention(
        kind=pb.AttentionKind.ValueType(found.kind),
        reason=found.reason,
        count=found.count,
        oldest_time=None if found.oldest_time is None else timestamp(found.oldest_time),
        payment_ids=[payment_id.hex for payment_id in found.payment_ids[:MOST_IDS]],
        advice=found.advice,
    )
