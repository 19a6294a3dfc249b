"""A PSP that does what a test tells it, for what no honest PSP (and not the stub) would do."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
from google.protobuf import duration_pb2
from paymesh.common.v1 import money_pb2
from paymesh.psp.v1 import psp_service_pb2 as pb
from paymesh.psp.v1 import psp_service_pb2_grpc as pb_grpc

from mesh.errors import Code, MeshError, Reason
from mesh.status import to_status

Context = grpc.aio.ServicerContext[Any, Any]

Script = Callable[[pb.ChargeItem, int], pb.ChargeOutcome | None]
"""What the call of this number (from 1) under the item's key hears; None: nothing, ever."""


def captured(item: pb.ChargeItem, call: int = 1) -> pb.ChargeOutcome:
    """Taken as asked."""
    return pb.ChargeOutcome(
        captured=pb.ChargeCaptured(
            amount=item.amount, psp_reference=f"fake_{item.idempotency_key[:8]}"
        )
    )


def failing(code: Code, reason: Reason = Reason.UNSPECIFIED) -> Script:
    """Each call hears this error."""
    error = MeshError(reason, "as the test wants", peer_code=code)
    return lambda item, call: pb.ChargeOutcome(error=to_status(error))


def silent(item: pb.ChargeItem, call: int) -> pb.ChargeOutcome | None:
    """Never answered."""
    return None


class FakePsp(pb_grpc.PspServiceServicer):
    """Remembers every call. `script` and `found` may be changed at any time.

    found: what a look-up says, by key; nothing is found that is not there.
    open: charges are answered only while it is set. file: every day's file, in parts.
    """

    def __init__(self, script: Script = captured) -> None:
        self.script = script
        self.source = "fake"
        self.key_window_s = 86_400.0
        self.found: dict[str, pb.LookUpResult] = {}
        self.file: list[pb.GetSettlementFileResponse] = []
        self.calls: list[tuple[str, list[str]]] = []
        self.open = asyncio.Event()
        self.open.set()
        self._cut = asyncio.Event()
        self._seen: Counter[str] = Counter()

    @property
    def charged(self) -> list[str]:
        """The keys of all charges, in their order."""
        return [key for name, keys in self.calls if name == "Charge" for key in keys]

    @property
    def looked_up(self) -> list[str]:
        """The keys of all look-ups, in their order."""
        return [key for name, keys in self.calls if name == "LookUp" for key in keys]

    async def Charge(
        self, request: pb.ChargeRequest, context: Context
    ) -> AsyncIterator[pb.ChargeResponse]:
        self.calls.append(("Charge", [item.idempotency_key for item in request.items]))
        await self.open.wait()
        response = pb.ChargeResponse()
        for item in request.items:
            self._seen[item.idempotency_key] += 1
            outcome = self.script(item, self._seen[item.idempotency_key])
            if outcome is not None:
                outcome.idempotency_key = outcome.idempotency_key or item.idempotency_key
                response.outcomes.append(outcome)
        if response.outcomes:
            yield response
        if len(response.outcomes) < len(request.items):
            await self._cut.wait()
            await context.abort(grpc.StatusCode.UNAVAILABLE, "cut")

    async def LookUp(
        self, request: pb.LookUpRequest, context: Context
    ) -> AsyncIterator[pb.LookUpResponse]:
        self.calls.append(("LookUp", list(request.idempotency_keys)))
        response = pb.LookUpResponse()
        for key in request.idempotency_keys:
            result = response.results.add(not_found=pb.NotFound())
            if key in self.found:
                result.CopyFrom(self.found[key])
            result.idempotency_key = key
        yield response

    async def GetSettlementFile(
        self, request: pb.GetSettlementFileRequest, context: Context
    ) -> AsyncIterator[pb.GetSettlementFileResponse]:
        for part in self.file:
            yield part

    async def GetCapabilities(
        self, request: pb.GetCapabilitiesRequest, context: Context
    ) -> pb.GetCapabilitiesResponse:
        key_window = duration_pb2.Duration()
        key_window.FromMicroseconds(int(self.key_window_s * 1_000_000))
        return pb.GetCapabilitiesResponse(source=self.source, key_window=key_window)

    def cut(self) -> None:
        """Ends the calls that are silent."""
        self._cut.set()

    def will_find(self, key: str, amount_minor: int = 10_000, currency: str = "EUR") -> None:
        """A look-up of the key says that so much was taken."""
        amount = money_pb2.Money(amount_minor=amount_minor, currency_code=currency)
        taken = pb.ChargeCaptured(amount=amount, psp_reference=f"fake_{key[:8]}")
        self.found[key] = pb.LookUpResult(captured=taken)

    @asynccontextmanager
    async def serving(self, port: int = 0) -> AsyncIterator[str]:
        """Serves; yields the target. Calls under way are cut at the end."""
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        pb_grpc.add_PspServiceServicer_to_server(self, server)
        port = server.add_insecure_port(f"127.0.0.1:{port}")
        await server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            await server.stop(0)
