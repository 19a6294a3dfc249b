"""Adapters that are broken in one way each are found out, by the rule's name and no other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest

from tests.conformance import (
    broken_about,
    broken_amounts,
    broken_keys,
    broken_lists,
    broken_lookups,
    broken_lost,
)
from tests.conformance.broken import Broken
from tests.conformance.kit import RULES, named, run
from tests.conformance.options import Options
from tests.conformance.proxy import Proxy
from tests.conformance.rule import Rule, Verdict
from tests.support.postgres import PostgresServer
from tests.support.psp_stub import own_database, serving

if TYPE_CHECKING:
    from paymesh.psp.v1.psp_service_pb2_grpc import PspServiceAsyncStub

OPTIONS = Options(
    list_length=150, deadline_s=2.0, look_up_deadline_s=1.5, hang_s=1.0, evidence_s=2.0,
    pending_s=2.0, key_memory_s=2.0, parallel=12,
)  # fmt: skip
FORGETFUL = ("keys.window", "lookup.forgotten")


# They cost more than all others together.
LONG = ("lists.long", "lookup.long_list", "deadlines.charge", "deadlines.look_up")
# Beside the groups in which an adapter breaks a rule: that it keeps others.
OTHERS = (
    *("about.source", "keys.repeated", "lookup.captured", "lists.none_missing"),
    *("items.zero_amount", "lost.error_captured", "money.two_decimals", "outcomes.reference"),
)

MODULES = (broken_about, broken_keys, broken_lookups, broken_lists, broken_lost, broken_amounts)
ADAPTERS: list[type[Broken]] = [
    adapter
    for module in MODULES
    for adapter in vars(module).values()
    if isinstance(adapter, type)
    and adapter.__module__ == module.__name__
    and issubclass(adapter, Broken)
    and adapter.breaks
]


@pytest.fixture(scope="module")
async def stub(postgres_server: PostgresServer) -> AsyncIterator[PspServiceAsyncStub]:
    """The stub that remembers."""
    url = own_database(postgres_server)
    async with serving(url, slow_ms=600, pending_ms=1_000) as stub:
        yield stub


@pytest.fixture(scope="module")
async def forgetful_stub(postgres_server: PostgresServer) -> AsyncIterator[PspServiceAsyncStub]:
    """The stub that forgets a key after key_memory_s."""
    async with serving(own_database(postgres_server), key_memory_s=OPTIONS.key_memory_s) as stub:
        yield stub


@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda adapter: adapter.__name__)
async def test_a_broken_adapter_is_found_out_by_the_rules_that_it_breaks(
    stub: PspServiceAsyncStub, forgetful_stub: PspServiceAsyncStub, adapter: type[Broken]
) -> None:
    forgets = adapter.breaks[0] in FORGETFUL
    groups = {name.partition(".")[0] for name in adapter.breaks}
    beside = [] if forgets else [rule for rule in named([*groups, *OTHERS]) if is_cheap(rule)]
    rules = [rule for rule in RULES if rule.name in adapter.breaks or rule in beside]
    broken = await not_kept(adapter(forgetful_stub if forgets else stub), rules)
    assert broken.keys() == set(adapter.breaks), broken


def is_cheap(rule: Rule) -> bool:
    return not rule.waits and rule.name not in LONG


async def not_kept(adapter: Proxy, rules: list[Rule]) -> dict[str, str]:
    """By name, the rules that are not kept, and what was seen of them."""
    async with adapter.serving() as target:
        trial = await run(target, OPTIONS, rules)
    return {
        result.rule.name: result.seen
        for result in trial.results
        if result.verdict is Verdict.NOT_KEPT
    }


def test_every_rule_has_an_adapter_that_breaks_it() -> None:
    assert {adapter.breaks[0] for adapter in ADAPTERS} == {rule.name for rule in RULES}
