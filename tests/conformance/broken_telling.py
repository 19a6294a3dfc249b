"""Adapters that charge rightly and tell it wrongly: one way each."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Iterable
from typing import ClassVar

from google.protobuf import duration_pb2
from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio as health
from grpc_reflection.v1alpha import reflection_pb2
from paymesh.common.v1 import money_pb2
from paymesh.payment.v1 import payment_pb2
from paymesh.psp.v1 import psp_service_pb2 as pb

from mesh.errors import Code, MeshError, Reason
from mesh.reflection import Reflection
from mesh.status import to_status
from tests.conformance.proxy import Context, Outcomes, Proxy, Results

GENERIC = pb.ChargeDeclined(category=payment_pb2.DECLINE_CATEGORY_GENERIC, code="do_not_honour")


class Broken(Proxy):
    """breaks: the rules that an adapter like this really breaks, the one it is made for first."""

    breaks: ClassVar[tuple[str, ...]] = ()


# --- what it says of itself ------------------------------------------------------------


class HasNoName(Broken):
    breaks = ("about.source",)

    def describe(self, told: pb.GetCapabilitiesResponse) -> None:
        told.source = ""


class ChangesItsName(Broken):
    breaks = ("about.source",)
    asked = 0

    def describe(self, told: pb.GetCapabilitiesResponse) -> None:
        self.asked += 1
        told.source = f"psp_{self.asked}"


class TellsNoKeyWindow(Broken):
    breaks = ("about.key_window",)

    def describe(self, told: pb.GetCapabilitiesResponse) -> None:
        told.ClearField("key_window")


class ListsACurrencyTwice(Broken):
    breaks = ("about.currencies",)

    def describe(self, told: pb.GetCapabilitiesResponse) -> None:
        told.currencies.add(currency_code="EUR", exponent=2)


class ListsAStrangeCurrency(Broken):
    breaks = ("about.currencies",)

    def describe(self, told: pb.GetCapabilitiesResponse) -> None:
        told.currencies.add(currency_code="eur", exponent=2)


class CountsInNegativeDecimals(Broken):
    breaks = ("about.currencies",)

    def describe(self, told: pb.GetCapabilitiesResponse) -> None:
        told.currencies[0].exponent = -2


class PaysOutOfNowhere(Broken):
    breaks = ("about.funding_account",)

    def describe(self, told: pb.GetCapabilitiesResponse) -> None:
        told.MergeFromString(b"\x20\x63")  # funding_account = 99


class NamesACity(Broken):
    breaks = ("about.time_zone",)

    def describe(self, told: pb.GetCapabilitiesResponse) -> None:
        told.day_time_zone = "Berlin"


class EndsItsDayTheDayAfter(Broken):
    breaks = ("about.cut_off",)

    def describe(self, told: pb.GetCapabilitiesResponse) -> None:
        told.day_cut_off.CopyFrom(duration_pb2.Duration(seconds=86_400))


class EndsItsDayNever(Broken):
    breaks = ("about.cut_off",)

    def describe(self, told: pb.GetCapabilitiesResponse) -> None:
        told.ClearField("day_cut_off")


class IsSick(Broken):
    breaks = ("about.health",)
    status = health_pb2.HealthCheckResponse.NOT_SERVING


class TellsNoHealth(Broken):
    breaks = ("about.health",)
    status = None


class HangsUpOnWatchers(Broken):
    breaks = ("about.health",)

    def health_servicer(self) -> health.HealthServicer:
        class Deaf(health.HealthServicer):
            async def Watch(self, request: object, context: object) -> None:
                return None

        return Deaf()


class HasNoReflection(Broken):
    breaks = ("about.reflection",)
    listed = None


class ListsAnotherService(Broken):
    breaks = ("about.reflection",)
    listed = ("grpc.health.v1.Health",)


class ServesAnOldContract(Broken):
    breaks = ("about.reflection",)

    def reflection(self) -> Reflection | None:
        reflection = Reflection(self.listed or ())
        file = reflection._files["paymesh/psp/v1/psp_service.proto"]
        (captured,) = (m for m in file.message_type if m.name == "ChargeCaptured")
        del captured.field[-1]  # fee
        return reflection


class DescribesItselfInNoise(Broken):
    breaks = ("about.reflection",)

    def reflection(self) -> Reflection | None:
        class Noise(Reflection):
            def _file_containing_symbol(
                self, request: reflection_pb2.ServerReflectionRequest, fully_qualified_name: str
            ) -> reflection_pb2.ServerReflectionResponse:
                files = reflection_pb2.FileDescriptorResponse(file_descriptor_proto=[b"\xff"])
                return reflection_pb2.ServerReflectionResponse(file_descriptor_response=files)

        return Noise(self.listed or ())


class ThinksLongOfItself(Broken):
    breaks = (
        "deadlines.capabilities",
        *("about.source", "about.key_window", "about.currencies", "about.funding_account"),
        *("about.time_zone", "about.cut_off"),
    )

    async def GetCapabilities(
        self, request: pb.GetCapabilitiesRequest, context: Context
    ) -> pb.GetCapabilitiesResponse:
        await asyncio.sleep(30)
        return pb.GetCapabilitiesResponse()


# --- look-ups --------------------------------------------------------------------------


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


class TakesUnansweredForDeclined(Broken):
    breaks = ("lost.timeout_nothing",)

    def find(self, results: Results) -> Results:
        for result in results:
            if result.HasField("not_found") and result.idempotency_key in self.gave_up:
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


# --- amounts and words -----------------------------------------------------------------


def _amounts(told: Iterable[pb.ChargeOutcome | pb.LookUpResult]) -> Iterable[money_pb2.Money]:
    return (one.captured.amount for one in told if one.HasField("captured"))


class Converts(Broken):
    """Tells amounts of one currency by a factor too large."""

    currency = ""
    factor = 1

    def answer(self, outcomes: Outcomes) -> Outcomes:
        self._convert(_amounts(outcomes))
        return outcomes

    def find(self, results: Results) -> Results:
        self._convert(_amounts(results))
        return results

    def _convert(self, amounts: Iterable[money_pb2.Money]) -> None:
        for amount in amounts:
            if amount.currency_code == self.currency:
                amount.amount_minor *= self.factor


class GivesTheYenCents(Converts):
    breaks = ("money.no_decimals",)
    currency, factor = "JPY", 100


class GivesTheYenCentsInLookUps(GivesTheYenCents):
    def answer(self, outcomes: Outcomes) -> Outcomes:
        return outcomes


class GivesTheEuroFourDecimals(Converts):
    breaks = ("money.two_decimals", "money.largest")
    currency, factor = "EUR", 100


class GivesTheDinarFourDecimals(Converts):
    breaks = ("money.three_decimals",)
    currency, factor = "BHD", 10


class ForgetsToConvertItsOwnUnits(Converts):
    breaks = ("money.other_exponent",)
    currency, factor = "ISK", 100

    def describe(self, told: pb.GetCapabilitiesResponse) -> None:
        (krona,) = (c for c in told.currencies if c.currency_code == "ISK")
        krona.exponent = 2


class CountsInFloats(Converts):
    breaks = ("money.largest",)

    def _convert(self, amounts: Iterable[money_pb2.Money]) -> None:
        for amount in amounts:
            (single,) = struct.unpack("f", struct.pack("f", amount.amount_minor))
            amount.amount_minor = int(single)


class Rewords(Broken):
    """Changes every outcome and every result in the same way."""

    def change(self, told: pb.ChargeOutcome | pb.LookUpResult) -> None: ...

    def answer(self, outcomes: Outcomes) -> Outcomes:
        for outcome in outcomes:
            self.change(outcome)
        return outcomes

    def find(self, results: Results) -> Results:
        for result in results:
            self.change(result)
        return results


class TellsNoReference(Rewords):
    breaks = ("outcomes.reference",)

    def change(self, told: pb.ChargeOutcome | pb.LookUpResult) -> None:
        if told.HasField("captured"):
            told.captured.psp_reference = ""


class TellsOneReferenceForAll(Rewords):
    breaks = ("outcomes.reference", "lists.long")

    def change(self, told: pb.ChargeOutcome | pb.LookUpResult) -> None:
        if told.HasField("captured"):
            told.captured.psp_reference = "capture"


class PaysUs(Rewords):
    breaks = ("outcomes.fee",)

    def change(self, told: pb.ChargeOutcome | pb.LookUpResult) -> None:
        if told.HasField("captured"):
            told.captured.fee.amount_minor *= -1


class TakesItsFeeInPoints(Rewords):
    breaks = ("outcomes.fee",)

    def change(self, told: pb.ChargeOutcome | pb.LookUpResult) -> None:
        if told.HasField("captured"):
            told.captured.fee.currency_code = "PTS"


class DeclinesWithoutACategory(Rewords):
    breaks = ("outcomes.decline_category",)

    def change(self, told: pb.ChargeOutcome | pb.LookUpResult) -> None:
        if told.HasField("declined"):
            told.declined.category = payment_pb2.DECLINE_CATEGORY_UNSPECIFIED


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
