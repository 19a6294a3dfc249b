"""Adapters that say the wrong things of themselves: one way each."""

from __future__ import annotations

import asyncio

from google.protobuf import duration_pb2
from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio as health
from grpc_reflection.v1alpha import reflection_pb2
from paymesh.psp.v1 import psp_service_pb2 as pb

from mesh.reflection import Reflection
from tests.conformance.broken import Broken
from tests.conformance.proxy import Context


class HasNoName(Broken):
    breaks = ("about.source",)

    def describe(self, told: pb.GetCapabilitiesResponse) -> None:
        told.source = ""


class NamesItselfInTwoLines(Broken):
    breaks = ("about.source",)

    def describe(self, told: pb.GetCapabilitiesResponse) -> None:
        told.source = "p\nsp"


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
