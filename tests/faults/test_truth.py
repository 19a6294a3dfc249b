"""The checker is checked: it is silent about a mesh that is right, and finds every lie.

Each lie is told by the superuser inside transactions that are rolled back.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import NamedTuple

import psycopg
import pytest
from paymesh.payment.v1 import payment_pb2 as pb

from tests.support.checkout import new_checkout, new_order
from tests.support.mesh import started_on
from tests.support.postgres import PostgresServer
from tests.support.truth import find_problems, open_books, problems_of, unsettled


class Lie(NamedTuple):
    """What is changed in whose database, and which invariant breaks.

    %(ok)s is an order that SUCCEEDED with a commission, %(no)s one that was declined, %(new)s an
    id that there is not.
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
]  # fmt: skip


class Scratch(NamedTuple):
    """A mesh that has worked and stands still. told: as its callers know its payments."""

    databases: dict[str, str]
    told: list[pb.Payment]
    ok: str
    no: str


@pytest.fixture(scope="module")
def scratch(postgres_server: PostgresServer) -> Iterator[Scratch]:
    with started_on(postgres_server, executor_psp_deadline_ms=300) as mesh:
        ok = mesh.paid(new_checkout("tok_ok", new_order(), new_order(500, None, currency="JPY")))
        no = mesh.paid(new_checkout("tok_declined"))
        others = [
            mesh.paid(new_checkout(token))
            for token in ("tok_timeout_captured", "tok_wrong_amount", "tok_pending_success")
        ]
        silent = mesh.pay(new_checkout("tok_silent"))
        whole = mesh.paid(new_checkout("tok_ok", new_order(700, 700)))
        for service in ("payment", "executor", "wallet", "ledger", "psp_stub"):
            mesh.supervisor.kill(service)
        told = [ok, no, *others, silent, whole]
        yield Scratch(mesh.databases, told, ok.orders[0].order_id, no.orders[0].order_id)


def test_is_silent_about_a_mesh_that_is_right(scratch: Scratch) -> None:
    assert problems_of(scratch.databases, scratch.told) == []


def test_tells_what_has_not_come_to_rest(scratch: Scratch) -> None:
    (silent,) = [p for p in scratch.told if p.state == pb.PAYMENT_STATE_PROCESSING]

    found = unsettled(scratch.databases)

    assert [(p.invariant, uuid.UUID(p.id).hex) for p in found] == [
        ("I7", silent.orders[0].order_id)
    ]


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.name)
def test_finds(scratch: Scratch, lie: Lie) -> None:
    with open_books(scratch.databases) as books:
        connection = books[lie.service]
        with connection.transaction(force_rollback=True):
            _allow_lies(connection)
            names = {"ok": f"'{scratch.ok}'", "no": f"'{scratch.no}'", "new": uuid.uuid4()}
            # Not parameters: some lies are several statements.
            connection.execute((lie.statement % names).encode())

            problems = find_problems(books, scratch.told)

    assert lie.invariant in {problem.invariant for problem in problems}, problems
    assert all(problem.id and problem.what for problem in problems)


def test_every_invariant_is_broken_by_some_lie() -> None:
    assert {lie.invariant for lie in LIES} == {"I1", "I2", "I3", "I4", "I5", "I6", "I8"}


def _allow_lies(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    connection.execute("SET LOCAL session_replication_role = replica")
    # The ledger refuses changes even so.
    tables = connection.execute(
        "SELECT DISTINCT tgrelid::regclass::text FROM pg_trigger WHERE tgenabled = 'A'"
    ).fetchall()
    for (table,) in tables:
        connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER ALL".encode())
