"""Fetches a day's settlement file from the PSP's adapter, where nobody has sent it yet."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import date
from typing import TYPE_CHECKING

import grpc
from paymesh.psp.v1 import psp_service_pb2 as psp_pb

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
    """The files of one source, by GetSettlementFile of the adapter that may be its own."""

    def __init__(self, stub: PspServiceAsyncStub, source: str) -> None:
        self._stub = stub
        self._source = source

    async def fetch(self, day: date) -> AsyncIterator[bytes]:
        """The bytes of the newest file of the day.

        Errors: SETTLEMENT_FILE_MISSING (the adapter has none, or none yet, or is not this
        source's); DEPENDENCY_DOWN.
        """
        request = psp_pb.GetSettlementFileRequest(settlement_date=day.isoformat())
        try:
            capabilities = await self._stub.GetCapabilities(
                psp_pb.GetCapabilitiesRequest(), timeout=CAPABILITIES_DEADLINE_S
            )
            if capabilities.source != self._source:
                # Another PSP's file must never be taken for this one's.
                raise _missing(self._source, day, "it is another PSP's")
            async for part in self._stub.GetSettlementFile(request, timeout=FETCH_DEADLINE_S):
                if part.WhichOneof("part") == "chunk":
                    yield part.chunk
        except grpc.RpcError as error:
            raise _refused(from_rpc_error(error), self._source, day) from error


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
