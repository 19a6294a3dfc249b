"""A whole night through all processes: payments, the PSP's day, the reconciliation, the check."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from paymesh.ledger.v1 import ledger_service_pb2 as ledger_pb
from paymesh.payment.v1 import check_mesh_pb2 as check_pb
from paymesh.payment.v1 import payment_pb2 as pb
from paymesh.psp.v1 import psp_stub_control_service_pb2 as stub_pb
from paymesh.psp.v1.psp_stub_control_service_pb2_grpc import PspStubControlServiceStub
from paymesh.reconciliation.v1 import reconciliation_service_pb2 as reconciliation_pb
from paymesh.reconciliation.v1.reconciliation_service_pb2_grpc import ReconciliationServiceStub

from tests.support.checkout import new_checkout, new_order
from tests.support.mesh import RunningMesh, eventually, started_on
from tests.support.postgres import PostgresServer

SOURCE = "psp_stub"


@pytest.fixture
def mesh(postgres_server: PostgresServer) -> Iterator[RunningMesh]:
    with started_on(
        postgres_server,
        psp_stub_key_memory_s=2,
        executor_psp_deadline_ms=700,
        psp_stub_slow_ms=300,
        payment_evidence_poll_ms=500,
    ) as mesh:
        yield mesh


def reconciled(mesh: RunningMesh, day: str) -> reconciliation_pb.Run:
    """The day's run; the ledger fetches the file itself."""
    with mesh.new_channel("ledger") as channel:
        return (
            ReconciliationServiceStub(channel)
            .Reconcile(
                reconciliation_pb.ReconcileRequest(settlement_date=day, source=SOURCE), timeout=60
            )
            .run
        )


def breaks(mesh: RunningMesh) -> dict[str, tuple[int, int, str]]:
    """Class, state and rule by order, of all that any run found."""
    with mesh.new_channel("ledger") as channel:
        listed = ReconciliationServiceStub(channel).ListBreaks(
            reconciliation_pb.ListBreaksRequest(source=SOURCE), timeout=20
        )
    return {one.order_id: (getattr(one, "class"), one.state, one.rule) for one in listed.breaks}


@contextmanager
def paused(mesh: RunningMesh, service: str) -> Iterator[None]:
    """The service stands still."""
    pid = mesh.pids()[service]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def order_of(payment: pb.Payment) -> str:
    (order,) = payment.orders
    return order.order_id


@pytest.mark.timeout(120)
def test_a_night_explains_what_the_tokens_did_on_purpose(mesh: RunningMesh) -> None:
    paid = {
        token: mesh.pay(new_checkout(token, new_order()), timeout_s=8)
        for token in (
            "tok_ok",
            "tok_declined",
            "tok_error_captured",
            "tok_timeout_captured",
            "tok_wrong_amount",
            "tok_silent",
        )
    }
    silent, wrong = paid["tok_silent"], paid["tok_wrong_amount"]
    declined = paid["tok_declined"]
    for payment in paid.values():
        if payment is not silent:
            mesh.rested(payment.payment_id)

    with mesh.new_channel("psp_stub") as channel:
        control = PspStubControlServiceStub(channel)
        for kind in (
            stub_pb.STUB_FAULT_KIND_DECLINED_SETTLED,
            stub_pb.STUB_FAULT_KIND_CLOSING_DIFFERS,
        ):
            control.SeedFault(stub_pb.SeedFaultRequest(kind=kind, count=1))
        closed = control.CloseDay(stub_pb.CloseDayRequest(), timeout=60)
    day = closed.day.settlement_date
    # Else the ledger's file may have led to the capture before the ledger looks for it.
    with paused(mesh, "payment"):
        first = reconciled(mesh, day)
    assert first.state == reconciliation_pb.RUN_STATE_EXPLAINED
    assert [one.difference_minor for one in first.balances] == [0]
    of_no_order = ""
    assert breaks(mesh).keys() == {
        order_of(silent), order_of(wrong), order_of(declined), of_no_order
    }  # fmt: skip

    # The file is the arbiter of what the PSP never told.
    eventually(
        lambda: mesh.get(silent.payment_id).state == pb.PAYMENT_STATE_SUCCEEDED, timeout_s=30
    )
    told = mesh.get(silent.payment_id)
    assert told.orders[0].operations[0].source == pb.EVIDENCE_SOURCE_SETTLEMENT_FILE
    second = reconciled(mesh, day)
    assert second.version == first.version + 1
    found = breaks(mesh)
    assert found[order_of(silent)][1] == reconciliation_pb.BREAK_STATE_CLEARED
    assert found[order_of(wrong)] == (
        reconciliation_pb.BREAK_CLASS_STATUS_DIFFERS,
        reconciliation_pb.BREAK_STATE_POSTED,
        "REGISTER_PARKED",
    )
    assert found[order_of(declined)] == (
        reconciliation_pb.BREAK_CLASS_STATUS_DIFFERS,
        reconciliation_pb.BREAK_STATE_POSTED,
        "REGISTER_DECLINED",
    )
    assert found[of_no_order] == (
        reconciliation_pb.BREAK_CLASS_CLOSING_DIFFERS,
        reconciliation_pb.BREAK_STATE_RESOLVED,
        "LEFT_OVER",
    )
    # What was declined is never driven again, whatever a file says.
    assert mesh.get(declined.payment_id).state == pb.PAYMENT_STATE_FAILED
    assert reconciled(mesh, day).run_id == second.run_id

    # What sits in suspense is what the wrong amount and the declined one left there, and
    # nothing else.
    suspense = ledger_pb.Account(kind=ledger_pb.ACCOUNT_KIND_SUSPENSE, source=SOURCE)
    ((net,),) = mesh.ask(
        "psp_stub",
        "SELECT amount_minor - fee_minor FROM truth WHERE order_id = %s::uuid",
        order_of(wrong),
    )
    ((settled,),) = mesh.ask(
        "ledger",
        "SELECT sum(amount_minor) FROM settlement_line WHERE order_id = %s::uuid",
        order_of(declined),
    )
    balance = mesh.ledger.GetBalance(
        ledger_pb.GetBalanceRequest(account=suspense, currency_code="EUR")
    )
    assert balance.balance_minor == int(str(net)) + int(str(settled))
    rows = mesh.ledger.GetTrialBalance(ledger_pb.GetTrialBalanceRequest()).rows
    assert sum(row.debit_minor for row in rows) == sum(row.credit_minor for row in rows)

    # And the books of the services agree, whatever was booked for the day beside them.
    findings = [
        finding
        for response in mesh.payments.CheckMesh(check_pb.CheckMeshRequest(), timeout=30)
        for finding in response.findings
    ]
    assert [finding.order_id for finding in findings] in ([], [order_of(wrong)])
    assert all(finding.finding_class == check_pb.FINDING_CLASS_APART for finding in findings)
