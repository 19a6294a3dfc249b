"""Rules: answers that do not come, come late, or come as an error."""

from __future__ import annotations

import asyncio

from paymesh.psp.v1 import psp_service_pb2 as pb

from tests.conformance import answers
from tests.conformance.adapter import Adapter
from tests.conformance.rule import Group, NotKept, NotTried

lost = Group("lost")
pending = Group("pending")

_RESENDS = 5
_GIVE_UP_S = 0.2
_MOST_S = 10.0


async def _captured_once(adapter: Adapter, item: pb.ChargeItem, first: pb.ChargeCaptured) -> None:
    """Raises NotKept unless call and look-up go on telling of this capture."""
    again = await adapter.charge_one(item, "the same charge again")
    answers.same_capture(first, again, "the same charge again")
    answers.same_capture(first, await adapter.look_up_one(item), "the look-up after that")


@lost.rule(
    "timeout_captured",
    holds="a charge that was captured without an answer is found as captured, and sending it "
    "again takes nothing more; its neighbours are answered meanwhile",
    why="a time-out is not a decline: the buyer has paid",
    waits=True,
)
async def timeout_captured(adapter: Adapter) -> str:
    item, neighbour = adapter.scripted("timeout_captured"), adapter.item()
    call = await adapter.unanswered(item, neighbour)
    answers.captured(call.first(neighbour, "the item beside it"), "the item beside it")
    first = answers.captured(await adapter.evidence(item), "the look-up after the time-out")
    await _captured_once(adapter, item, first)
    return f"no answer; {answers.money(first.amount)} found, captured once"


@lost.rule(
    "timeout_nothing",
    holds="a charge that was not answered and did nothing is `not_found`, and sending it again "
    "captures it once",
    why="else an order that was only unlucky is never paid",
    waits=True,
)
async def timeout_nothing(adapter: Adapter) -> str:
    item = adapter.scripted("timeout_nothing")
    await adapter.unanswered(item)
    found = await adapter.look_up_one(item)
    if answers.kind(found) == "captured":
        raise NotTried("the charge was captured all the same")
    if answers.kind(found) != "not_found":
        raise NotKept(f"the look-up after the time-out: {answers.shown(found)}, not `not_found`")
    first = await adapter.capture(item, "the charge sent again")
    await _captured_once(adapter, item, first)
    return f"no answer, not found; sent again, {answers.money(first.amount)} captured once"


@lost.rule(
    "error_captured",
    holds="a charge that was captured and answered with an error is found as captured, and "
    "sending it again takes nothing more; the error does not say that nothing was taken",
    why="an error of the PSP is no evidence: the buyer may have paid",
)
async def error_captured(adapter: Adapter) -> str:
    item = adapter.scripted("error_captured")
    outcome = await adapter.charge_one(item)
    answers.recognised(outcome, item.payment_method)
    if answers.kind(outcome) == "captured":
        raise NotTried("the charge was answered with its capture")
    answers.unknown(outcome, "the charge")
    first = answers.captured(await adapter.evidence(item), "the look-up after the error")
    await _captured_once(adapter, item, first)
    return f"{answers.shown(outcome)}; {answers.money(first.amount)} found, captured once"


@lost.rule(
    "unavailable",
    holds="a charge that the PSP was not there for is answered with an error that leaves it "
    "open; sent again until the PSP is there, it is captured once",
    why="a refusal or a decline here would end an order that was never tried",
)
async def unavailable(adapter: Adapter) -> str:
    item = adapter.scripted("unavailable")
    outcome = await adapter.charge_one(item)
    answers.recognised(outcome, item.payment_method)
    errors = 0
    while answers.kind(outcome) != "captured" and errors < _RESENDS:
        answers.unknown(outcome, "the charge")
        found = await adapter.look_up_one(item)
        if answers.kind(found) not in ("not_found", "captured"):
            raise NotKept(f"{answers.shown(outcome)}, by the look-up {answers.shown(found)}")
        errors += 1
        outcome = await adapter.charge_one(item, f"the call after {errors} errors")
    if not errors:
        raise NotTried("the first call was answered with a capture")
    first = answers.captured(outcome, f"the call after {errors} errors")
    await _captured_once(adapter, item, first)
    return f"{errors} errors, then {answers.money(first.amount)} captured once"


