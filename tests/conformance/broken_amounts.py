"""Adapters that tell amounts and words wrongly: one way each."""

from __future__ import annotations

import struct
from collections.abc import Iterable

from paymesh.common.v1 import money_pb2
from paymesh.payment.v1 import payment_pb2
from paymesh.psp.v1 import psp_service_pb2 as pb

from tests.conformance.broken import Broken
from tests.conformance.proxy import Outcomes, Results


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


class EndsItsReferencesWithALineFeed(Rewords):
    breaks = ("outcomes.reference",)

    def change(self, told: pb.ChargeOutcome | pb.LookUpResult) -> None:
        if told.HasField("captured"):
            told.captured.psp_reference += "\n"


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
