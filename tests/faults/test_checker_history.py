"""The checker's judgement of answers: what callers were told is one story for each request_id."""

from __future__ import annotations

import ast
import sys
import time
from pathlib import Path

import pytest
from paymesh.payment.v1 import payment_pb2 as pb
from paymesh.payment.v1 import payment_service_pb2 as service_pb

from tests.faults import checker
from tests.faults.checker import Told
from tests.faults.checker.history import violations
from tests.support.checkout import new_checkout, new_order

ID, OTHER_ID = "1" * 32, "2" * 32
REQUEST = new_checkout("tok_ok", new_order(100, None, seller_id="s"), request_id="r", buyer_id="b")
ANOTHER = new_checkout("tok_ok", new_order(200, None, seller_id="s"), request_id="r", buyer_id="b")
KEY = ("default", "r")


def answered(
    state: str = "SUCCEEDED", at: tuple[float, float] = (0, 1), payment_id: str = ID
) -> Told:
    """A CreatePayment that was answered in this state."""
    return Told(REQUEST, _payment(state, payment_id), "", *at)


def refused(
    reason: str,
    at: tuple[float, float] = (0, 1),
    request: service_pb.CreatePaymentRequest = REQUEST,
) -> Told:
    """A CreatePayment that was refused; without a reason: that heard nothing."""
    return Told(request, None, reason, *at)


def read(state: str, at: tuple[float, float]) -> Told:
    """A GetPayment that was answered in this state; empty: that found nothing."""
    request = service_pb.GetPaymentRequest(request_id="r")
    if not state:
        return Told(request, None, "PAYMENT_NOT_FOUND", *at)
    return Told(request, _payment(state), "", *at)


def _payment(state: str, payment_id: str = ID) -> pb.Payment:
    order = pb.PaymentOrder(state=pb.OrderState.Value(f"ORDER_STATE_{state}"))
    return pb.Payment(payment_id=payment_id, request_id="r", caller="default", orders=[order])


NOTHING: dict[tuple[str, str], str] = {}
STORED = {KEY: ID}

RIGHT = {
    "a first call and its replay": ([answered("PROCESSING"), answered(at=(2, 3))], STORED),
    "nothing heard, then a replay": ([refused(""), answered(at=(2, 3))], STORED),
    "nothing heard, and nothing stored": ([refused("")], NOTHING),
    "nothing heard, and stored": ([refused("OUTCOME_UNKNOWN")], STORED),
    "nothing accepted": ([refused("DEPENDENCY_DOWN"), read("", (2, 3))], NOTHING),
    "not there, then there": ([read("", (0, 1)), answered(at=(2, 3))], STORED),
    "a read beside the first call finds nothing": ([answered(at=(0, 9)), read("", (2, 3))], STORED),
    "a late answer of an early state": (
        [answered("PROCESSING", at=(0, 9)), read("SUCCEEDED", (2, 3))],
        STORED,
    ),
    "a read beside the first call finds an earlier state than that is told": (
        [answered("SUCCEEDED", at=(0, 9)), read("PROCESSING", (2, 3)), read("SUCCEEDED", (4, 5))],
        STORED,
    ),
    "another body under a used key": (
        [answered(), refused("REQUEST_ID_REUSED", (2, 3), ANOTHER)],
        STORED,
    ),
    "two bodies at once": (
        [answered(at=(0, 9)), refused("REQUEST_ID_REUSED", (1, 8), ANOTHER)],
        STORED,
    ),
    "what nobody heard of wins over the next": (
        [refused("", (0, 1), ANOTHER), refused("REQUEST_ID_REUSED", (2, 3))],
        STORED,
    ),
    "parked, driven again, and captured": (
        [answered("PARKED"), read("PROCESSING", (2, 3)), read("CAPTURED", (4, 5))],
        STORED,
    ),
    "sixteen at once": ([answered(at=(n / 100, 9)) for n in range(16)], STORED),
}

WRONG = {
    "two payments of one request": ([answered(), answered(payment_id=OTHER_ID)], "I5"),
    "another payment is stored": ([answered(payment_id=OTHER_ID)], "I5"),
    "acknowledged and not there any more": ([answered(), read("", (2, 3))], "I5"),
    "another body is accepted": ([answered(), Told(ANOTHER, _payment("SUCCEEDED"))], "I5"),
    "refused for a body that is the same": (
        [answered(), refused("REQUEST_ID_REUSED", (2, 3))],
        "I5",
    ),
    "refused before anybody asked": (
        [refused("REQUEST_ID_REUSED", (0, 1), ANOTHER), answered(at=(2, 3))],
        "I5",
    ),
    "nothing accepted, and stored": ([refused("DEPENDENCY_DOWN")], "I5"),
    "read before it was asked for": ([read("SUCCEEDED", (0, 1)), answered(at=(2, 3))], "I5"),
    "a terminal state is left": ([answered("DECLINED"), read("SUCCEEDED", (2, 3))], "I8"),
    "a capture is undone": ([answered("CAPTURED"), read("UNKNOWN", (2, 3))], "I8"),
    "one of many goes back": (
        [*(answered(at=(n / 100, 9)) for n in range(12)), read("PROCESSING", (10, 11))],
        "I8",
    ),
}


@pytest.mark.parametrize("name", RIGHT)
def test_accepts(name: str) -> None:
    told, stored = RIGHT[name]

    assert violations(told, stored) == []


@pytest.mark.parametrize("name", WRONG)
def test_finds(name: str) -> None:
    told, invariant = WRONG[name]

    (found,) = violations(told, STORED)

    assert (found.invariant, found.payment_id) == (invariant, ID), found
    assert "create" in found.text or "read" in found.text


def test_a_payment_that_is_not_stored_is_lost() -> None:
    (found,) = violations([answered()], NOTHING)

    assert (found.invariant, found.payment_id) == ("I5", ID)


def test_callers_do_not_share_their_keys() -> None:
    other = _payment("SUCCEEDED", OTHER_ID)
    other.caller = "another"
    told = [answered(), Told(ANOTHER, other, "", 0, 1, "another")]

    assert violations(told, {KEY: ID, ("another", "r"): OTHER_ID}) == []


def test_a_contradiction_among_many_callers_at_once_is_found_soon() -> None:
    """All orders of 24 calls would be more than there is time for."""
    told = [answered(at=(0, 9), payment_id=ID if n else OTHER_ID) for n in range(24)]
    started_s = time.process_time()

    assert [one.invariant for one in violations(told, STORED)] == ["I5"]
    assert time.process_time() - started_s < 5


def test_it_shares_no_code_with_what_it_checks() -> None:
    """Only generated messages: they are the contract."""
    folder = Path(checker.__file__).parent
    imported = {
        name
        for path in folder.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for name in _imports(node)
    }

    outside = {name for name in imported if name.partition(".")[0] not in sys.stdlib_module_names}
    assert {name for name in outside if not name.startswith("tests.faults.checker")} == {
        "paymesh.payment.v1",
        "psycopg",
    }
    functions = "paymesh_id", "paymesh_journal_id"
    texts = [path.read_text(encoding="utf-8") for path in folder.rglob("*") if path.is_file()]
    assert not any(name in text for name in functions for text in texts if "\0" not in text)


def _imports(node: ast.AST) -> list[str]:
    if isinstance(node, ast.ImportFrom):
        return [node.module or ""]
    return [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
