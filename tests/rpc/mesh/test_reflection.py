"""Reflection, as grpcurl and `buf curl` use it: two real clients that know no proto of ours."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from mesh.errors import MeshError, Reason, Violation
from tests.support.scripted import Context, Scripted

WALLETS = "paymesh.wallet.v1.WalletService"
PAYMENTS = "paymesh.payment.v1.PaymentService"


def tool(name: str) -> str:
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.fail(f"{name} is a development dependency and not installed")
    return found


async def run(*arguments: str) -> tuple[int, str]:
    """A program's exit code, and all that it says."""
    process = await asyncio.create_subprocess_exec(
        *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    out, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode()


async def grpcurl(scene: Scripted, *arguments: str, data: object = None) -> tuple[int, str]:
    given = [] if data is None else ["-d", data if isinstance(data, str) else json.dumps(data)]
    return await run(tool("grpcurl"), "-plaintext", *given, scene.target, *arguments)


async def described(scene: Scripted, symbol: str) -> str:
    code, out = await grpcurl(scene, "describe", symbol)
    assert code == 0, out
    return out


async def test_services_are_listed(scene: Scripted) -> None:
    code, out = await grpcurl(scene, "list")
    assert code == 0
    assert out.split() == [
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
        "paymesh.executor.v1.ExecutorService",
        PAYMENTS,
        "paymesh.psp.v1.PspService",
        WALLETS,
    ]


async def test_a_service_is_described_with_its_comments(scene: Scripted) -> None:
    out = await described(scene, WALLETS)
    assert "// Reads a seller's balances. An unknown seller has none." in out
    assert "rpc ListMovements" in out
    out = await described(scene, PAYMENTS)
    assert "// Idempotent on (caller, request_id)" in out
    assert "RESOURCE_EXHAUSTED / OVERLOADED" in out


@pytest.mark.parametrize(
    ("symbol", "said"),
    [
        (f"{WALLETS}.GetWallet", "// Errors: INVALID_ARGUMENT / VALIDATION_FAILED"),
        (".paymesh.payment.v1.CreatePaymentRequest", "// The idempotency key"),
        ("paymesh.payment.v1.CreatePaymentRequest.payment_method", "Never a card number"),
        ("paymesh.payment.v1.OrderState", "ORDER_STATE_PARKED = 11"),
        ("paymesh.common.v1.Money", "10^15 - 1"),
        ("google.protobuf.Timestamp", "int64 seconds"),
        ("grpc.health.v1.Health", "rpc Check"),
        ("grpc.reflection.v1alpha.ServerReflection", "rpc ServerReflectionInfo"),
        ("google.rpc.ErrorInfo", "string domain"),
    ],
)
async def test_whatever_may_be_asked_for(scene: Scripted, symbol: str, said: str) -> None:
    assert said in await described(scene, symbol)


@pytest.mark.parametrize(
    "symbol", [f"{WALLETS}.Nope", "paymesh.wallet.v1.Nope", "nope", "paymesh.wallet.v1"]
)
async def test_what_there_is_not(scene: Scripted, symbol: str) -> None:
    code, out = await grpcurl(scene, "describe", symbol)
    assert code != 0
    assert "not found" in out


class TestGrpcurl:
    async def test_a_call_in_either_spelling(self, scene: Scripted) -> None:
        for spelling in ("seller_id", "sellerId"):
            code, out = await grpcurl(scene, f"{WALLETS}/GetWallet", data={spelling: "seller"})
            assert (code, json.loads(out)) == (0, {"wallet": {"sellerId": "seller"}})

    async def test_health(self, scene: Scripted) -> None:
        code, out = await grpcurl(
            scene, "grpc.health.v1.Health/Check", data={"service": "readiness"}
        )
        assert (code, json.loads(out)) == (0, {"status": "SERVING"})

    async def test_a_refusal_shows_its_reason_and_the_field(self, scene: Scripted) -> None:
        code, out = await grpcurl(scene, f"{WALLETS}/GetWallet", data={"sellerId": ""})
        assert code != 0
        assert "Code: InvalidArgument" in out
        assert '"reason":"VALIDATION_FAILED"' in out.replace(" ", "")
        assert '"field":"seller_id"' in out.replace(" ", "")

    async def test_when_to_come_again_is_shown(self, scene: Scripted) -> None:
        async def get_wallet(_: Any, __: Context) -> None:
            raise MeshError(
                Reason.OVERLOADED, "no", {"a": "b"}, (Violation("f", "d"),), retry_delay_s=1.5
            )

        scene.script.get_wallet = get_wallet
        _, out = await grpcurl(scene, f"{WALLETS}/GetWallet", data={"sellerId": "x"})
        assert '"reason":"OVERLOADED"' in out
        assert "1.5" in out
        assert "not recognized" not in out

    @pytest.mark.parametrize(
        "data",
        [
            {"sellerId": 1},
            {"sellerId": ["a"]},
            {"sellerId": {"a": "b"}},
            {"nope": "a"},
            '{"sellerId": ',
            "[]",
            '"text"',
        ],
    )
    async def test_wrong_types_reach_nobody(self, scene: Scripted, data: object) -> None:
        scene.script.get_wallet = unexpected
        code, out = await grpcurl(scene, f"{WALLETS}/GetWallet", data=data)
        assert code != 0
        assert "panic" not in out

    @pytest.mark.parametrize(
        "amount",
        [
            {"amountMinor": "1.5", "currencyCode": "EUR"},
            {"amountMinor": "ten", "currencyCode": "EUR"},
            {"amountMinor": "9223372036854775808", "currencyCode": "EUR"},
            {"amountMinor": True, "currencyCode": "EUR"},
            {"amountMinor": 1, "currencyCode": 978},
            "12.50 EUR",
        ],
    )
    async def test_wrong_amounts_reach_nobody(self, scene: Scripted, amount: object) -> None:
        scene.script.create_payment = unexpected
        data = {
            "requestId": "r",
            "buyerId": "b",
            "paymentMethod": "tok_ok",
            "orders": [{"sellerId": "s", "amount": amount}],
        }
        code, _ = await grpcurl(scene, f"{PAYMENTS}/CreatePayment", data=data)
        assert code != 0


async def unexpected(_: Any, __: Context) -> None:
    raise AssertionError("it must not be called")


class TestBufCurl:
    async def call(self, scene: Scripted, *arguments: str) -> tuple[int, str]:
        plain = ["--protocol", "grpc", "--http2-prior-knowledge"]
        return await run(tool("buf"), "curl", *plain, *arguments)

    async def test_methods_are_listed(self, scene: Scripted) -> None:
        code, out = await self.call(scene, "--list-methods", f"http://{scene.target}")
        assert code == 0, out
        assert f"{PAYMENTS}/CreatePayment" in out.splitlines()
        assert "grpc.health.v1.Health/Check" in out.splitlines()

    async def test_a_call_and_a_refusal(self, scene: Scripted) -> None:
        url = f"http://{scene.target}/{WALLETS}/GetWallet"
        code, out = await self.call(scene, "-d", '{"sellerId": "seller"}', url)
        assert (code, json.loads(out)) == (0, {"wallet": {"sellerId": "seller"}})
        code, out = await self.call(scene, "-d", "{}", url)
        assert code != 0
        refusal = json.loads(out)
        assert refusal["code"] == "invalid_argument"
        assert [detail["type"] for detail in refusal["details"]] == [
            "google.rpc.ErrorInfo",
            "google.rpc.BadRequest",
        ]

    async def test_a_wrong_type(self, scene: Scripted) -> None:
        scene.script.get_wallet = unexpected
        url = f"http://{scene.target}/{WALLETS}/GetWallet"
        code, _ = await self.call(scene, "-d", '{"sellerId": 1}', url)
        assert code != 0


async def reflected(
    channel: grpc.aio.Channel, *requests: reflection_pb2.ServerReflectionRequest
) -> list[reflection_pb2.ServerReflectionResponse]:
    async def ask() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
        for request in requests:
            yield request

    make_stub: Any = reflection_pb2_grpc.ServerReflectionStub  # the stubs know no asyncio
    answers = make_stub(channel).ServerReflectionInfo(ask())
    return [response async for response in answers]


async def test_odd_questions_are_answered(scene: Scripted) -> None:
    requests = [
        reflection_pb2.ServerReflectionRequest(),
        reflection_pb2.ServerReflectionRequest(file_by_filename="../../etc/passwd"),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="." * 1000),
        reflection_pb2.ServerReflectionRequest(
            file_containing_extension=reflection_pb2.ExtensionRequest(
                containing_type="google.protobuf.FieldOptions", extension_number=1159
            )
        ),
        reflection_pb2.ServerReflectionRequest(file_by_filename="paymesh/common/v1/money.proto"),
    ]
    answers = await reflected(scene.channel, *requests)
    kinds = [answer.WhichOneof("message_response") for answer in answers]
    assert kinds == ["error_response"] * 3 + ["file_descriptor_response"] * 2
    assert [answer.original_request for answer in answers] == requests
