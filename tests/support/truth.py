"""Whether all books say the same: plain SQL over the databases of a mesh.

It shares no code with the services, so that a mistake of theirs is not made here again.
What the five databases say is copied into temporary tables of one session, and each
invariant is a query there that gives what breaks it. To be asked when nothing is under
way; what is UNKNOWN or PARKED stands apart and breaks nothing by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import NamedTuple, TypeAlias

import psycopg
from paymesh.payment.v1 import payment_pb2 as pb

from tests.support.truth_sql import INVARIANTS, UNSETTLED
from tests.support.truth_tables import TABLES

Connections: TypeAlias = Mapping[str, "psycopg.Connection[tuple[object, ...]]"]
"""Service → a session in its database; "admin" → one to work in."""


class Problem(NamedTuple):
    """What breaks an invariant (I1 to I8, see truth_sql.py), and the id where it does."""

    invariant: str
    id: str
    what: str


@contextmanager
def open_books(databases: Mapping[str, str]) -> Iterator[Connections]:
    """Sessions in the databases; databases: service (and "admin") → a superuser's URL."""
    with ExitStack() as stack:
        yield {
            service: stack.enter_context(psycopg.connect(url)) for service, url in databases.items()
        }


def problems_of(databases: Mapping[str, str], told: Iterable[pb.Payment] = ()) -> list[Problem]:
    """What breaks the invariants. told: payments as callers were told of them, see I5."""
    with open_books(databases) as books:
        return find_problems(books, told)


def unsettled(databases: Mapping[str, str]) -> list[Problem]:
    """The orders that are neither terminal nor parked (I7)."""
    with psycopg.connect(databases["payment"]) as connection:
        return [Problem(*map(str, row)) for row in connection.execute(UNSETTLED.encode())]


def find_problems(books: Connections, told: Iterable[pb.Payment] = ()) -> list[Problem]:
    """The same as `problems_of`, of what these sessions see."""
    desk = books["admin"]
    found = []
    with desk.transaction(force_rollback=True):
        for table in TABLES:
            desk.execute(f"CREATE TEMP TABLE {table.name} ({table.columns})".encode())
            if table.service:
                _copy(books[table.service], table.query, desk, table.name)
        with desk.cursor() as cursor:
            cursor.executemany(
                b"INSERT INTO told VALUES (%s, %s, %s, %s, %s)", list(_told_rows(told))
            )
        for invariant in INVARIANTS:
            found += [Problem(*map(str, row)) for row in desk.execute(invariant.encode())]
    return found


def _copy(
    source: psycopg.Connection[tuple[object, ...]],
    query: str,
    desk: psycopg.Connection[tuple[object, ...]],
    table: str,
) -> None:
    with (
        source.cursor().copy(f"COPY ({query}) TO STDOUT".encode()) as out,
        desk.cursor().copy(f"COPY {table} FROM STDIN".encode()) as into,
    ):
        for data in out:
            into.write(data)


def _told_rows(told: Iterable[pb.Payment]) -> Iterator[tuple[str, str, int, str, int]]:
    for payment in told:
        for order in payment.orders:
            yield (
                payment.payment_id,
                order.order_id,
                order.state,
                order.amount.currency_code,
                order.amount.amount_minor,
            )
