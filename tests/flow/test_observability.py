"""What an engineer sees of one payment: its spans through all services, its numbers, its lines."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from paymesh.payment.v1 import payment_pb2 as pb

from tests.support.checkout import new_checkout, new_order
from tests.support.folders import open_folder
from tests.support.mesh import SERVICES, RunningMesh, eventually, started_on
from tests.support.postgres import PostgresServer
from tests.support.scrape import Scrape, scrape, wait_until
from tests.support.spans import Span, spans_in

PACKAGES = {"payment_svc", "executor_svc", "wallet_svc", "ledger_svc", "psp_stub"}
# The life of an order that goes well, as each service tells it.
STEPS = {
    ("payment_svc", "CreatePayment"),
    ("payment_svc", "accept"),
    ("payment_svc", "order"),
    ("payment_svc", "execute"),
    ("executor_svc", "intent"),
    ("executor_svc", "charge"),
    ("psp_stub", "psp charge"),
    ("executor_svc", "record"),
    ("payment_svc", "credit"),
    ("wallet_svc", "apply"),
    ("payment_svc", "book"),
    ("ledger_svc", "post"),
    ("payment_svc", "finish"),
}
STEPS_OF_PAYMENT = {("payment_svc", "CreatePayment"), ("payment_svc", "accept")}

# A start is told as so long ago, by two clocks that are not read at the same moment.
CLOCK_NS = 5_000_000


class Traced:
    """A mesh of its own that writes spans, and what it wrote so far."""

    def __init__(self, mesh: RunningMesh, folder: Path) -> None:
        self.mesh = mesh
        self._files = [folder / f"{service}.jsonl" for service in SERVICES]

    def spans(self) -> list[Span]:
        return spans_in(file for file in self._files if file.exists())

    def of(self, payment: pb.Payment, *wanted: tuple[str, str]) -> list[Span]:
        """The payment's spans, as soon as these (service, name) are among them."""
        found: list[Span] = []

        def complete() -> bool:
            found[:] = [s for s in self.spans() if s.trace_id == payment.payment_id]
            return {(s.service, s.name) for s in found} >= set(wanted)

        eventually(complete)
        return found

    def metrics(self, service: str) -> Scrape:
        return scrape(self.mesh.supervisor.metrics_port(service))


@pytest.fixture(scope="module")
def traced(postgres_server: PostgresServer) -> Iterator[Traced]:
    with open_folder(in_memory=True) as folder:
        settings: dict[str, object] = {}
        for service in SERVICES:
            settings[f"{service}_traces_file"] = folder / f"{service}.jsonl"
            settings[f"{service}_gauges_interval_ms"] = 100
        # What the PSP never tells is unknown after 1.5 s, and parked when 3 s are over.
        settings |= {"executor_psp_deadline_ms": 700, "psp_stub_slow_ms": 400}
        with started_on(postgres_server, executor_key_window_s=6, **settings) as mesh:
            yield Traced(mesh, folder)


def test_a_payment_is_one_trace_through_all_services(traced: Traced) -> None:
    payment = traced.mesh.paid(new_checkout("tok_ok", new_order(), new_order()))
    spans = traced.of(payment, *STEPS)
    assert {(s.service, s.name) for s in spans} == STEPS
    assert {s.service for s in spans} == PACKAGES
    (root,) = [s for s in spans if not s.parent_id]
    assert root.name == "CreatePayment"
    assert root.span_id == payment.payment_id[16:]
    assert root.attributes["paymesh.state"] == "SUCCEEDED"
    of_orders = {s.span_id: s for s in spans if s.name == "order"}
    assert of_orders.keys() == {o.operations[0].operation_id[16:] for o in payment.orders}
    for span in spans:
        assert span.start_ns <= span.end_ns
        if span.name in ("CreatePayment", "accept", "order"):
            assert span.parent_id in ("", root.span_id)
            continue
        order = of_orders[span.parent_id]
        assert span.attributes["paymesh.order_id"] == order.attributes["paymesh.order_id"]
        # One machine has one clock: what was done for the order was done during its trip.
        assert order.start_ns - CLOCK_NS <= span.start_ns <= order.end_ns
    for order_id in [order.order_id for order in payment.orders]:
        its = [s.name for s in spans if s.attributes.get("paymesh.order_id") == order_id]
        assert sorted(its) == sorted(name for _, name in STEPS - STEPS_OF_PAYMENT)


