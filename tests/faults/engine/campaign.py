"""Flow by flow: what is passed when nothing fails, every single fault, and then more."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tests.faults.engine import plan
from tests.faults.engine.crew import Crew
from tests.faults.engine.faults import Scenario
from tests.faults.engine.run import Result

EXHAUSTIVE = "one-order"
"""The flow of which every ordered pair is run."""
SAMPLED = ("three-orders", "charged-then-silence", "night")
PAIRS_SAMPLED = 3_000
"""Of each of those flows; where all of theirs are run, of each of the others."""
PAIRS_OF_OTHERS = 300
"""Of each of the flows that differ in what the PSP does alone: there, every single fault is one
that comes with a fault of the PSP."""
_RUNS_WITHOUT_FAULT = 24
_TRIES_OF_SINGLES = 12
"""What 24 runs passed may still be chance, and missed a few times."""
_PROGRESS_S = 30.0

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Asked:
    """How much to run. pairs: how many of a flow at most; None is all of them.

    part: of the pairs and triples only the first of so many parts, or another one.
    """

    flows: Sequence[str]
    pairs: Mapping[str, int | None]
    triples: int = 0
    seed: int = 1
    part: tuple[int, int] = (1, 1)


def usual(flow: str) -> int | None:
    """How many pairs of a flow `make faults` runs."""
    if flow == EXHAUSTIVE:
        return None
    return PAIRS_SAMPLED if flow in SAMPLED else PAIRS_OF_OTHERS


def most(flow: str) -> int | None:
    """How many pairs of a flow `make faults-all` runs."""
    return None if flow in (EXHAUSTIVE, *SAMPLED) else PAIRS_SAMPLED


@dataclass(slots=True)
class Done:
    """What was run of a flow. points: its passages when nothing fails."""

    flow: str
    points: Counter[str]
    singles: list[Result] = field(default_factory=list)
    pairs: list[Result] = field(default_factory=list)
    triples: list[Result] = field(default_factory=list)
    pairs_in_all: int = 0
    seconds: float = 0.0

    @property
    def results(self) -> list[Result]:
        """All scenarios with a fault."""
        return [*self.singles, *self.pairs, *self.triples]


async def run(asked: Asked, say: Say) -> tuple[list[Done], int]:
    """Runs all that is asked for; tells as well how many workers were replaced."""
    async with Crew() as crew:
        return [await _run(crew, flow, asked, say) for flow in asked.flows], crew.replaced


async def _run(crew: Crew, flow: str, asked: Asked, say: Say) -> Done:
    started = time.monotonic()
    quiet = await crew.run_each([Scenario(flow)] * _RUNS_WITHOUT_FAULT)
    done = Done(flow, plan.always(passed for result in quiet for passed in result.passed))
    done.singles = await crew.run(
        plan.singles(flow, done.points), _Progress(say, f"{flow}, one"), tries=_TRIES_OF_SINGLES
    )
    pairs = [pair for r in done.singles if r.all_fired for pair in _more(r)]
    done.pairs_in_all = len(pairs)
    pairs = plan.part(pairs, *asked.part)
    most = asked.pairs[flow]
    if most is not None:
        pairs = plan.sample(pairs, most, asked.seed)
    done.pairs = await crew.run(pairs, _Progress(say, f"{flow}, two of {len(pairs)}"))
    if asked.triples and flow == EXHAUSTIVE:
        triples = plan.sample(
            (triple for r in done.pairs if r.all_fired for triple in _more(r)),
            asked.triples // asked.part[1],
            asked.seed,
        )
        done.triples = await crew.run(triples, _Progress(say, f"{flow}, three of {len(triples)}"))
    done.seconds = time.monotonic() - started
    return done


def _more(result: Result) -> list[Scenario]:
    return plan.followed(result.scenario, result.passed[-1])


class _Progress:
    """Says each failure at once, and from time to time how far it is."""

    def __init__(self, say: Say, what: str) -> None:
        self._say = say
        self._what = what
        self._count = 0
        self._next = time.monotonic() + _PROGRESS_S

    def __call__(self, result: Result) -> None:
        self._count += 1
        if result.problems:
            self._say(f"FAILED {result.scenario}: {result.problems[0].strip().splitlines()[-1]}")
        if time.monotonic() > self._next:
            self._next = time.monotonic() + _PROGRESS_S
            self._say(f"{self._what} fault(s) at a time: {self._count} scenarios")
