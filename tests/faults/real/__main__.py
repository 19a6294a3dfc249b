"""`python -m tests.faults.real --pairs 500`: every single fault and a sample of pairs."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from tests.faults.real.campaign import Campaign, Outcome, campaign, pairs, singles
from tests.faults.real.inside import Fault

_SAID_EVERY = 50


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs them. Exit code 1: something broke an invariant, or a fault did not happen."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.real", description=main.__doc__)
    parser.add_argument("--pairs", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--only", action="append", default=[], help="KIND POINT#NTH, in their order"
    )
    given = parser.parse_args(arguments)
    started_s = time.monotonic()
    with campaign() as running:
        points = running.points()
        _say(f"{len(points)} moments: {', '.join(f'{point}#{nth}' for point, nth in points)}")
        only = tuple(map(_fault, given.only))
        wanted = (
            iter([only]) if only else chain(singles(points), pairs(points, given.pairs, given.seed))
        )
        outcomes = list(_run(running, wanted))
    _say(
        f"{len(outcomes)} scenarios, of which {sum(one.is_whole for one in outcomes)} had all their"
        f" faults, in {time.monotonic() - started_s:.0f} s; {sum(map(is_wrong, outcomes))} failures"
    )
    return 1 if any(map(is_wrong, outcomes)) else 0


def is_wrong(outcome: Outcome) -> bool:
    """Whether it broke something, or proves nothing. What a second fault waits for may not come:
    the first one may have made it superfluous."""
    return bool(outcome.violations) or not outcome.fired


def _run(running: Campaign, wanted: Iterable[tuple[Fault, ...]]) -> Iterator[Outcome]:
    for number, faults in enumerate(wanted, start=1):
        outcome = running.run(faults)
        if is_wrong(outcome):
            names = " ".join(f"--only '{_named(fault)}'" for fault in faults)
            _say(f"✗ python -m tests.faults.real {names}")
            _say(f"  {outcome.fired} of {len(faults)} happened")
            for one in outcome.violations:
                _say(f"  {one.invariant} {one.payment_id} {one.text}")
        if number % _SAID_EVERY == 0:
            _say(f"{number} scenarios")
        yield outcome


def _fault(name: str) -> Fault:
    first, _, rest = name.partition(" ")
    point, _, nth = rest.partition("#")
    return Fault(point, first, int(nth or 1))


def _named(fault: Fault) -> str:
    return f"{fault.kind} {fault.point}#{fault.nth}"


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
