"""Reconcile fetches the file from the PSP's adapter where nobody has sent it yet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import grpc
import pytest
from paymesh.psp.v1 import psp_service_pb2 as psp_pb
from paymesh.reconciliation.v1 import reconciliation_service_pb2 as pb
from paymesh.reconciliation.v1.reconciliation_service_pb2_grpc import ReconciliationServiceStub

from ledger_svc.config import Settings
from ledger_svc.main import wire
from ledger_svc.reconciliation.sources import Source
from mesh.errors import MeshError, Reason
from mesh.status import abort
from tests.support.fake_psp import Context, FakePsp
from tests.support.ports import free_port
from tests.support.reconciliation import DAY, DayFile, ingest
from tests.support.serving import error_of, serving

if TYPE_CHECKING:
    from paymesh.reconciliation.v1.reconciliation_service_pb2_grpc import (
        ReconciliationServiceAsyncStub,
    )


class Adapter(FakePsp):
    """A PSP with settlement files, by day."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.refusal = MeshError(Reason.SETTLEMENT_NOT_READY, "the day is not over")

    async def GetSettlementFile(
        self, request: psp_pb.GetSettlementFileRequest, context: Context
    ) -> AsyncIterator[psp_pb.GetSettlementFileResponse]:
        self.asked.append(request.settlement_date)
        content = self.files.get(request.settlement_date)
        if content is None:
            await abort(context, self.refusal)
        yield psp_pb.GetSettlementFileResponse(header=psp_pb.SettlementFileHeader())
        for start in range(0, len(content or b""), 100):
            yield psp_pb.GetSettlementFileResponse(chunk=(content or b"")[start : start + 100])


class Unable(FakePsp):
    """An adapter of an older contract."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source


@asynccontextmanager
async def ledger_of(
    databases: dict[str, str], source: str, target: str
) -> AsyncIterator[ReconciliationServiceAsyncStub]:
    """A ledger whose PSP is served at the target."""
    settings = Settings(
        port=free_port(),
        database_url=databases["ledger"],
        drain_s=0,
        sources={source: Source(kind="psp"), f"{source}-2": Source(kind="psp")},
        psp_target=target,
    )
    async with serving(wire, settings) as channel:
        yield ReconciliationServiceStub(channel)


def request(source: str) -> pb.ReconcileRequest:
    """Of the day."""
    return pb.ReconcileRequest(settlement_date=DAY, source=source)


async def test_the_file_is_fetched_once_and_read_as_if_it_had_been_sent(
    databases: dict[str, str], psp: str
) -> None:
    adapter = Adapter(psp)
    adapter.files[DAY] = DayFile().line(500, 5).content()
    async with adapter.serving() as target, ledger_of(databases, psp, target) as stub:
        runs = [(await stub.Reconcile(request(psp))).run for _ in range(3)]
        assert {run.run_id for run in runs} == {runs[0].run_id}
        assert (runs[0].lines, runs[0].breaks) == (1, 1)
    assert adapter.asked == [DAY]


async def test_ten_callers_at_once_come_to_one_run(databases: dict[str, str], psp: str) -> None:
    adapter = Adapter(psp)
    adapter.files[DAY] = DayFile().line(500, 5).content()
    async with adapter.serving() as target, ledger_of(databases, psp, target) as stub:
        answers = await asyncio.gather(*(stub.Reconcile(request(psp)) for _ in range(10)))
    assert len({answer.run.run_id for answer in answers}) == 1


async def test_what_was_sent_is_not_fetched(databases: dict[str, str], psp: str) -> None:
    adapter = Adapter(psp)
    async with adapter.serving() as target, ledger_of(databases, psp, target) as stub:
        await ingest(stub, DayFile().line(500, 5).content(), psp)
        assert (await stub.Reconcile(request(psp))).run.lines == 1
    assert adapter.asked == []


@pytest.mark.parametrize("reason", [Reason.SETTLEMENT_NOT_READY, Reason.SETTLEMENT_FILE_NOT_FOUND])
async def test_a_day_that_the_adapter_does_not_have_is_told(
    databases: dict[str, str], psp: str, reason: Reason
) -> None:
    adapter = Adapter(psp)
    adapter.refusal = MeshError(reason, "no")
    async with adapter.serving() as target, ledger_of(databases, psp, target) as stub:
        error = await error_of(stub.Reconcile(request(psp)))
        assert error.reason is Reason.SETTLEMENT_FILE_MISSING
        assert error.metadata["adapter"] == reason
        adapter.files[DAY] = DayFile().line(500, 5).content()
        assert (await stub.Reconcile(request(psp))).run.lines == 1


async def test_another_psps_file_is_never_taken(databases: dict[str, str], psp: str) -> None:
    adapter = Adapter(psp)
    adapter.files[DAY] = DayFile().line(500, 5).content()
    async with adapter.serving() as target, ledger_of(databases, psp, target) as stub:
        error = await error_of(stub.Reconcile(request(f"{psp}-2")))
    assert error.reason is Reason.SETTLEMENT_FILE_MISSING
    assert adapter.asked == []


async def test_a_file_that_does_not_tie_is_quarantined_and_no_day(
    databases: dict[str, str], psp: str
) -> None:
    adapter = Adapter(psp)
    content = DayFile().line(500, 5).content()
    adapter.files[DAY] = content.replace(b"495", b"494", 1)
    async with adapter.serving() as target, ledger_of(databases, psp, target) as stub:
        error = await error_of(stub.Reconcile(request(psp)))
    assert error.reason is Reason.SETTLEMENT_FILE_MISSING


async def test_an_adapter_without_files_or_away_is_told_apart(
    databases: dict[str, str], psp: str
) -> None:
    async with Unable(psp).serving() as target, ledger_of(databases, psp, target) as stub:
        error = await error_of(stub.Reconcile(request(psp)))
        assert error.reason is Reason.SETTLEMENT_FILE_MISSING
    async with ledger_of(databases, psp, f"127.0.0.1:{free_port()}") as stub:
        error = await error_of(stub.Reconcile(request(psp)))
        assert error.reason is Reason.DEPENDENCY_DOWN
        assert isinstance(error, MeshError)
        assert grpc.StatusCode.UNAVAILABLE.value[0] == error.code.value
