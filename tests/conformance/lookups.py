"""Rules: what a look-up by our own keys tells."""

from __future__ import annotations

import asyncio
from collections import Counter

from tests.conformance import answers
from tests.conformance.adapter import Adapter
from tests.conformance.rule import Group, NotKept, NotTried

lookups = Group("lookup")


@lookups.rule(
    "captured",
    holds="a captured key is found at once, with the same amount and reference",
    why="a look-up is how the mesh learns of a capture whose answer was lost",
)
async def captured(adapter: Adapter) -> str:
    item = adapter.item()
    first = await adapter.capture(item)
    found = await adapter.look_up_one(item)
    answers.same_capture(first, found, "the look-up")
    return answers.shown(found)


@lookups.rule(
    "declined",
    holds="a declined key is found as declined, with the same category and code",
    why="else a definite no stays UNKNOWN, and the order hangs until a person looks at it",
)
async def declined(adapter: Adapter) -> str:
    item = adapter.scripted("declined")
    outcome = await adapter.charge_one(item)
    if answers.kind(outcome) != "declined":
        raise NotTried(f"{item.payment_method!r} was not declined: {answers.shown(outcome)}")
    found = await adapter.look_up_one(item)
    told = answers.declined(found, "the look-up")
    if (told.category, told.code) != (outcome.declined.category, outcome.declined.code):
        raise NotKept(f"{answers.shown(outcome)}, by the look-up {answers.shown(found)}")
    return answers.shown(found)


@lookups.rule(
    "pending",
    holds="a key that is pending is found as pending",
    why="an end that is told too early is booked, or given up, and is never left again",
)
async def pending(adapter: Adapter) -> str:
    item = adapter.scripted("pending_success")
    outcome = await adapter.charge_one(item)
    answers.recognised(outcome, item.payment_method)
    if answers.kind(outcome) != "pending":
        raise NotTried(f"the charge was not pending: {answers.shown(outcome)}")
    found = await adapter.look_up_one(item)
    if answers.kind(found) == "pending":
        return "pending"
    again = await adapter.charge_one(item, "the charge after the look-up")
    if answers.kind(again) == answers.kind(found):
        raise NotTried(f"the charge had ended before the look-up: {answers.shown(found)}")
    raise NotKept(f"the look-up: {answers.shown(found)}, the charge: {answers.shown(again)}")


@lookups.rule(
    "never_used",
    holds="a key that was never used is `not_found`; neither declined nor an error",
    why="only `not_found` lets the mesh send again; a decline would end an order that was never "
    "tried",
)
async def never_used(adapter: Adapter) -> str:
    items = [adapter.item() for _ in range(3)]
    for found in await adapter.look_up(*items):
        if answers.kind(found) != "not_found":
            raise NotKept(f"a key that was never used: {answers.shown(found)}")
    return "not found"


@lookups.rule(
    "forgotten",
    holds="a key that the PSP has forgotten is `not_found`; neither declined nor an error",
    why="a forgotten capture told as declined sends the buyer to pay again",
    waits=True,
)
async def forgotten(adapter: Adapter) -> str:
    memory_s = adapter.options.key_memory_s
    if memory_s is None:
        raise NotTried("the sandbox remembers too long to wait for it: --key-memory-s")
    item = adapter.item()
    first = await adapter.capture(item)
    await asyncio.sleep(memory_s + 0.5)
    found = await adapter.look_up_one(item)
    if answers.kind(found) == "captured":
        answers.same_capture(first, found, "the look-up of an old key")
        raise NotTried(f"after {memory_s:g} s the key was still known")
    if answers.kind(found) != "not_found":
        raise NotKept(f"after {memory_s:g} s: {answers.shown(found)}, not `not_found`")
    return f"captured, and after {memory_s:g} s not found"


@lookups.rule(
    "each_key_once",
    holds="each key of a look-up is answered once, under its own name",
    why="a key that is left out stays UNKNOWN; one that is answered for another books its money",
)
async def each_key_once(adapter: Adapter) -> str:
    used, unused = [adapter.item() for _ in range(3)], [adapter.item() for _ in range(3)]
    await adapter.charge(*used)
    asked = [item.idempotency_key for pair in zip(used, unused, strict=True) for item in pair]
    told = Counter(result.idempotency_key for result in await adapter.results(*asked))
    missing = len([key for key in asked if not told[key]])
    repeated = len([key for key in asked if told[key] > 1])
    strange = len(told.keys() - set(asked))
    if missing or repeated or strange:
        raise NotKept(
            f"of {len(asked)} keys {missing} left out, {repeated} answered more than once; "
            f"{strange} answered that nobody asked for"
        )
    return f"{len(asked)} keys, {len(asked)} results"


@lookups.rule(
    "own_charge",
    holds="in a look-up of several keys each result tells of its own key's charge",
    why="a result under another key's name books another order's money",
)
async def own_charge(adapter: Adapter) -> str:
    items = [adapter.item() for _ in range(4)]
    call = await adapter.charge(*items)
    for item, found in zip(items, await adapter.look_up(*items), strict=True):
        first = answers.captured(call.first(item), "the charge")
        answers.same_capture(first, found, "the look-up of several keys")
    return f"{len(items)} keys, each with its own capture"


@lookups.rule(
    "changes_nothing",
    holds="a key that was looked up before its first use can be used",
    why="the mesh looks a key up before it sends it again: that must not use it up",
)
async def changes_nothing(adapter: Adapter) -> str:
    item = adapter.item()
    await adapter.look_up_one(item)
    first = await adapter.capture(item, "the charge after a look-up")
    answers.same_capture(first, await adapter.look_up_one(item), "the look-up after the charge")
    return "looked up, captured, found"


@lookups.rule(
    "long_list",
    holds="a look-up of a long list answers each key",
    why="after an outage the mesh looks up everything that was under way, in lists of 500",
)
async def long_list(adapter: Adapter) -> str:
    items = [adapter.item() for _ in range(adapter.options.list_length)]
    call = await adapter.charge(*items)
    found = await adapter.look_up(*items)
    for item, result in zip(items, found, strict=True):
        first = answers.captured(call.first(item), "the charge")
        answers.same_capture(first, result, "the look-up")
    return f"{len(found)} keys, each with its own capture"
