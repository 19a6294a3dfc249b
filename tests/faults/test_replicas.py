"""Two replicas of payment_svc on one database: a payment is driven by one of them at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import grpc
import pytest
from paymesh.payment.v1 import payment_pb2 as pb
from paymesh.payment.v1.payment_service_pb2_grpc import PaymentServiceStub

from tests.support.checkout import new_checkout, new_order
from tests.support.load import SHORT_WAITS, Load, strange_ends
from tests.support.mesh import (
    SETTINGS,
    RunningMesh,
    clean_environment,
    environment,
    eventually,
    fresh,
    open_channel,
)
from tests.support.ports import free_port

RESTS_WITHIN_S = 30.0


@dataclass
class Replica:
    """A second payment_svc beside the mesh's own."""

    target: str
    process: subprocess.Popen[bytes]

    def is_serving(self) -> bool:
        """Whether it accepts connections."""
        with open_channel(self.target) as channel:
            try:
                grpc.channel_ready_future(channel).result(timeout=0.5)
            except grpc.FutureTimeoutError:
                assert self.process.poll() is None, "the replica ended"
                return False
        return True


@pytest.fixture
def replica(mesh: RunningMesh) -> Iterator[Replica]:
    port = free_port()
    supervisor = mesh.supervisor
    settings = environment(
        **{**SETTINGS, **SHORT_WAITS},
        payment_port=port,
        payment_database_url=supervisor.database_urls["payment"],
        payment_executor_target=supervisor.target("executor"),
        payment_wallet_target=supervisor.target("wallet"),
        payment_ledger_target=supervisor.target("ledger"),
    )
    with supervisor.log_path("payment").with_name("replica.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "payment_svc"],
            env=clean_environment() | settings,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    second = Replica(f"127.0.0.1:{port}", process)
    try:
        eventually(second.is_serving)
        yield second
    finally:
        process.kill()
        process.wait()


def test_one_request_id_on_both(mesh: RunningMesh, replica: Replica) -> None:
    for token in ("tok_ok", "tok_slow"):
        request = new_checkout(token, new_order(), new_order(500, 0))
        with open_channel(replica.target) as channel:
            stubs = [mesh.payments, PaymentServiceStub(channel)]
            calls = [stubs[n % 2].CreatePayment.future(request, timeout=30) for n in range(32)]
            payments = [call.result().payment for call in calls]

        assert len({payment.SerializeToString(deterministic=True) for payment in payments}) == 1
        assert payments[0].state == pb.PAYMENT_STATE_SUCCEEDED
        assert mesh.captures(payments[0]) == [[10_000], [500]]


def test_another_body_on_the_other_is_refused(mesh: RunningMesh, replica: Replica) -> None:
    for _ in range(10):
        seller, request_id = fresh("seller"), fresh("request")
        requests = [
            new_checkout(
                "tok_ok",
                new_order(amount, 0, seller_id=seller),
                request_id=request_id,
                buyer_id="b",
            )
            for amount in (100, 200)
        ]
        with open_channel(replica.target) as channel:
            calls = [
                mesh.payments.CreatePayment.future(requests[0], timeout=30),
                PaymentServiceStub(channel).CreatePayment.future(requests[1], timeout=30),
            ]
            ends = [call.exception() for call in calls]

        assert sorted(end is None for end in ends) == [False, True]
        won = calls[ends.index(None)].result().payment
        assert mesh.captures(won) == [[won.orders[0].amount.amount_minor]]


@pytest.mark.timeout(120)
def test_a_paused_replica_wakes_up(mesh: RunningMesh, replica: Replica) -> None:
    """Longer than its lease: what it carried is taken over, and its own writes come late."""
    with Load(mesh, callers=6) as load, Load(mesh, callers=6, target=replica.target) as other:
        for pid in (replica.process.pid, mesh.supervisor.pid("payment")):
            load.wait_for(20)
            other.wait_for(20)
            os.kill(pid, signal.SIGSTOP)
            try:
                time.sleep(2.5)
            finally:
                os.kill(pid, signal.SIGCONT)
        load.wait_for(20)
        other.wait_for(20)

    assert mesh.count("payment", "SELECT count(*) FROM replica WHERE dead") >= 2
    _all_is_well(mesh, load, other)


@pytest.mark.timeout(120)
def test_a_replica_that_dies_is_taken_over(mesh: RunningMesh, replica: Replica) -> None:
    with Load(mesh, callers=4) as load:
        with Load(mesh, callers=6, target=replica.target, repeat=False) as other:
            other.wait_for(30)
            replica.process.kill()
        load.wait_for(20)

    # The caller goes to the one that is left.
    for told in other.told:
        told.payments.append(mesh.pay(told.request))
    _all_is_well(mesh, load, other)


def _all_is_well(mesh: RunningMesh, *loads: Load) -> None:
    history = [answer for load in loads for answer in load.history()]
    assert [surprise for load in loads for surprise in load.surprises] == []
    assert all(told.payments for load in loads for told in load.told)
    eventually(lambda: not mesh.unsettled(), RESTS_WITHIN_S)
    assert strange_ends(mesh) == []
    assert mesh.violations(history) == []
