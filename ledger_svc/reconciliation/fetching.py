"""Fetches a day's settlement file from the PSP's adapter, where nobody has sent it yet."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import date
from typing import TYPE_CHECKING

import grpc
from paymesh.psp.v1 import psp_service_pb2 as psp_pb

from ledger_svc.reconciliation import files, run
from ledger_svc.reconciliation.domain import Delivery
from ledger_svc.reconciliation.sources import Source
from mesh.db import Database
from mesh.errors import Code, MeshError, Reason, dependency_down
from mesh.status import from_rpc_error

if TYPE_CHECKING:
    from paymesh.psp.v1.psp_service_pb2_grpc import PspServiceAsyncStub

CAPABILITIES_DEADLINE_S = 5.0
# A day of millions of lines is made and sent in it.
FETCH_DEADLINE_S = 300.0

# With these the adapter says that there is no such file, now or ever.
_MISSING = frozenset({Reason.SETTLEMENT_NOT_READY, Reason.SETTLEMENT_FILE_NOT_FOUND})


class AdapterFiles:
    """The files of the adapter's source, by its GetSettlementFile."""

    def __init__(self, stub: PspServiceAsyncStub) -> None:
        self._stub = stub

    async def fetch(self, source: str, day: date) -> AsyncIterator[bytes]:
        """The bytes of the newest file of the day.

        Errors: SETTLEMENT_FILE_MISSING (the adapter has none, or none yet, or is not this
        source's); DEPENDENCY_DOWN.
        """
        request = psp_pb.GetSettlementFileRequest(settlement_date=day.isoformat())
        try:
            capabilities = await self._stub.GetCapabilities(
                psp_pb.GetCapabilitiesRequest(), timeout=CAPABILITIES_DEADLINE_S
            )
            if capabilities.source != source:
                # Another PSP's file must never be taken for this one's.
                raise _missing(source, day, "it is another PSP's")
            async for part in self._stub.GetSettlementFile(request, timeout=FETCH_DEADLINE_S):
                if part.WhichOneof("part") == "chunk":
                    yield part.chunk
        except grpc.RpcError as error:
            raise _refused(from_rpc_error(error), source, day) from error


async def fetch_missing(
    database: Database,
    adapter: run.SettlementFiles,
    name: str,
    source: Source,
    day: date,
    *,
    max_file_bytes: int,
) -> None:
    """Fetches and ingests the day's file, unless a usable one is there.

    What comes is judged like what is sent: a bad file is quarantined, and the day has none.
    Errors: SETTLEMENT_FILE_MISSING; DEPENDENCY_DOWN; FILE_TOO_LARGE; those of Database.commit.
    """
    if await run.has_files(database, name, day):
        return
    with files.Spool(max_file_bytes) as spool:
        async for chunk in adapter.fetch(name, day):
            await spool.write(chunk)
        spool.finish()
        delivery = Delivery(
            name, f"{name}-{day.isoformat()}", "", day, spool.sha256, spool.size_bytes
        )
        await files.ingest(database, delivery, source, spool, max_file_bytes)


def _refused(error: MeshError, source: str, day: date) -> MeshError:
    if error.reason in _MISSING or error.code is Code.UNIMPLEMENTED:
        return _missing(source, day, error.reason.value or "it serves no settlement files")
    return dependency_down("the PSP's adapter")


def _missing(source: str, day: date, why: str) -> MeshError:
    return MeshError(
        Reason.SETTLEMENT_FILE_MISSING,
        f"no usable settlement file of {day} is there, and the PSP's adapter has none ({why}); "
        "ask again later, or ingest one",
        {"source": source, "settlement_date": day.isoformat(), "adapter": why},
    )
