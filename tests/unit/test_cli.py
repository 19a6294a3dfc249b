"""The command line against a mesh that the test plays."""

from __future__ import annotations

import json
import time
from typing import Any
from uuid import UUID

import grpc
import pytest
from paymesh.common.v1.money_pb2 import Money
from paymesh.ledger.v1 import ledger_service_pb2 as ledger_pb
from paymesh.payment.v1 import payment_pb2, payment_service_pb2
from paymesh.wallet.v1 import wallet_service_pb2 as wallet_pb
from typer.testing import CliRunner, Result

from mesh.errors import MeshError, Reason, Violation, dependency_down, outcome_unknown
from paymeshctl.client import new_request_id
from paymeshctl.main import app
from tests.support.fake_channel import FakeMesh

PAYMENT, WALLET, LEDGER = "127.0.0.1:50051", "127.0.0.1:50053", "127.0.0.1:50054"
PAYMENT_RPC = payment_service_pb2.DESCRIPTOR.services_by_name["PaymentService"].methods_by_name
WALLET_RPC = wallet_pb.DESCRIPTOR.services_by_name["WalletService"].methods_by_name
LEDGER_RPC = ledger_pb.DESCRIPTOR.services_by_name["LedgerService"].methods_by_name

PAY = ("pay", "--buyer", "buyer-1", "--order", "alice=12.50:EUR:1.25:ref 7")


def payment(
    state: payment_pb2.PaymentState.ValueType = payment_pb2.PAYMENT_STATE_SUCCEEDED,
    **order: Any,
) -> payment_pb2.Payment:
    euros = Money(amount_minor=1250, currency_code="EUR")
    defaults: dict[str, Any] = {
        "order_id": "b" * 32,
        "seller_id": "alice",
        "amount": euros,
        "commission": Money(amount_minor=125, currency_code="EUR"),
        "state": payment_pb2.ORDER_STATE_SUCCEEDED,
        "captured": euros,
        "operations": [
            payment_pb2.Operation(
                operation_id="c" * 32,
                psp_reference="psp-77",
                source=payment_pb2.EVIDENCE_SOURCE_PSP_LOOK_UP,
            )
        ],
    }
    return payment_pb2.Payment(
        payment_id="a" * 32,
        request_id="r-1",
        buyer_id="buyer-1",
        state=state,
        orders=[payment_pb2.PaymentOrder(**(defaults | order))],
        metadata={"b": "2", "a": "1"},
    )


def pay_answered(mesh: FakeMesh, answer: payment_pb2.Payment, *more: str) -> Result:
    run = mesh.run(*PAY, *more)
    call = mesh.take(run, PAYMENT, PAYMENT_RPC["CreatePayment"])
    call.answer(payment_service_pb2.CreatePaymentResponse(payment=answer))
    return run.result(10)


def pay_refused(mesh: FakeMesh, error: MeshError, code: grpc.StatusCode, *more: str) -> Result:
    run = mesh.run(*PAY, "--request-id", "r-1", *more)
    mesh.take(run, PAYMENT, PAYMENT_RPC["CreatePayment"]).refuse(error, code)
    return run.result(10)


def test_pay_sends_what_was_typed_with_deadline_and_caller(mesh: FakeMesh) -> None:
    run = mesh.run(
        *PAY,
        *("--order", "bob=3000:JPY", "--method", "tok_slow", "--metadata", "shop=a=b"),
        *("--request-id", "r-1", "--caller", "shop"),
    )
    call = mesh.take(run, PAYMENT, PAYMENT_RPC["CreatePayment"])
    assert call.metadata["paymesh-caller"] == "shop"
    assert call.timeout_s == 30
    assert call.request == payment_service_pb2.CreatePaymentRequest(
        request_id="r-1",
        buyer_id="buyer-1",
        payment_method="tok_slow",
        orders=[
            payment_service_pb2.NewOrder(
                seller_id="alice",
                amount=Money(amount_minor=1250, currency_code="EUR"),
                commission=Money(amount_minor=125, currency_code="EUR"),
                reference="ref 7",
            ),
            payment_service_pb2.NewOrder(
                seller_id="bob", amount=Money(amount_minor=3000, currency_code="JPY")
            ),
        ],
        metadata={"shop": "a=b"},
    )
    call.answer(payment_service_pb2.CreatePaymentResponse(payment=payment()))
    result = run.result(10)
    assert result.exit_code == 0
    for text in ("a" * 32, "b" * 32, "alice", "12.50 EUR", "SUCCEEDED", "psp-77", "look-up"):
        assert text in result.stdout


