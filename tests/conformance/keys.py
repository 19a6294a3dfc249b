"""Rules: what a key stands for, and for how long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from paymesh.psp.v1 import psp_service_pb2 as pb

from mesh.errors import Code, Reason
from mesh.status import from_status
from tests.conformance import answers
from tests.conformance.adapter import Adapter
from tests.conformance.rule import Group, NotKept, NotTried

keys = Group("keys")

_CONCURRENT_CALLS = 8
# The executor itself stops at a half.
_WINDOW_SHARE = 0.75
_LONGEST_WAIT_S = 60.0


@keys.rule(
    "repeated",
    holds="the same charge under the same key again answers with the first capture",
    why="after a time-out the mesh sends a key again; a second capture charges the buyer twice",
)
async def repeated(adapter: Adapter) -> str:
    item = adapter.item()
    first = await adapter.capture(item)
    for call in ("second", "third"):
        again = await adapter.charge_one(item, f"the {call} call")
        answers.same_capture(first, again, f"the {call} call")
    answers.same_capture(first, await adapter.look_up_one(item), "the look-up after three calls")
    return f"three calls, one capture: {first.psp_reference or 'without a reference'}"


@keys.rule(
    "repeated_decline",
    holds="a declined charge under the same key again is declined again",
    why="a decline is final; the order may be paid otherwise, and a late capture charges twice",
)
async def repeated_decline(adapter: Adapter) -> str:
    item = adapter.scripted("declined")
    first = await adapter.charge_one(item)
    if answers.kind(first) != "declined":
        raise NotTried(f"{item.payment_method!r} was not declined: {answers.shown(first)}")
    again = answers.declined(await adapter.charge_one(item, "the second call"), "the second call")
    if (again.category, again.code) != (first.declined.category, first.declined.code):
        raise NotKept(f"{answers.shown(first)}, then another decline with code {again.code!r}")
    return f"twice {answers.shown(first)}"


async def _refuses(adapter: Adapter, change: Callable[[pb.ChargeItem], None], *, what: str) -> str:
    """A key that was captured is used again for a changed charge."""
    item, neighbour = adapter.item(), adapter.item()
    first = await adapter.capture(item)
    other = pb.ChargeItem()
    other.CopyFrom(item)
    change(other)
    call = await adapter.charge(other, neighbour)
    outcome = call.first(other, f"the key with another {what}")
    answers.refused(
        outcome, Code.ALREADY_EXISTS, {Reason.OPERATION_CONFLICT}, f"the key with another {what}"
    )
    answers.captured(call.first(neighbour, "the item beside it"), "the item beside it")
    answers.same_capture(first, await adapter.look_up_one(item), "the look-up after the refusal")
    again = await adapter.charge_one(item, "the first charge again")
    answers.same_capture(first, again, "the first charge again")
    named = from_status(outcome.error).metadata.get("fields", "")
    return f"refused as OPERATION_CONFLICT{f' naming {named}' if named else ''}; captured once"


_WHY_REFUSED = (
    "an answer for other fields would be booked as if it were this charge's; a capture for them "
    "would be one that nobody knows of"
)


@keys.rule(
    "other_amount",
    holds="a used key with another amount is refused as OPERATION_CONFLICT; nothing is taken",
    why=_WHY_REFUSED,
)
async def other_amount(adapter: Adapter) -> str:
    def change(item: pb.ChargeItem) -> None:
        item.amount.amount_minor += 1_000

    return await _refuses(adapter, change, what="amount")


@keys.rule(
    "other_currency",
    holds="a used key with another currency is refused as OPERATION_CONFLICT; nothing is taken",
    why=_WHY_REFUSED,
)
async def other_currency(adapter: Adapter) -> str:
    currency = adapter.options.other_currency
    if not currency or not adapter.offers(currency):
        raise NotTried(f"the adapter does not charge {currency or 'another currency'}")

    def change(item: pb.ChargeItem) -> None:
        item.amount.currency_code = currency

    return await _refuses(adapter, change, what="currency")


@keys.rule(
    "other_payment_method",
    holds="a used key with another payment method is refused as OPERATION_CONFLICT; nothing is "
    "taken",
    why=_WHY_REFUSED,
)
async def other_payment_method(adapter: Adapter) -> str:
    token = adapter.token("declined")

    def change(item: pb.ChargeItem) -> None:
        item.payment_method = token

    return await _refuses(adapter, change, what="payment method")


@keys.rule(
    "other_order",
    holds="a used key with another order_id is refused as OPERATION_CONFLICT; nothing is taken",
    why="two orders would be settled by one capture; the settlement file names one of them only",
)
async def other_order(adapter: Adapter) -> str:
    order_id = adapter.item().order_id

    def change(item: pb.ChargeItem) -> None:
        item.order_id = order_id

    return await _refuses(adapter, change, what="order_id")


@keys.rule(
    "twice_in_a_list",
    holds="two equal charges under one key in one list are one capture",
    why="a list is no transaction: what holds for two calls holds for two items",
)
async def twice_in_a_list(adapter: Adapter) -> str:
    item, neighbour = adapter.item(), adapter.item()
    call = await adapter.charge(item, item, neighbour, to_end=True)
    first = answers.captured(call.first(item), "the first of two")
    told = [heard.outcome for heard in call.all_of(item)]
    for outcome in told:
        answers.same_capture(first, outcome, "the second of two")
    answers.captured(call.first(neighbour, "the item beside them"), "the item beside them")
    answers.same_capture(first, await adapter.look_up_one(item), "the look-up")
    return f"{len(told)} outcome{'s' if len(told) > 1 else ''}, one capture"


@keys.rule(
    "twice_with_other_amount",
    holds="of two different charges under one key in one list, one is captured and the other "
    "refused as OPERATION_CONFLICT",
    why="a list is no transaction: what holds for two calls holds for two items",
)
async def twice_with_other_amount(adapter: Adapter) -> str:
    item, neighbour = adapter.item(), adapter.item()
    other = pb.ChargeItem()
    other.CopyFrom(item)
    other.amount.amount_minor += 1_000
    call = await adapter.charge(item, other, neighbour, to_end=True)
    told = [heard.outcome for heard in call.all_of(item)]
    taken = [outcome for outcome in told if answers.kind(outcome) == "captured"]
    refusals = [outcome for outcome in told if answers.kind(outcome) != "captured"]
    if not taken or not refusals:
        heard = ", ".join(map(answers.shown, told)) or "nothing"
        raise NotKept(f"heard {heard}, not a capture and a refusal")
    for outcome in taken:
        answers.same_capture(taken[0].captured, outcome, "the other charge")
    for outcome in refusals:
        answers.refused(
            outcome, Code.ALREADY_EXISTS, {Reason.OPERATION_CONFLICT}, "the other charge"
        )
    answers.captured(call.first(neighbour, "the item beside them"), "the item beside them")
    answers.same_capture(taken[0].captured, await adapter.look_up_one(item), "the look-up")
    return "one captured, one refused as OPERATION_CONFLICT"


@keys.rule(
    "concurrent",
    holds="concurrent calls with one key capture once; each hears that capture, or an error "
    "that leaves it open",
    why="a replica that was taken for dead may still be calling when another one takes over",
)
async def concurrent(adapter: Adapter) -> str:
    item = adapter.item()
    calls = await asyncio.gather(*(adapter.charge(item) for _ in range(_CONCURRENT_CALLS)))
    found = answers.captured(await adapter.evidence(item), "the look-up afterwards")
    open_calls = 0
    for call in calls:
        outcome = call.first(item, "one of the calls")
        if answers.kind(outcome) == "error":
            answers.unknown(outcome, "one of the calls")
            open_calls += 1
        else:
            answers.same_capture(found, outcome, "one of the calls")
    again = await adapter.charge_one(item, "a later call")
    answers.same_capture(found, again, "a later call")
    return f"{_CONCURRENT_CALLS} calls, one capture, {open_calls} left open"


@keys.rule(
    "window",
    holds="a key is remembered for at least the key window of GetCapabilities",
    why="the mesh sends a key again within half of that window; forgotten, it is a new charge",
    waits=True,
)
async def window(adapter: Adapter) -> str:
    memory_s = adapter.options.key_memory_s
    if memory_s is None:
        raise NotTried("the sandbox remembers too long to wait for it: --key-memory-s")
    window_s = adapter.capabilities.key_window.ToMilliseconds() / 1000
    wait_s = min(window_s * _WINDOW_SHARE, memory_s + 0.5 if window_s > memory_s else window_s)
    if wait_s > _LONGEST_WAIT_S:
        raise NotTried(f"the key window of {window_s:g} s is too long to wait for")
    item = adapter.item()
    loop = asyncio.get_running_loop()
    began = loop.time()
    first = await adapter.capture(item)
    await asyncio.sleep(began + wait_s - loop.time())
    what = f"after {wait_s:g} s of {window_s:g}"
    answers.same_capture(first, await adapter.look_up_one(item), f"{what}, the look-up")
    answers.same_capture(first, await adapter.charge_one(item, what), f"{what}, the same charge")
    return f"{what} s the key is still known"
