"""What a caller is told and what is logged, when a call does not end well."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest
from google.protobuf import empty_pb2
from paymesh.executor.v1 import executor_service_pb2 as executor_pb
from paymesh.payment.v1 import payment_service_pb2 as payment_pb
from paymesh.psp.v1 import psp_service_pb2 as psp_pb

from mesh.errors import CODE_OF_REASON, Code, MeshError, Reason, Violation
from tests.rpc.mesh.conftest import Line
from tests.support.eventually import eventually
from tests.support.scripted import Context, Scripted
from tests.support.serving import error_of

SECRET = "S3CRET text of a request"
GET_WALLET = "paymesh.wallet.v1.WalletService/GetWallet"

Raise = Callable[[], Awaitable[None]]


async def unary(scene: Scripted, fail: Raise) -> Awaitable[object]:
    async def get_wallet(_: Any, __: Context) -> None:
        await fail()

    scene.script.get_wallet = get_wallet
    return scene.ask()


async def _all(call: Any) -> list[Any]:
    return [response async for response in call]


async def unary_stream(scene: Scripted, fail: Raise) -> Awaitable[object]:
    async def charge(_: Any, __: Context) -> AsyncIterator[Any]:
        yield psp_pb.ChargeResponse()
        await fail()

    scene.script.charge = charge
    return _all(scene.psp.Charge(psp_pb.ChargeRequest()))


async def stream_stream(scene: Scripted, fail: Raise) -> Awaitable[object]:
    async def execute(requests: AsyncIterator[Any], _: Context) -> AsyncIterator[Any]:
        async for _request in requests:
            yield executor_pb.ExecuteResponse()
            await fail()

    scene.script.execute = execute
    return _all(scene.executor.Execute(iter([executor_pb.ExecuteRequest(list_id=1)])))


KINDS = pytest.mark.parametrize("kind", [unary, unary_stream, stream_stream])


def refused(lines: list[Line]) -> Line:
    """The one line that there is about the call."""
    (line,) = [line for line in lines if line["event"].startswith("call")]
    return line


@KINDS
async def test_a_bug_tells_nothing_but_where_to_look(
    scene: Scripted, lines: list[Line], kind: Any
) -> None:
    async def fail() -> None:
        raise KeyError(SECRET)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (await kind(scene, fail))
    found = await error_of(await kind(scene, fail))
    assert (found.code, found.reason) == (Code.INTERNAL, Reason.INTERNAL)
    for told in (repr(caught.value), str(caught.value.trailing_metadata()), repr(found)):
        for secret in (SECRET, "KeyError", "Traceback", "test_refusals", "Unexpected"):
            assert secret not in told
    line = lines[-1]
    assert line["event"] == "call_crashed"
    assert line["log_level"] == "error"
    assert line["error_id"] == found.metadata["error_id"]
    assert re.fullmatch("[0-9a-f]{32}", line["error_id"])
    assert line["error_id"] in found.message
    assert isinstance(line["exc_info"], KeyError)
    assert len([one for one in lines if one["event"].startswith("call")]) == 2  # of two calls


@KINDS
async def test_what_was_cancelled_inside_is_answered_at_once(
    scene: Scripted, lines: list[Line], kind: Any
) -> None:
    """Left alone, the client would hang until its own deadline."""

    async def fail() -> None:
        inner = asyncio.create_task(asyncio.sleep(60))
        await asyncio.sleep(0)
        inner.cancel()
        await inner

    async with asyncio.timeout(2):
        found = await error_of(await kind(scene, fail))
    assert (found.code, found.reason) == (Code.ABORTED, Reason.OUTCOME_UNKNOWN)
    assert refused(lines)["reason"] == "OUTCOME_UNKNOWN"


@KINDS
@pytest.mark.parametrize("reason", [reason for reason in Reason if reason])
async def test_every_reason_reaches_the_caller(
    scene: Scripted, lines: list[Line], kind: Any, reason: Reason
) -> None:
    error = MeshError(
        reason,
        "text é",
        {"fields": "a,b", "error_id": "known"},
        (Violation("orders[0]", "is wrong"),),
        1.5,
    )

    async def fail() -> None:
        raise error

    found = await error_of(await kind(scene, fail))
    assert (found.reason, found.code, found.message) == (
        reason,
        CODE_OF_REASON[reason],
        error.message,
    )
    assert (found.metadata, found.violations, found.retry_delay_s) == (
        error.metadata,
        error.violations,
        1.5,
    )
    line = refused(lines)
    assert (line["event"], line["code"], line["reason"], line["fields"]) == (
        "call_refused",
        found.code.name,
        reason.value,
        ["orders[0]"],
    )
    assert "text" not in str(line)


async def test_a_peer_without_a_clear_answer_leaves_the_outcome_unknown(
    scene: Scripted, lines: list[Line]
) -> None:
    """Neither its text, which may name hosts, nor a code that would be taken for ours."""

    async def fail() -> None:
        raise MeshError(
            Reason.UNSPECIFIED, f"no route to {SECRET}", peer_code=Code.INVALID_ARGUMENT
        )

    found = await error_of(await unary(scene, fail))
    assert (found.code, found.reason) == (Code.ABORTED, Reason.OUTCOME_UNKNOWN)
    assert SECRET not in repr(found)
    assert refused(lines)["peer_code"] == "INVALID_ARGUMENT"


async def test_an_internal_error_of_the_mesh_is_a_bug_too(
    scene: Scripted, lines: list[Line]
) -> None:
    async def fail() -> None:
        raise MeshError(Reason.INTERNAL, SECRET)

    found = await error_of(await unary(scene, fail))
    assert found.reason is Reason.INTERNAL
    assert SECRET not in repr(found)
    assert refused(lines)["error_id"] == found.metadata["error_id"]


async def test_a_servicer_may_end_the_call_itself(scene: Scripted, lines: list[Line]) -> None:
    found = await error_of(scene.payments.CreatePayment(payment("tok")))
    assert (found.code, found.message, found.reason) == (
        Code.UNIMPLEMENTED,
        "not scripted",
        Reason.UNSPECIFIED,
    )
    await eventually(lambda: any(line["event"] == "call_refused" for line in lines))
    line = refused(lines)
    assert (line["event"], line["code"]) == ("call_refused", "UNIMPLEMENTED")


@pytest.mark.parametrize("answer", [None, "text", 5])
async def test_an_answer_that_is_no_message_is_a_bug(
    scene: Scripted, lines: list[Line], answer: object
) -> None:
    async def get_wallet(_: Any, __: Context) -> object:
        return answer

    scene.script.get_wallet = get_wallet
    found = await error_of(scene.ask())
    assert found.reason is Reason.INTERNAL
    assert refused(lines)["event"] == "call_crashed"


def payment(token: str, orders: int = 1) -> payment_pb.CreatePaymentRequest:
    request = payment_pb.CreatePaymentRequest(request_id="r", buyer_id=SECRET, payment_method=token)
    for _ in range(orders):
        order = request.orders.add(seller_id=SECRET)
        order.amount.amount_minor, order.amount.currency_code = 1, "EUR"
    return request


async def never(_: Any, __: Context) -> None:
    raise AssertionError("it must not be called")


async def test_a_request_that_is_not_valid(scene: Scripted, lines: list[Line]) -> None:
    scene.script.create_payment = never
    request = payment("tok\n" + SECRET)
    request.orders[0].amount.amount_minor = 0
    found = await error_of(scene.payments.CreatePayment(request))
    assert (found.code, found.reason) == (Code.INVALID_ARGUMENT, Reason.VALIDATION_FAILED)
    assert sorted(v.field for v in found.violations) == ["orders[0].amount", "payment_method"]
    assert SECRET not in f"{found!r} {lines}"
    assert sorted(refused(lines)["fields"]) == ["orders[0].amount", "payment_method"]


async def test_a_card_number(scene: Scripted, lines: list[Line]) -> None:
    scene.script.create_payment = never
    found = await error_of(scene.payments.CreatePayment(payment("4111 1111 1111 1111")))
    assert (found.code, found.reason) == (Code.INVALID_ARGUMENT, Reason.CARD_NUMBER_REFUSED)
    assert "1111" not in f"{found!r} {lines}"


async def test_all_fields_of_a_hundred_orders_wrong(scene: Scripted, lines: list[Line]) -> None:
    """More details than a client takes would hide the reason and even the code."""
    request = payment_pb.CreatePaymentRequest()
    for _ in range(100):
        request.orders.add(reference="x" * 256).commission.amount_minor = -1
    found = await error_of(scene.payments.CreatePayment(request))
    assert (found.code, found.reason) == (Code.INVALID_ARGUMENT, Reason.VALIDATION_FAILED)
    assert len(found.violations) > 20
    assert "more violations" in found.violations[-1].description
    assert len(refused(lines)["fields"]) == 10


@pytest.mark.parametrize("size", [1024 * 1024 + 1, 2_000_000, 4 * 1024 * 1024 - 100])
async def test_too_large_for_any_valid_request(
    scene: Scripted, lines: list[Line], size: int
) -> None:
    found = await error_of(scene.ask("x" * size))
    assert (found.code, found.reason) == (Code.INVALID_ARGUMENT, Reason.VALIDATION_FAILED)
    assert "larger than 1048576 bytes" in found.violations[0].description
    assert len(str(lines)) < 1_000


async def test_too_large_for_the_transport(scene: Scripted) -> None:
    found = await error_of(scene.ask("x" * (4 * 1024 * 1024 + 1)))
    assert (found.code, found.reason) == (Code.RESOURCE_EXHAUSTED, Reason.UNSPECIFIED)
    assert await scene.ask() == "seller"


BROKEN = [b"\xff\xff\xff", b"\x0a\x05abc", b"\x0a\x02\xff\xfe"]


@pytest.mark.parametrize("raw", BROKEN)
async def test_bytes_that_are_no_message(scene: Scripted, lines: list[Line], raw: bytes) -> None:
    """The last one is text that is not UTF-8."""
    scene.script.get_wallet = never
    call: Any = scene.channel.unary_unary(f"/{GET_WALLET}")
    found = await error_of(call(raw))
    assert (found.code, found.reason) == (Code.INVALID_ARGUMENT, Reason.VALIDATION_FAILED)
    assert "Error" not in repr(found.message)
    assert refused(lines)["method"] == GET_WALLET


async def test_bytes_that_are_no_message_in_a_stream(scene: Scripted, lines: list[Line]) -> None:
    call: Any = scene.channel.stream_stream("/paymesh.executor.v1.ExecutorService/Execute")
    good = executor_pb.ExecuteRequest(list_id=7).SerializeToString()
    responses = call(iter([good, b"\xff\xff"]))
    assert executor_pb.ExecuteResponse.FromString(await responses.read()).committed_list_ids == [7]
    found = await error_of(responses.read())
    assert (found.code, found.reason) == (Code.INVALID_ARGUMENT, Reason.VALIDATION_FAILED)
    assert refused(lines)["reason"] == "VALIDATION_FAILED"


async def test_items_of_an_internal_list_are_left_to_the_servicer(scene: Scripted) -> None:
    seen: list[psp_pb.ChargeRequest] = []

    async def charge(request: psp_pb.ChargeRequest, _: Context) -> AsyncIterator[Any]:
        seen.append(request)
        yield psp_pb.ChargeResponse()

    scene.script.charge = charge
    request = psp_pb.ChargeRequest(items=[psp_pb.ChargeItem(), psp_pb.ChargeItem()])
    await _all(scene.psp.Charge(request))
    assert seen == [request]


async def test_a_method_that_does_not_exist(scene: Scripted) -> None:
    for method in (f"/{GET_WALLET}s", "/paymesh.nope.v1.Nope/Nope", "/x"):
        call: Any = scene.channel.unary_unary(
            method, request_serializer=empty_pb2.Empty.SerializeToString
        )
        assert (await error_of(call(empty_pb2.Empty()))).code is Code.UNIMPLEMENTED


@pytest.mark.parametrize(
    "metadata",
    [
        (("paymesh-caller", "x" * 4_000),),
        (("x-bin", bytes(range(256))),),
        tuple((f"x-{i}", "y") for i in range(100)),
        (("grpc-previous-rpc-attempts", "many"),),
        (("grpc-timeout", "soon"),),
        (("content-type", "text/html"),),
    ],
)
async def test_odd_metadata_harms_nobody(scene: Scripted, metadata: Any) -> None:
    assert await scene.ask(metadata=metadata) == "seller"


async def test_an_answered_call_is_logged_for_debugging_only(
    scene: Scripted, lines: list[Line]
) -> None:
    await scene.ask(SECRET)
    line = refused(lines)
    assert (line["event"], line["log_level"], line["method"]) == ("call", "debug", GET_WALLET)
    assert SECRET not in str(lines)