def test_pay_makes_a_uuid7_and_tells_it_before_the_call(mesh: FakeMesh) -> None:
    before = time.time_ns() // 1_000_000
    run = mesh.run(*PAY)
    call = mesh.take(run, PAYMENT, PAYMENT_RPC["CreatePayment"])
    key = UUID(call.request.request_id)
    assert (key.version, key.variant) == (7, "specified in RFC 4122")
    assert str(key) == call.request.request_id
    assert before <= key.int >> 80 <= time.time_ns() // 1_000_000
    call.break_off(grpc.StatusCode.UNAVAILABLE, "Socket closed")
    result = run.result(10)
    assert result.stderr.splitlines()[0] == f"request_id {key}"
    assert result.exit_code == 3
    assert f"unknown: repeat with --request-id {key}" in result.stderr


def test_request_ids_differ() -> None:
    assert len({new_request_id() for _ in range(1000)}) == 1000


def test_pay_as_json_keeps_numbers_numbers(mesh: FakeMesh) -> None:
    result = pay_answered(mesh, payment(), "--json")
    answer = json.loads(result.stdout)["payment"]
    assert answer["state"] == "PAYMENT_STATE_SUCCEEDED"
    assert answer["metadata"] == {"a": "1", "b": "2"}
    order = answer["orders"][0]
    assert order["amount"] == {"amount_minor": 1250, "currency_code": "EUR"}
    assert order["decline"] is None
    assert order["operations"][0]["source"] == "EVIDENCE_SOURCE_PSP_LOOK_UP"


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (payment_pb2.PAYMENT_STATE_SUCCEEDED, 0),
        (payment_pb2.PAYMENT_STATE_PARTIALLY_SUCCEEDED, 1),
        (payment_pb2.PAYMENT_STATE_FAILED, 1),
        (payment_pb2.PAYMENT_STATE_VOIDED, 1),
        (payment_pb2.PAYMENT_STATE_NEEDS_ATTENTION, 1),
        (payment_pb2.PAYMENT_STATE_PROCESSING, 4),
    ],
)
def test_the_exit_code_tells_the_payments_state(
    mesh: FakeMesh, state: payment_pb2.PaymentState.ValueType, expected: int
) -> None:
    result = pay_answered(mesh, payment(state), "--request-id", "r-1")
    assert result.exit_code == expected
    assert ("repeat with --request-id r-1" in result.stderr) == (expected == 4)


def test_a_decline_is_shown(mesh: FakeMesh) -> None:
    declined = payment_pb2.Decline(
        category=payment_pb2.DECLINE_CATEGORY_INSUFFICIENT_FUNDS, code="insufficient_funds"
    )
    result = pay_answered(mesh, payment(payment_pb2.PAYMENT_STATE_FAILED, decline=declined))
    assert "INSUFFICIENT_FUNDS (insufficient_funds)" in result.stdout


def test_text_of_callers_is_not_taken_for_markup(mesh: FakeMesh) -> None:
    result = pay_answered(mesh, payment(seller_id="[red]x[/red]"))
    assert "[red]x[/red]" in result.stdout


def test_a_refusal_is_one_line_with_reason_and_fields(mesh: FakeMesh) -> None:
    error = MeshError(
        Reason.VALIDATION_FAILED,
        "the request is not valid: orders[0].amount",
        violations=[Violation("orders[0].amount", "amount_minor must be at least 1")],
    )
    result = pay_refused(mesh, error, grpc.StatusCode.INVALID_ARGUMENT)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[1:] == [
        (
            "error: VALIDATION_FAILED: the request is not valid: orders[0].amount; "
            "orders[0].amount: amount_minor must be at least 1"
        )
    ]


