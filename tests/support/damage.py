"""Rows of a running mesh, damaged by the superuser, and the check's word on that."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

import psycopg
from google.protobuf.timestamp_pb2 import Timestamp
from paymesh.payment.v1 import check_mesh_pb2 as pb
from paymesh.payment.v1 import payment_pb2

from tests.support.mesh import RunningMesh

_HOURS = itertools.count(48)


@dataclass
class Case:
    """Payments of a test, in an hour of the past that no other test has."""

    mesh: RunningMesh
    start: datetime = field(
        default_factory=lambda: (
            datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
            - timedelta(hours=next(_HOURS))
        )
    )

    def aged(self, payment: payment_pb2.Payment) -> payment_pb2.Payment:
        """The payment, as if it had been made in that hour."""
        for table in ("payment", "payment_order", "operation"):
            self.do(
                "payment",
                f"UPDATE {table} SET create_time = %s WHERE payment_id = %s",
                self.start + timedelta(minutes=1),
                payment.payment_id,
            )
        return payment

    def do(self, service: str, statement: str, *values: object) -> None:
        """Changes rows as the superuser; it must change some."""
        with psycopg.connect(self.mesh.databases[service]) as connection:
            done = connection.execute(statement.encode(), values)
            assert done.rowcount, statement

    @contextmanager
    def without(self, service: str, table: str, where: str) -> Iterator[None]:
        """Rows are gone, and come back at the end."""
        kept = f"kept_{table}"
        with psycopg.connect(self.mesh.databases[service], autocommit=True) as connection:
            connection.execute(
                f"CREATE TABLE {kept} AS SELECT * FROM {table} WHERE {where}".encode()
            )
            try:
                assert connection.execute(f"DELETE FROM {table} WHERE {where}".encode()).rowcount
                yield
            finally:
                connection.execute(f"INSERT INTO {table} SELECT * FROM {kept}".encode())
                connection.execute(f"DROP TABLE {kept}".encode())

    @contextmanager
    def changeable_ledger(self) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
        """A session in the ledger whose triggers are off, as no role of ours can do it."""
        with psycopg.connect(self.mesh.databases["ledger"], autocommit=True) as connection:
            for table in ("journal", "entry"):
                connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER ALL".encode())
            try:
                yield connection
            finally:
                for table in ("journal", "entry"):
                    connection.execute(f"ALTER TABLE {table} ENABLE TRIGGER ALL".encode())
                    connection.execute(
                        f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER append_only".encode()
                    )

    def check(self, *, repair: bool = False, look_up: bool = False) -> list[pb.MeshFinding]:
        """What CheckMesh finds in that hour."""
        return findings(self.responses(repair=repair, look_up=look_up))

    def responses(
        self, *, repair: bool = False, look_up: bool = False
    ) -> list[pb.CheckMeshResponse]:
        """All that CheckMesh says of that hour."""
        request = pb.CheckMeshRequest(
            create_time_from=stamp(self.start),
            create_time_to=stamp(self.start + timedelta(hours=1)),
            repair=repair,
            look_up=look_up,
        )
        return list(self.mesh.payments.CheckMesh(request, timeout=30))


# --- what is damaged -----------------------------------------------------------------------

Damage: TypeAlias = Callable[[Case, payment_pb2.Payment], AbstractContextManager[None]]
"""Of a payment's first order, as a context: at its end everything is as it was."""


def operation_id(payment: payment_pb2.Payment, position: int = 0) -> str:
    return payment.orders[position].operations[0].operation_id


@contextmanager
def without_credit(case: Case, payment: payment_pb2.Payment) -> Iterator[None]:
    """The wallet was set back: the movement is gone, and its part of the balance."""
    _uncredit(case, [operation_id(payment)])
    yield


@contextmanager
def without_journals(case: Case, payment: payment_pb2.Payment) -> Iterator[None]:
    """The ledger was set back: the operation's journals are gone."""
    _unbook(case, [operation_id(payment)])
    yield


def set_back(case: Case, payments: Sequence[payment_pb2.Payment]) -> None:
    """Wallet and ledger know nothing of the payments any more."""
    operation_ids = [o.operations[0].operation_id for p in payments for o in p.orders]
    _uncredit(case, operation_ids)
    _unbook(case, operation_ids)


