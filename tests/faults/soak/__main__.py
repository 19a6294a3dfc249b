"""`python -m tests.faults.soak --minutes 10`: prints what happened; exit code 0 if all is well."""

from __future__ import annotations

import argparse
import os
import random
import secrets
import signal
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence

from paymeshctl.supervisor import DRAIN_ORDER
from tests.faults.checker import Urls, Violation, check, left_behind
from tests.faults.soak import night
from tests.faults.soak.faults import KINDS, World
from tests.faults.soak.load import Callers
from tests.support.folders import open_folder
from tests.support.load import SHORT_WAITS, strange_ends
from tests.support.mesh import SETTINGS, RunningMesh, started

RESTS_WITHIN_S = 60.0
"""T of the promise that everything is terminal or parked after the faults ended."""

_INVARIANTS = [f"I{number}" for number in range(1, 11)]
_SHOWN = 50
_CALLERS_AT_MOST = 128
_MEASURED_S = 10.0
_PAUSE_S = (1.0, 4.0)
_SAID_EVERY_S = 30.0
# Enough captures in euros for the differences that are seeded into the second day.
_PAID_FOR_THE_SECOND_DAY = 600


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a soak. Exit code 1: something broke an invariant, or never came to rest."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=main.__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=None, help="drawn if it is left out")
    given = parser.parse_args(arguments)
    seed = secrets.randbelow(1_000_000) if given.seed is None else given.seed
    _say(f"soak of {given.minutes:g} minutes, seed {seed}")
    _say("settings: " + _settings({**SETTINGS, **SHORT_WAITS}))
    with (
        open_folder(in_memory=True) as folder,
        started(folder / "mesh", postgres=None, **SHORT_WAITS) as mesh,
    ):
        problems = _soak(mesh, given.minutes * 60, seed)
    for one in problems[:_SHOWN]:
        _say(f"  ✗ {one.invariant} {one.payment_id} {one.text}")
    if len(problems) > _SHOWN:
        _say(f"  … and {len(problems) - _SHOWN} more")
    counts = Counter(one.invariant for one in problems)
    _say("violations: " + ", ".join(f"{name} {counts[name]}" for name in _INVARIANTS))
    _say(f"{len(problems)} problems" if problems else "all is well")
    _say(f"again: make soak MINUTES={given.minutes:g} SEED={seed}")
    return 1 if problems else 0


def _soak(mesh: RunningMesh, seconds: float, seed: int) -> list[Violation]:
    callers = Callers(mesh.supervisor.target("payment"), seed)
    world = World(mesh, callers, random.Random(seed))
    fastest = callers.fastest(_MEASURED_S, _CALLERS_AT_MOST)
    _say(f"without faults: {fastest:.0f} payments/s; load: {fastest / 2:.0f}/s")

    callers.begin(fastest / 2)
    fired = _faults(world, seconds)
    callers.end()
    problems = _come_to_rest(world)
    _say(_table("faults", fired))
    _say(_table("refusals", callers.refusals))
    _say(
        f"payments: {callers.begun} begun, {callers.acknowledged} acknowledged,"
        f" {callers.not_begun} not begun while too many waited; {len(callers.told)} calls"
    )
    problems += [Violation("I5", "", f"a caller was told {one}") for one in callers.surprises]
    problems += [Violation("I3", "", f"not where it must end: {one}") for one in strange_ends(mesh)]
    problems += _checked(mesh, callers, "after the faults")

    first = night.without_differences(mesh)
    _say(_told(first))
    callers.pay(_PAID_FOR_THE_SECOND_DAY)
    problems += _come_to_rest(world)
    second = night.with_seeded_ones(mesh, first.day)
    _say(_told(second))
    problems += [*first.violations, *second.violations]
    problems += _checked(mesh, callers, "after the nights")
    problems += left_behind(Urls.of(mesh.databases), stopped=False)
    return problems + _stop(mesh)


def _faults(world: World, seconds: float) -> Counter[str]:
    """A fault every few seconds. Each kind comes once before any comes again."""
    fired: Counter[str] = Counter()
    started_s = said_s = time.monotonic()
    kinds: list[str] = []
    while time.monotonic() < started_s + seconds:
        world.wait(world.chance.uniform(*_PAUSE_S))
        world.wait_for_postgres()
        kinds = kinds or world.chance.sample(list(KINDS), len(KINDS))
        kind = kinds.pop()
        told = KINDS[kind](world)
        fired[kind] += 1
        at_s = time.monotonic() - started_s
        _say(f"{at_s:6.1f} s  {kind} {told}".rstrip() + f"  ({world.callers.waiting} waiting)")
        if time.monotonic() > said_s + _SAID_EVERY_S:
            said_s = time.monotonic()
            callers = world.callers
            _say(f"{at_s:6.1f} s  {callers.acknowledged} acknowledged of {callers.begun} begun")
    return fired


def _come_to_rest(world: World) -> list[Violation]:
    """Waits until all callers were told and all payments rest, or gives up."""
    started_s = time.monotonic()
    while (waits := world.callers.waiting) or world.mesh.unsettled():
        if time.monotonic() > started_s + RESTS_WITHIN_S:
            waiting = f"{waits} callers still wait after {RESTS_WITHIN_S:.0f} s"
            return [Violation("I7", "", waiting), *world.mesh.unsettled()]
        world.wait(0.2)
    _say(f"at rest {time.monotonic() - started_s:.1f} s after the last fault")
    return []


def _checked(mesh: RunningMesh, callers: Callers, when: str) -> list[Violation]:
    started_s = time.monotonic()
    found = check(Urls.of(mesh.databases), callers.told)
    payments = mesh.count("payment", "SELECT count(*) FROM payment")
    captured = mesh.count("psp_stub", "SELECT count(*) FROM truth WHERE state = 'CAPTURED'")
    parked = mesh.count("payment", "SELECT count(*) FROM payment_order WHERE state = 11")
    _say(
        f"{when}: {payments} payments, {captured} captures, {parked} orders parked,"
        f" {len(found)} violations, checked in {time.monotonic() - started_s:.1f} s"
    )
    return found


def _stop(mesh: RunningMesh) -> list[Violation]:
    """Has the services end as they are told to; PostgreSQL stays, to be looked at."""
    found = []
    for service in (each for services in DRAIN_ORDER for each in services):
        pid = mesh.supervisor.pid(service)
        os.kill(pid, signal.SIGTERM)
        # Looked at and left to the supervisor, whose child it is.
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        if ended is None or (ended.si_code, ended.si_status) != (os.CLD_EXITED, 0):
            found.append(Violation("I10", "", f"{service} did not end well: {ended}"))
    return found + left_behind(Urls.of(mesh.databases), stopped=True)


def _told(one: night.Night) -> str:
    counts = {int(getattr(each, "class")): each.breaks for each in one.run.counts}
    return (
        f"night of {one.day}: {one.run.lines} lines, {one.run.matched} matched, differences by"
        f" class {counts or 'none'}, {len(one.violations)} violations"
    )


def _settings(settings: Mapping[str, object]) -> str:
    shown = {"executor_key_window_s": 86_400, "psp_stub_key_memory_s": 86_400, **settings}
    return ", ".join(f"{name}={value}" for name, value in sorted(shown.items()))


def _table(name: str, counts: Counter[str]) -> str:
    lines = [f"{name}: {counts.total()} of {len(counts)} kinds"]
    return "\n".join(lines + [f"  {count:6d}  {kind}" for kind, count in counts.most_common()])


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
