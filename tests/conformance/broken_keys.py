"""Adapters that take a key for something else: one way each."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

from google.rpc import code_pb2
from paymesh.psp.v1 import psp_service_pb2 as pb

from mesh.errors import validation_failed
from mesh.status import from_status, to_status
from tests.conformance.broken import Broken, ChargesAnew, Cuts, CutsCalls
from tests.conformance.proxy import Items, Outcomes

_OTHERS = ("keys.other_amount", "keys.other_currency", "keys.other_payment_method")
_CONFLICTS = (*_OTHERS, "keys.other_order", "keys.twice_with_other_amount")


def _is_conflict(outcome: pb.ChargeOutcome) -> bool:
    return outcome.HasField("error") and outcome.error.code == code_pb2.ALREADY_EXISTS


def _was_captured(told: Outcomes) -> bool:
    return any(outcome.HasField("captured") for outcome in told)


class CapturesAgain(Broken):
    """A key that was captured is a new charge when it comes again."""

    breaks = ("keys.repeated", *_OTHERS, "keys.other_order", "keys.concurrent", "lost.unavailable")

    def ask(self, items: Items) -> Items:
        return [
            self.under_another_key(item)
            if item == self.sent.get(item.idempotency_key)
            and _was_captured(self.told.get(item.idempotency_key, []))
            else item
            for item in items
        ]


class TriesDeclinesAgain(ChargesAnew):
    breaks = ("keys.repeated_decline",)

    def ask(self, items: Items) -> Items:
        return [
            self.another(item)
            if any(o.HasField("declined") for o in self.told.get(item.idempotency_key, []))
            else item
            for item in items
        ]


class OverlooksWhatDiffers(Broken):
    """Answers a used key with its first charge, whatever is asked now."""

    def overlook(self, item: pb.ChargeItem, first: pb.ChargeItem) -> None: ...

    def ask(self, items: Items) -> Items:
        asked = []
        for item in items:
            same = pb.ChargeItem()
            same.CopyFrom(item)
            first = self.sent.get(item.idempotency_key)
            if first is not None:
                self.overlook(same, first)
            asked.append(same)
        return asked


class OverlooksTheAmount(OverlooksWhatDiffers):
    breaks = ("keys.other_amount",)

    def overlook(self, item: pb.ChargeItem, first: pb.ChargeItem) -> None:
        item.amount.amount_minor = first.amount.amount_minor


class OverlooksTheCurrency(OverlooksWhatDiffers):
    breaks = ("keys.other_currency",)

    def overlook(self, item: pb.ChargeItem, first: pb.ChargeItem) -> None:
        item.amount.currency_code = first.amount.currency_code


class OverlooksThePaymentMethod(OverlooksWhatDiffers):
    breaks = ("keys.other_payment_method",)

    def overlook(self, item: pb.ChargeItem, first: pb.ChargeItem) -> None:
        item.payment_method = first.payment_method


class OverlooksTheOrder(OverlooksWhatDiffers):
    breaks = ("keys.other_order",)

    def overlook(self, item: pb.ChargeItem, first: pb.ChargeItem) -> None:
        item.order_id = first.order_id


class TakesTheOtherAmountToo(Broken):
    breaks = ("keys.other_amount",)

    def ask(self, items: Items) -> Items:
        return [
            self.under_another_key(item)
            if (first := self.sent.get(item.idempotency_key)) is not None
            and first.amount.amount_minor != item.amount.amount_minor
            else item
            for item in items
        ]


class RefusesWithoutAReason(Broken):
    breaks = _CONFLICTS

    def answer(self, outcomes: Outcomes) -> Outcomes:
        for outcome in filter(_is_conflict, outcomes):
            outcome.error.ClearField("details")
        return outcomes


class EndsTheListAtAConflict(CutsCalls):
    breaks = _CONFLICTS

    def answer(self, outcomes: Outcomes) -> Outcomes:
        for outcome in filter(_is_conflict, outcomes):
            raise Cuts(from_status(outcome.error))
        return outcomes


class TakesEqualItemsForTwo(Broken):
    breaks = ("keys.twice_in_a_list",)

    def ask(self, items: Items) -> Items:
        return [
            self.under_another_key(item) if item in items[:place] else item
            for place, item in enumerate(items)
        ]


class TakesBothOfAList(Broken):
    breaks = ("keys.twice_with_other_amount",)

    def ask(self, items: Items) -> Items:
        asked: Items = []
        for place, item in enumerate(items):
            keys = [other.idempotency_key for other in items[:place]]
            twice = item.idempotency_key in keys and item not in items[:place]
            asked.append(self.under_another_key(item) if twice else item)
        return asked


class MeetsItself(Broken):
    """While a call under a key is under way, it sees nothing of another one."""

    breaks = ("keys.concurrent",)

    def ask(self, items: Items) -> Items:
        return [
            self.under_another_key(item)
            if item.idempotency_key in self.sent
            and item.idempotency_key not in self.told
            and item.payment_method == "tok_ok"
            else item
            for item in items
        ]

    async def outcomes(self, items: Items) -> AsyncIterator[Outcomes]:
        await asyncio.sleep(0.1)
        async for outcomes in super().outcomes(items):
            yield outcomes


class RefusesWhatIsUnderWay(Broken):
    """A concurrent call is told that nothing was taken."""

    breaks = ("keys.concurrent",)
    error = validation_failed()

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.under_way: Counter[str] = Counter()

    async def outcomes(self, items: Items) -> AsyncIterator[Outcomes]:
        keys = Counter({item.idempotency_key for item in items})
        busy = [item for item in items if self.under_way[item.idempotency_key]]
        self.under_way += keys
        try:
            if busy:
                status = to_status(self.error)
                yield [
                    pb.ChargeOutcome(idempotency_key=item.idempotency_key, error=status)
                    for item in busy
                ]
            await asyncio.sleep(0.1)
            async for outcomes in super().outcomes([i for i in items if i not in busy]):
                yield outcomes
        finally:
            self.under_way -= keys


class PromisesTooLongAMemory(Broken):
    breaks = ("keys.window",)

    def describe(self, told: pb.GetCapabilitiesResponse) -> None:
        told.key_window.seconds = 86_400
