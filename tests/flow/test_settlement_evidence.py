"""What the PSP never told is told by its settlement file, through all processes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any

import pytest
from paymesh.ledger.v1 import operation_register_service_pb2 as register_pb
from paymesh.payment.v1 import payment_pb2 as pb
from paymesh.payment.v1 import payment_service_pb2 as service_pb
from paymesh.reconciliation.v1 import reconciliation_service_pb2 as reconciliation_pb
from paymesh.reconciliation.v1.reconciliation_service_pb2_grpc import ReconciliationServiceStub

from tests.faults import checker
from tests.support.checkout import new_checkout, new_order
from tests.support.mesh import RunningMesh, eventually, fresh, started_on
from tests.support.postgres import PostgresServer
from tests.support.reconciliation import DayFile, parts

AMOUNT = 10_000
_days = iter(date(2026, 3, 1) + timedelta(days=number) for number in range(300))


@pytest.fixture(scope="module")
def forgetful(postgres_server: PostgresServer) -> Iterator[RunningMesh]:
    """Two replicas of payment_svc; the PSP remembers a key for 2 s and is asked after that, so
    that what it does not answer is parked soon."""
    with started_on(
        postgres_server,
        {"payment": 2},
        psp_stub_key_memory_s=2,
        executor_ladder_backoff_ms=2_500,
        payment_parked_poll_ms=60_000,
    ) as mesh:
        yield mesh
        assert mesh.violations(at_rest=False) == []


def day_file() -> DayFile:
    """A statement of a day that no other test has."""
    return DayFile(day=next(_days).isoformat())


def line_of(mesh: RunningMesh, file: DayFile, payment: pb.Payment, **cells: object) -> None:
    """The line that an honest PSP writes of a payment's one order."""
    (order,) = payment.orders
    ((amount, fee, reference),) = mesh.ask(
        "psp_stub",
        "SELECT amount_minor, fee_minor, psp_reference FROM truth WHERE order_id = %s::uuid",
        order.order_id,
    )
    told = {"psp_reference": reference, **_names(payment)}
    file.line(int(str(amount)), int(str(fee)), **(told | cells))


def _names(payment: pb.Payment) -> dict[str, Any]:
    (order,) = payment.orders
    return {"operation_id": order.operations[0].operation_id, "order_id": order.order_id}


def ingest(mesh: RunningMesh, content: bytes) -> reconciliation_pb.SettlementFile:
    """Brings a file of the stub's."""
    with mesh.new_channel("ledger") as channel:
        stub = ReconciliationServiceStub(channel)
        return stub.IngestSettlementFile(iter(parts(content, "psp_stub")), timeout=20).file


def registered(mesh: RunningMesh, payment: pb.Payment) -> list[tuple[object, ...]]:
    """(state, reason) of the payment's operations in the ledger's register."""
    return mesh.ask(
        "ledger",
        "SELECT state, reason FROM operation_register WHERE payment_id = %s::uuid",
        payment.payment_id,
    )


def _silent(mesh: RunningMesh) -> pb.Payment:
    payment = mesh.pay(new_checkout("tok_silent", new_order(AMOUNT, 1_000)))
    assert payment.orders[0].state == pb.ORDER_STATE_UNKNOWN
    return payment


def _assert_settled(mesh: RunningMesh, payment: pb.Payment) -> None:
    (order,) = payment.orders
    (operation,) = order.operations
    assert payment.state == pb.PAYMENT_STATE_SUCCEEDED
    assert order.captured.amount_minor == AMOUNT
    assert operation.source == pb.EVIDENCE_SOURCE_SETTLEMENT_FILE
    assert mesh.captures(payment) == [[AMOUNT]]
    of_order = "WHERE order_id = %s::uuid"
    assert mesh.count("wallet", f"SELECT count(*) FROM movement {of_order}", order.order_id) == 1
    # The capture, and the fee that the line carries: the stub takes one of this amount.
    assert mesh.count("ledger", f"SELECT count(*) FROM journal {of_order}", order.order_id) == 2


