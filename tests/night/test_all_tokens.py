"""Payments of every stub token mixed, and then the night, through all processes.

What the PSP did wrong on purpose is all that differs, and what it never told ends as it should.
"""

from __future__ import annotations

import os
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import pytest
from paymesh.ledger.v1 import ledger_service_pb2 as ledger_pb
from paymesh.payment.v1 import check_mesh_pb2 as check_pb
from paymesh.payment.v1 import payment_pb2 as pb
from paymesh.payment.v1 import payment_service_pb2 as service_pb
from paymesh.reconciliation.v1 import reconciliation_service_pb2 as reconciliation_pb

from tests.faults import checker
from tests.support.bulk import Paid, pay_all
from tests.support.checkout import new_checkout, new_order
from tests.support.load import ENDS
from tests.support.mesh import eventually, fresh, started_on
from tests.support.mixture import Nights, Reconciled, later
from tests.support.postgres import PostgresServer
from tests.support.tables import table
from tests.support.token_books import SILENT, WRONG, TokenBooks

TOKENS: Mapping[str, pb.OrderState.ValueType] = {**ENDS, SILENT: pb.ORDER_STATE_SUCCEEDED}
"""Token → where its orders end after the night. All of the contract's but tok_dispute."""

SETTINGS: Mapping[str, object] = {
    "executor_psp_deadline_ms": 1_000,
    "executor_look_up_deadline_ms": 2_000,
    "psp_stub_slow_ms": 300,
    "psp_stub_pending_ms": 500,
    # The window is the shorter one: what is silent is parked after it.
    "psp_stub_key_memory_s": 120,
    "executor_key_window_s": 60,
    "payment_lease_ms": 5_000,
    "payment_unknown_first_ms": 1_000,
    "payment_unknown_most_ms": 10_000,
    "payment_parked_poll_ms": 600_000,
    "payment_evidence_poll_ms": 3_000,
}

_STATUS_DIFFERS = reconciliation_pb.BREAK_CLASS_STATUS_DIFFERS
_POSTED = reconciliation_pb.BREAK_STATE_POSTED


class Size(NamedTuple):
    """payments: so many; patience_s: how long a part of the night may take.

    parked: so many silent orders are parked before it, as after a longer day all would be.
    """

    payments: int
    patience_s: float
    parked: int = 0


def full() -> Size:
    """The issue's, or what NIGHT_PAYMENTS says."""
    return Size(int(os.environ.get("NIGHT_PAYMENTS", "20000")), 900, parked=1)


@dataclass
class Seen:
    """What was seen on the way. Differences by token, class and state."""

    paid: Paid
    tokens: Mapping[str, str]
    at_closing: Counter[tuple[str, int]] = field(default_factory=Counter)
    first_night: Counter[tuple[str, int, int]] = field(default_factory=Counter)
    next_night: Counter[tuple[str, int, int]] = field(default_factory=Counter)


@pytest.fixture
def nights(postgres_server: PostgresServer) -> Iterator[Nights]:
    with started_on(postgres_server, **SETTINGS) as mesh:
        nights = Nights(mesh)
        yield nights
        nights.close()


@pytest.mark.timeout(180)
def test_after_the_night_only_what_a_few_tokens_did_on_purpose_differs(
    nights: Nights, capsys: pytest.CaptureFixture[str]
) -> None:
    _night(nights, Size(payments=120, patience_s=60), capsys)


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_after_the_night_of_20_000_payments_only_what_tokens_did_on_purpose_differs(
    nights: Nights, capsys: pytest.CaptureFixture[str]
) -> None:
    _night(nights, full(), capsys)


def _night(nights: Nights, size: Size, capsys: pytest.CaptureFixture[str]) -> None:
    mesh, books = nights.mesh, TokenBooks(nights.mesh)
    requests = _requests(size)
    paid = nights.timed("pay", lambda: pay_all(mesh, requests))
    seen = Seen(paid, {one.request_id: one.payment_method for one in requests})
    assert paid.payments.keys() == seen.tokens.keys()
    _wait(nights, size, "rest", lambda: books.under_way() == 0)
    parked = (SILENT, int(pb.ORDER_STATE_PARKED))
    _wait(nights, size, "park", lambda: books.orders()[parked] >= size.parked)
    # What the register was not told yet, the night would take for unknown to us.
    _wait(nights, size, "register", lambda: books.unregistered() == 0)
    seen.at_closing = books.orders()

    day = nights.close_day()
    first = nights.timed("first night", lambda: nights.reconcile(day))
    seen.first_night = books.of_breaks(first.breaks)
    booked_by_then = books.silent_booked()

    # The file is the arbiter of what the PSP never told.
    _wait(nights, size, "evidence", lambda: books.waiting() == 0)
    next_day = nights.close_day(later(day, 1))
    next_night = nights.timed("next night", lambda: nights.reconcile(next_day))
    second = nights.reconcile(day)
    seen.next_night = books.of_breaks(second.breaks)

    with capsys.disabled():
        sys.stdout.write(_report(nights, books, size, seen))
    orders = books.orders()
    _assert_orders_ended_where_their_tokens_lead(orders)
    _assert_only_what_was_on_purpose_differs(seen, orders, booked_by_then)
    assert [_proof(one) for one in (first, second, next_night)] == [
        (reconciliation_pb.RUN_STATE_EXPLAINED, []),
        (reconciliation_pb.RUN_STATE_EXPLAINED, []),
        (reconciliation_pb.RUN_STATE_BALANCED, []),
    ]
    assert next_night.breaks == []
    urls = checker.Urls.of(mesh.databases)
    wrong = {int(_STATUS_DIFFERS): orders[WRONG, TOKENS[WRONG]]}
    assert checker.settlement(urls, day, wrong) == []
    assert checker.settlement(urls, next_day) == []
    _assert_all_books_say_the_same(nights, books, paid)


