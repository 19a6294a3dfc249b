"""Adapters that charge wrongly, or lose what they should tell: one way each."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import ClassVar

import grpc
from google.rpc import code_pb2
from paymesh.psp.v1 import psp_service_pb2 as pb

from mesh.errors import Code, MeshError, validation_failed
from mesh.money import MAX_AMOUNT_MINOR
from mesh.status import from_status, to_status, trailing_metadata
from tests.conformance.broken_telling import GENERIC, Broken
from tests.conformance.proxy import Context, Items, Outcomes, Results

_OTHERS = ("keys.other_amount", "keys.other_currency", "keys.other_payment_method")
_CONFLICTS = (*_OTHERS, "keys.other_order", "keys.twice_with_other_amount")
_BAD_ITEMS = (
    *("items.zero_amount", "items.negative_amount", "items.amount_too_large"),
    *("items.unknown_currency", "items.no_amount", "items.no_payment_method"),
    "items.malformed_id",
)


class Cuts(Exception):
    """Ends the call as a whole with this error."""

    def __init__(self, error: MeshError) -> None:
        super().__init__(str(error))
        self.error = error


class CutsCalls(Broken):
    """Its hooks may raise Cuts."""

    async def Charge(
        self, request: pb.ChargeRequest, context: Context
    ) -> AsyncIterator[pb.ChargeResponse]:
        try:
            async for response in super().Charge(request, context):
                yield response
        except Cuts as cut:
            code = {c.value[0]: c for c in grpc.StatusCode}[int(cut.error.code)]
            await context.abort(code, cut.error.message, trailing_metadata(cut.error))


def _is_conflict(outcome: pb.ChargeOutcome) -> bool:
    return outcome.HasField("error") and outcome.error.code == code_pb2.ALREADY_EXISTS


def _was_captured(told: Outcomes) -> bool:
    return any(outcome.HasField("captured") for outcome in told)


# --- keys ------------------------------------------------------------------------------


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


class ChargesAnew(Broken):
    def another(self, item: pb.ChargeItem) -> pb.ChargeItem:
        """The charge under another key, and sure to be captured."""
        other = self.under_another_key(item)
        other.payment_method = "tok_ok"
        return other


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


class UsesUpWhatItLooksUp(Broken):
    breaks = ("lookup.changes_nothing",)

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.used_up: set[str] = set()

    def find(self, results: Results) -> Results:
        keys = {result.idempotency_key for result in results}
        self.used_up |= keys - self.sent.keys()
        return results

    def answer(self, outcomes: Outcomes) -> Outcomes:
        for outcome in outcomes:
            if outcome.idempotency_key in self.used_up:
                outcome.declined.CopyFrom(GENERIC)
        return outcomes


# --- lists -----------------------------------------------------------------------------


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


# --- bad items -------------------------------------------------------------------------


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


# --- lost answers ----------------------------------------------------------------------


class TakesATimeoutForADecline(Broken):
    breaks = ("lost.timeout_captured",)

    async def outcomes(self, items: Items) -> AsyncIterator[Outcomes]:
        missing = {item.idempotency_key for item in items}
        try:
            async with asyncio.timeout(0.4):
                async for outcomes in super().outcomes(items):
                    missing -= {outcome.idempotency_key for outcome in outcomes}
                    yield outcomes
        except TimeoutError:
            yield [pb.ChargeOutcome(idempotency_key=key, declined=GENERIC) for key in missing]


class ForgetsWhatItCouldNotTell(ChargesAnew):
    """Sent again, a charge that was not answered is another one."""

    breaks = ("lost.timeout_captured",)

    def ask(self, items: Items) -> Items:
        return [
            self.another(item) if item.idempotency_key in self.gave_up else item for item in items
        ]


class ForgetsWhoWentAway(ForgetsWhatItCouldNotTell):
    breaks = ("lost.caller_went_away",)


class TakesItsOwnErrorForNothing(Broken):
    breaks = ("lost.error_captured",)
    refusal: ClassVar[MeshError] = validation_failed()

    def answer(self, outcomes: Outcomes) -> Outcomes:
        for outcome in outcomes:
            if outcome.HasField("error") and outcome.error.code == code_pb2.INTERNAL:
                outcome.error.CopyFrom(to_status(self.refusal))
        return outcomes


class CapturesAgainAfterAnError(ChargesAnew):
    breaks = ("lost.error_captured",)

    def ask(self, items: Items) -> Items:
        return [
            self.another(item)
            if any(
                outcome.error.code == code_pb2.INTERNAL
                for outcome in self.told.get(item.idempotency_key, [])
            )
            else item
            for item in items
        ]


class TakesAbsenceForADecline(Broken):
    breaks = ("lost.unavailable",)

    def answer(self, outcomes: Outcomes) -> Outcomes:
        for outcome in outcomes:
            if outcome.HasField("error") and outcome.error.code == code_pb2.UNAVAILABLE:
                outcome.declined.CopyFrom(GENERIC)
        return outcomes


class ChargesOneCallAtATime(Broken):
    breaks = ("lost.hang_holds_up_nobody",)

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.lock = asyncio.Lock()

    async def outcomes(self, items: Items) -> AsyncIterator[Outcomes]:
        async with self.lock:
            async for outcomes in super().outcomes(items):
                yield outcomes