def _uncredit(case: Case, operation_ids: list[str]) -> None:
    case.do(
        "wallet",
        """
        WITH gone AS (
          DELETE FROM movement WHERE operation_id = ANY (%s::uuid[])
          RETURNING seller_id, currency, pending_minor)
        UPDATE balance b SET pending_minor = b.pending_minor - g.pending_minor
        FROM (SELECT seller_id, currency, sum(pending_minor) AS pending_minor FROM gone
              GROUP BY seller_id, currency) AS g
        WHERE (b.seller_id, b.currency) = (g.seller_id, g.currency)
        """,
        operation_ids,
    )


def _unbook(case: Case, operation_ids: list[str]) -> None:
    with case.changeable_ledger() as connection:
        for table in ("entry", "journal"):
            done = connection.execute(
                f"DELETE FROM {table} WHERE journal_id IN (SELECT journal_id FROM journal"
                " WHERE operation_id = ANY (%s::uuid[]))".encode(),
                [operation_ids],
            )
            assert done.rowcount


def reopen(
    case: Case,
    payment: payment_pb2.Payment,
    *,
    state: payment_pb2.OrderState.ValueType,
    captured: bool,
    next_in: str | None = None,
) -> None:
    """The one order of a payment is no longer where it ended, and the payment follows."""
    parked = state == payment_pb2.ORDER_STATE_PARKED
    key = payment.payment_id
    case.do(
        "payment",
        "UPDATE payment_order SET state = %s, captured_minor = CASE WHEN %s THEN amount_minor"
        " ELSE 0 END, decline_category = 0, attention_reason = %s WHERE payment_id = %s",
        state,
        captured,
        "OUTCOME_UNKNOWN: so" if parked else "",
        key,
    )
    case.do(
        "payment",
        "UPDATE payment SET succeeded_orders = 0, declined_orders = 0, open_orders = %s,"
        " parked_orders = %s WHERE payment_id = %s",
        int(not parked),
        int(parked),
        key,
    )
    case.do(
        "payment",
        "UPDATE operation SET state = 4, next_attempt_time = now() + %s::interval"
        " WHERE payment_id = %s",
        next_in,
        key,
    )


@contextmanager
def changed(case: Case, service: str, change: str, back: str) -> Iterator[None]:
    if service == "ledger":
        with case.changeable_ledger() as connection:
            assert connection.execute(change.encode()).rowcount
        try:
            yield
        finally:
            with case.changeable_ledger() as connection:
                assert connection.execute(back.encode()).rowcount
    else:
        case.do(service, change)
        try:
            yield
        finally:
            case.do(service, back)


def executor_gone(case: Case, p: payment_pb2.Payment) -> AbstractContextManager[None]:
    return case.without("executor", "operation", f"operation_id = '{operation_id(p)}'")


def executor_amount(case: Case, p: payment_pb2.Payment) -> AbstractContextManager[None]:
    where = f"WHERE operation_id = '{operation_id(p)}'"
    both = "UPDATE operation SET amount_minor = {0}, captured_minor = {0} " + where
    return changed(case, "executor", both.format(9_999), both.format(10_000))


def executor_reference(case: Case, p: payment_pb2.Payment) -> AbstractContextManager[None]:
    where = f"WHERE operation_id = '{operation_id(p)}'"
    reference = p.orders[0].operations[0].psp_reference
    set_ = "UPDATE operation SET psp_reference = '{}' " + where
    return changed(case, "executor", set_.format("other"), set_.format(reference))


def executor_unknown(case: Case, p: payment_pb2.Payment) -> AbstractContextManager[None]:
    set_ = f"UPDATE operation SET state = {{}} WHERE operation_id = '{operation_id(p)}'"
    return changed(case, "executor", set_.format(2), set_.format(6))


def movement_set(column: str, value: str, back: str) -> Damage:
    def damage(case: Case, p: payment_pb2.Payment) -> AbstractContextManager[None]:
        set_ = f"UPDATE movement SET {column} = {{}} WHERE operation_id = '{operation_id(p)}'"
        return changed(case, "wallet", set_.format(value), set_.format(back))

    return damage


