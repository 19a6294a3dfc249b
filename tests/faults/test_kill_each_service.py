"""Under load each service is killed and started again, and all books say the same afterwards."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest
from paymesh.payment.v1 import payment_pb2 as pb

from tests.support.load import Load, strange_ends
from tests.support.mesh import SERVICES, RunningMesh, eventually

RESTS_WITHIN_S = 30.0
"""T of the promise that everything comes to rest after the faults, on a busy machine."""


@pytest.mark.timeout(120)
@pytest.mark.parametrize("service", SERVICES)
def test_killed_under_load(mesh: RunningMesh, service: str) -> None:
    pids = mesh.pids()

    with Load(mesh) as load:
        load.wait_for(40)
        mesh.supervisor.kill(service)
        killed_at = _database_time(mesh)
        time.sleep(0.3)
        mesh.supervisor.restart(service)
        load.wait_for(80)

    assert {name for name, pid in mesh.pids().items() if pid != pids[name]} == {service}
    assert _under_way(mesh, killed_at), "the fault hit nothing"
    _all_is_well(mesh, load)


@pytest.mark.timeout(120)
def test_killed_again_while_it_recovers(mesh: RunningMesh) -> None:
    with Load(mesh) as load:
        load.wait_for(20)
        for _ in range(3):
            mesh.supervisor.restart("payment")
            time.sleep(0.3)
        load.wait_for(20)

    _all_is_well(mesh, load)


@pytest.mark.timeout(120)
def test_all_are_killed_at_once(mesh: RunningMesh) -> None:
    with Load(mesh) as load:
        load.wait_for(40)
        for service in SERVICES:
            mesh.supervisor.kill(service)
        for service in reversed(SERVICES):
            mesh.supervisor.restart(service)
        load.wait_for(40)

    _all_is_well(mesh, load)


@pytest.mark.timeout(120)
def test_each_is_told_to_stop(mesh: RunningMesh) -> None:
    """SIGTERM: what is under way is answered, and the process ends well."""
    with Load(mesh) as load:
        for service in SERVICES:
            load.wait_for(16)
            pid = mesh.supervisor.pid(service)
            os.kill(pid, signal.SIGTERM)
            # Looked at and left to the supervisor, whose child it is.
            ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
            assert ended is not None
            assert (ended.si_code, ended.si_status) == (os.CLD_EXITED, 0), service
            mesh.supervisor.restart(service)
        load.wait_for(16)

    _all_is_well(mesh, load)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("service", SERVICES)
def test_paused_under_load(mesh: RunningMesh, service: str) -> None:
    """SIGSTOP for longer than the lease and the PSP's deadline: late is as good as lost."""
    pid = mesh.supervisor.pid(service)

    with Load(mesh) as load:
        load.wait_for(30)
        os.kill(pid, signal.SIGSTOP)
        try:
            time.sleep(1.5)
        finally:
            os.kill(pid, signal.SIGCONT)
        load.wait_for(30)

    assert mesh.supervisor.pid(service) == pid
    _all_is_well(mesh, load)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("seed", range(3))
def test_killed_at_random_for_a_minute(mesh: RunningMesh, seed: int) -> None:
    chance = random.Random(seed)
    until = time.monotonic() + 60

    with Load(mesh, callers=16, pause_s=0.02, seed=seed) as load:
        while time.monotonic() < until:
            time.sleep(chance.uniform(0.1, 2.0))
            victims = chance.sample(SERVICES, chance.choice((1, 1, 1, 2, 3)))
            for service in victims:
                mesh.supervisor.kill(service)
            time.sleep(chance.choice((0.0, 0.1, 1.5)))
            for service in victims:
                mesh.supervisor.restart(service)
        load.wait_for(40)

    _all_is_well(mesh, load)


def _all_is_well(mesh: RunningMesh, load: Load) -> None:
    """Everything acknowledged came to its end, once, and all books agree."""
    assert load.surprises == []
    assert all(told.payments for told in load.told)
    eventually(lambda: not mesh.unsettled(), RESTS_WITHIN_S)
    assert strange_ends(mesh) == []
    assert mesh.violations(load.history()) == []
    _repeats_say_the_same(mesh, load)


def _repeats_say_the_same(mesh: RunningMesh, load: Load) -> None:
    """Whoever asks again is told of the same payment, and nothing is captured for it."""
    before = mesh.count("psp_stub", "SELECT count(*) FROM truth")
    for told in load.told[:: max(1, len(load.told) // 20)]:
        again = mesh.pay(told.request)
        assert {again.payment_id} == {payment.payment_id for payment in told.payments}
        assert again.state != pb.PAYMENT_STATE_PROCESSING
    assert mesh.count("psp_stub", "SELECT count(*) FROM truth") == before


def _database_time(mesh: RunningMesh) -> object:
    ((now,),) = mesh.ask("payment", "SELECT now()")
    return now


def _under_way(mesh: RunningMesh, time: object) -> int:
    """How many payments were under way at that time."""
    return mesh.count(
        "payment",
        "SELECT count(*) FROM payment WHERE create_time < %s AND update_time > %s",
        time,
        time,
    )
