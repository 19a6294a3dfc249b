"""The contract as an engineer on call meets it: the real grpcurl, by reflection alone."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest

from tests.support.json_clients import Grpcurl
from tests.support.mesh import RunningMesh, fresh
from tests.support.scenario import (
    SERVICE,
    needs_watch,
    pays_once_and_refuses_another_amount,
    three_orders,
    watches_to_the_end,
)

pytestmark = pytest.mark.usefixtures("balanced_books")

BIN = Path(sys.executable).parent
HEALTH = "grpc.health.v1.Health"
REFLECTION = "grpc.reflection.v1alpha.ServerReflection"
STATUS = "paymesh.operations.v1.StatusService"

SERVICES = {
    "payment": [SERVICE],
    "executor": [
        "paymesh.executor.v1.ExecutorReadService",
        "paymesh.executor.v1.ExecutorService",
    ],
    "wallet": [
        "paymesh.wallet.v1.WalletPostingService",
        "paymesh.wallet.v1.WalletReadService",
        "paymesh.wallet.v1.WalletService",
    ],
    "ledger": [
        "paymesh.ledger.v1.LedgerPostingService",
        "paymesh.ledger.v1.LedgerReadService",
        "paymesh.ledger.v1.LedgerService",
        "paymesh.ledger.v1.OperationRegisterService",
        "paymesh.reconciliation.v1.ReconciliationService",
    ],
    "psp_stub": ["paymesh.psp.v1.PspService", "paymesh.psp.v1.PspStubControlService"],
}


@pytest.mark.parametrize("service", SERVICES)
def test_each_port_lists_its_services(mesh: RunningMesh, service: str) -> None:
    listed = _grpcurl(mesh, service, "list").stdout.split()

    assert listed == sorted([HEALTH, REFLECTION, STATUS, *SERVICES[service]])


@pytest.mark.parametrize("service", SERVICES)
def test_each_port_says_that_it_serves(mesh: RunningMesh, service: str) -> None:
    for asked in ("", *SERVICES[service]):
        answer = _call(mesh, f"{HEALTH}/Check", {"service": asked}, service=service)
        assert answer == {"status": "SERVING"}


def test_describe_shows_the_comments(mesh: RunningMesh) -> None:
    described = _grpcurl(mesh, "payment", "describe", SERVICE).stdout

    assert "rpc CreatePayment" in described
    for comment in (
        "Idempotent on (caller, request_id)",
        "REQUEST_ID_REUSED",
        "Accepts payments, drives each order",
    ):
        assert comment in described


@pytest.mark.parametrize(
    ("name", "comments"),
    [
        (".paymesh.payment.v1.CreatePaymentRequest", ["idempotency key", "Never a card number"]),
        (".paymesh.payment.v1.OrderState", ["Not a decline: it is being"]),
        (".paymesh.common.v1.Money", ["minor units", "ISO 4217"]),
    ],
)
def test_describe_shows_the_comments_of_messages(
    mesh: RunningMesh, name: str, comments: list[str]
) -> None:
    described = _grpcurl(mesh, "payment", "describe", name).stdout

    for comment in comments:
        assert comment in described


@pytest.mark.parametrize("service", SERVICES)
def test_everything_has_a_comment(mesh: RunningMesh, service: str) -> None:
    for name in SERVICES[service]:
        lines = _grpcurl(mesh, service, "describe", name).stdout.splitlines()
        for before, line in pairwise(lines):
            if line.strip().startswith("rpc "):
                assert before.strip().startswith("//"), line


def test_it_pays_once_and_refuses_another_amount(mesh: RunningMesh) -> None:
    pays_once_and_refuses_another_amount(mesh, Grpcurl(mesh.supervisor.target("payment")))


@needs_watch
def test_it_watches_to_the_end(mesh: RunningMesh) -> None:
    watches_to_the_end(mesh, Grpcurl(mesh.supervisor.target("payment")))


def test_get_and_list(mesh: RunningMesh) -> None:
    buyer = fresh("buyer")
    requests = [three_orders(fresh("request"), buyer) for _ in range(3)]
    payments = [_call(mesh, f"{SERVICE}/CreatePayment", r)["payment"] for r in requests]

    by_id = _call(mesh, f"{SERVICE}/GetPayment", {"payment_id": payments[0]["paymentId"]})
    by_request = _call(mesh, f"{SERVICE}/GetPayment", {"request_id": requests[0]["request_id"]})
    first = _call(mesh, f"{SERVICE}/ListPayments", {"buyer_id": buyer, "page_size": 2})
    second = _call(
        mesh,
        f"{SERVICE}/ListPayments",
        {"buyer_id": buyer, "page_size": 2, "page_token": first["nextPageToken"]},
    )

    assert by_id == by_request == {"payment": payments[0]}
    assert first["payments"] == [payments[2], payments[1]]
    assert second == {"payments": [payments[0]]}


def test_wallet_and_ledger(mesh: RunningMesh) -> None:
    request = three_orders(fresh("request"))
    _call(mesh, f"{SERVICE}/CreatePayment", request)
    seller = request["orders"][0]["seller_id"]

    wallet = _call(
        mesh, "paymesh.wallet.v1.WalletService/GetWallet", {"seller_id": seller}, service="wallet"
    )
    balance = _call(
        mesh,
        "paymesh.ledger.v1.LedgerService/GetBalance",
        {
            "account": {"kind": "ACCOUNT_KIND_SELLER_PENDING", "owner_id": seller},
            "currency_code": "EUR",
        },
        service="ledger",
    )

    assert wallet == {
        "wallet": {
            "sellerId": seller,
            "balances": [{"currencyCode": "EUR", "pendingMinor": "9000"}],
        }
    }
    assert balance == {"balanceMinor": "9000"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("orders", "three"),
        ("orders", {"seller_id": "x"}),
        ("buyer_id", 17),
        ("buyer_id", None),
        ("metadata", ["a"]),
        ("failure_policy", "FAILURE_POLICY_WHO_KNOWS"),
        ("buyer", "no field of that name"),
    ],
)
def test_wrong_types_are_refused_and_nothing_is_stored(
    mesh: RunningMesh, field: str, value: object
) -> None:
    request = {**three_orders(fresh("request")), field: value}

    refusal = _refuse(mesh, f"{SERVICE}/CreatePayment", request)

    assert "Traceback" not in refusal
    assert _stored(mesh, request["request_id"]) == 0


@pytest.mark.parametrize("amount", ["ten", 10.5, "1e400", 2**63, "99999999999999999999", True])
def test_amounts_that_are_no_integers_are_refused(mesh: RunningMesh, amount: object) -> None:
    request = three_orders(fresh("request"))
    request["orders"][0]["amount"]["amount_minor"] = amount

    refusal = _refuse(mesh, f"{SERVICE}/CreatePayment", request)

    assert "Traceback" not in refusal
    assert _stored(mesh, request["request_id"]) == 0


def test_a_refusal_names_the_field(mesh: RunningMesh) -> None:
    request = three_orders(fresh("request"))
    request["orders"][2]["amount"]["amount_minor"] = -5

    refusal = _refuse(mesh, f"{SERVICE}/CreatePayment", request)

    assert "Code: InvalidArgument" in refusal
    assert '"reason":"VALIDATION_FAILED"' in refusal
    assert '"field":"orders[2].amount.amount_minor"' in refusal
    assert _stored(mesh, request["request_id"]) == 0


def _call(
    mesh: RunningMesh, method: str, request: object, *, service: str = "payment"
) -> dict[str, Any]:
    done = _grpcurl(mesh, service, method, request=request)
    assert done.returncode == 0, done.stderr
    return cast("dict[str, Any]", json.loads(done.stdout))


def _refuse(mesh: RunningMesh, method: str, request: object) -> str:
    """All that grpcurl says of a call that is refused."""
    done = _grpcurl(mesh, "payment", method, request=request)
    assert done.returncode != 0, done.stdout
    return (done.stdout + done.stderr).replace('": "', '":"')


def _grpcurl(
    mesh: RunningMesh, service: str, *words: str, request: object = None
) -> subprocess.CompletedProcess[str]:
    flags = ["-plaintext", "-max-time", "30"]
    if request is not None:
        flags += ["-d", json.dumps(request)]
    return subprocess.run(
        [BIN / "grpcurl", *flags, mesh.supervisor.target(service), *words],
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )


def _stored(mesh: RunningMesh, request_id: str) -> int:
    return mesh.count("payment", "SELECT count(*) FROM payment WHERE request_id = %s", request_id)