@lost.rule(
    "caller_went_away",
    holds="a charge whose caller gave up before its answer, and called again, is captured once",
    why="calls are given up at every restart of the mesh, while the PSP is at work",
    waits=True,
)
async def caller_went_away(adapter: Adapter) -> str:
    item = adapter.scripted("slow")
    call = await adapter.charge(item, deadline_s=_GIVE_UP_S)
    heard = call.answered(item)
    if heard is not None:
        answers.recognised(heard.outcome, item.payment_method)
        raise NotTried(f"the charge was answered within {_GIVE_UP_S} s: not slow")
    loop = asyncio.get_running_loop()
    began = loop.time()
    outcome = await adapter.charge_one(item, "the second call")
    answers.recognised(outcome, item.payment_method)
    first = answers.captured(outcome, "the second call")
    # What the first call may still do is done after as long again.
    await asyncio.sleep(min(loop.time() - began, _MOST_S))
    answers.same_capture(first, await adapter.look_up_one(item), "the look-up some time later")
    await _captured_once(adapter, item, first)
    return f"given up after {_GIVE_UP_S} s, sent again, captured once"


@lost.rule(
    "hang_holds_up_nobody",
    holds="while one call hangs, another one is answered",
    why="a card that never answers must not stop the charges of everybody else",
    waits=True,
)
async def hang_holds_up_nobody(adapter: Adapter) -> str:
    token = adapter.options.tokens.timeout_nothing or adapter.token("timeout_captured")
    item, other = adapter.item(token), adapter.item()
    hanging = asyncio.ensure_future(adapter.charge(item))
    try:
        await asyncio.sleep(_GIVE_UP_S)
        call = await adapter.charge(other, deadline_s=adapter.options.deadline_s / 2)
        if hanging.done():
            raise NotTried("the call that should hang was over before the other one")
    finally:
        hanging.cancel()
        await asyncio.wait([hanging])
    heard = call.answered(other)
    if heard is None:
        raise NotKept(f"the other call was not answered while one hung: {call.ended}")
    return f"answered after {heard.after_s:.2f} s, beside a call that hung"


async def _ends_as(adapter: Adapter, item: pb.ChargeItem, ending: str) -> str:
    outcome = await adapter.charge_one(item)
    answers.recognised(outcome, item.payment_method)
    if answers.kind(outcome) != "pending":
        raise NotTried(f"the charge was not pending: {answers.shown(outcome)}")
    again = await adapter.charge_one(item, "the same charge again")
    if answers.kind(again) not in ("pending", ending):
        raise NotKept(f"pending, then the same charge again: {answers.shown(again)}")
    found = await adapter.ending(item)
    if answers.kind(found) != ending:
        raise NotKept(f"pending, then by the look-up {answers.shown(found)}, not {ending}")
    if ending == "captured":
        await _captured_once(adapter, item, found.captured)
    else:
        answers.declined(await adapter.charge_one(item), "the same charge at the end")
        answers.declined(await adapter.look_up_one(item), "the look-up after the end")
    return f"pending, then {answers.shown(found)}"


@pending.rule(
    "captured",
    holds="a pending charge that ends well is found as captured in the end, captured once, and "
    "stays so",
    why="the mesh waits for it with the order PROCESSING, and books what it is told at last",
    waits=True,
)
async def pending_captured(adapter: Adapter) -> str:
    return await _ends_as(adapter, adapter.scripted("pending_success"), "captured")


@pending.rule(
    "declined",
    holds="a pending charge that fails is found as declined in the end, and stays so",
    why="an order that will never be paid must not stay PROCESSING, nor be booked",
    waits=True,
)
async def pending_declined(adapter: Adapter) -> str:
    return await _ends_as(adapter, adapter.scripted("pending_failure"), "declined")
