"""All rules, and how they are tried."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from itertools import chain
from typing import NamedTuple

import grpc

from tests.conformance.about import about, deadlines
from tests.conformance.adapter import Adapter, connected
from tests.conformance.amounts import money, outcomes
from tests.conformance.keys import keys
from tests.conformance.lists import items, lists
from tests.conformance.lookups import lookups
from tests.conformance.lost import lost, pending
from tests.conformance.options import Options
from tests.conformance.rule import NotKept, NotTried, Result, Rule, Verdict

RULES: tuple[Rule, ...] = tuple(
    chain(about, keys, lookups, lists, items, lost, pending, money, outcomes, deadlines)
)


def named(names: Collection[str]) -> list[Rule]:
    """The rules of these names, or of groups of these names; all for none.

    Raises ValueError for a name that is neither.
    """
    groups = {rule.name.partition(".")[0] for rule in RULES}
    strange = sorted(set(names) - groups - {rule.name for rule in RULES})
    if strange:
        raise ValueError(f"there is no rule or group {', '.join(strange)}")
    return [
        rule
        for rule in RULES
        if not names or rule.name in names or rule.name.partition(".")[0] in names
    ]


class Trial(NamedTuple):
    """A run. source: the adapter's own name; "" if it does not tell it."""

    target: str
    source: str
    results: list[Result]


async def run(target: str, options: Options, rules: Sequence[Rule] = RULES) -> Trial:
    """Tries the rules on the adapter at `target`. Results are in their order.

    Raises CannotRun.
    """
    room = asyncio.Semaphore(options.parallel)

    async def one(rule: Rule, adapter: Adapter) -> Result:
        async with room:
            return await attempt(rule, adapter)

    async with connected(target, options) as adapter, asyncio.TaskGroup() as group:
        # Those that wait first, so that the others fill the time.
        tasks = {
            rule: group.create_task(one(rule, adapter))
            for rule in sorted(rules, key=lambda rule: not rule.waits)
        }
    return Trial(target, adapter.capabilities.source, [tasks[rule].result() for rule in rules])


async def attempt(rule: Rule, adapter: Adapter) -> Result:
    """What becomes of one rule."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        verdict, seen = Verdict.KEPT, await rule.check(adapter)
    except NotKept as broken:
        verdict, seen = Verdict.NOT_KEPT, str(broken)
    except NotTried as reason:
        verdict, seen = Verdict.NOT_TRIED, str(reason)
    except grpc.aio.AioRpcError as error:
        verdict, seen = Verdict.NOT_KEPT, f"a call failed: {error.code().name}"
    return Result(rule, verdict, seen, loop.time() - began)
