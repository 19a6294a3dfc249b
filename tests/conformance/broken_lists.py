"""Adapters that carry lists, or bad items, wrongly: one way each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from google.rpc import code_pb2
from paymesh.psp.v1 import psp_service_pb2 as pb

from mesh.errors import Code
from mesh.money import MAX_AMOUNT_MINOR
from mesh.status import from_status
from tests.conformance.broken import GENERIC, Broken, Cuts, CutsCalls
from tests.conformance.proxy import Items, Outcomes

_BAD_ITEMS = (
    *("items.zero_amount", "items.negative_amount", "items.amount_too_large"),
    *("items.unknown_currency", "items.no_amount", "items.no_payment_method"),
    "items.malformed_id",
)


class LosesTheNinth(Broken):
    breaks = ("lists.none_missing", "lists.long", "lookup.long_list", "deadlines.charge")

    def answer(self, outcomes: Outcomes) -> Outcomes:
        return outcomes[:8] + outcomes[9:]


class TellsTwice(Broken):
    breaks = ("lists.none_twice",)

    def answer(self, outcomes: Outcomes) -> Outcomes:
        return outcomes * 2


class TellsOfOthers(Broken):
    breaks = ("lists.none_strange",)

    def answer(self, outcomes: Outcomes) -> Outcomes:
        return [pb.ChargeOutcome(idempotency_key="another", declined=GENERIC), *outcomes]


class MixesUpWhoWasDeclined(Broken):
    breaks = ("lists.own_outcome",)

    def answer(self, outcomes: Outcomes) -> Outcomes:
        taken = [outcome for outcome in outcomes if outcome.HasField("captured")]
        declined = [outcome for outcome in outcomes if outcome.HasField("declined")]
        for one, other in zip(taken, declined, strict=False):
            one.idempotency_key, other.idempotency_key = other.idempotency_key, one.idempotency_key
        return outcomes


class NeverEnds(Broken):
    breaks = ("lists.ends",)

    async def outcomes(self, items: Items) -> AsyncIterator[Outcomes]:
        async for outcomes in super().outcomes(items):
            yield outcomes
        await asyncio.Event().wait()


class WaitsForTheSlowest(Broken):
    breaks = ("lists.slow_holds_up_nobody",)

    async def outcomes(self, items: Items) -> AsyncIterator[Outcomes]:
        yield [outcome async for outcomes in super().outcomes(items) for outcome in outcomes]


class EndsTheListAtAnError(CutsCalls):
    breaks = ("lists.error_ends_no_list",)

    def answer(self, outcomes: Outcomes) -> Outcomes:
        for outcome in outcomes:
            if outcome.HasField("error") and len(outcomes) > 1:
                error = from_status(outcome.error)
                if error.code is Code.INTERNAL:
                    raise Cuts(error)
        return outcomes


class TakesAHundredAtMost(Broken):
    breaks = ("lists.long", "lookup.long_list")

    def ask(self, items: Items) -> Items:
        return items[:100]


class ChargesOneByOne(Broken):
    breaks = ("deadlines.charge", "lists.long", "lookup.long_list")

    async def outcomes(self, items: Items) -> AsyncIterator[Outcomes]:
        if len(items) >= 100:
            await asyncio.sleep(0.03 * len(items))
        async for outcomes in super().outcomes(items):
            yield outcomes


class PutsItRight(Broken):
    """Charges something else than what is wrong."""

    def mend(self, item: pb.ChargeItem) -> None: ...

    def ask(self, items: Items) -> Items:
        asked = []
        for item in items:
            mended = pb.ChargeItem()
            mended.CopyFrom(item)
            self.mend(mended)
            asked.append(mended)
        return asked


class TakesNothingForOne(PutsItRight):
    breaks = ("items.zero_amount", "items.no_amount")

    def mend(self, item: pb.ChargeItem) -> None:
        item.amount.amount_minor = item.amount.amount_minor or 1
        item.amount.currency_code = item.amount.currency_code or "EUR"


class TakesTheAbsolute(PutsItRight):
    breaks = ("items.negative_amount",)

    def mend(self, item: pb.ChargeItem) -> None:
        if item.amount.amount_minor < 0:
            item.amount.amount_minor *= -1


class TakesAsMuchAsItCan(PutsItRight):
    breaks = ("items.amount_too_large",)

    def mend(self, item: pb.ChargeItem) -> None:
        item.amount.amount_minor = min(item.amount.amount_minor, MAX_AMOUNT_MINOR)


class TakesEurosForUnknownMoney(PutsItRight):
    breaks = ("items.unknown_currency",)

    def mend(self, item: pb.ChargeItem) -> None:
        if item.amount.currency_code == "ZZZ":
            item.amount.currency_code = "EUR"


class MakesUpAnAmount(PutsItRight):
    breaks = ("items.no_amount",)

    def mend(self, item: pb.ChargeItem) -> None:
        if not item.HasField("amount"):
            item.amount.amount_minor, item.amount.currency_code = 100, "EUR"


class TakesTheLastCard(PutsItRight):
    breaks = ("items.no_payment_method",)

    def mend(self, item: pb.ChargeItem) -> None:
        item.payment_method = item.payment_method or "tok_ok"


class MakesUpAnOperation(PutsItRight):
    breaks = ("items.malformed_id",)

    def mend(self, item: pb.ChargeItem) -> None:
        if len(item.operation_id) != 32:
            item.operation_id = "0" * 32


class EndsTheListAtABadItem(CutsCalls):
    breaks = _BAD_ITEMS

    def answer(self, outcomes: Outcomes) -> Outcomes:
        for outcome in outcomes:
            if outcome.HasField("error") and outcome.error.code == code_pb2.INVALID_ARGUMENT:
                raise Cuts(from_status(outcome.error))
        return outcomes


class DeclinesBadItems(Broken):
    breaks = _BAD_ITEMS

    def answer(self, outcomes: Outcomes) -> Outcomes:
        for outcome in outcomes:
            if outcome.HasField("error") and outcome.error.code == code_pb2.INVALID_ARGUMENT:
                outcome.declined.CopyFrom(GENERIC)
        return outcomes


class RefusesBadItemsWithoutAReason(Broken):
    breaks = _BAD_ITEMS

    def answer(self, outcomes: Outcomes) -> Outcomes:
        for outcome in outcomes:
            if outcome.HasField("error") and outcome.error.code == code_pb2.INVALID_ARGUMENT:
                outcome.error.ClearField("details")
        return outcomes
