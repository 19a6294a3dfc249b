"""Rules: amounts, fees, references and declines, as they are told."""

from __future__ import annotations

import re

from paymesh.payment.v1 import payment_pb2
from paymesh.psp.v1 import psp_service_pb2 as pb

from mesh.money import MAX_AMOUNT_MINOR, exponent
from tests.conformance import answers
from tests.conformance.adapter import Adapter
from tests.conformance.rule import Group, NotKept, NotTried

money = Group("money")
outcomes = Group("outcomes")

_ODD_MINOR = (1_235, 20_007)
_MAX_TEXT = 255
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


async def _exact(adapter: Adapter, *items: pb.ChargeItem) -> str:
    """What is asked is told, in the outcome and by the look-up."""
    call = await adapter.charge(*items)
    found = await adapter.look_up(*items)
    for item, result in zip(items, found, strict=True):
        outcome = call.first(item)
        if answers.kind(outcome) == "declined":
            raise NotTried(f"{answers.money(item.amount)} was {answers.shown(outcome)}")
        for told, what in ((outcome, "the outcome"), (result, "the look-up")):
            amount = answers.captured(told, what).amount
            if amount != item.amount:
                raise NotKept(
                    f"asked {answers.money(item.amount)}, {what} tells {answers.money(amount)}"
                )
    return ", ".join(answers.money(item.amount) for item in items) + " asked and told"


_WHY_EXACT = (
    "the mesh counts in ISO 4217's minor units and compares what was taken with what was asked: "
    "another amount parks the order, and a factor of 10 or 100 is real money"
)


def _currency(name: str, currency: str, decimals: str) -> None:
    @money.rule(
        name,
        holds=f"amounts of a currency with {decimals} ({currency}) come back exactly as sent",
        why=_WHY_EXACT,
    )
    async def check(adapter: Adapter) -> str:
        if not adapter.offers(currency):
            raise NotTried(f"the adapter does not charge {currency}")
        return await _exact(
            adapter, *(adapter.item(amount_minor=a, currency=currency) for a in _ODD_MINOR)
        )


_currency("no_decimals", "JPY", "no decimals")
_currency("two_decimals", "EUR", "two decimals")
_currency("three_decimals", "BHD", "three decimals")


@money.rule(
    "other_exponent",
    holds="amounts of currencies that the PSP counts otherwise than ISO 4217 come back exactly as "
    "sent",
    why=_WHY_EXACT,
)
async def other_exponent(adapter: Adapter) -> str:
    other = [
        currency
        for currency in adapter.capabilities.currencies
        if exponent(currency.currency_code) not in (None, currency.exponent)
    ]
    if not other:
        raise NotTried("the PSP counts each of its currencies as ISO 4217 does")
    return await _exact(
        adapter,
        *(adapter.item(amount_minor=1_200, currency=currency.currency_code) for currency in other),
    )


@money.rule(
    "largest",
    holds="amounts up to 10^15 - 1 come back exactly as sent",
    why="a float on the way, or 32 bits, would change them",
)
async def largest(adapter: Adapter) -> str:
    most = adapter.options.largest_minor
    told = await _exact(
        adapter, adapter.item(amount_minor=most - 2), adapter.item(amount_minor=most)
    )
    if most < MAX_AMOUNT_MINOR:
        return f"{told}; larger ones were not tried (--largest-minor)"
    return told


@outcomes.rule(
    "reference",
    holds="a capture tells the PSP's own reference, at most 255 characters and none of them a "
    "control character, another one for each capture",
    why="it is what a person asks the PSP about, and what settlement is matched by; the executor "
    "leaves control characters out, and then it is another one than the PSP's",
)
async def reference(adapter: Adapter) -> str:
    items = [adapter.item() for _ in range(3)]
    call = await adapter.charge(*items)
    told = [answers.captured(call.first(item), "the charge").psp_reference for item in items]
    for text in told:
        if not text:
            raise NotKept("a capture without a reference")
        if len(text) > _MAX_TEXT or _CONTROL.search(text):
            raise NotKept(f"a reference of {len(text)} characters, or with a control character")
    if len(set(told)) < len(told):
        raise NotKept(f"{len(told)} captures, {len(set(told))} references: {told[0]!r}")
    return f"for example {told[0]!r}"


@outcomes.rule(
    "fee",
    holds="a fee, where it is told with a capture, is not negative, in a currency of ISO 4217, "
    "and the same whenever it is told",
    why="it is booked with the capture; what can't be booked is left to settlement",
)
async def fee(adapter: Adapter) -> str:
    item = adapter.item()
    first = await adapter.capture(item)
    if not first.HasField("fee"):
        raise NotTried("the adapter tells no fee with a capture")
    found = answers.captured(await adapter.look_up_one(item), "the look-up")
    if not 0 <= first.fee.amount_minor <= MAX_AMOUNT_MINOR:
        raise NotKept(f"a fee of {answers.money(first.fee)}")
    if exponent(first.fee.currency_code) is None:
        raise NotKept(f"a fee of {answers.money(first.fee)}, no currency of ISO 4217")
    if found.HasField("fee") and found.fee != first.fee:
        raise NotKept(
            f"a fee of {answers.money(first.fee)}, by the look-up {answers.money(found.fee)}"
        )
    return f"{answers.money(first.fee)} of {answers.money(first.amount)}"


@outcomes.rule(
    "decline_category",
    holds="a decline tells one of the mesh's categories, and the PSP's own code",
    why="the category is what a shop tells its buyer; the code is what a person asks the PSP about",
)
async def decline_category(adapter: Adapter) -> str:
    item = adapter.scripted("declined")
    outcome = await adapter.charge_one(item)
    if answers.kind(outcome) != "declined":
        raise NotTried(f"{item.payment_method!r} was not declined: {answers.shown(outcome)}")
    told = outcome.declined
    if told.category not in payment_pb2.DeclineCategory.values() or not told.category:
        raise NotKept(f"the category {told.category}, which is none")
    if not told.code or len(told.code) > _MAX_TEXT:
        raise NotKept(f"{answers.shown(outcome)}: a code of {len(told.code)} characters")
    return answers.shown(outcome)
