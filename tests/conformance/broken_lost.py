"""Adapters that lose answers, or take them for something else: one way each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import ClassVar

from google.rpc import code_pb2
from paymesh.psp.v1 import psp_service_pb2 as pb

from mesh.errors import MeshError, validation_failed
from mesh.status import to_status
from tests.conformance.broken import GENERIC, Broken, ChargesAnew
from tests.conformance.proxy import Items, Outcomes, Results


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


class TakesUnansweredForDeclined(Broken):
    breaks = ("lost.timeout_nothing",)

    def find(self, results: Results) -> Results:
        for result in results:
            if result.HasField("not_found") and result.idempotency_key in self.gave_up:
                result.declined.CopyFrom(GENERIC)
        return results


class PendsForEver(Broken):
    breaks = ("pending.captured",)

    def find(self, results: Results) -> Results:
        for result in results:
            told = self.told.get(result.idempotency_key, [])
            if result.HasField("captured") and any(o.HasField("pending") for o in told):
                result.pending.SetInParent()
        return results


class BooksWhatFailedInTheEnd(Broken):
    breaks = ("pending.declined",)

    def find(self, results: Results) -> Results:
        for result in results:
            item = self.sent.get(result.idempotency_key)
            told = self.told.get(result.idempotency_key, [])
            if result.HasField("declined") and any(o.HasField("pending") for o in told) and item:
                result.captured.amount.CopyFrom(item.amount)
                result.captured.psp_reference = "too_soon"
        return results