def _wait(nights: Nights, size: Size, name: str, condition: Callable[[], bool]) -> None:
    nights.timed(name, lambda: eventually(condition, size.patience_s, poll_s=0.25))


def _requests(size: Size) -> list[service_pb.CreatePaymentRequest]:
    """Every token as often, of one to three orders, in three currencies, to few sellers."""
    chance = random.Random(5)
    sellers = [fresh("seller") for _ in range(50)]
    tokens = list(TOKENS)
    requests = []
    for number in range(size.payments):
        orders = []
        for _ in range(chance.choice((1, 1, 1, 2, 3))):
            amount = chance.randint(100, 100_000)
            orders.append(
                new_order(
                    amount,
                    chance.randint(0, amount // 10),
                    currency=chance.choice(("EUR", "EUR", "USD", "JPY")),
                    seller_id=chance.choice(sellers),
                )
            )
        requests.append(new_checkout(tokens[number % len(tokens)], *orders))
    chance.shuffle(requests)
    return requests


# --- what has to be so -------------------------------------------------------------------


def _assert_orders_ended_where_their_tokens_lead(orders: Counter[tuple[str, int]]) -> None:
    assert orders.keys() == set(TOKENS.items())


def _assert_only_what_was_on_purpose_differs(
    seen: Seen, orders: Counter[tuple[str, int]], booked_by_then: int
) -> None:
    """First what was captured and not booked; then, of that, the wrong amounts alone."""
    wrong, silent = (orders[token, TOKENS[token]] for token in (WRONG, SILENT))
    of_wrong, of_silent = ((token, _STATUS_DIFFERS, _POSTED) for token in (WRONG, SILENT))
    assert seen.first_night.keys() <= {of_wrong, of_silent}
    assert seen.first_night[of_wrong] == wrong
    # The evidence may have been faster than the run.
    assert silent - booked_by_then <= seen.first_night[of_silent] <= silent
    assert seen.next_night == {of_wrong: wrong}


def _proof(
    done: Reconciled,
) -> tuple[reconciliation_pb.RunState.ValueType, list[reconciliation_pb.RunBalance]]:
    return done.run.state, [one for one in done.run.balances if one.difference_minor]


def _assert_all_books_say_the_same(nights: Nights, books: TokenBooks, paid: Paid) -> None:
    mesh = nights.mesh
    assert [one for one in books.totals() if len(set(one[1:])) > 1] == []
    assert mesh.violations(map(checker.seen, paid.payments.values())) == []
    assert nights.trial_balance_differs() == {}
    # What the wrong amounts left in suspense is all that is there.
    taken = books.taken_wrongly()
    suspense = ledger_pb.ACCOUNT_KIND_SUSPENSE
    assert {currency: nights.balance(suspense, currency) for currency in taken} == taken
    found = {
        finding.finding_class
        for response in mesh.payments.CheckMesh(check_pb.CheckMeshRequest(), timeout=300)
        for finding in response.findings
    }
    assert found <= {check_pb.FINDING_CLASS_APART}


# --- what is told ------------------------------------------------------------------------


def _report(nights: Nights, books: TokenBooks, size: Size, seen: Seen) -> str:
    captured, orders = books.captured(), books.orders()
    first_told: Counter[tuple[str, int]] = Counter(
        (seen.tokens[request_id], order.state)
        for request_id, payment in seen.paid.payments.items()
        for order in payment.orders
    )
    rows = [
        (
            token,
            sum(n for (of, _), n in orders.items() if of == token),
            captured.get(token, 0),
            _states(first_told, token),
            _states(seen.at_closing, token),
            _states(orders, token),
            _breaks(seen.first_night, token),
            _breaks(seen.next_night, token),
        )
        for token in TOKENS
    ]
    refusals = ", ".join(f"{n} {reason.value}" for reason, n in seen.paid.refusals.items())
    tables = (
        table(
            f"{size.payments} payments of {orders.total()} orders; told to come again: "
            + (refusals or "none"),
            (
                "token",
                "orders",
                "captured",
                "first told",
                "at closing",
                "in the end",
                "first night",
                "next",
            ),
            rows,
        ),
        table(
            "Captured, in minor units, by each book",
            ("", "stub", "orders", "wallets + commission", "ledger"),
            books.totals(),
        ),
        table("Seconds", ("", "s"), [(name, f"{s:.1f}") for name, s in nights.seconds.items()]),
    )
    return "\n".join([*tables, ""])


def _states(orders: Mapping[tuple[str, int], int], token: str) -> str:
    return ", ".join(
        f"{n} {pb.OrderState.Name(pb.OrderState.ValueType(state)).removeprefix('ORDER_STATE_')}"
        for (of, state), n in sorted(orders.items())
        if of == token
    )


def _breaks(found: Mapping[tuple[str, int, int], int], token: str) -> str:
    return ", ".join(
        f"{n} of class {class_}" for (of, class_, _), n in sorted(found.items()) if of == token
    )