def test_lists_are_linked_with_their_items(traced: Traced) -> None:
    requests = [new_checkout("tok_ok") for _ in range(20)]
    calls = [traced.mesh.payments.CreatePayment.future(r, timeout=30) for r in requests]
    payments = [call.result().payment for call in calls]
    for payment in payments:
        traced.of(payment, *STEPS)
    spans = traced.spans()
    lists = {(s.trace_id, s.span_id): s for s in spans if s.name.endswith(" list")}
    items = {(s.trace_id, s.span_id): s for s in spans if not s.name.endswith(" list")}
    ours = {payment.payment_id for payment in payments}
    assert not ours & {trace_id for trace_id, _ in lists}
    for payment in payments:
        for service, name in (
            STEPS
            - STEPS_OF_PAYMENT
            - {
                ("payment_svc", "order"),
                ("payment_svc", "execute"),
            }
        ):
            (item,) = [
                s
                for s in items.values()
                if (s.trace_id, s.service, s.name) == (payment.payment_id, service, name)
            ]
            (link,) = item.links
            of_list = lists[link]
            assert (of_list.service, of_list.name) == (service, f"{name} list")
            assert (item.trace_id, item.span_id) in of_list.links
            assert (of_list.start_ns, of_list.parent_id) == (item.start_ns, "")


def test_the_callers_trace_is_linked(traced: Traced) -> None:
    request = new_checkout("tok_ok")
    theirs = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")
    payment = traced.mesh.payments.CreatePayment(
        request, timeout=30, metadata=(("traceparent", f"00-{theirs[0]}-{theirs[1]}-01"),)
    ).payment
    (root,) = [s for s in traced.of(payment, ("payment_svc", "CreatePayment")) if not s.parent_id]
    assert root.links == [theirs]


def test_what_is_recovered_after_a_restart_goes_on_in_the_same_trace(traced: Traced) -> None:
    request = new_checkout("tok_slow")
    call = traced.mesh.payments.CreatePayment.future(request, timeout=30)
    eventually(
        lambda: (
            traced.mesh.count(
                "executor",
                "SELECT count(*) FROM operation WHERE payment_method = 'tok_slow' AND state = 1",
            )
            == 1
        )
    )
    traced.mesh.supervisor.restart("payment")
    call.exception()
    payment = traced.mesh.paid(request)
    assert payment.state == pb.PAYMENT_STATE_SUCCEEDED
    spans = traced.of(payment, *(STEPS - STEPS_OF_PAYMENT))
    (order,) = [s for s in spans if s.name == "order"]
    assert order.span_id == payment.orders[0].operations[0].operation_id[16:]
    assert {s.parent_id for s in spans if s.name in ("charge", "apply", "post")} == {order.span_id}


def lines(traced: Traced, service: str, payment: pb.Payment) -> list[dict[str, Any]]:
    """What a service logged of the payment, in all order."""
    told = [json.loads(line) for line in traced.mesh.log(service).splitlines()]
    return [line for line in told if line.get("payment_id") == payment.payment_id]


