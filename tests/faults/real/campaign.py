"""One payment with one order and faults on its way, again and again, on one mesh of processes."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import grpc
from paymesh.payment.v1 import payment_pb2 as pb
from paymesh.payment.v1 import payment_service_pb2 as service_pb
from paymesh.payment.v1.payment_service_pb2_grpc import PaymentServiceStub

from mesh.healthcheck import is_serving
from tests.faults.checker import Told, Urls, Violation, check, prepare
from tests.faults.real.inside import FOLDER, PLAN, Fault, Kind, Plan
from tests.support.checkout import new_checkout
from tests.support.database_faults import (
    commits_hanging,
    cut_connections,
    start_postgres,
    stop_postgres_at_once,
    wait_for_commit,
)
from tests.support.folders import open_folder
from tests.support.load import SHORT_WAITS
from tests.support.mesh import SERVICES, RunningMesh, eventually, fresh, open_channel, started
from tests.support.refusals import refusal_of

_SITE = Path(__file__).parent / "site"
# Longer than the lease and the PSP's deadline: late is as good as lost.
_STOPPED_S = 1.2
_DEADLINE_S = 2.0
_AGAIN_AFTER_S = 0.05
_POLL_S = 0.02
_ENDS_WITHIN_S = 60.0
# Much longer than a start on a machine that is busy.
_HAPPENS_WITHIN_S = 20.0
_SERVES_WITHIN_S = 30.0
_COMMITS_WITHIN_S = 10.0
# A payment is accepted and finished by commits of one name.
_MOST_OFTEN = 2
# Work beside a payment (a lease is renewed) passes within this time.
_LISTENED_S = 3.0


class Outcome(NamedTuple):
    """What came of a scenario. fired: how many of its faults happened, in their order."""

    faults: Sequence[Fault]
    fired: int
    violations: list[Violation]

    @property
    def is_whole(self) -> bool:
        """Whether all its faults happened."""
        return self.fired == len(self.faults)


class Campaign:
    """A mesh whose processes do what the plan says."""

    def __init__(self, mesh: RunningMesh, folder: Path) -> None:
        self._mesh = mesh
        self._folder = folder
        self._urls = Urls.of(mesh.databases)
        self._missed = 0
        """How many faults of this scenario came too late to do any harm."""
        prepare(self._urls)

    def points(self) -> list[tuple[str, int]]:
        """Every moment that a start and a payment pass, the same up to twice, and work beside."""
        plan = Plan(fresh("listen"), [], listen=True)
        self._write(plan)
        for service in SERVICES:
            self._mesh.supervisor.restart(service)
        self._mesh.paid(new_checkout())
        time.sleep(_LISTENED_S)
        counts = Counter(plan.passed(self._folder).read_text().splitlines())
        return [
            (point, nth)
            for point, count in sorted(counts.items())
            for nth in range(1, min(count, _MOST_OFTEN) + 1)
        ]

    def run(self, faults: Sequence[Fault]) -> Outcome:
        """Pays while these faults happen, one after the other, and checks the payment at rest."""
        plan = Plan(fresh("plan"), list(faults))
        for service in SERVICES:
            target = self._mesh.supervisor.target(service)
            eventually(partial(is_serving, target, 1.0), _SERVES_WITHIN_S)
        self._write(plan)
        callers = [self._new_caller()]
        self._missed = 0
        healed, started_s = 0, time.monotonic()
        while self._goes_on(callers, healed, passed_s := time.monotonic() - started_s):
            healed += self._heal(plan, healed)
            if not healed and len(callers) == 1 and passed_s > _LISTENED_S:
                # It is a moment of a start, or of the first payment after one.
                self._start_again(faults[0])
                callers.append(self._new_caller())
            self._wait()
        # Nothing more is to happen; what did at the last moment is healed as well.
        self._write(Plan("over", []))
        self._wait()
        while self._heal(plan, healed):
            healed += 1
        until_s = time.monotonic() + _ENDS_WITHIN_S
        while not self._are_over(callers) and time.monotonic() < until_s:
            self._wait()
        for caller in callers:
            caller.patient = False
            caller.join()
        told = [one for caller in callers for one in caller.told]
        found = check(self._urls, told, payment_ids=[])
        if not all(caller.was_told for caller in callers):
            found.append(Violation("I7", "", f"a caller was not told in {_ENDS_WITHIN_S:.0f} s"))
        return Outcome(faults, healed - self._missed, found)

    def _wait(self) -> None:
        """A moment, in which who could not start is started again, as `paymesh up` does it."""
        self._mesh.supervisor.poll()
        time.sleep(_POLL_S)

    def _new_caller(self) -> _Caller:
        return _Caller(self._mesh.supervisor.target("payment"))

    def _are_over(self, callers: Sequence[_Caller]) -> bool:
        return all(caller.was_told and self._rests(caller) for caller in callers)

    def _goes_on(self, callers: Sequence[_Caller], healed: int, passed_s: float) -> bool:
        """Until the callers were told and their payments rest, and something has happened."""
        if not self._are_over(callers):
            return passed_s < _ENDS_WITHIN_S
        return not healed and passed_s < _HAPPENS_WITHIN_S

    def _heal(self, plan: Plan, healed: int) -> int:
        """Starts again who was killed by the next fault, or lets go on; 1 if it had happened."""
        if healed == len(plan.faults) or not plan.fired(self._folder, healed).exists():
            return 0
        fault = plan.faults[healed]
        if fault.kind == Kind.KILL:
            self._start_again(fault)
        else:
            self._let_go_on(fault, plan.fired(self._folder, healed))
        return 1

    def _let_go_on(self, fault: Fault, mark: Path) -> None:
        """Does what is to be done while the process is stopped, or as soon as it goes on."""
        with ExitStack() as until_done:
            if fault.kind == Kind.STOP:
                time.sleep(_STOPPED_S)
            elif fault.kind == Kind.POSTGRES:
                stop_postgres_at_once(self._mesh)
                # Its supervisor would wait longer each time.
                self._mesh.supervisor._postgres_deaths = 0
                start_postgres(self._mesh)
            else:
                until_done.enter_context(commits_hanging(self._mesh))
            with suppress(ProcessLookupError):
                os.kill(int(mark.read_text()), signal.SIGCONT)
            if fault.kind == Kind.COMMIT:
                try:
                    wait_for_commit(self._mesh, _service(fault), _COMMITS_WITHIN_S)
                except AssertionError:
                    # The fault before it took its connection away.
                    self._missed += 1
                cut_connections(self._mesh)

    def _start_again(self, fault: Fault) -> None:
        """At once, and without waiting: it may be at its start that the next fault happens."""
        self._mesh.supervisor.kill(_service(fault))
        self._mesh.supervisor._spawn(_service(fault))

    def _rests(self, caller: _Caller) -> bool:
        rows = self._mesh.ask(
            "payment", "SELECT state FROM payment WHERE request_id = %s", caller.request.request_id
        )
        return bool(rows) and rows[0] != (pb.PAYMENT_STATE_PROCESSING,)

    def _write(self, plan: Plan) -> None:
        path = self._folder / PLAN
        new = path.with_suffix(".new")
        new.write_text(json.dumps(plan))
        new.replace(path)


def _service(fault: Fault) -> str:
    return fault.point.partition(" ")[0].removesuffix("_svc")


class _Caller(threading.Thread):
    """Asks until it is told."""

    def __init__(self, target: str) -> None:
        super().__init__(daemon=True)
        self.request: service_pb.CreatePaymentRequest = new_checkout()
        self.told: list[Told] = []
        self.patient = True
        self._target = target
        self.start()

    @property
    def was_told(self) -> bool:
        """Whether it knows its payment."""
        return bool(self.told and self.told[-1].payment)

    def run(self) -> None:
        with open_channel(self._target) as channel:
            stub = PaymentServiceStub(channel)
            while self.patient and not self.was_told:
                asked_s = time.monotonic()
                try:
                    payment = stub.CreatePayment(self.request, timeout=_DEADLINE_S).payment
                except grpc.RpcError as error:
                    reason = refusal_of(error).reason
                    self.told.append(Told(self.request, None, reason, asked_s, time.monotonic()))
                    time.sleep(_AGAIN_AFTER_S)
                else:
                    self.told.append(Told(self.request, payment, "", asked_s, time.monotonic()))


def singles(points: Sequence[tuple[str, int]]) -> Iterator[tuple[Fault, ...]]:
    """Everything that can happen at every moment."""
    for point, nth in points:
        for kind in _kinds(point):
            yield (Fault(point, kind, nth),)


def pairs(points: Sequence[tuple[str, int]], count: int, seed: int) -> Iterator[tuple[Fault, ...]]:
    """So many ordered pairs of them, drawn."""
    chance = random.Random(seed)
    each = [fault for (fault,) in singles(points)]
    for _ in range(count):
        yield chance.choice(each), chance.choice(each)


def _kinds(point: str) -> list[Kind]:
    return [kind for kind in Kind if kind is not Kind.COMMIT or " BEFORE " in point]


@contextmanager
def campaign() -> Iterator[Campaign]:
    """A mesh of its own for scenarios, one after the other."""
    with open_folder(in_memory=True) as folder, _environment(folder):
        (folder / PLAN).write_text(json.dumps(Plan("none", [])))
        with started(folder / "mesh", postgres=None, **SHORT_WAITS) as mesh:
            yield Campaign(mesh, folder)


@contextmanager
def _environment(folder: Path) -> Iterator[None]:
    """What the services inherit: the code that makes them fail, and where the plan is."""
    before = dict(os.environ)
    paths = [str(_SITE), before.get("PYTHONPATH", "")]
    os.environ[FOLDER] = str(folder)
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