def test_what_the_psp_never_told_succeeds_once_its_file_is_there(mesh: RunningMesh) -> None:
    payment = _silent(mesh)
    eventually(lambda: registered(mesh, payment) == [(register_pb.REGISTER_STATE_UNKNOWN, "")])
    seen: list[pb.Payment] = []
    watch = mesh.payments.WatchPayment(
        service_pb.WatchPaymentRequest(payment_id=payment.payment_id), timeout=60
    )
    watching = threading.Thread(target=lambda: seen.extend(r.payment for r in watch))
    watching.start()
    file = day_file()
    line_of(mesh, file, payment)

    assert ingest(mesh, file.content()).state == reconciliation_pb.FILE_STATE_INGESTED

    done = mesh.rested(payment.payment_id)
    _assert_settled(mesh, done)
    watching.join(30)
    assert not watching.is_alive()
    assert seen[-1] == done
    eventually(lambda: registered(mesh, payment) == [(register_pb.REGISTER_STATE_CAPTURED, "")])
    assert mesh.violations([checker.seen(done)], at_rest=False) == []


def test_what_was_declined_and_yet_settled_stays_declined(mesh: RunningMesh) -> None:
    declined = mesh.paid(new_checkout("tok_declined", new_order(AMOUNT)))
    silent = _silent(mesh)
    file = day_file()
    line_of(mesh, file, silent)
    file.line(AMOUNT, psp_reference=fresh("psp"), **_names(declined))

    assert ingest(mesh, file.content()).state == reconciliation_pb.FILE_STATE_INGESTED

    # The other line of the same file has done its work.
    _assert_settled(mesh, mesh.rested(silent.payment_id))
    assert mesh.get(declined.payment_id) == declined
    assert registered(mesh, declined) == [(register_pb.REGISTER_STATE_DECLINED, "")]
    assert mesh.violations([checker.seen(declined)], at_rest=False) == []


def test_what_is_quarantined_or_superseded_proves_nothing(mesh: RunningMesh) -> None:
    """First a file that does not tie; then a duplicate, which a correction takes back."""
    payment = _silent(mesh)
    day = next(_days).isoformat()
    broken = DayFile(day=day)
    line_of(mesh, broken, payment)
    broken.close(balance_minor=1)
    quarantined = ingest(mesh, broken.text().encode())
    assert quarantined.state == reconciliation_pb.FILE_STATE_QUARANTINED
    doubled = DayFile(day=day)
    line_of(mesh, doubled, payment)
    line_of(mesh, doubled, payment, psp_reference=fresh("psp"))
    assert ingest(mesh, doubled.content()).state == reconciliation_pb.FILE_STATE_INGESTED
    operation_id = payment.orders[0].operations[0].operation_id
    eventually(lambda: _told_unclear(mesh, operation_id))
    assert mesh.get(payment.payment_id).orders[0].state == pb.ORDER_STATE_UNKNOWN

    corrected = DayFile(day=day, revision=1)
    line_of(mesh, corrected, payment)
    assert ingest(mesh, corrected.content()).state == reconciliation_pb.FILE_STATE_INGESTED

    _assert_settled(mesh, mesh.rested(payment.payment_id))
    assert mesh.violations(at_rest=False) == []


def _told_unclear(mesh: RunningMesh, operation_id: str) -> bool:
    return any(
        "settlement_unclear" in line and operation_id in line
        for line in mesh.log("payment").splitlines()
    )


def test_what_is_parked_succeeds_though_processes_are_killed(forgetful: RunningMesh) -> None:
    mesh = forgetful
    calls = [
        mesh.payments.CreatePayment.future(
            new_checkout("tok_silent", new_order(AMOUNT, 1_000)), timeout=40
        )
        for _ in range(6)
    ]
    payments = [mesh.rested(call.result().payment.payment_id) for call in calls]
    assert {payment.orders[0].state for payment in payments} == {pb.ORDER_STATE_PARKED}
    file = day_file()
    for payment in payments:
        line_of(mesh, file, payment)
    assert ingest(mesh, file.content()).state == reconciliation_pb.FILE_STATE_INGESTED
    for instance in ("payment", "executor"):
        mesh.supervisor.kill(instance)
        mesh.supervisor.restart(instance)

    for payment in payments:
        eventually(
            lambda payment=payment: (  # type: ignore[misc]
                mesh.get(payment.payment_id).state == pb.PAYMENT_STATE_SUCCEEDED
            )
        )
        _assert_settled(mesh, mesh.get(payment.payment_id))
        eventually(
            lambda payment=payment: (  # type: ignore[misc]
                registered(mesh, payment) == [(register_pb.REGISTER_STATE_CAPTURED, "")]
            )
        )
    assert mesh.violations(at_rest=False) == []
