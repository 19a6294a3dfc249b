"""Rules: lists in, outcomes out as they come, and an error belongs to its item."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import grpc
from paymesh.psp.v1 import psp_service_pb2 as pb

from mesh.errors import Code, Reason
from mesh.money import MAX_AMOUNT_MINOR
from tests.conformance import answers
from tests.conformance.adapter import Adapter, Call
from tests.conformance.rule import Group, NotKept, NotTried

lists = Group("lists")
items = Group("items")

_BESIDE = 3
# What is slow must be slow enough that a busy machine is not taken for it.
_LEAST_SLOW_S = 0.4


async def _mixed(adapter: Adapter) -> Call:
    """Charges of different amounts, some declined where there is a token for it."""
    tokens = [adapter.options.tokens.ok] * 2 + [adapter.options.tokens.declined] * 1
    asked = [adapter.item(token) for token in tokens * 3]
    return await adapter.charge(*asked, to_end=True)


@lists.rule(
    "none_missing",
    holds="each item of a list is answered",
    why="an item that is left out waits for the deadline, and then climbs the ladder",
)
async def none_missing(adapter: Adapter) -> str:
    call = await _mixed(adapter)
    missing = sum(call.answered(item) is None for item in call.items)
    if missing:
        raise NotKept(f"{missing} of {len(call.items)} items left out; ended with {call.ended}")
    return f"{len(call.items)} items, all answered"


@lists.rule(
    "none_twice",
    holds="no item of a list is answered twice",
    why="the second of two outcomes is dropped unread: if it was the true one, it is lost",
)
async def none_twice(adapter: Adapter) -> str:
    call = await _mixed(adapter)
    told = Counter(heard.outcome.idempotency_key for heard in call.heard)
    twice = sum(told[item.idempotency_key] > 1 for item in call.items)
    if twice:
        raise NotKept(f"{twice} of {len(call.items)} items answered more than once")
    return f"{len(call.items)} items, {len(call.heard)} outcomes"


@lists.rule(
    "none_strange",
    holds="no outcome is of a key that the list does not hold",
    why="an outcome without its key can't be told from another order's",
)
async def none_strange(adapter: Adapter) -> str:
    call = await _mixed(adapter)
    ours = {item.idempotency_key for item in call.items}
    strange = [h.outcome for h in call.heard if h.outcome.idempotency_key not in ours]
    if strange:
        raise NotKept(f"{len(strange)} of {len(call.heard)} outcomes under keys nobody asked for")
    return f"{len(call.heard)} outcomes, all under our keys"


@lists.rule(
    "own_outcome",
    holds="each outcome is that of the item whose key it names, in whatever order they come",
    why="the mesh books what is told under a key as that order's money",
)
async def own_outcome(adapter: Adapter) -> str:
    call = await _mixed(adapter)
    heard = [(item, told.outcome) for item in call.items if (told := call.answered(item))]
    found = await adapter.look_up(*(item for item, _ in heard))
    for (item, outcome), result in zip(heard, found, strict=True):
        if {answers.kind(outcome), answers.kind(result)} == {"captured", "declined"}:
            raise NotKept(
                f"told under its key: {answers.shown(outcome)}, looked up: {answers.shown(result)}"
            )
        if answers.kind(outcome) == "captured":
            _is_not_anothers(item, outcome.captured, call)
    return f"{len(heard)} outcomes, each its own item's"


def _is_not_anothers(item: pb.ChargeItem, captured: pb.ChargeCaptured, call: Call) -> None:
    if captured.amount == item.amount:
        return
    if any(captured.amount == other.amount for other in call.items):
        raise NotKept(
            f"asked {answers.money(item.amount)}, told another item's "
            f"{answers.money(captured.amount)}"
        )


def _did_not_fail(call: Call, outcome: pb.ChargeOutcome) -> None:
    """That a call does not end at all is another rule's."""
    if call.code not in (None, grpc.StatusCode.OK):
        raise NotKept(f"{answers.shown(outcome)}, then the call ended with {call.ended}")


@lists.rule(
    "ends",
    holds="the call ends with OK when all items are answered",
    why="else each list holds a call open until its deadline",
)
async def ends(adapter: Adapter) -> str:
    call = await _mixed(adapter)
    if call.code is not grpc.StatusCode.OK:
        raise NotKept(f"{len(call.heard)} outcomes, then {call.ended}")
    return "OK"


@lists.rule(
    "slow_holds_up_nobody",
    holds="the outcome of a slow card does not hold up its neighbours' outcomes",
    why="thousands of orders travel together; the slowest card must not set their pace",
    waits=True,
)
async def slow_holds_up_nobody(adapter: Adapter) -> str:
    slow, beside = adapter.scripted("slow"), [adapter.item() for _ in range(_BESIDE)]
    call = await adapter.charge(slow, *beside, to_end=True)
    outcome = call.first(slow, "the slow card")
    answers.recognised(outcome, slow.payment_method)
    slow_s = max(heard.after_s for heard in call.all_of(slow))
    if slow_s < _LEAST_SLOW_S:
        raise NotTried(f"{slow.payment_method!r} was answered after {slow_s:.2f} s: not slow")
    last_s = 0.0
    for item in beside:
        call.first(item, "a card beside it")
        last_s = max(last_s, *(heard.after_s for heard in call.all_of(item)))
    if last_s > slow_s / 2:
        raise NotKept(f"the slow card after {slow_s:.2f} s, its neighbours after {last_s:.2f} s")
    return f"neighbours after {last_s:.2f} s, the slow card after {slow_s:.2f} s"


