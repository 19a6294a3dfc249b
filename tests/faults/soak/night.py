"""The nights after a soak: one that differs in nothing, and one that differs as it was seeded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import date, timedelta
from typing import NamedTuple

from paymesh.psp.v1 import psp_stub_control_service_pb2 as stub_pb
from paymesh.psp.v1.psp_stub_control_service_pb2_grpc import PspStubControlServiceStub
from paymesh.reconciliation.v1 import reconciliation_service_pb2 as pb
from paymesh.reconciliation.v1.reconciliation_service_pb2_grpc import ReconciliationServiceStub

from tests.faults.checker import Urls, Violation, settlement
from tests.support.mesh import RunningMesh

SEEDED: Sequence[tuple[stub_pb.StubFaultKind.ValueType, int, int]] = (
    (stub_pb.STUB_FAULT_KIND_MISSING_LINE, pb.BREAK_CLASS_TIMING, 20),
    (stub_pb.STUB_FAULT_KIND_UNKNOWN_LINE, pb.BREAK_CLASS_UNKNOWN_TO_US, 20),
    (stub_pb.STUB_FAULT_KIND_AMOUNT_DIFFERS, pb.BREAK_CLASS_AMOUNT_DIFFERS, 20),
    (stub_pb.STUB_FAULT_KIND_FEE_DIFFERS, pb.BREAK_CLASS_FEE_DIFFERS, 20),
    (stub_pb.STUB_FAULT_KIND_DUPLICATE_LINE, pb.BREAK_CLASS_DUPLICATE_IN_FILE, 20),
)
"""The stub's fault, the class in which it must be found, and how often: 100 in all."""

_TIMEOUT_S = 300.0


class Night(NamedTuple):
    """A day that was closed and reconciled."""

    day: str
    run: pb.Run
    violations: list[Violation]


def without_differences(mesh: RunningMesh) -> Night:
    """Closes the day that it is."""
    return _reconciled(mesh, _close(mesh), {})


def with_seeded_ones(mesh: RunningMesh, before: str) -> Night:
    """Seeds differences into the day after `before`, and closes it."""
    with mesh.new_channel("psp_stub") as channel:
        for kind, _, count in SEEDED:
            PspStubControlServiceStub(channel).SeedFault(
                stub_pb.SeedFaultRequest(kind=kind, count=count), timeout=_TIMEOUT_S
            )
    day = (date.fromisoformat(before) + timedelta(days=1)).isoformat()
    seeded: Counter[int] = Counter()
    for _, number, count in SEEDED:
        seeded[number] += count
    return _reconciled(mesh, _close(mesh, day), seeded)


def _close(mesh: RunningMesh, day: str | None = None) -> str:
    with mesh.new_channel("psp_stub") as channel:
        closed = PspStubControlServiceStub(channel).CloseDay(
            stub_pb.CloseDayRequest(settlement_date=day), timeout=_TIMEOUT_S
        )
    return closed.day.settlement_date


def _reconciled(mesh: RunningMesh, day: str, seeded: Counter[int] | dict[int, int]) -> Night:
    with mesh.new_channel("ledger") as channel:
        run = (
            ReconciliationServiceStub(channel)
            .Reconcile(
                pb.ReconcileRequest(settlement_date=day, source="psp_stub"), timeout=_TIMEOUT_S
            )
            .run
        )
    return Night(day, run, settlement(Urls.of(mesh.databases), day, seeded))
