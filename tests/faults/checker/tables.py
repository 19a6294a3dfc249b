"""What is read out of the databases: tables of the checker's own, with names for numbers."""

from __future__ import annotations

from typing import NamedTuple


def _named(column: str, *names: str) -> str:
    """The name of a number, counted from 1, or the number itself if it has none."""
    listed = ", ".join(f"'{name}'" for name in names)
    return f"coalesce((ARRAY[{listed}])[{column}], {column}::text)"


_ORDER_STATE = (
    "NOT_STARTED",
    "PROCESSING",
    "UNKNOWN",
    "AUTHORIZED",
    "CAPTURED",
    "SUCCEEDED",
    "DECLINED",
    "NOT_CHARGED",
    "VOIDED",
    "EXPIRED",
    "PARKED",
)
_PAYMENT_STATE = (
    "PROCESSING",
    "NEEDS_ATTENTION",
    "AUTHORIZED",
    "SUCCEEDED",
    "PARTIALLY_SUCCEEDED",
    "FAILED",
    "VOIDED",
)
_OPERATION_STATE = ("PENDING", "SUCCEEDED", "FAILED", "UNKNOWN")
_EXECUTOR_STATE = (
    "SENT",
    "UNKNOWN",
    "PENDING",
    "PARKED_UNKNOWN",
    "PARKED",
    "CAPTURED",
    "DECLINED",
)
_JOURNAL_KIND = ("CAPTURE", "PSP_FEE", "SETTLEMENT", "ADJUSTMENT")
_ACCOUNT = (
    "PSP_RECEIVABLE",
    "SELLER_PENDING",
    "SELLER_AVAILABLE",
    "SELLER_RESERVED",
    "SELLER_DEBT",
    "COMMISSION_REVENUE",
    "PSP_FEE_EXPENSE",
)


class Table(NamedTuple):
    """One table: its columns here, and the query in a service's database that fills it.

    some: what restricts the query to some payments; it may name the lists `payments`,
    `request_ids`, `orders` and `sellers`.
    """

    name: str
    columns: str
    query: str
    some: str
    group: str = ""


_OF_PAYMENTS = "payment_id = ANY (%(payments)s) OR request_id = ANY (%(request_ids)s)"
# Also orders whose payment is not there.
_STORED = (
    f"payment_id = ANY (array(SELECT payment_id FROM payment WHERE {_OF_PAYMENTS}"
    " UNION SELECT unnest(%(payments)s)))"
)

PAYMENT = (
    Table(
        "payment",
        "payment_id uuid, caller text, request_id text, buyer text, method text, policy int,"
        " capture int, metadata jsonb, state text, orders int",
        "SELECT payment_id, caller, request_id, buyer_id AS buyer, payment_method AS method,"
        " failure_policy AS policy, capture_method AS capture, metadata, orders,"
        f" {_named('state', *_PAYMENT_STATE)} AS state FROM payment",
        _OF_PAYMENTS,
    ),
    Table(
        "ordered",
        "order_id uuid, payment_id uuid, position int, seller text, currency text, amount numeric,"
        " commission numeric, reference text, state text, captured numeric, attention text",
        "SELECT order_id, payment_id, position, seller_id AS seller, currency_code AS currency,"
        " amount_minor AS amount, commission_minor AS commission, reference,"
        f" {_named('state', *_ORDER_STATE)} AS state, captured_minor AS captured,"
        " attention_reason AS attention FROM payment_order",
        _STORED,
    ),
    Table(
        "operation",
        "operation_id uuid, payment_id uuid, order_id uuid, amount numeric, state text,"
        " reference text, owned bool, scheduled bool",
        "SELECT operation_id, payment_id, order_id, o.amount_minor AS amount,"
        f" {_named('o.state', *_OPERATION_STATE)} AS state, psp_reference AS reference,"
        " epoch IS NOT NULL AS owned, next_attempt_time IS NOT NULL AS scheduled"
        " FROM operation o LEFT JOIN payment_order q USING (payment_id, position)",
        _STORED,
    ),
)

EXECUTOR = (
    Table(
        "executed",
        "operation_id uuid, payment_id uuid, order_id uuid, currency text, amount numeric,"
        " state text, captured numeric, captured_currency text, fee numeric, reference text,"
        " psp_key text, attention text",
        "SELECT operation_id, payment_id, order_id, currency, amount_minor AS amount,"
        f" {_named('state', *_EXECUTOR_STATE)} AS state, captured_minor AS captured,"
        " captured_currency, fee_minor AS fee, psp_reference AS reference,"
        " replace(psp_key::text, '-', '') AS psp_key, attention_reason AS attention"
        " FROM operation",
        "payment_id = ANY (%(payments)s)",
    ),
)

