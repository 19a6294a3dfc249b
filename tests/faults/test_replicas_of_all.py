"""Two replicas of every service, each pair on one database: either of them may die under load."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from paymesh.payment.v1 import payment_pb2 as pb
from paymesh.payment.v1.payment_service_pb2_grpc import PaymentServiceStub

from tests.support.checkout import new_checkout, new_order
from tests.support.load import SHORT_WAITS, Load, strange_ends
from tests.support.mesh import SERVICES, RunningMesh, eventually, started_on
from tests.support.postgres import PostgresServer

pytestmark = pytest.mark.timeout(120)

RESTS_WITHIN_S = 30.0
KEYS = 1_000


@pytest.fixture(scope="module")
def mesh(postgres_server: PostgresServer) -> Iterator[RunningMesh]:
    with started_on(postgres_server, dict.fromkeys(SERVICES, 2), **SHORT_WAITS) as running:
        yield running


def test_a_thousand_keys_on_both_at_once(mesh: RunningMesh) -> None:
    tokens = ("tok_ok", "tok_ok", "tok_ok", "tok_declined")
    requests = [new_checkout(tokens[n % 4], new_order(100 + n, 0)) for n in range(KEYS)]
    with mesh.new_channel("payment") as one, mesh.new_channel("payment-1") as other:
        stubs = [PaymentServiceStub(one), PaymentServiceStub(other)]
        calls = [
            [stub.CreatePayment.future(request, timeout=60) for stub in stubs]
            for request in requests
        ]
        answers = [[call.result().payment for call in both] for both in calls]

    assert all(_bytes(one) == _bytes(other) for one, other in answers)
    payments = [one for one, _ in answers]
    assert len({payment.payment_id for payment in payments}) == KEYS
    for n, payment in enumerate(payments):
        (order,) = payment.orders
        declined = tokens[n % 4] == "tok_declined"
        assert order.state == (pb.ORDER_STATE_DECLINED if declined else pb.ORDER_STATE_SUCCEEDED)
        assert order.captured.amount_minor == (0 if declined else 100 + n)
    assert mesh.count(
        "psp_stub",
        "SELECT count(*) FROM truth WHERE state = 'CAPTURED' AND order_id = ANY (%s::uuid[])",
        [order.order_id for payment in payments for order in payment.orders],
    ) == sum(token != "tok_declined" for token in tokens) * (KEYS // len(tokens))
    _all_is_well(mesh)


def test_what_a_killed_one_drove_is_taken_over(mesh: RunningMesh) -> None:
    """Nobody starts it again; the other one has its items as soon as its lease is over."""
    with Load(mesh, callers=4) as load:
        lost = Load(mesh, callers=8, target=mesh.supervisor.target("payment-1"), repeat=False)
        with lost:
            lost.wait_for(30)
            mesh.supervisor.kill("payment-1")
        owned = _owned_by(mesh, mesh.supervisor.pid("payment-1"))
        eventually(lambda: not _owned_by(mesh, mesh.supervisor.pid("payment-1")))
        load.wait_for(20)

    assert owned, "it was killed while it drove nothing"
    assert mesh.log("payment").count("items_taken")
    for told in lost.told:
        told.payments.append(mesh.pay(told.request))
    mesh.supervisor.restart("payment-1")
    _all_is_well(mesh, load, lost)


@pytest.mark.parametrize("service", [name for name in SERVICES if name != "payment"])
def test_either_one_is_killed(mesh: RunningMesh, service: str) -> None:
    """One after the other, so that the one that was at work is among them."""
    pids = [mesh.supervisor.pid(name) for name in (service, f"{service}-1")]
    with (
        Load(mesh, callers=5, seed=1) as load,
        Load(mesh, callers=5, seed=2, target=mesh.supervisor.target("payment-1")) as other,
    ):
        for instance in (f"{service}-1", service):
            load.wait_for(10)
            other.wait_for(10)
            mesh.supervisor.kill(instance)
            # The one that is left carries all of it.
            load.wait_for(10)
            other.wait_for(10)
            mesh.supervisor.restart(instance)

    assert not {mesh.supervisor.pid(name) for name in (service, f"{service}-1")} & set(pids)
    _all_is_well(mesh, load, other)


def _owned_by(mesh: RunningMesh, pid: int) -> int:
    """How many operations are owned by the replica that this process was."""
    return mesh.count(
        "payment",
        "SELECT count(*) FROM operation JOIN replica USING (epoch) WHERE name LIKE %s",
        f"%/{pid}",
    )


def _bytes(payment: pb.Payment) -> bytes:
    return payment.SerializeToString(deterministic=True)


def _all_is_well(mesh: RunningMesh, *loads: Load) -> None:
    history = [answer for load in loads for answer in load.history()]
    assert [surprise for load in loads for surprise in load.surprises] == []
    assert all(told.payments for load in loads for told in load.told)
    eventually(lambda: not mesh.unsettled(), RESTS_WITHIN_S)
    assert strange_ends(mesh) == []
    assert mesh.violations(history) == []