def test_a_refusal_as_json(mesh: FakeMesh) -> None:
    error = MeshError(Reason.REQUEST_ID_REUSED, "used with another request", {"fields": "amount"})
    result = pay_refused(mesh, error, grpc.StatusCode.ALREADY_EXISTS, "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {
        "error": {
            "code": "ALREADY_EXISTS",
            "reason": "REQUEST_ID_REUSED",
            "message": "used with another request",
            "metadata": {"fields": "amount"},
            "request_id": "r-1",
            "repeat": False,
        }
    }


@pytest.mark.parametrize(
    ("error", "code", "expected", "repeat"),
    [
        (dependency_down("the database"), grpc.StatusCode.UNAVAILABLE, 3, False),
        (outcome_unknown("it was stored"), grpc.StatusCode.ABORTED, 4, True),
        (MeshError(Reason.INTERNAL, "a bug"), grpc.StatusCode.INTERNAL, 4, True),
        (
            MeshError(Reason.OVERLOADED, "too much", retry_delay_s=1.5),
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            1,
            False,
        ),
    ],
)
def test_errors_that_may_pass(
    mesh: FakeMesh, error: MeshError, code: grpc.StatusCode, expected: int, *, repeat: bool
) -> None:
    result = pay_refused(mesh, error, code)
    assert result.exit_code == expected
    assert ("unknown: repeat with --request-id r-1" in result.stderr) == repeat
    assert ("come again in 1.5 s" in result.stderr) == (error.retry_delay_s is not None)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (grpc.StatusCode.UNAVAILABLE, 3),
        (grpc.StatusCode.DEADLINE_EXCEEDED, 4),
        (grpc.StatusCode.INTERNAL, 4),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, 4),
    ],
)
def test_a_status_without_reason_says_nothing_about_the_effect(
    mesh: FakeMesh, code: grpc.StatusCode, expected: int
) -> None:
    run = mesh.run(*PAY, "--request-id", "r-1")
    mesh.take(run, PAYMENT, PAYMENT_RPC["CreatePayment"]).break_off(code, "gone")
    result = run.result(10)
    assert result.exit_code == expected
    assert "unknown: repeat with --request-id r-1" in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    "order",
    [
        "alice",
        "alice=12.50",
        "alice=12.505:EUR",
        "alice=1.5:JPY",
        "alice=1e3:EUR",
        "alice=:EUR",
        "alice=1.:EUR",
        "alice=12,50:EUR",
        "alice=1:EURO",
        "alice=1:XXX",
        "alice=99999999999999999999:EUR",
        "alice=1:EUR:x",
    ],
)
def test_what_is_no_order_is_bad_usage(mesh: FakeMesh, order: str) -> None:
    result = mesh.run("pay", "--buyer", "b", "--order", order).result(10)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert not mesh.addresses


def test_amounts_that_are_not_allowed_are_for_the_mesh_to_refuse(mesh: FakeMesh) -> None:
    run = mesh.run("pay", "--buyer", "b", "--order", "alice=-0.01:EUR")
    call = mesh.take(run, PAYMENT, PAYMENT_RPC["CreatePayment"])
    assert call.request.orders[0].amount.amount_minor == -1
    call.break_off(grpc.StatusCode.UNAVAILABLE, "")
    run.result(10)


@pytest.mark.parametrize("target", ["nowhere", "host:", "host:65530", ":50050", "host:x"])
def test_a_bad_target_is_bad_usage(mesh: FakeMesh, target: str) -> None:
    result = mesh.run("wallet", "alice", env={"PAYMESH_TARGET": target}).result(10)
    assert result.exit_code == 2
    assert "PAYMESH_TARGET" in result.stderr


def test_the_target_comes_from_option_then_environment(mesh: FakeMesh) -> None:
    for arguments, address in (
        (("wallet", "x"), "mesh.example:7003"),
        (("wallet", "x", "--target", "[::1]:8000"), "[::1]:8003"),
    ):
        run = mesh.run(*arguments, env={"PAYMESH_TARGET": "mesh.example:7000"})
        call = mesh.take(run, address, WALLET_RPC["GetWallet"])
        call.break_off(grpc.StatusCode.UNAVAILABLE, "connection refused")
        assert run.result(10).exit_code == 3


