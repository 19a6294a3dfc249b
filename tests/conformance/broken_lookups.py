"""Adapters that look up wrongly: one way each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from paymesh.psp.v1 import psp_service_pb2 as pb

from mesh.errors import Code, MeshError, Reason
from mesh.status import to_status
from tests.conformance.broken import GENERIC, Broken
from tests.conformance.proxy import Context, Outcomes, Results


class FindsCapturesLate(Broken):
    """Its look-up is of an index that lags behind."""

    breaks = (
        "lookup.captured",
        *("keys.other_amount", "keys.other_currency", "keys.other_payment_method"),
        *("keys.other_order", "keys.repeated", "keys.twice_in_a_list"),
        *("keys.twice_with_other_amount", "lookup.changes_nothing", "lookup.long_list"),
        *("lookup.own_charge", "lost.unavailable", "outcomes.fee"),
        *("money.no_decimals", "money.two_decimals", "money.three_decimals", "money.largest"),
    )

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.indexed: set[str] = set()

    def find(self, results: Results) -> Results:
        for result in results:
            key = result.idempotency_key
            if result.HasField("captured") and key not in self.indexed:
                self.indexed.add(key)
                result.not_found.SetInParent()
        return results


class TakesDeclinesForNothing(Broken):
    breaks = ("lookup.declined",)

    def find(self, results: Results) -> Results:
        for result in results:
            if result.HasField("declined"):
                result.not_found.SetInParent()
        return results


class TakesPendingForDeclined(Broken):
    breaks = ("lookup.pending",)

    def find(self, results: Results) -> Results:
        for result in results:
            if result.HasField("pending"):
                result.declined.CopyFrom(GENERIC)
        return results


class TakesNeverUsedForDeclined(Broken):
    breaks = ("lookup.never_used",)

    def find(self, results: Results) -> Results:
        for result in results:
            if result.HasField("not_found") and result.idempotency_key not in self.sent:
                result.declined.CopyFrom(GENERIC)
        return results


class TakesNeverUsedForAnError(Broken):
    breaks = ("lookup.never_used",)

    def find(self, results: Results) -> Results:
        error = to_status(MeshError(Reason.UNSPECIFIED, "no such", peer_code=Code.NOT_FOUND))
        for result in results:
            if result.HasField("not_found") and result.idempotency_key not in self.sent:
                result.error.CopyFrom(error)
        return results


class TakesForgottenForDeclined(Broken):
    breaks = ("lookup.forgotten",)

    def find(self, results: Results) -> Results:
        for result in results:
            told = self.told.get(result.idempotency_key, [])
            if result.HasField("not_found") and any(o.HasField("captured") for o in told):
                result.declined.CopyFrom(GENERIC)
        return results


class FindsTwice(Broken):
    breaks = ("lookup.each_key_once",)

    def find(self, results: Results) -> Results:
        return results * 2


class FindsOnlyWhatItKnows(Broken):
    breaks = ("lookup.each_key_once",)

    def find(self, results: Results) -> Results:
        known = [result for result in results if not result.HasField("not_found")]
        return known or results


class FindsForTheNeighbour(Broken):
    breaks = (
        "lookup.own_charge",
        *("lookup.long_list",),
        *("money.no_decimals", "money.two_decimals", "money.three_decimals", "money.largest"),
    )

    def find(self, results: Results) -> Results:
        captured = [result for result in results if result.HasField("captured")]
        keys = [result.idempotency_key for result in captured]
        for result, key in zip(captured, keys[1:] + keys[:1], strict=True):
            result.idempotency_key = key
        return results


class FindsAHundredAtMost(Broken):
    breaks = ("lookup.long_list",)

    def find(self, results: Results) -> Results:
        return results[:100]


class LooksUpOneByOne(Broken):
    breaks = ("deadlines.look_up", "lookup.long_list")

    async def LookUp(
        self, request: pb.LookUpRequest, context: Context
    ) -> AsyncIterator[pb.LookUpResponse]:
        if len(request.idempotency_keys) >= 100:
            await asyncio.sleep(0.02 * len(request.idempotency_keys))
        async for response in super().LookUp(request, context):
            yield response


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
