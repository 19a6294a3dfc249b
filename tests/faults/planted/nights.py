"""Stories of the night: a day is closed, its file comes in, and it is reconciled, twice."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from paymesh.psp.v1 import psp_service_pb2 as psp_pb
from paymesh.psp.v1 import psp_stub_control_service_pb2 as stub_pb
from paymesh.psp.v1.psp_service_pb2_grpc import PspServiceStub
from paymesh.psp.v1.psp_stub_control_service_pb2_grpc import PspStubControlServiceStub
from paymesh.reconciliation.v1 import reconciliation_service_pb2 as pb
from paymesh.reconciliation.v1.reconciliation_service_pb2_grpc import ReconciliationServiceStub

from tests.faults.checker import settlement
from tests.faults.planted.stories import Play, Story
from tests.support.checkout import new_checkout
from tests.support.reconciliation import ingest

_SOURCE = "psp_stub"
_CALL_S = 20.0


async def file_comes_twice(play: Play) -> list[str]:
    """The day's file is taken in twice, and then the day is reconciled."""
    await play.pays(new_checkout())
    day = await _closed(play)
    async with play.channel("psp_stub") as channel:
        parts = PspServiceStub(channel).GetSettlementFile(
            psp_pb.GetSettlementFileRequest(settlement_date=day), timeout=_CALL_S
        )
        content = b"".join([part.chunk async for part in parts])
    async with play.channel("ledger") as channel:
        for _ in range(2):
            await ingest(ReconciliationServiceStub(channel), content, _SOURCE)
    return await _reconciled(play, day, {})


async def reconciled_twice(play: Play) -> list[str]:
    """A day with a line that nobody knows is reconciled twice."""
    await play.pays(new_checkout())
    async with play.channel("psp_stub") as channel:
        await PspStubControlServiceStub(channel).SeedFault(
            stub_pb.SeedFaultRequest(kind=stub_pb.STUB_FAULT_KIND_UNKNOWN_LINE, count=1),
            timeout=_CALL_S,
        )
    day = await _closed(play)
    seeded = {int(pb.BREAK_CLASS_UNKNOWN_TO_US): 1}
    return await _reconciled(play, day, seeded) or await _reconciled(play, day, seeded)


async def _closed(play: Play) -> str:
    async with play.channel("psp_stub") as channel:
        closed = await PspStubControlServiceStub(channel).CloseDay(
            stub_pb.CloseDayRequest(), timeout=_CALL_S
        )
    return closed.day.settlement_date


async def _reconciled(play: Play, day: str, seeded: Mapping[int, int]) -> list[str]:
    async with play.channel("ledger") as channel:
        await ReconciliationServiceStub(channel).Reconcile(
            pb.ReconcileRequest(settlement_date=day, source=_SOURCE), timeout=_CALL_S
        )
    found = await asyncio.to_thread(settlement, play.books, day, seeded)
    return [f"{one.invariant}: {one.text}" for one in found] + await play.problems()


NIGHTS: Mapping[str, Story] = {
    "file-comes-twice": Story(file_comes_twice),
    "reconciled-twice": Story(reconciled_twice),
}