PSP_STUB = (
    Table(
        "charged",
        "psp_key text, operation_id uuid, order_id uuid, reference text, amount numeric,"
        " currency text, fee numeric, state text, generation int",
        "SELECT idempotency_key AS psp_key, operation_id, order_id, psp_reference AS reference,"
        " amount_minor AS amount, currency, fee_minor AS fee, state, generation FROM truth",
        "order_id = ANY (%(orders)s)",
    ),
    Table(
        "psp_asked",
        "psp_key text, operation_id uuid, order_id uuid, generation int",
        "SELECT idempotency_key AS psp_key, operation_id, order_id, generation FROM idempotency",
        "order_id = ANY (%(orders)s)",
    ),
)

WALLET = (
    Table(
        "movement",
        "movement_id uuid, operation_id uuid, order_id uuid, kind int, seller text, currency text,"
        " amount numeric, pending numeric, available numeric, debt numeric",
        "SELECT movement_id, operation_id, order_id, kind, seller_id AS seller, currency,"
        " amount_minor AS amount, pending_minor AS pending, available_minor AS available,"
        " debt_minor AS debt FROM movement",
        "order_id = ANY (%(orders)s)",
    ),
    Table(
        "balance",
        "seller text, currency text, pending numeric, available numeric, reserved numeric,"
        " debt numeric",
        "SELECT seller_id AS seller, currency, pending_minor AS pending,"
        " available_minor AS available, reserved_minor AS reserved, debt_minor AS debt"
        " FROM balance",
        "seller_id = ANY (%(sellers)s)",
    ),
    Table(
        "moved",
        "seller text, currency text, pending numeric, available numeric, debt numeric",
        "SELECT seller_id AS seller, currency, sum(pending_minor) AS pending,"
        " sum(available_minor) AS available, sum(debt_minor) AS debt FROM movement",
        "seller_id = ANY (%(sellers)s)",
        "GROUP BY seller_id, currency",
    ),
)

LEDGER = (
    Table(
        "journal",
        "journal_id uuid, operation_id uuid, order_id uuid, kind text, lines int, reverses uuid",
        "SELECT journal_id, operation_id, order_id,"
        f" {_named('kind', *_JOURNAL_KIND)} AS kind, line_count AS lines, reverses FROM journal",
        "order_id = ANY (%(orders)s)",
    ),
    Table(
        "entry",
        "journal_id uuid, account text, owner text, source text, currency text, side text,"
        " amount numeric",
        f"SELECT journal_id, {_named('account_kind', *_ACCOUNT)} AS account, owner_id AS owner,"
        f" source, currency, {_named('direction', 'DEBIT', 'CREDIT')} AS side,"
        " amount_minor AS amount FROM entry",
        "journal_id IN (SELECT journal_id FROM journal WHERE order_id = ANY (%(orders)s))",
    ),
    Table(
        "seller_account",
        "seller text, currency text, account text, amount numeric",
        f"SELECT owner_id AS seller, currency, {_named('account_kind', *_ACCOUNT)} AS account,"
        " sum(CASE WHEN (direction = 1) = (account_kind = 5) THEN amount_minor"
        " ELSE -amount_minor END) AS amount FROM entry WHERE account_kind BETWEEN 2 AND 5",
        "owner_id = ANY (%(sellers)s)",
        "GROUP BY owner_id, currency, account_kind",
    ),
)

TOLD = (
    Table(
        "told",
        "payment_id uuid, request_id text, caller text, buyer text, position int, order_id uuid,"
        " state text, seller text, currency text, amount numeric, commission numeric,"
        " captured numeric, reference text, orders int",
        "",
        "",
    ),
    Table(
        "accepted",
        "payment_id uuid, caller text, request_id text, buyer text, method text, policy int,"
        " capture int, metadata jsonb, position int, seller text, currency text, amount numeric,"
        " commission numeric, reference text, orders int",
        "",
        "",
    ),
)
"""Filled with what callers were told, and with the requests that were acknowledged."""

INDEXES = (
    ("payment", "CREATE INDEX IF NOT EXISTS checker_request ON payment (request_id)"),
    ("executor", "CREATE INDEX IF NOT EXISTS checker_payment ON operation (payment_id)"),
    ("psp_stub", "CREATE INDEX IF NOT EXISTS checker_order ON charge (order_id)"),
    ("psp_stub", "CREATE INDEX IF NOT EXISTS checker_asked ON idempotency (order_id)"),
    ("wallet", "CREATE INDEX IF NOT EXISTS checker_order ON movement (order_id)"),
)
"""What the services have no use for: they ask by keys."""
