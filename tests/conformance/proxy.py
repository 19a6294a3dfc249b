"""An adapter before the stub that changes one thing of what passes, for the kit's own tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health
from grpc_reflection.v1alpha import reflection_pb2_grpc
from paymesh.psp.v1 import psp_service_pb2 as pb
from paymesh.psp.v1 import psp_service_pb2_grpc as pb_grpc

from mesh.reflection import Reflection

if TYPE_CHECKING:
    from paymesh.psp.v1.psp_service_pb2_grpc import PspServiceAsyncStub

Context = grpc.aio.ServicerContext[Any, Any]
Items = list[pb.ChargeItem]
Outcomes = list[pb.ChargeOutcome]
Results = list[pb.LookUpResult]


class Proxy(pb_grpc.PspServiceServicer):
    """Passes everything on. A subclass breaks what it says.

    told: by key, the outcomes told so far. sent: by key, the first item sent. gave_up: keys
    of calls that their caller left.
    """

    status: int | None = health_pb2.HealthCheckResponse.SERVING
    listed: Sequence[str] | None = ("paymesh.psp.v1.PspService",)

    def __init__(self, inner: PspServiceAsyncStub) -> None:
        self.inner = inner
        self.told: dict[str, Outcomes] = {}
        self.sent: dict[str, pb.ChargeItem] = {}
        self.gave_up: set[str] = set()
        self._aliases: dict[str, str] = {}

    def ask(self, items: Items) -> Items:
        """What the PSP is asked instead."""
        return items

    def answer(self, outcomes: Outcomes) -> Outcomes:
        """What is told instead of outcomes that came together."""
        return outcomes

    def find(self, results: Results) -> Results:
        """What a look-up tells instead."""
        return results

    def describe(self, told: pb.GetCapabilitiesResponse) -> None:
        """Changes the capabilities."""

    def health_servicer(self) -> health.HealthServicer:
        """What tells `status`."""
        return health.HealthServicer()

    def reflection(self) -> Reflection | None:
        """What serves reflection, if anything."""
        return None if self.listed is None else Reflection(self.listed)

    def under_another_key(self, item: pb.ChargeItem) -> pb.ChargeItem:
        """The same charge, but a new one to the PSP; its outcome is told under the item's key."""
        other = pb.ChargeItem()
        other.CopyFrom(item)
        other.idempotency_key = f"{item.idempotency_key}-{len(self._aliases)}"
        self._aliases[other.idempotency_key] = item.idempotency_key
        return other

    async def outcomes(self, items: Items) -> AsyncIterator[Outcomes]:
        """Asks the PSP; yields what comes together, as it comes."""
        call = self.inner.Charge(pb.ChargeRequest(items=items), timeout=60)
        try:
            async for response in call:
                yield [self._named(outcome) for outcome in response.outcomes]
        finally:
            call.cancel()

    async def Charge(
        self, request: pb.ChargeRequest, context: Context
    ) -> AsyncIterator[pb.ChargeResponse]:
        items = list(request.items)
        asked = self.ask(items)
        for item in items:
            self.sent.setdefault(item.idempotency_key, item)
        ended = False
        try:
            async for outcomes in self.outcomes(asked):
                told = self.answer(outcomes)
                for outcome in told:
                    self.told.setdefault(outcome.idempotency_key, []).append(outcome)
                if told:
                    yield pb.ChargeResponse(outcomes=told)
            ended = True
        finally:
            if not ended:
                keys = {item.idempotency_key for item in items}
                self.gave_up |= keys - self.told.keys()

    async def LookUp(
        self, request: pb.LookUpRequest, context: Context
    ) -> AsyncIterator[pb.LookUpResponse]:
        results: Results = []
        async for response in self.inner.LookUp(request, timeout=60):
            results += response.results
        yield pb.LookUpResponse(results=self.find(results))

    async def GetSettlementFile(
        self, request: pb.GetSettlementFileRequest, context: Context
    ) -> AsyncIterator[pb.GetSettlementFileResponse]:
        async for part in self.inner.GetSettlementFile(request, timeout=60):
            yield part

    async def GetCapabilities(
        self, request: pb.GetCapabilitiesRequest, context: Context
    ) -> pb.GetCapabilitiesResponse:
        told = await self.inner.GetCapabilities(request, timeout=60)
        self.describe(told)
        return told

    def _named(self, outcome: pb.ChargeOutcome) -> pb.ChargeOutcome:
        key = outcome.idempotency_key
        outcome.idempotency_key = self._aliases.get(key, key)
        return outcome

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """Serves; yields the target."""
        server = grpc.aio.server()
        pb_grpc.add_PspServiceServicer_to_server(self, server)
        if self.status is not None:
            servicer = self.health_servicer()
            await servicer.set("", self.status)
            health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        reflection = self.reflection()
        if reflection is not None:
            reflection_pb2_grpc.add_ServerReflectionServicer_to_server(  # type: ignore[no-untyped-call]
                reflection, server
            )
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            await server.stop(0)
