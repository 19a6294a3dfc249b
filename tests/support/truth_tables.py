"""What truth.py copies out of the five databases, by names of its own."""

from __future__ import annotations

from typing import NamedTuple


class Table(NamedTuple):
    """A temporary table, and the query in a service's database that fills it."""

    name: str
    columns: str
    service: str
    query: str


TABLES = (
    Table(
        "payment",
        "payment_id uuid, state int, orders int",
        "payment",
        "SELECT payment_id, state, orders FROM payment",
    ),
    Table(
        "ordered",
        "order_id uuid, payment_id uuid, seller text, currency text, amount numeric,"
        " commission numeric, state int, captured numeric",
        "payment",
        "SELECT order_id, payment_id, seller_id, currency_code, amount_minor, commission_minor,"
        " state, captured_minor FROM payment_order",
    ),
    Table(
        "operation",
        "operation_id uuid, order_id uuid, amount numeric, state int, reference text",
        "payment",
        "SELECT o.operation_id, q.order_id, o.amount_minor, o.state, o.psp_reference"
        " FROM operation o JOIN payment_order q USING (payment_id, position)",
    ),
    Table(
        "executed",
        "operation_id uuid, order_id uuid, currency text, amount numeric, state int,"
        " captured numeric, captured_currency text, fee numeric, reference text, psp_key text",
        "executor",
        "SELECT operation_id, order_id, currency, amount_minor, state, captured_minor,"
        " captured_currency, fee_minor, psp_reference, replace(psp_key::text, '-', '')"
        " FROM operation",
    ),
    Table(
        "charged",
        "psp_key text, operation_id uuid, order_id uuid, reference text, amount numeric,"
        " currency text, fee numeric, state text",
        "psp_stub",
        "SELECT idempotency_key, operation_id, order_id, psp_reference, amount_minor, currency,"
        " fee_minor, state FROM truth",
    ),
    Table(
        "movement",
        "movement_id uuid, operation_id uuid, order_id uuid, kind int, seller text, currency text,"
        " amount numeric, pending numeric, available numeric, debt numeric",
        "wallet",
        "SELECT movement_id, operation_id, order_id, kind, seller_id, currency, amount_minor,"
        " pending_minor, available_minor, debt_minor FROM movement",
    ),
    Table(
        "balance",
        "seller text, currency text, pending numeric, available numeric, reserved numeric,"
        " debt numeric",
        "wallet",
        "SELECT seller_id, currency, pending_minor, available_minor, reserved_minor, debt_minor"
        " FROM balance",
    ),
    Table(
        "journal",
        "journal_id uuid, operation_id uuid, order_id uuid, kind int, lines int",
        "ledger",
        "SELECT journal_id, operation_id, order_id, kind, line_count FROM journal",
    ),
    Table(
        "entry",
        "journal_id uuid, account int, owner text, source text, currency text, direction int,"
        " amount numeric",
        "ledger",
        "SELECT journal_id, account_kind, owner_id, source, currency, direction, amount_minor"
        " FROM entry",
    ),
    Table(
        "told", "payment_id uuid, order_id uuid, state int, currency text, amount numeric", "", ""
    ),
)
