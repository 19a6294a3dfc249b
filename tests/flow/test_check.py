"""CheckMesh on a whole mesh whose rows are damaged one at a time."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from paymesh.payment.v1 import check_mesh_pb2 as pb
from paymesh.payment.v1 import payment_pb2

from tests.support.checkout import new_checkout, new_order
from tests.support.damage import (
    Case,
    Damage,
    booked_twice,
    changed,
    entries_amount,
    entries_owner,
    executor_amount,
    executor_gone,
    executor_reference,
    executor_unknown,
    fee_gone,
    findings,
    kinds,
    movement_amount,
    movement_order,
    movement_seller,
    operation_id,
    psp_amount,
    reopen,
    set_back,
    stamp,
    without_credit,
    without_journals,
)
from tests.support.load import Load
from tests.support.mesh import RunningMesh, eventually, fresh, started_on
from tests.support.postgres import PostgresServer
from tests.support.refusals import refusal_of
from tests.support.up_process import run

SUCCEEDED = payment_pb2.ORDER_STATE_SUCCEEDED
CONTRADICTION = pb.FINDING_CLASS_CONTRADICTION
MISSING = pb.FINDING_CLASS_MISSING_STEP
APART = pb.FINDING_CLASS_APART


@pytest.fixture(scope="module")
def mesh(postgres_server: PostgresServer) -> Iterator[RunningMesh]:
    """A mesh of its own, because it is damaged."""
    with started_on(postgres_server, payment_parked_poll_ms=600_000) as running:
        yield running


@pytest.fixture
def case(mesh: RunningMesh) -> Iterator[Case]:
    """Afterwards everything is as it should be again."""
    case = Case(mesh)
    yield case
    assert mesh.violations(at_rest=False) == []


def paid(case: Case, token: str = "tok_ok", orders: int = 1) -> payment_pb2.Payment:
    request = new_checkout(token, *(new_order() for _ in range(orders)))
    return case.aged(case.mesh.paid(request))


def assert_one(
    found: list[pb.MeshFinding],
    kind: str,
    finding_class: pb.FindingClass.ValueType,
    payment: payment_pb2.Payment,
    *,
    repaired: bool = False,
) -> pb.MeshFinding:
    """Only this is found, about the first order."""
    assert kinds(found) == [kind], found
    (one,) = found
    assert one.finding_class == finding_class
    assert one.payment_id == payment.payment_id
    assert one.order_id == payment.orders[0].order_id
    assert one.operation_id == operation_id(payment)
    assert one.repaired == repaired
    return one


# --- a mesh that is well -----------------------------------------------------------------


def test_of_orders_that_ended_nothing_is_found(case: Case) -> None:
    for token in ("tok_ok", "tok_declined", "tok_error_captured", "tok_pending_success"):
        paid(case, token, orders=3)
    case.aged(case.mesh.paid(new_checkout("tok_ok", new_order(500, 500), new_order(700, None))))
    case.aged(case.mesh.paid(new_checkout("tok_ok", new_order(900, 1, currency="JPY"))))
    for look_up in (False, True):
        responses = case.responses(repair=True, look_up=look_up)
        assert findings(responses) == []
        last = responses[-1]
        assert (last.payments, last.orders, last.orders_under_way) == (6, 15, 0)
        assert last.look_ups_unanswered == 0
        assert last.checked_from_time == stamp(case.start)
        assert last.checked_to_time == stamp(case.start + timedelta(hours=1))


def test_under_load_nothing_is_found(mesh: RunningMesh) -> None:
    start = datetime.now(UTC) - timedelta(minutes=10)
    orders = checks = 0
    mix = {"tok_ok": 3, "tok_declined": 1, "tok_unavailable_twice": 1}
    with Load(mesh, callers=4, mix=mix) as load:
        while orders < 100 and checks < 200:
            request = pb.CheckMeshRequest(
                create_time_from=stamp(start), look_up=bool(checks % 2), repair=True
            )
            responses = list(mesh.payments.CheckMesh(request, timeout=30))
            assert [f for f in findings(responses) if f.finding_class != APART] == []
            orders, checks = responses[-1].orders, checks + 1
            time.sleep(0.1)
    assert orders >= 100
    # The last answers may tell of orders that are still under way, and the databases are read one
    # after the other.
    for payment in [payment for told in load.told for payment in told.payments]:
        mesh.rested(payment.payment_id)
    assert mesh.violations(at_rest=False) == []


def test_what_is_parked_or_unknown_is_told_apart(case: Case) -> None:
    parked = paid(case, "tok_wrong_amount")
    found = assert_one(case.check(repair=True), "ORDER_PARKED", APART, parked)
    assert "WRONG_AMOUNT" in found.found
    assert "PARKED" in found.found
    found = assert_one(case.check(look_up=True), "ORDER_PARKED", APART, parked)
    assert "the PSP says CAPTURED" in found.found


# --- steps that are missing --------------------------------------------------------------


def test_what_is_not_credited_is_credited_once_more(case: Case) -> None:
    payment = paid(case, orders=2)
    with without_credit(case, payment):
        found = assert_one(case.check(), "MOVEMENT_MISSING", MISSING, payment)
        assert found.expected == f"90.00 EUR to {payment.orders[0].seller_id}"
        assert found.advice
        assert_one(case.check(repair=True), "MOVEMENT_MISSING", MISSING, payment, repaired=True)
    assert case.check(repair=True) == []
    assert case.mesh.get(payment.payment_id).state == payment_pb2.PAYMENT_STATE_SUCCEEDED


def test_a_wallet_and_a_ledger_that_were_set_back_catch_up(case: Case) -> None:
    """More orders than a page holds, of one seller and of many."""
    payments = []
    for n in range(6):
        seller = fresh("seller")
        orders = (new_order(1_000 + n, seller_id=seller * (n % 2)) for _ in range(100))
        payments.append(case.aged(case.mesh.paid(new_checkout("tok_ok", *orders))))
    orders_of = {order.order_id for payment in payments for order in payment.orders}
    set_back(case, payments)
    responses = case.responses(repair=True)
    assert len(responses) > 2
    assert [r.orders for r in responses][-2:] == [600, 600]
    found = findings(responses)
    assert Counter(kinds(found)) == {"MOVEMENT_MISSING": 600, "JOURNAL_MISSING": 600}
    assert {f.order_id for f in found} == orders_of
    assert all(f.repaired for f in found)
    assert case.check() == []


def test_what_is_not_booked_is_booked_once_more(case: Case) -> None:
    payment = paid(case, orders=2)
    with without_journals(case, payment):
        assert_one(case.check(), "JOURNAL_MISSING", MISSING, payment)
        assert_one(case.check(repair=True), "JOURNAL_MISSING", MISSING, payment, repaired=True)
    assert case.check() == []
    log = case.mesh.log("payment")
    assert any(
        '"finding_repaired"' in line and operation_id(payment) in line for line in log.splitlines()
    )


def test_an_order_that_nobody_drives_is_put_back_on_the_conveyor(case: Case) -> None:
    payment = paid(case)
    # As if it had never been finished, and whoever had it forgot it.
    reopen(case, payment, state=payment_pb2.ORDER_STATE_CAPTURED, captured=True)
    assert_one(case.check(), "ORDER_ABANDONED", MISSING, payment)
    assert_one(case.check(repair=True), "ORDER_ABANDONED", MISSING, payment, repaired=True)
    eventually(lambda: case.mesh.get(payment.payment_id).orders[0].state == SUCCEEDED)
    assert case.check() == []
    assert case.mesh.captures(payment) == [[10_000]]


@pytest.mark.parametrize(
    ("state", "token", "end"),
    [
        (payment_pb2.ORDER_STATE_PARKED, "tok_ok", SUCCEEDED),
        (payment_pb2.ORDER_STATE_UNKNOWN, "tok_ok", SUCCEEDED),
        (payment_pb2.ORDER_STATE_PARKED, "tok_declined", payment_pb2.ORDER_STATE_DECLINED),
    ],
)
def test_an_order_behind_its_executor_catches_up(
    case: Case,
    state: payment_pb2.OrderState.ValueType,
    token: str,
    end: payment_pb2.OrderState.ValueType,
) -> None:
    payment = paid(case, token)
    reopen(case, payment, state=state, captured=False, next_in="1 hour")
    assert_one(case.check(), "ORDER_BEHIND", MISSING, payment)
    assert_one(case.check(repair=True), "ORDER_BEHIND", MISSING, payment, repaired=True)
    eventually(lambda: case.mesh.get(payment.payment_id).orders[0].state == end)
    assert case.check() == []
    assert case.mesh.captures(payment) == [[10_000] if end == SUCCEEDED else []]


# --- contradictions ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "damage"),
    [
        ("EXECUTOR_MISSING", executor_gone),
        ("EXECUTOR_DIFFERS", executor_reference),
        ("EXECUTOR_DIFFERS", executor_unknown),
        ("MOVEMENT_DIFFERS", movement_amount),
        ("MOVEMENT_DIFFERS", movement_seller),
        ("MOVEMENT_DIFFERS", movement_order),
        ("JOURNAL_DIFFERS", entries_amount),
        ("JOURNAL_DIFFERS", entries_owner),
        ("JOURNAL_DIFFERS", fee_gone),
        ("JOURNAL_SURPLUS", booked_twice),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_a_contradiction_is_told_by_its_ids_and_never_repaired(
    case: Case, kind: str, damage: Damage
) -> None:
    payment = paid(case, orders=2)
    with damage(case, payment):
        for repair in (False, True, False):
            found = assert_one(case.check(repair=repair), kind, CONTRADICTION, payment)
            assert found.expected
            assert found.found
            assert found.expected != found.found
            assert found.advice
    assert case.check() == []


def test_an_amount_that_was_changed_contradicts_the_executor(case: Case) -> None:
    payment = paid(case)
    with executor_amount(case, payment):
        found = assert_one(case.check(), "EXECUTOR_DIFFERS", CONTRADICTION, payment)
        assert "100.00 EUR" in found.expected
        assert "99.99 EUR" in found.found


def test_only_a_look_up_finds_that_the_psp_says_something_else(case: Case) -> None:
    payment = paid(case)
    with psp_amount(case, payment):
        assert case.check() == []
        found = assert_one(case.check(look_up=True), "PSP_CONTRADICTS", CONTRADICTION, payment)
        assert "90.00 EUR" in found.found


def test_a_capture_that_was_lost_is_told_with_all_that_contradicts_it(case: Case) -> None:
    payment = paid(case)
    key = payment.payment_id
    declined = (
        "UPDATE payment_order SET state = 7, captured_minor = 0, decline_category = 1"
        f" WHERE payment_id = '{key}'"
    )
    back = (
        "UPDATE payment_order SET state = 6, captured_minor = amount_minor, decline_category = 0"
        f" WHERE payment_id = '{key}'"
    )
    counts = (
        "UPDATE payment SET succeeded_orders = {}, declined_orders = {}"
        f" WHERE payment_id = '{key}'"
    )
    with (
        changed(case, "payment", declined, back),
        changed(case, "payment", counts.format(0, 1), counts.format(1, 0)),
    ):
        found = case.check(repair=True)
        assert kinds(found) == ["CAPTURE_LOST", "MOVEMENT_UNFOUNDED", "JOURNAL_UNFOUNDED"]
        assert {f.order_id for f in found} == {payment.orders[0].order_id}
        assert not any(f.repaired for f in found)
    with changed(case, "payment", counts.format(0, 1), counts.format(1, 0)):
        (found_one,) = case.check(repair=True)
        assert kinds([found_one]) == ["PAYMENT_DIFFERS"]
        assert (found_one.payment_id, found_one.order_id) == (key, "")
        assert (found_one.expected, found_one.found) == ("SUCCEEDED, by its orders", "FAILED")


def test_what_is_contradicted_is_not_booked_again(case: Case) -> None:
    payment = paid(case)
    with executor_unknown(case, payment), without_credit(case, payment):
        found = case.check(repair=True)
        assert kinds(found) == ["EXECUTOR_DIFFERS", "MOVEMENT_MISSING"]
        assert not any(f.repaired for f in found)
        assert "Not repaired: the payment's books contradict each other" in found[1].advice
    assert kinds(case.check(repair=True)) == ["MOVEMENT_MISSING"]


# --- errors and input --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("service", "named"),
    [("executor", "executor"), ("wallet", "wallet"), ("ledger", "ledger"), ("psp_stub", "PSP")],
)
def test_a_service_that_does_not_answer_is_an_error_and_no_finding(
    case: Case, service: str, named: str
) -> None:
    paid(case)
    pid = case.mesh.supervisor.pid(service)
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(grpc.RpcError) as refused:
            case.check(look_up=True, repair=True)
    finally:
        os.kill(pid, signal.SIGCONT)
    refusal = refusal_of(refused.value)
    assert (refusal.code, refusal.reason) == ("UNAVAILABLE", "DEPENDENCY_DOWN")
    assert named in refusal.message
    assert case.check(look_up=True) == []


def test_the_command_finds_and_repairs(case: Case) -> None:
    payment = paid(case)
    base = int(case.mesh.supervisor.target("payment").rpartition(":")[2]) - 1
    asked = (
        *("check", "--target", f"127.0.0.1:{base}", "--from", case.start.isoformat()),
        *("--to", (case.start + timedelta(hours=1)).isoformat()),
    )
    assert run(*asked, "--look-up").returncode == 0
    with without_credit(case, payment):
        done = run(*asked, "--json")
        assert done.returncode == 1, done.stderr
        (finding,) = json.loads(done.stdout)["findings"]
        assert finding["kind"] == "FINDING_KIND_MOVEMENT_MISSING"
        assert finding["operation_id"] == operation_id(payment)
        repaired = run(*asked, "--repair")
        assert repaired.returncode == 1
        assert "findings 1, repaired 1" in repaired.stdout
    assert run(*asked).returncode == 0


def test_bad_ranges_are_refused(mesh: RunningMesh) -> None:
    now = datetime.now(UTC)
    for request, field in (
        (
            pb.CheckMeshRequest(
                create_time_from=stamp(now), create_time_to=stamp(now - timedelta(seconds=1))
            ),
            "create_time_to",
        ),
        (
            pb.CheckMeshRequest(create_time_from=stamp(now), create_time_to=stamp(now)),
            "create_time_to",
        ),
        (
            pb.CheckMeshRequest(create_time_from=stamp(now + timedelta(hours=1))),
            "create_time_from",
        ),
    ):
        with pytest.raises(grpc.RpcError) as refused:
            list(mesh.payments.CheckMesh(request, timeout=10))
        refusal = refusal_of(refused.value)
        assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "VALIDATION_FAILED")
        assert refusal.fields == (field,)
