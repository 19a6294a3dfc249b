"""The stub's answers to bad input, and what it says of itself, through real gRPC."""

from __future__ import annotations

from typing import Any

import grpc
import psycopg
import pytest
from google.rpc import code_pb2, error_details_pb2
from paymesh.psp.v1 import psp_service_pb2 as pb

from mesh.errors import Reason
from mesh.money import exponent
from mesh.status import from_rpc_error, from_status
from tests.support.postgres import PostgresServer
from tests.support.psp_stub import (
    charge_one,
    error_of,
    item,
    look_up,
    messages,
    new_ask,
    own_database,
    serving,
)


@pytest.fixture(scope="module")
def url(postgres_server: PostgresServer) -> str:
    """The stub's database, shared by these tests."""
    return own_database(postgres_server)


# --- bad input -------------------------------------------------------------------------


def without(field: str) -> pb.ChargeItem:
    bad = item(new_ask())
    bad.ClearField(field)  # type: ignore[arg-type]
    return bad


def set_to(**fields: Any) -> pb.ChargeItem:
    bad = item(new_ask())
    for name, value in fields.items():
        setattr(bad, name, value)
    return bad


def amount(**fields: Any) -> pb.ChargeItem:
    bad = item(new_ask())
    for name, value in fields.items():
        setattr(bad.amount, name, value)
    return bad


@pytest.mark.parametrize(
    ("bad", "reason", "field"),
    [
        (set_to(idempotency_key=""), "VALIDATION_FAILED", "idempotency_key"),
        (set_to(idempotency_key="k" * 256), "VALIDATION_FAILED", "idempotency_key"),
        (set_to(idempotency_key="a\0b"), "VALIDATION_FAILED", "idempotency_key"),
        (set_to(operation_id="A" * 32), "VALIDATION_FAILED", "operation_id"),
        (set_to(order_id="1" * 31), "VALIDATION_FAILED", "order_id"),
        (set_to(payment_method=""), "VALIDATION_FAILED", "payment_method"),
        (set_to(payment_method="tok\0"), "VALIDATION_FAILED", "payment_method"),
        (set_to(payment_method="4111 1111 1111 1111"), "CARD_NUMBER_REFUSED", "payment_method"),
        (without("amount"), "VALIDATION_FAILED", "amount"),
        (amount(amount_minor=0), "VALIDATION_FAILED", "amount"),
        (amount(amount_minor=-1), "VALIDATION_FAILED", "amount.amount_minor"),
        (amount(amount_minor=10**15), "VALIDATION_FAILED", "amount.amount_minor"),
        (amount(currency_code="eur"), "VALIDATION_FAILED", "amount.currency_code"),
        (amount(currency_code="XAU"), "UNKNOWN_CURRENCY", "amount.currency_code"),
        (amount(currency_code="ZZZ"), "UNKNOWN_CURRENCY", "amount.currency_code"),
    ],
)
async def test_a_bad_item_fails_alone(
    url: str, bad: pb.ChargeItem, reason: str, field: str
) -> None:
    good = new_ask()
    async with serving(url) as stub:
        responses = await messages(stub, bad, item(good))
    outcomes = {o.idempotency_key: o for response in responses for o in response.outcomes}
    assert outcomes[good.idempotency_key].HasField("captured")
    refused = outcomes[bad.idempotency_key].error
    assert refused.code == code_pb2.INVALID_ARGUMENT
    assert from_status(refused).reason == reason
    details = error_details_pb2.BadRequest()
    assert any(detail.Unpack(details) for detail in refused.details)
    assert field in {violation.field for violation in details.field_violations}
    assert "4111" not in str(refused)
    with psycopg.connect(url) as connection:
        stored = connection.execute(
            "SELECT 1 FROM idempotency WHERE idempotency_key = %s",
            (bad.idempotency_key.replace("\0", ""),),
        ).fetchone()
    assert stored is None


async def test_lists_have_a_limit(url: str) -> None:
    async with serving(url) as stub:
        for call in (
            stub.Charge(pb.ChargeRequest(items=[item(new_ask()) for _ in range(1_001)])),
            stub.LookUp(pb.LookUpRequest(idempotency_keys=["k"] * 1_001)),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call.read()
            assert from_rpc_error(refused.value).reason is Reason.VALIDATION_FAILED
        assert await messages(stub) == []


async def test_bad_keys_fail_alone(url: str) -> None:
    ask = new_ask()
    async with serving(url) as stub:
        await charge_one(stub, ask)
        results = await look_up(stub, ask.idempotency_key, "", "x" * 256, "a\0b")
    assert results.pop(ask.idempotency_key).HasField("captured")
    assert {error_of(result).reason for result in results.values()} == {Reason.VALIDATION_FAILED}


# --- what it says of itself ------------------------------------------------------------


async def test_capabilities(url: str) -> None:
    async with serving(url, key_memory_s=2.5) as stub:
        told = await stub.GetCapabilities(pb.GetCapabilitiesRequest())
    assert told.source == "psp_stub"
    assert told.key_window.ToMilliseconds() == 2_500
    assert told.funding_account == pb.FUNDING_ACCOUNT_PSP_RECEIVABLE
    assert (told.day_time_zone, told.day_cut_off.ToSeconds()) == ("UTC", 0)
    digits = {currency.currency_code: currency.exponent for currency in told.currencies}
    assert len(digits) == len(told.currencies)
    assert {code: digits[code] for code in ("EUR", "JPY", "BHD", "CLF")} == {
        "EUR": 2,
        "JPY": 0,
        "BHD": 3,
        "CLF": 4,
    }
    assert all(exponent(code) == number for code, number in digits.items())
    assert "XAU" not in digits