def test_payment_get(mesh: FakeMesh) -> None:
    run = mesh.run("payment", "get", "a" * 32, "--timeout", "2.5")
    call = mesh.take(run, PAYMENT, PAYMENT_RPC["GetPayment"])
    assert call.request == payment_service_pb2.GetPaymentRequest(payment_id="a" * 32)
    assert call.timeout_s == 2.5
    call.answer(payment_service_pb2.GetPaymentResponse(payment=payment()))
    assert "psp-77" in run.result(10).stdout


def test_payment_get_by_request_id_of_another_caller(mesh: FakeMesh) -> None:
    run = mesh.run("payment", "get", "--request-id", "r-1", "--of-caller", "shop", "--json")
    call = mesh.take(run, PAYMENT, PAYMENT_RPC["GetPayment"])
    assert call.request == payment_service_pb2.GetPaymentRequest(request_id="r-1", caller="shop")
    assert call.timeout_s == 10
    call.refuse(MeshError(Reason.PAYMENT_NOT_FOUND, "no such payment"), grpc.StatusCode.NOT_FOUND)
    result = run.result(10)
    assert result.exit_code == 1
    assert json.loads(result.stdout)["error"]["reason"] == "PAYMENT_NOT_FOUND"
    assert "repeat" not in json.loads(result.stdout)["error"]


@pytest.mark.parametrize("keys", [(), ("a" * 32, "--request-id", "r-1")])
def test_payment_get_takes_one_key(mesh: FakeMesh, keys: tuple[str, ...]) -> None:
    assert mesh.run("payment", "get", *keys).result(10).exit_code == 2


def test_payment_list(mesh: FakeMesh) -> None:
    run = mesh.run(
        *("payment", "list", "--seller", "alice", "--state", "needs-attention"),
        *("--from", "2026-03-01", "--to", "2026-03-01T12:00:00+02:00", "--page-size", "7"),
    )
    call = mesh.take(run, PAYMENT, PAYMENT_RPC["ListPayments"])
    assert call.request.state == payment_pb2.PAYMENT_STATE_NEEDS_ATTENTION
    assert call.request.create_time_from.ToJsonString() == "2026-03-01T00:00:00Z"
    assert call.request.create_time_to.ToJsonString() == "2026-03-01T10:00:00Z"
    assert call.request.page_size == 7
    call.answer(
        payment_service_pb2.ListPaymentsResponse(payments=[payment()], next_page_token="next")
    )
    result = run.result(10)
    assert "buyer-1" in result.stdout
    assert "more: --page-token next" in result.stdout


def test_payment_list_knows_the_states(mesh: FakeMesh) -> None:
    result = mesh.run("payment", "list", "--state", "lost").result(10)
    assert result.exit_code == 2
    assert "needs_attention" in result.stderr


def test_wallet_with_movements(mesh: FakeMesh) -> None:
    run = mesh.run("wallet", "alice", "--movements", "--json")
    balance = wallet_pb.Balance(currency_code="BHD", pending_minor=1125)
    mesh.take(run, WALLET, WALLET_RPC["GetWallet"]).answer(
        wallet_pb.GetWalletResponse(wallet=wallet_pb.Wallet(seller_id="alice", balances=[balance]))
    )
    movement = wallet_pb.Movement(
        movement_id="d" * 32, amount=Money(amount_minor=1125, currency_code="BHD")
    )
    mesh.take(run, WALLET, WALLET_RPC["ListMovements"]).answer(
        wallet_pb.ListMovementsResponse(movements=[movement])
    )
    answer = json.loads(run.result(10).stdout)
    assert answer["wallet"]["balances"][0]["pending_minor"] == 1125
    assert answer["movements"][0]["movement_id"] == "d" * 32
    assert answer["next_page_token"] == ""


def test_wallet_shows_each_currency_with_its_decimals(mesh: FakeMesh) -> None:
    run = mesh.run("wallet", "alice")
    mesh.take(run, WALLET, WALLET_RPC["GetWallet"]).answer(
        wallet_pb.GetWalletResponse(
            wallet=wallet_pb.Wallet(
                seller_id="alice",
                balances=[
                    wallet_pb.Balance(currency_code="BHD", pending_minor=1125),
                    wallet_pb.Balance(currency_code="JPY", pending_minor=1125),
                ],
            )
        )
    )
    cells = run.result(10).stdout.split()
    assert "1.125" in cells
    assert "1125" in cells


