"""The invariants over what the databases say and what callers were told: I1 to I8."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from paymesh.payment.v1 import payment_pb2 as pb
from paymesh.payment.v1 import payment_service_pb2 as service_pb

from tests.faults.checker import history
from tests.faults.checker.reading import Wanted, opened, read
from tests.faults.checker.records import Connection, Sessions, Told, Urls, Violation
from tests.faults.checker.tables import EXECUTOR, LEDGER, PAYMENT, PSP_STUB, TOLD, WALLET

_TABLES = (*PAYMENT, *EXECUTOR, *PSP_STUB, *WALLET, *LEDGER, *TOLD)
_FOLDER = Path(__file__).parent / "sql"

# The work is small or wide, and never worth a compiler. Lists of unknown length are taken for
# short ones, so a nested loop looks cheap and is not, over all payments of a day.
_SETTINGS = """
SELECT set_config(name, value, true) FROM (VALUES
  ('plan_cache_mode', 'force_generic_plan'), ('jit', 'off'), ('enable_nestloop', 'off'),
  ('work_mem', '128MB'), ('max_parallel_workers_per_gather', '0')
) AS setting (name, value)
"""

# Only over all payments: a seller's balance is of more payments than some.
_OF_ALL = frozenset({"i4_all_books_agree"})


def check(
    urls: Urls | Sessions,
    answers: Iterable[Told] = (),
    *,
    payment_ids: Sequence[str] | None = None,
    at_rest: bool = True,
) -> list[Violation]:
    """What breaks I1 to I8, of a mesh in which nothing is under way; nothing if all is well.

    answers: what callers were told, in any order.
    payment_ids: only of these payments, of those in the answers, and of those that are stored
        under the request_ids in the answers; and of their sellers, who must have no others.
    at_rest: whether everything has had the time to end, so that what has not breaks I7.
    """
    told = list(answers)
    with opened(urls) as sessions:
        wanted = None if payment_ids is None else _wanted(told, payment_ids)
        tables = read(sessions, wanted)
        tables |= {"told": json.dumps(list(_told_rows(told)))}
        tables |= {"accepted": json.dumps(list(_accepted_rows(told)))}
        found = _judged(sessions.payment, tables, wanted is None)
    if not at_rest:
        found = [one for one in found if one.invariant != "I7"]
    return found + history.violations(told, _stored(tables))


def unsettled(urls: Urls | Sessions) -> list[Violation]:
    """I7 alone: what is neither terminal nor parked with a reason."""
    with opened(urls) as sessions:
        statement = f"""
            WITH ordered AS ({PAYMENT[1].query}), operation AS ({PAYMENT[2].query})
            SELECT found.id, found.what FROM ({_text("i7_all_rest")}) AS found (id, what)
        """
        rows = sessions.payment.execute(statement.encode()).fetchall()
    return [Violation("I7", "", f"{found}: {what}") for found, what in rows]


def _judged(desk: Connection, tables: Mapping[str, str], of_all: bool) -> list[Violation]:
    with desk.transaction():
        desk.execute(_SETTINGS.encode())
        rows = desk.execute(_STATEMENTS[of_all].encode(), tables, prepare=True).fetchall()
    return [Violation(row[0], row[1], f"{row[2]}: {row[3]}") for row in rows]


def _text(name: str) -> str:
    return (_FOLDER / f"{name}.sql").read_text(encoding="utf-8")


def _statement(names: Iterable[str]) -> str:
    """One statement of all invariants, so that they are planned and sent once."""
    tables = ", ".join(
        f"{table.name} AS MATERIALIZED (SELECT * FROM"
        f" json_to_recordset(%({table.name})s::json) AS given ({table.columns}))"
        for table in _TABLES
    )
    found = "\nUNION ALL\n".join(
        f"SELECT '{name[:2].upper()}' AS invariant, id, what FROM (\n{_text(name)}) AS f (id, what)"
        for name in names
    )
    return f"""
        WITH {tables}, whose AS MATERIALIZED (
          SELECT payment_id::text AS id, payment_id FROM payment
          UNION SELECT order_id::text, payment_id FROM ordered
          UNION SELECT order_id::text, payment_id FROM executed
          UNION SELECT operation_id::text, payment_id FROM operation
          UNION SELECT operation_id::text, payment_id FROM executed
          UNION SELECT a.psp_key, e.payment_id FROM psp_asked a JOIN executed e USING (order_id)
          UNION SELECT movement_id::text, payment_id FROM movement JOIN ordered USING (order_id)
          UNION SELECT journal_id::text, payment_id FROM journal JOIN ordered USING (order_id)
        ), found AS ({found})
        SELECT DISTINCT invariant,
               coalesce((SELECT min(replace(payment_id::text, '-', '')) FROM whose
                         WHERE whose.id = found.id), ''),
               replace(id, '-', ''), what
        FROM found ORDER BY 1, 2, 3, 4
    """


_NAMES = sorted(path.stem for path in _FOLDER.glob("i*.sql"))
_STATEMENTS = {True: _statement(_NAMES), False: _statement(set(_NAMES) - _OF_ALL)}


def _wanted(told: Sequence[Told], payment_ids: Sequence[str]) -> Wanted:
    payments = {*payment_ids, *(one.payment.payment_id for one in told if one.payment)}
    return Wanted(
        sorted(payments), sorted({one.request.request_id for one in told if one.request.request_id})
    )


def _stored(tables: Mapping[str, str]) -> dict[tuple[str, str], str]:
    """(caller, request_id) → payment_id."""
    return {
        (row["caller"], row["request_id"]): row["payment_id"].replace("-", "")
        for row in json.loads(tables["payment"])
    }


def _told_rows(told: Iterable[Told]) -> Iterator[Mapping[str, Any]]:
    for payment in (one.payment for one in told if one.payment):
        for position, order in enumerate(payment.orders):
            yield {
                "payment_id": payment.payment_id,
                "request_id": payment.request_id,
                "caller": payment.caller,
                "buyer": payment.buyer_id,
                "orders": len(payment.orders),
                "position": position,
                "order_id": order.order_id,
                "state": pb.OrderState.Name(order.state).removeprefix("ORDER_STATE_"),
                "captured": order.captured.amount_minor,
                **_facts(order),
            }


def _accepted_rows(told: Iterable[Told]) -> Iterator[Mapping[str, Any]]:
    """The requests that were answered with a payment, with the contract's defaults."""
    for one in told:
        asked = one.request
        if one.payment is None or not isinstance(asked, service_pb.CreatePaymentRequest):
            continue
        for position, order in enumerate(asked.orders):
            yield {
                "payment_id": one.payment.payment_id,
                "caller": one.caller,
                "request_id": asked.request_id,
                "buyer": asked.buyer_id,
                "method": asked.payment_method,
                "policy": asked.failure_policy or pb.FAILURE_POLICY_BEST_EFFORT,
                "capture": asked.capture_method or pb.CAPTURE_METHOD_AUTOMATIC,
                "metadata": dict(asked.metadata),
                "orders": len(asked.orders),
                "position": position,
                **_facts(order),
            }


def _facts(order: pb.PaymentOrder | service_pb.NewOrder) -> Mapping[str, Any]:
    return {
        "seller": order.seller_id,
        "currency": order.amount.currency_code,
        "amount": order.amount.amount_minor,
        "commission": order.commission.amount_minor,
        "reference": order.reference,
    }
