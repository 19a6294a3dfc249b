"""Which scenarios there are: from what was really passed, so that no point is forgotten."""

from __future__ import annotations

import random
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import reduce

from tests.faults.engine.faults import Fault, Scenario, kinds_at
from tests.faults.engine.flows import FLOWS

BACKGROUND = frozenset({"payment.take", "payment.renew_epoch", "payment.attention"})
"""Passed from time to time although nobody asks for anything."""
# Passed again and again for as long as anything lasts: the next passage is like the one before.
_RECURRING = BACKGROUND | {"client>payment CreatePayment"}
_MOST_PASSAGES = 3
_MOST_PASSAGES_LATER = 2


def singles(flow: str, passed: Mapping[str, int]) -> list[Scenario]:
    """Every fault at every passage of a flow. `passed`: its points when nothing fails."""
    return [Scenario(flow, (fault,)) for fault in _faults(flow, passed, _MOST_PASSAGES)]


def followed(scenario: Scenario, passed: Mapping[str, int]) -> list[Scenario]:
    """The scenario and one more fault, at all that it passed after its last one."""
    return [
        Scenario(scenario.flow, (*scenario.faults, fault))
        for fault in _faults(scenario.flow, passed, _MOST_PASSAGES_LATER)
    ]


def sample(scenarios: Iterable[Scenario], most: int, seed: int) -> list[Scenario]:
    """At most so many of them, the same ones for the same seed."""
    every = sorted(scenarios, key=str)
    return every if len(every) <= most else random.Random(seed).sample(every, most)


def part(scenarios: Iterable[Scenario], number: int, of: int) -> list[Scenario]:
    """Those that belong to one of so many parts, numbered from 1: each to the same one ever."""
    return [one for one in scenarios if zlib.crc32(str(one).encode()) % of == number - 1]


def always(passages: Iterable[Mapping[str, int]]) -> Counter[str]:
    """What was passed in each of several runs: the rest was chance.

    And what recurs, which a short run may miss.
    """
    runs = [Counter(passed) for passed in passages]
    common = reduce(Counter.__and__, runs)
    for point in _RECURRING:
        if any(point in passed for passed in runs):
            common[point] = max(common[point], 1)
    return common


def _faults(flow: str, passed: Mapping[str, int], most: int) -> Iterator[Fault]:
    spared = FLOWS[flow].spared
    for point, times in sorted(passed.items()):
        for nth in range(1, 1 + min(times, 1 if point in _RECURRING else most)):
            for kind in kinds_at(point):
                if (point, kind) not in spared:
                    yield Fault(point, nth, kind)