@lists.rule(
    "error_ends_no_list",
    holds="an item's error stands beside the item; its neighbours are answered and the call ends "
    "with OK",
    why="else one order's trouble makes the outcomes of all others UNKNOWN",
)
async def error_ends_no_list(adapter: Adapter) -> str:
    tokens = adapter.options.tokens
    wrong = adapter.item(tokens.error_captured or adapter.token("unavailable"))
    beside = [adapter.item() for _ in range(_BESIDE)]
    call = await adapter.charge(beside[0], wrong, *beside[1:], to_end=True)
    outcome = call.first(wrong, "the item with the error")
    answers.recognised(outcome, wrong.payment_method)
    if answers.kind(outcome) != "error":
        raise NotTried(f"the item had no error: {answers.shown(outcome)}")
    for item in beside:
        answers.captured(call.first(item, "an item beside it"), "an item beside it")
    _did_not_fail(call, outcome)
    return f"{answers.shown(outcome)}; {_BESIDE} neighbours captured"


@lists.rule(
    "long",
    holds="a long list is captured whole, each item once and under a reference of its own",
    why="the mesh sends what waits together, in lists of up to 500",
)
async def long(adapter: Adapter) -> str:
    asked = [adapter.item() for _ in range(adapter.options.list_length)]
    call = await adapter.charge(*asked, to_end=True)
    references: Counter[str] = Counter()
    for item in asked:
        outcome = call.first(item)
        references[answers.captured(outcome, "the charge").psp_reference] += 1
    shared = [count for reference, count in references.items() if reference and count > 1]
    if shared:
        raise NotKept(f"{sum(shared)} of {len(asked)} captures share their references")
    last_s = max(heard.after_s for heard in call.heard)
    return f"{len(asked)} items captured within {last_s:.2f} s"


# --- a bad item fails alone ------------------------------------------------------------

_BAD: tuple[tuple[str, str, frozenset[Reason], Callable[[pb.ChargeItem], None]], ...] = (
    (
        "zero_amount",
        "an amount of 0",
        frozenset({Reason.VALIDATION_FAILED}),
        lambda item: _set_amount(item, 0),
    ),
    (
        "negative_amount",
        "a negative amount",
        frozenset({Reason.VALIDATION_FAILED}),
        lambda item: _set_amount(item, -100),
    ),
    (
        "amount_too_large",
        "an amount above 10^15 - 1",
        frozenset({Reason.VALIDATION_FAILED}),
        lambda item: _set_amount(item, MAX_AMOUNT_MINOR + 1),
    ),
    (
        "unknown_currency",
        "a currency that ISO 4217 does not know",
        frozenset({Reason.UNKNOWN_CURRENCY, Reason.VALIDATION_FAILED}),
        lambda item: _set(item.amount, "currency_code", "ZZZ"),
    ),
    (
        "no_amount",
        "no amount",
        frozenset({Reason.VALIDATION_FAILED, Reason.UNKNOWN_CURRENCY}),
        lambda item: item.ClearField("amount"),
    ),
    (
        "no_payment_method",
        "no payment method",
        frozenset({Reason.VALIDATION_FAILED}),
        lambda item: _set(item, "payment_method", ""),
    ),
    (
        "malformed_id",
        "an operation_id that is none",
        frozenset({Reason.VALIDATION_FAILED}),
        lambda item: _set(item, "operation_id", "none"),
    ),
)


def _set_amount(item: pb.ChargeItem, amount_minor: int) -> None:
    item.amount.amount_minor = amount_minor


def _set(message: object, field: str, value: str) -> None:
    setattr(message, field, value)


async def _fails_alone(
    adapter: Adapter, reasons: frozenset[Reason], spoil: Callable[[pb.ChargeItem], None]
) -> str:
    before, bad, after = adapter.item(), adapter.item(), adapter.item()
    spoil(bad)
    call = await adapter.charge(before, bad, after, to_end=True)
    outcome = call.first(bad, "the bad item")
    answers.refused(outcome, Code.INVALID_ARGUMENT, reasons, "the bad item")
    for item in (before, after):
        answers.captured(call.first(item, "an item beside it"), "an item beside it")
    _did_not_fail(call, outcome)
    found = await adapter.look_up_one(bad)
    if answers.kind(found) != "not_found":
        raise NotKept(f"{answers.shown(outcome)}, and by the look-up {answers.shown(found)}")
    return f"{answers.shown(outcome)}; nothing taken, both neighbours captured"


def _add(
    name: str, what: str, reasons: frozenset[Reason], spoil: Callable[[pb.ChargeItem], None]
) -> None:
    @items.rule(
        name,
        holds=f"an item with {what} fails alone, with INVALID_ARGUMENT and a typed reason; "
        "nothing is taken",
        why="without the reason it is not known whether the money was taken; and one bad item "
        "must not fail its neighbours",
    )
    async def check(adapter: Adapter) -> str:
        return await _fails_alone(adapter, reasons, spoil)


for _bad in _BAD:
    _add(*_bad)