def movement_amount(case: Case, p: payment_pb2.Payment) -> AbstractContextManager[None]:
    where = f"WHERE operation_id = '{operation_id(p)}'"
    both = "UPDATE movement SET amount_minor = {0}, pending_minor = {0} " + where
    return changed(case, "wallet", both.format(8_999), both.format(9_000))


def movement_seller(case: Case, p: payment_pb2.Payment) -> AbstractContextManager[None]:
    return movement_set("seller_id", "'mallory'", f"'{p.orders[0].seller_id}'")(case, p)


def movement_order(case: Case, p: payment_pb2.Payment) -> AbstractContextManager[None]:
    return movement_set("order_id", "gen_random_uuid()", f"'{p.orders[0].order_id}'")(case, p)


def entries_amount(case: Case, p: payment_pb2.Payment) -> AbstractContextManager[None]:
    where = (
        "WHERE line IN (0, 1) AND journal_id IN"
        f" (SELECT journal_id FROM journal WHERE kind = 1 AND operation_id = '{operation_id(p)}')"
    )
    add = "UPDATE entry SET amount_minor = amount_minor {} 1 " + where
    return changed(case, "ledger", add.format("+"), add.format("-"))


def entries_owner(case: Case, p: payment_pb2.Payment) -> AbstractContextManager[None]:
    where = (
        "WHERE owner_id <> '' AND journal_id IN"
        f" (SELECT journal_id FROM journal WHERE kind = 1 AND operation_id = '{operation_id(p)}')"
    )
    set_ = "UPDATE entry SET owner_id = '{}' " + where
    return changed(case, "ledger", set_.format("mallory"), set_.format(p.orders[0].seller_id))


def fee_gone(case: Case, p: payment_pb2.Payment) -> AbstractContextManager[None]:
    """The fee's journal stands under another operation and order."""
    where = f"WHERE kind = 2 AND %s = '{operation_id(p)}'"
    away = "UPDATE journal SET operation_id = order_id, order_id = operation_id " + where
    return changed(case, "ledger", away % "operation_id", away % "order_id")


def booked_twice(case: Case, p: payment_pb2.Payment) -> AbstractContextManager[None]:
    copy = f"""
    WITH j AS (
      INSERT INTO journal (journal_id, operation_id, order_id, revision, kind, line_count)
      SELECT gen_random_uuid(), gen_random_uuid(), order_id, 0, kind, line_count FROM journal
      WHERE operation_id = '{operation_id(p)}' AND kind = 1
      RETURNING journal_id, create_time)
    INSERT INTO entry (journal_id, create_time, amount_minor, line, account_kind, direction,
      currency, owner_id, source)
    SELECT j.journal_id, j.create_time, amount_minor, line, account_kind, direction, currency,
      owner_id, source
    FROM j, entry e JOIN journal old USING (journal_id)
    WHERE old.operation_id = '{operation_id(p)}' AND old.kind = 1"""
    others = f"""
    WITH gone AS (
      DELETE FROM journal
      WHERE order_id = '{p.orders[0].order_id}' AND operation_id <> '{operation_id(p)}'
      RETURNING journal_id)
    DELETE FROM entry USING gone WHERE entry.journal_id = gone.journal_id"""
    return changed(case, "ledger", copy, others)


def psp_amount(case: Case, p: payment_pb2.Payment) -> AbstractContextManager[None]:
    set_ = f"UPDATE charge SET captured_minor = {{}} WHERE operation_id = '{operation_id(p)}'"
    return changed(case, "psp_stub", set_.format(9_000), set_.format(10_000))


# --- what is told --------------------------------------------------------------------------


def findings(responses: Sequence[pb.CheckMeshResponse]) -> list[pb.MeshFinding]:
    """The findings of all messages."""
    return [finding for response in responses for finding in response.findings]


def kinds(found: Sequence[pb.MeshFinding]) -> list[str]:
    """The kinds, without their prefix."""
    return [pb.FindingKind.Name(f.kind).removeprefix("FINDING_KIND_") for f in found]


def stamp(time: datetime) -> Timestamp:
    """The time on the wire."""
    message = Timestamp()
    message.FromDatetime(time)
    return message
