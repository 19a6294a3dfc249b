"""The checker is checked: it is silent about a mesh that is right, and finds every lie.

Each lie is told by the superuser inside transactions that are rolled back.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any, NamedTuple

import psycopg
import pytest
from paymesh.payment.v1 import payment_pb2 as pb
from paymesh.payment.v1 import payment_service_pb2 as service_pb

from tests.faults.checker import Sessions, Told, Urls, check, opened, prepare, unsettled
from tests.support.checkout import new_checkout, new_order
from tests.support.mesh import SERVICES, started_on
from tests.support.postgres import PostgresServer


class Lie(NamedTuple):
    """What is changed in whose database, and which invariant breaks.

    %(ok)s is an order that SUCCEEDED with a commission, %(no)s one that was declined, %(odd)s one
    that is parked for its amount, %(new)s an id that there is not.
    """

    name: str
    service: str
    statement: str
    invariant: str


_MOVED = "(SELECT movement_id FROM movement WHERE order_id = %(ok)s)"
_JOURNAL = "(SELECT journal_id FROM journal WHERE order_id = %(ok)s AND kind = 1)"
_FEE = "(SELECT journal_id FROM journal WHERE order_id = %(ok)s AND kind = 2)"
_CHARGE = (
    "operation_id, order_id, payment_method, asked_minor, currency_code, final_state,"
    " captured_minor, fee_minor, create_time, final_time"
)

LIES = [
    Lie("an entry is raised", "ledger",
        f"UPDATE entry SET amount_minor = amount_minor + 1 WHERE journal_id = {_JOURNAL}"
        " AND direction = 1", "I1"),
    Lie("an entry is lost", "ledger",
        f"DELETE FROM entry WHERE journal_id = {_JOURNAL} AND direction = 2", "I1"),
    Lie("both sides are raised", "ledger",
        f"UPDATE entry SET amount_minor = amount_minor + 1 WHERE journal_id = {_JOURNAL}"
        " AND account_kind IN (1, 6)", "I3"),
    Lie("another seller is booked", "ledger",
        f"UPDATE entry SET owner_id = 'thief' WHERE journal_id = {_JOURNAL} AND owner_id <> ''",
        "I4"),
    Lie("commission becomes the seller's", "ledger",
        "UPDATE entry SET account_kind = 2, owner_id = 'thief'"
        f" WHERE journal_id = {_JOURNAL} AND account_kind = 6", "I3"),
    Lie("a journal is lost with its entries", "ledger",
        f"WITH gone AS (DELETE FROM entry WHERE journal_id = {_JOURNAL})"
        f" DELETE FROM journal WHERE journal_id = {_JOURNAL}", "I3"),
    Lie("the fee is lost", "ledger",
        f"WITH gone AS (DELETE FROM entry WHERE journal_id = {_FEE})"
        f" DELETE FROM journal WHERE journal_id = {_FEE}", "I3"),
    Lie("a capture is booked twice", "ledger",
        "WITH twin AS (INSERT INTO journal SELECT (j).* FROM (SELECT jsonb_populate_record(j,"
        f" '{{\"journal_id\": \"%(new)s\"}}') AS j FROM journal j WHERE journal_id = {_JOURNAL})"
        " AS made) INSERT INTO entry SELECT (e).* FROM (SELECT jsonb_populate_record(e,"
        f" '{{\"journal_id\": \"%(new)s\"}}') AS e FROM entry e WHERE journal_id = {_JOURNAL})"
        " AS made", "I2"),
    Lie("a balance is raised", "wallet",
        "UPDATE balance SET pending_minor = pending_minor + 1 WHERE seller_id ="
        " (SELECT seller_id FROM movement WHERE order_id = %(ok)s)", "I4"),
    Lie("a balance is negative", "wallet",
        "ALTER TABLE balance DROP CONSTRAINT balance_debt;"
        " UPDATE balance SET debt_minor = -1 WHERE seller_id ="
        " (SELECT seller_id FROM movement WHERE order_id = %(ok)s)", "I6"),
    Lie("pending becomes available", "wallet",
        "UPDATE balance SET available_minor = pending_minor, pending_minor = 0 WHERE seller_id ="
        " (SELECT seller_id FROM movement WHERE order_id = %(ok)s)", "I4"),
    Lie("a movement is lost", "wallet",
        f"DELETE FROM movement WHERE movement_id = {_MOVED}", "I3"),
    Lie("a movement is doubled, with its balance", "wallet",
        "WITH twin AS (INSERT INTO movement SELECT (m).* FROM (SELECT jsonb_populate_record(m,"
        f" '{{\"movement_id\": \"%(new)s\"}}') AS m FROM movement m WHERE movement_id = {_MOVED})"
        " AS made RETURNING *) UPDATE balance b SET pending_minor = b.pending_minor"
        " + twin.pending_minor FROM twin WHERE b.seller_id = twin.seller_id", "I2"),
    Lie("a seller is credited for a declined order", "wallet",
        f"UPDATE movement SET order_id = %(no)s WHERE movement_id = {_MOVED}", "I3"),
    Lie("a capture is told as another amount", "payment",
        "ALTER TABLE payment_order DROP CONSTRAINT payment_order_check1;"
        " UPDATE payment_order SET amount_minor = amount_minor + 1,"
        " captured_minor = captured_minor + 1 WHERE order_id = %(ok)s", "I3"),
    Lie("a captured order is told as declined", "payment",
        "UPDATE payment_order SET state = 7, captured_minor = 0 WHERE order_id = %(ok)s", "I3"),
    Lie("a declined order is told as succeeded", "payment",
        "UPDATE payment_order SET state = 6, captured_minor = amount_minor WHERE order_id = %(no)s",
        "I3"),
    Lie("an order is forgotten", "payment",
        "DELETE FROM payment_order WHERE order_id = %(ok)s", "I5"),
    Lie("a payment is forgotten", "payment",
        "DELETE FROM payment WHERE payment_id ="
        " (SELECT payment_id FROM payment_order WHERE order_id = %(ok)s)", "I8"),
    Lie("a payment is in another state than its orders", "payment",
        "UPDATE payment SET declined_orders = 1, succeeded_orders = 0 WHERE payment_id ="
        " (SELECT payment_id FROM payment_order WHERE order_id = %(ok)s)", "I8"),
    Lie("a terminal state is left", "payment",
        "UPDATE payment_order SET state = 3 WHERE order_id = %(no)s", "I5"),
    Lie("the executor forgets", "executor",
        "DELETE FROM operation WHERE order_id = %(ok)s", "I3"),
    Lie("the executor calls a capture a decline", "executor",
        "UPDATE operation SET state = 7, decline_category = 1 WHERE order_id = %(ok)s", "I3"),
    Lie("the executor names another reference", "executor",
        "UPDATE operation SET psp_reference = 'another' WHERE order_id = %(ok)s", "I3"),
    Lie("the executor charges what nobody asked for", "executor",
        "UPDATE operation SET order_id = '%(new)s' WHERE order_id = %(no)s", "I3"),
    Lie("the PSP captured nothing", "psp_stub",
        "DELETE FROM charge WHERE order_id = %(ok)s", "I3"),
    Lie("the PSP captured more", "psp_stub",
        "UPDATE charge SET captured_minor = captured_minor + 1 WHERE order_id = %(ok)s", "I3"),
    Lie("the PSP captured twice", "psp_stub",
        f"INSERT INTO charge (idempotency_key, generation, {_CHARGE})"
        f" SELECT idempotency_key, 2, {_CHARGE} FROM charge WHERE order_id = %(ok)s", "I2"),
    Lie("the PSP captured a declined order", "psp_stub",
        "UPDATE charge SET final_state = 'CAPTURED', captured_minor = asked_minor,"
        " decline_category = NULL, decline_code = NULL WHERE order_id = %(no)s", "I3"),
    Lie("the PSP is asked under another key", "psp_stub",
        "INSERT INTO idempotency SELECT 'another', generation, calls, first_seen_time,"
        " operation_id, order_id, payment_method, amount_minor, currency_code"
        " FROM idempotency WHERE order_id = %(ok)s", "I2"),
    Lie("the PSP is asked after it forgot", "psp_stub",
        "UPDATE idempotency SET generation = 2 WHERE order_id = %(ok)s", "I2"),
    Lie("the executor charges an order twice", "executor",
        "INSERT INTO operation SELECT (o).* FROM (SELECT jsonb_populate_record(o,"
        " jsonb_build_object('operation_id', '%(new)s')) AS o FROM operation o"
        " WHERE order_id = %(ok)s) AS made", "I2"),
    Lie("the PSP declined nothing", "psp_stub",
        "DELETE FROM charge WHERE order_id = %(no)s", "I3"),
    Lie("the intent is not stored", "executor",
        "DELETE FROM operation WHERE order_id = %(no)s", "I3"),
    Lie("a wrong amount is credited", "wallet",
        "INSERT INTO movement SELECT (m).* FROM (SELECT jsonb_populate_record(m,"
        " jsonb_build_object('movement_id', '%(new)s', 'operation_id', '%(new)s',"
        " 'order_id', %(odd)s)) AS m"
        f" FROM movement m WHERE movement_id = {_MOVED}) AS made", "I3"),
    Lie("it is booked before it is credited", "wallet",
        f"UPDATE movement SET operation_id = '%(new)s' WHERE movement_id = {_MOVED}", "I3"),
    Lie("another buyer paid", "payment",
        "UPDATE payment SET buyer_id = 'another' WHERE payment_id ="
        " (SELECT payment_id FROM payment_order WHERE order_id = %(ok)s)", "I5"),
    Lie("metadata is changed", "payment",
        "UPDATE payment SET metadata = '{\"a\": \"b\"}' WHERE payment_id ="
        " (SELECT payment_id FROM payment_order WHERE order_id = %(ok)s)", "I5"),
    Lie("another seller is paid", "payment",
        "UPDATE payment_order SET seller_id = 'thief' WHERE order_id = %(ok)s", "I5"),
    Lie("a request has two payments", "payment",
        "UPDATE payment SET request_id = (SELECT request_id FROM payment JOIN payment_order"
        " USING (payment_id) WHERE order_id = %(no)s) WHERE payment_id ="
        " (SELECT payment_id FROM payment_order WHERE order_id = %(ok)s)", "I5"),
    Lie("a capture is more than was asked", "payment",
        "ALTER TABLE payment_order DROP CONSTRAINT payment_order_check1;"
        " ALTER TABLE payment_order DROP CONSTRAINT payment_order_check2;"
        " UPDATE payment_order SET captured_minor = amount_minor + 1 WHERE order_id = %(ok)s",
        "I6"),
    Lie("a seller's account is below zero", "ledger",
        f"UPDATE entry SET direction = 3 - direction WHERE journal_id = {_JOURNAL}", "I6"),
    Lie("an order never ends", "payment",
        "UPDATE payment_order SET state = 2, captured_minor = 0 WHERE order_id = %(ok)s", "I7"),
    Lie("it is parked without a reason", "payment",
        "UPDATE payment_order SET attention_reason = '' WHERE order_id = %(odd)s", "I7"),
    Lie("what has ended is driven", "payment",
        "UPDATE operation SET next_attempt_time = now() WHERE payment_id ="
        " (SELECT payment_id FROM payment_order WHERE order_id = %(no)s)", "I7"),
    Lie("an operation is forgotten", "payment",
        "DELETE FROM operation WHERE payment_id ="
        " (SELECT payment_id FROM payment_order WHERE order_id = %(ok)s)", "I8"),
    Lie("an operation is in another state than its order", "payment",
        "UPDATE operation SET state = 3 WHERE payment_id ="
        " (SELECT payment_id FROM payment_order WHERE order_id = %(ok)s)", "I8"),
]  # fmt: skip


class Scratch(NamedTuple):
    """A mesh that has worked and stands still. told: as its callers know its payments."""

    urls: Urls
    told: list[Told]
    ids: list[str]
    names: dict[str, str]


@pytest.fixture(scope="module")
def scratch(postgres_server: PostgresServer) -> Iterator[Scratch]:
    with started_on(postgres_server, executor_psp_deadline_ms=300) as mesh:

        def paid(token: str, *orders: service_pb.NewOrder) -> Told:
            request = new_checkout(token, *orders)
            return Told(request, mesh.paid(request))

        ok = paid("tok_ok", new_order(), new_order(500, None, currency="JPY"))
        no, odd = paid("tok_declined"), paid("tok_wrong_amount")
        others = [
            paid(token)
            for token in ("tok_timeout_captured", "tok_timeout_nothing", "tok_pending_failure")
        ]
        whole = paid("tok_ok", new_order(700, 700))
        for service in SERVICES:
            mesh.supervisor.kill(service)
        told = [ok, no, odd, *others, whole]
        payments = [one.payment for one in told if one.payment]
        names = {
            name: f"'{payment.orders[0].order_id}'"
            for name, payment in zip(("ok", "no", "odd"), payments, strict=False)
        }
        urls = Urls.of(mesh.databases)
        prepare(urls)
        yield Scratch(urls, told, [payment.payment_id for payment in payments], names)


@pytest.fixture(scope="module")
def sessions(scratch: Scratch) -> Iterator[Sessions]:
    with opened(scratch.urls) as found:
        yield found


def test_is_silent_about_a_mesh_that_is_right(scratch: Scratch) -> None:
    assert check(scratch.urls, scratch.told) == []
    assert unsettled(scratch.urls) == []


def test_is_silent_about_each_of_its_payments(scratch: Scratch, sessions: Sessions) -> None:
    for told, payment_id in zip(scratch.told, scratch.ids, strict=True):
        assert check(sessions, [told], payment_ids=[payment_id]) == []


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.name)
def test_finds(scratch: Scratch, sessions: Sessions, lie: Lie) -> None:
    connection = getattr(sessions, lie.service)
    with connection.transaction(force_rollback=True):
        _allow_lies(connection)
        # Not parameters: some lies are several statements.
        connection.execute((lie.statement % {**scratch.names, "new": uuid.uuid4()}).encode())

        of_all = check(sessions, scratch.told)
        of_some = check(sessions, scratch.told, payment_ids=scratch.ids)

    assert lie.invariant in {one.invariant for one in of_all}, of_all
    assert lie.invariant in {one.invariant for one in of_some}, of_some
    assert all(one.text for one in of_all)


def test_every_invariant_is_broken_by_some_lie() -> None:
    assert {lie.invariant for lie in LIES} == {f"I{number}" for number in range(1, 9)}


def test_tells_which_payment_it_is(scratch: Scratch, sessions: Sessions) -> None:
    with sessions.payment.transaction(force_rollback=True):
        sessions.payment.execute("UPDATE payment_order SET state = 11 WHERE state = 7")
        found = check(sessions, scratch.told)

    assert {one.payment_id for one in found if one.invariant == "I5"} == {
        one.payment.payment_id
        for one in scratch.told
        if one.payment and one.payment.state == pb.PAYMENT_STATE_FAILED
    }


def test_looks_at_no_other_payments(scratch: Scratch, sessions: Sessions) -> None:
    with sessions.payment.transaction(force_rollback=True):
        sessions.payment.execute("UPDATE payment_order SET state = 11 WHERE state = 7")

        assert check(sessions, payment_ids=[scratch.ids[0]]) == []
        assert check(sessions, payment_ids=[scratch.ids[1]]) != []


def test_finds_a_payment_by_its_request(scratch: Scratch, sessions: Sessions) -> None:
    """Whoever heard nothing still knows under which request_id to look."""
    heard_nothing = scratch.told[1]._replace(payment=None)
    with sessions.payment.transaction(force_rollback=True):
        sessions.payment.execute("UPDATE payment_order SET state = 11 WHERE state = 7")

        assert check(sessions, [heard_nothing], payment_ids=[]) != []


def _allow_lies(connection: psycopg.Connection[tuple[Any, ...]]) -> None:
    connection.execute("SET LOCAL session_replication_role = replica")
    # The ledger refuses changes even so.
    tables = connection.execute(
        "SELECT DISTINCT tgrelid::regclass::text FROM pg_trigger WHERE tgenabled = 'A'"
    ).fetchall()
    for (table,) in tables:
        connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER ALL".encode())
