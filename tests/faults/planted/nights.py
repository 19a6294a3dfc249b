"""Stories of the night: a day is closed, its file comes in, and it is reconciled, twice."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from paymesh.psp.v1 import psp_service_pb2 as psp_pb
from paymesh.psp.v1 import psp_stub_control_service_pb2 as stub_pb
from paymesh.psp.v1.psp_service_pb2_grpc import PspServiceStub
from paymesh.psp.v1.psp_stub_control_service_pb2_grpc import PspStubControlServiceStub
from paymesh.reconciliation.v1 import reconciliation_service_pb2 as pb

from tests.faults.checker import settlement
from tests.faults.planted.stories import Play, Story
from tests.support.checkout import new_checkout
from tests.support.reconciliation import DayFile, ingest

_SOURCE = "psp_stub"
_CALL_S = 20.0
_EVIDENCE_POLL_S = 0.05
_LOOKS_S = 10 * _EVIDENCE_POLL_S


async def file_comes_twice(play: Play) -> list[str]:
    """The day's file is taken in twice, and then the day is reconciled."""
    await play.pays(new_checkout())
    day = await _closed(play)
    async with play.channel("psp_stub") as channel:
        parts = PspServiceStub(channel).GetSettlementFile(
            psp_pb.GetSettlementFileRequest(settlement_date=day), timeout=_CALL_S
        )
        content = b"".join([part.chunk async for part in parts])
    for _ in range(2):
        await ingest(play.mesh.reconciliation, content, _SOURCE)
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


async def declined_and_settled(play: Play) -> list[str]:
    """A file tells of a charge that its PSP had declined."""
    payment = await play.pays(new_checkout("tok_declined"))
    (order,) = payment.orders
    (operation,) = order.operations
    file = DayFile().line(
        order.amount.amount_minor,
        operation_id=operation.operation_id,
        order_id=order.order_id,
        psp_reference=operation.psp_reference,
    )
    stored = await ingest(play.mesh.reconciliation, file.content(), _SOURCE)
    assert stored.state == pb.FILE_STATE_INGESTED, stored.problem
    await asyncio.sleep(_LOOKS_S)
    return await play.problems(payment.payment_id)


async def _closed(play: Play) -> str:
    async with play.channel("psp_stub") as channel:
        closed = await PspStubControlServiceStub(channel).CloseDay(
            stub_pb.CloseDayRequest(), timeout=_CALL_S
        )
    return closed.day.settlement_date


async def _reconciled(play: Play, day: str, seeded: Mapping[int, int]) -> list[str]:
    await play.mesh.reconciliation.Reconcile(
        pb.ReconcileRequest(settlement_date=day, source=_SOURCE), timeout=_CALL_S
    )
    found = await asyncio.to_thread(settlement, play.books, day, seeded)
    return [f"{one.invariant}: {one.text}" for one in found] + await play.problems()


NIGHTS: Mapping[str, Story] = {
    "file-comes-twice": Story(file_comes_twice),
    "reconciled-twice": Story(reconciled_twice),
    "declined-and-settled": Story(
        declined_and_settled, {"payment": {"evidence_poll_ms": _EVIDENCE_POLL_S * 1_000}}
    ),
}