def test_ledger_balance(mesh: FakeMesh) -> None:
    run = mesh.run("ledger", "balance", "psp_receivable", "EUR", "--source", "psp_stub")
    call = mesh.take(run, LEDGER, LEDGER_RPC["GetBalance"])
    assert call.request.account == ledger_pb.Account(
        kind=ledger_pb.ACCOUNT_KIND_PSP_RECEIVABLE, source="psp_stub"
    )
    assert not call.request.HasField("as_of_time")
    call.answer(ledger_pb.GetBalanceResponse(balance_minor=1250))
    assert run.result(10).stdout == "psp_receivable psp_stub: 12.50 EUR\n"


@pytest.mark.parametrize(("credit", "expected"), [(1250, 0), (1249, 1)])
def test_trial_balance_that_does_not_balance_fails(
    mesh: FakeMesh, credit: int, expected: int
) -> None:
    run = mesh.run("ledger", "trial-balance")
    rows = [
        ledger_pb.TrialBalanceRow(
            account=ledger_pb.Account(kind=ledger_pb.ACCOUNT_KIND_PSP_RECEIVABLE),
            currency_code="EUR",
            debit_minor=1250,
        ),
        ledger_pb.TrialBalanceRow(
            account=ledger_pb.Account(kind=ledger_pb.ACCOUNT_KIND_SELLER_PENDING),
            currency_code="EUR",
            credit_minor=credit,
        ),
    ]
    mesh.take(run, LEDGER, LEDGER_RPC["GetTrialBalance"]).answer(
        ledger_pb.GetTrialBalanceResponse(rows=rows)
    )
    result = run.result(10)
    assert result.exit_code == expected
    assert ("NOT BALANCED" in result.stdout) == bool(expected)


def test_a_mesh_that_is_not_there() -> None:
    """Over a real channel: port 9 of this machine is nobody's."""
    result = CliRunner().invoke(app, ["wallet", "alice", "--target", "127.0.0.1:6"])
    assert result.exit_code == 3
    assert result.stderr.startswith("error: UNAVAILABLE: ")


VERBS = (
    ("up",),
    ("demo",),
    ("doctor",),
    ("migrate",),
    ("pay",),
    ("payment", "get"),
    ("payment", "list"),
    ("wallet",),
    ("ledger", "balance"),
    ("ledger", "trial-balance"),
)


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_every_verb_has_help_with_an_example_and_json(verb: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, [*verb, "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert "Example: " in result.stdout
    assert "Exit codes: " in result.stdout
    assert "--json" in result.stdout


@pytest.mark.parametrize(
    "verb", [("reconcile", "run"), ("settle", "fetch"), ("stub", "close-day")], ids=" ".join
)
def test_the_help_tells_how_long_a_verb_waits(verb: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, [*verb, "--help"], env={"COLUMNS": "200"})
    words = " ".join(result.stdout.replace("\N{BOX DRAWINGS LIGHT VERTICAL}", " ").split())
    assert "(status 8, reads 10, paying 30, settlement 300, reconciliation 600)" in words


def test_migrate_names_the_settings_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PAYMESH_DATABASE_URL", raising=False)
    result = CliRunner().invoke(app, ["migrate"])
    assert result.exit_code == 2
    assert "PAYMESH_DATABASE_URL" in result.stderr
    assert "PAYMESH_PSP_STUB_DATABASE_URL" in result.stderr


def test_migrate_without_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAYMESH_DATABASE_URL", "postgresql://admin:secret@127.0.0.1:9/postgres")
    for service in ("PAYMENT", "EXECUTOR", "WALLET", "LEDGER", "PSP_STUB"):
        url = f"postgresql://{service.lower()}:secret@127.0.0.1:9/{service.lower()}"
        monkeypatch.setenv(f"PAYMESH_{service}_DATABASE_URL", url)
    result = CliRunner().invoke(app, ["migrate", "--json"])
    assert result.exit_code == 3
    assert "can't be reached" in json.loads(result.stdout)["error"]["message"]
    assert "secret" not in result.output