def test_what_stays_unknown_is_told_by_numbers_lines_and_spans(traced: Traced) -> None:
    payment = traced.mesh.pay(new_checkout("tok_silent"))
    (order,) = payment.orders
    payment_port = traced.mesh.supervisor.metrics_port("payment")
    executor_port = traced.mesh.supervisor.metrics_port("executor")
    now = wait_until(payment_port, lambda m: m.value("paymesh_orders", state="UNKNOWN") == 1)
    assert now.value("paymesh_oldest_order_age_seconds", state="UNKNOWN") > 0
    now = wait_until(
        executor_port, lambda m: m.value("paymesh_operations_unresolved", state="UNKNOWN") == 1
    )
    assert now.value("paymesh_oldest_unresolved_age_seconds", state="UNKNOWN") > 0

    now = wait_until(payment_port, lambda m: m.value("paymesh_orders", state="PARKED") == 1, 30)
    assert now.value("paymesh_orders_parked") == 1
    assert now.value("paymesh_orders", state="UNKNOWN") == 0
    assert now.value("paymesh_oldest_order_age_seconds", state="PARKED") > 3
    now = wait_until(
        executor_port,
        lambda m: m.value("paymesh_operations_unresolved", state="PARKED_UNKNOWN") == 1,
    )
    assert now.value("paymesh_operations_unresolved", state="UNKNOWN") == 0

    for service in ("payment", "executor"):
        its = lines(traced, service, payment)
        assert {line["order_id"] for line in its} == {order.order_id}
    events = [line["event"] for line in lines(traced, "payment", payment)]
    assert {"order", "order_taken", "order_parked"} <= set(events)
    told = lines(traced, "executor", payment)
    assert "operation_resent" in [line["event"] for line in told]
    (first, *_) = [line for line in told if line["event"] == "operation"]
    assert first["state"] == "UNKNOWN"
    assert "look-up: not found" in first["detail"]

    spans = traced.of(payment, ("executor_svc", "look-up"), ("executor_svc", "resend"))
    assert "not found" in {s.problem for s in spans if s.name == "look-up"}
    assert {s.problem for s in spans if s.name == "order"} >= {"UNKNOWN"}


def test_a_plain_payment_costs_a_line_an_order_in_all(traced: Traced) -> None:
    payment = traced.mesh.paid(new_checkout("tok_ok", new_order(), new_order()))
    its = {service: lines(traced, service, payment) for service in SERVICES}
    assert {service: len(found) for service, found in its.items() if found} == {"payment": 2}
    assert {line["order_id"] for line in its["payment"]} == {o.order_id for o in payment.orders}


def test_a_refused_call_names_the_payment_that_its_request_id_has(traced: Traced) -> None:
    request = new_checkout("tok_ok")
    payment = traced.mesh.paid(request)
    request.orders[0].amount.amount_minor += 1
    with pytest.raises(grpc.RpcError):
        traced.mesh.pay(request)
    (refused,) = [
        line for line in lines(traced, "payment", payment) if line["event"] == "call_refused"
    ]
    assert refused["reason"] == "REQUEST_ID_REUSED"


def test_each_service_counts_what_it_was_called_for(traced: Traced) -> None:
    before = {service: traced.metrics(service) for service in SERVICES}
    for _ in range(5):
        traced.mesh.paid(new_checkout("tok_ok"))
    after = {service: traced.metrics(service) for service in SERVICES}

    def more(service: str, name: str, **labels: str) -> float:
        return after[service].value(name, **labels) - before[service].value(name, **labels)

    handled = "grpc_server_handled_total"
    assert more("payment", handled, grpc_method="CreatePayment", grpc_code="OK") == 5
    applied = more("wallet", handled, grpc_method="ApplyMovements", grpc_code="OK")
    posted = more("ledger", handled, grpc_method="PostEvents", grpc_code="OK")
    assert (applied, posted) == (5, 5), "one after the other they are lists of one"
    called = "grpc_client_handled_total"
    assert more("payment", called, grpc_method="ApplyMovements", grpc_code="OK") == applied
    assert more("psp_stub", handled, grpc_method="Charge", grpc_code="OK") >= 5
    for service in SERVICES:
        assert after[service].value("paymesh_database_up") == 1
        assert more(service, "paymesh_writer_commits_total", result="stored") >= 5
        url = traced.mesh.supervisor.metrics_url(service)
        with urllib.request.urlopen(url, timeout=5) as answer:
            assert answer.status == 200
