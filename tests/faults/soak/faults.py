"""The kinds of faults of a soak: each does its harm and puts back what it took away."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from tests.faults.soak.load import USUAL, Callers
from tests.support.database_faults import (
    all_connections_taken,
    cut_connections,
    disk_full,
    lose_answers,
    stop_postgres_at_once,
)
from tests.support.mesh import SERVICES, RunningMesh, eventually

_POLL_S = 0.05


class World:
    """What faults are done to; `chance` draws how long and to whom."""

    def __init__(self, mesh: RunningMesh, callers: Callers, chance: random.Random) -> None:
        self.mesh = mesh
        self.callers = callers
        self.chance = chance

    def wait(self, seconds: float) -> None:
        """Waits, and starts again what died meanwhile, as `paymesh up` does."""
        until_s = time.monotonic() + seconds
        while True:
            self.mesh.supervisor.poll()
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                return
            time.sleep(min(_POLL_S, left_s))

    def wait_for_postgres(self) -> None:
        """Waits until the supervisor has it serving."""

        def serves() -> bool:
            self.wait(0)
            return self.mesh.supervisor.postgres_pid is not None

        eventually(serves)


def _kill(service: str) -> Callable[[World], str]:
    def fault(world: World) -> str:
        world.mesh.supervisor.kill(service)
        return ""

    return fault


def _kill_two(world: World) -> str:
    services = world.chance.sample(SERVICES, 2)
    for service in services:
        world.mesh.supervisor.kill(service)
    return ", ".join(services)


def _pause(world: World) -> str:
    service, seconds = world.chance.choice(SERVICES), world.chance.uniform(0.5, 3.0)
    pid = world.mesh.supervisor.pid(service)
    os.kill(pid, signal.SIGSTOP)
    try:
        world.wait(seconds)
    finally:
        os.kill(pid, signal.SIGCONT)
    return f"{service} for {seconds:.1f} s"


def _stop_postgres(world: World) -> str:
    stop_postgres_at_once(world.mesh)
    world.wait_for_postgres()
    return ""


def _cut_connections(world: World) -> str:
    cut_connections(world.mesh)
    return ""


def _lose_commits(world: World) -> str:
    lose_answers(world.mesh)
    return ""


def _take_connections(world: World) -> str:
    with all_connections_taken(world.mesh):
        world.wait(1.0)
    return ""


def _fill_disk(world: World) -> str:
    service = world.chance.choice(SERVICES)
    with disk_full(world.mesh, service):
        world.wait(1.0)
    return service


def _psp(*tokens: str) -> Callable[[World], str]:
    def fault(world: World) -> str:
        seconds = world.chance.uniform(1.0, 3.0)
        with _all_charges(world.callers, tokens):
            world.wait(seconds)
        return f"for {seconds:.1f} s"

    return fault


@contextmanager
def _all_charges(callers: Callers, tokens: tuple[str, ...]) -> Iterator[None]:
    """Everything that is paid meanwhile is of these tokens."""
    callers.mix = dict.fromkeys(tokens, 1)
    try:
        yield
    finally:
        callers.mix = USUAL


KINDS: Mapping[str, Callable[[World], str]] = {
    **{f"SIGKILL {service}": _kill(service) for service in SERVICES},
    "SIGKILL two services": _kill_two,
    "SIGSTOP, SIGCONT": _pause,
    "PostgreSQL stops at once": _stop_postgres,
    "connections cut": _cut_connections,
    "answers of COMMIT lost": _lose_commits,
    "no connection free": _take_connections,
    "disk full": _fill_disk,
    "PSP loses answers": _psp("tok_timeout_captured", "tok_timeout_nothing", "tok_error_captured"),
    "PSP overloaded": _psp("tok_unavailable_twice"),
    "PSP slow": _psp("tok_slow"),
}
