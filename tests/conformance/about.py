"""Rules: what an adapter says of itself, and how it can be reached."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any
from zoneinfo import available_timezones

import grpc
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from paymesh.psp.v1 import psp_service_pb2 as pb

from mesh.money import exponent
from tests.conformance import answers
from tests.conformance.adapter import Adapter
from tests.conformance.rule import Group, NotKept, NotTried

about = Group("about")
deadlines = Group("deadlines")

_SERVICE = pb.DESCRIPTOR.services_by_name["PspService"]
_REFLECTIONS = ("grpc.reflection.v1alpha", "grpc.reflection.v1")
# A service of the ledger takes no longer one, see ledger_posting_service.proto.
_SOURCE = re.compile(r"[^\x00-\x1f\x7f-\x9f]{1,63}")
_MOST_EXPONENT = 9
_DAY_S = 86_400
_HUNDRED = 100


@about.rule(
    "source",
    holds="GetCapabilities names the PSP, 1 to 63 characters without control characters, and by "
    "the same name each time",
    why="it is part of the ledger's accounts; without it the executor sends nothing",
)
async def source(adapter: Adapter) -> str:
    told = {(await adapter.get_capabilities()).source for _ in range(3)}
    if len(told) > 1:
        raise NotKept(f"three calls, {len(told)} names: {sorted(told)}")
    (name,) = told
    if not _SOURCE.fullmatch(name):
        raise NotKept(f"the name {name[:80]!r}")
    return name


@about.rule(
    "key_window",
    holds="GetCapabilities tells a key window above 0",
    why="it bounds how long a key is safely sent again; without it the executor sends nothing",
)
async def key_window(adapter: Adapter) -> str:
    told = await adapter.get_capabilities()
    window_s = told.key_window.ToMilliseconds() / 1000
    if not told.HasField("key_window") or window_s <= 0:
        raise NotKept(f"a key window of {window_s:g} s")
    return f"{window_s:g} s"


@about.rule(
    "currencies",
    holds="GetCapabilities lists currencies of ISO 4217, each once, with 0 to 9 decimals; or none "
    "for all",
    why="a currency that is listed wrongly is refused, or converted wrongly",
)
async def currencies(adapter: Adapter) -> str:
    told = (await adapter.get_capabilities()).currencies
    codes = [currency.currency_code for currency in told]
    for currency in told:
        if exponent(currency.currency_code) is None:
            raise NotKept(f"{currency.currency_code[:80]!r} is no currency of ISO 4217")
        if not 0 <= currency.exponent <= _MOST_EXPONENT:
            raise NotKept(f"{currency.currency_code} with {currency.exponent} decimals")
        if codes.count(currency.currency_code) > 1:
            raise NotKept(f"{currency.currency_code} is listed more than once")
    return f"{len(codes)} currencies" if codes else "all of ISO 4217"


@about.rule(
    "funding_account",
    holds="GetCapabilities tells which account pays for payouts by a value of the contract",
    why="a payout is booked against that account",
)
async def funding_account(adapter: Adapter) -> str:
    told = (await adapter.get_capabilities()).funding_account
    if told not in pb.FundingAccount.values():
        raise NotKept(f"the funding account {told}, which is none")
    return pb.FundingAccount.Name(told)


@about.rule(
    "time_zone",
    holds="GetCapabilities tells the time zone of settlement days by its IANA name",
    why="a day's settlement file is asked for by that day",
)
async def time_zone(adapter: Adapter) -> str:
    told = (await adapter.get_capabilities()).day_time_zone
    known = available_timezones()
    if not known:
        raise NotTried("this machine has no time zone database")
    if told not in known:
        raise NotKept(f"the time zone {told[:80]!r}, no name of IANA's")
    return told


@about.rule(
    "cut_off",
    holds="GetCapabilities tells when a settlement day ends, from midnight to before the next one",
    why="a charge after the cut-off is on the next day's file; else it is missed as a break",
)
async def cut_off(adapter: Adapter) -> str:
    told = await adapter.get_capabilities()
    cut_off_s = told.day_cut_off.ToMilliseconds() / 1000
    if not told.HasField("day_cut_off"):
        raise NotKept("no cut-off (midnight is a duration of 0, not none)")
    if not 0 <= cut_off_s < _DAY_S:
        raise NotKept(f"a cut-off of {cut_off_s:g} s after midnight")
    minutes, seconds = divmod(int(cut_off_s), 60)
    return f"{minutes // 60:02}:{minutes % 60:02}:{seconds:02}"


@about.rule(
    "health",
    holds='grpc.health.v1 is served and says SERVING for "", to Check and to Watch',
    why="the mesh's channels watch it and send nothing to an adapter that does not say so",
)
async def health(adapter: Adapter) -> str:
    stub: Any = health_pb2_grpc.HealthStub(adapter.channel)
    request = health_pb2.HealthCheckRequest()
    timeout_s = adapter.options.look_up_deadline_s
    try:
        checked = await stub.Check(request, timeout=timeout_s)
        watch = stub.Watch(request, timeout=timeout_s)
        watched = await anext(aiter(watch), health_pb2.HealthCheckResponse())
        watch.cancel()
    except grpc.aio.AioRpcError as error:
        raise NotKept(f"the health check failed: {error.code().name}") from error
    status = health_pb2.HealthCheckResponse.ServingStatus
    for told, method in ((checked, "Check"), (watched, "Watch")):
        if told.status != health_pb2.HealthCheckResponse.SERVING:
            raise NotKept(f"{method} says {status.Name(told.status)}")
    return "SERVING"


@about.rule(
    "reflection",
    holds="server reflection lists PspService and describes it with every RPC and field of this "
    "contract",
    why="whoever is on call asks the adapter by grpcurl; a missing field is an older contract",
)
async def reflection(adapter: Adapter) -> str:
    for package in _REFLECTIONS:
        answer = await _reflect(
            adapter, package, reflection_pb2.ServerReflectionRequest(list_services="")
        )
        if answer is not None:
            break
    else:
        raise NotKept("server reflection is not served")
    if _SERVICE.full_name not in {s.name for s in answer.list_services_response.service}:
        raise NotKept(f"{_SERVICE.full_name} is not listed")
    described = await _reflect(
        adapter,
        package,
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=_SERVICE.full_name),
    )
    raws = described.file_descriptor_response.file_descriptor_proto if described else ()
    try:
        files = [descriptor_pb2.FileDescriptorProto.FromString(raw) for raw in raws]
    except DecodeError as error:
        raise NotKept("the description of the service can't be read") from error
    missing = sorted(_ours() - _told(files))
    if missing:
        raise NotKept(f"not described: {', '.join(missing[:5])} ({len(missing)} in all)")
    return f"{package}, {len(_SERVICE.methods)} RPCs described"


async def _reflect(
    adapter: Adapter, package: str, request: reflection_pb2.ServerReflectionRequest
) -> reflection_pb2.ServerReflectionResponse | None:
    """The answer; None if this version of reflection is not served. v1 is v1alpha renamed."""
    call: Any = adapter.channel.stream_stream(
        f"/{package}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )

    async def requests() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
        yield request

    try:
        responses = [
            response
            async for response in call(requests(), timeout=adapter.options.look_up_deadline_s)
        ]
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            return None
        raise NotKept(f"server reflection failed: {error.code().name}") from error
    return responses[0] if responses else None


def _ours() -> set[str]:
    """The contract's RPCs and fields, with the fields' numbers."""
    found = {f"{_SERVICE.full_name}.{method.name}" for method in _SERVICE.methods}
    waiting = [m for method in _SERVICE.methods for m in (method.input_type, method.output_type)]
    seen: set[str] = set()
    while waiting:
        message: Descriptor = waiting.pop()
        if message.full_name in seen or message.file.package != _SERVICE.file.package:
            continue
        seen.add(message.full_name)
        for field in message.fields:
            found.add(f"{message.full_name}.{field.name} = {field.number}")
            if field.message_type is not None:
                waiting.append(field.message_type)
    return found


def _told(files: list[descriptor_pb2.FileDescriptorProto]) -> set[str]:
    methods = {
        f"{file.package}.{service.name}.{method.name}"
        for file in files
        for service in file.service
        for method in service.method
    }
    fields = {
        f"{file.package}.{message.name}.{field.name} = {field.number}"
        for file in files
        for message in file.message_type
        for field in message.field
    }
    return methods | fields


@deadlines.rule(
    "charge",
    holds="a list of a hundred charges is answered within the executor's deadline (--deadline-s)",
    why="later answers are lost: each such charge costs a look-up, or two",
)
async def charge(adapter: Adapter) -> str:
    items = [adapter.item() for _ in range(_HUNDRED)]
    call = await adapter.charge(*items)
    for item in items:
        answers.captured(call.first(item, "within its deadline"), "the charge")
    last_s = max(heard.after_s for heard in call.heard)
    return f"{last_s:.2f} of {adapter.options.deadline_s:g} s"


@deadlines.rule(
    "look_up",
    holds="a look-up of a hundred keys is answered within the executor's deadline "
    "(--look-up-deadline-s)",
    why="a ladder that can't look up stays UNKNOWN",
)
async def look_up(adapter: Adapter) -> str:
    loop = asyncio.get_running_loop()
    began = loop.time()
    await adapter.look_up(*(adapter.item() for _ in range(_HUNDRED)))
    return f"{loop.time() - began:.2f} of {adapter.options.look_up_deadline_s:g} s"


@deadlines.rule(
    "capabilities",
    holds="GetCapabilities is answered within the executor's deadline (--look-up-deadline-s)",
    why="it is asked before every resend; until it was answered once, nothing is sent",
)
async def capabilities(adapter: Adapter) -> str:
    loop = asyncio.get_running_loop()
    began = loop.time()
    await adapter.get_capabilities()
    return f"{loop.time() - began:.2f} of {adapter.options.look_up_deadline_s:g} s"
