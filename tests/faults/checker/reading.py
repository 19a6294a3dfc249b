"""Reads the five databases: what they say of some payments, or all of it, as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import psycopg

from tests.faults.checker.records import Connection, Sessions, Urls
from tests.faults.checker.tables import (
    EXECUTOR,
    INDEXES,
    LEDGER,
    PAYMENT,
    PSP_STUB,
    WALLET,
    Table,
)


class Wanted(NamedTuple):
    """Which payments: by their ids, and by the request_ids under which they are stored."""

    payments: list[str]
    request_ids: list[str]


@contextmanager
def opened(urls: Urls | Sessions) -> Iterator[Sessions]:
    """Sessions in the databases; those that are open stay so."""
    if isinstance(urls, Sessions):
        yield urls
        return
    with ExitStack() as stack:
        yield Sessions(
            *(stack.enter_context(psycopg.connect(url, autocommit=True)) for url in urls)
        )


def prepare(urls: Urls | Sessions) -> None:
    """Makes indexes by which a handful of payments is found among many.

    Without them all is found just as well, in the time that it takes to read whole tables.
    """
    with opened(urls) as sessions:
        for service, statement in INDEXES:
            getattr(sessions, service).execute(statement.encode())


def read(sessions: Sessions, wanted: Wanted | None) -> dict[str, str]:
    """The tables, each as a JSON list of its rows. None: of all payments."""
    tables = _read(sessions.payment, PAYMENT, wanted and wanted._asdict())
    given: dict[str, list[str]] | None = None
    if wanted is not None:
        found = _column(tables, "payment_id", "payment", "ordered", "operation")
        given = {"payments": sorted(found | set(wanted.payments))}
    tables |= _read(sessions.executor, EXECUTOR, given)
    if given is not None:
        # What no order knows any more is still somebody's charge.
        orders = _column(tables, "order_id", "ordered", "operation", "executed")
        given |= {"orders": sorted(orders), "sellers": sorted(_column(tables, "seller", "ordered"))}
    for session, some in (
        (sessions.psp_stub, PSP_STUB),
        (sessions.wallet, WALLET),
        (sessions.ledger, LEDGER),
    ):
        tables |= _read(session, some, given)
    return tables


def _column(tables: Mapping[str, str], column: str, *names: str) -> set[str]:
    rows = (row for name in names for row in json.loads(tables[name]))
    return {
        row[column].replace("-", "") if column.endswith("_id") else row[column]
        for row in rows
        if row[column] is not None
    }


def _read(
    session: Connection, tables: Sequence[Table], given: Mapping[str, Any] | None
) -> dict[str, str]:
    """All tables of a database, by one statement."""
    statement = ", ".join(
        f"coalesce((SELECT json_agg(row_to_json(t)) FROM ({_query(table, given)}) t), '[]')::text"
        for table in tables
    )
    row = session.execute(f"SELECT {statement}".encode(), given, prepare=True).fetchone()
    assert row is not None
    return {table.name: str(text) for table, text in zip(tables, row, strict=True)}


def _query(table: Table, given: Mapping[str, Any] | None) -> str:
    if given is None:
        return f"{table.query} {table.group}"
    word = "AND" if " WHERE " in table.query else "WHERE"
    return f"{table.query} {word} ({_typed(table.some)}) {table.group}"


def _typed(condition: str) -> str:
    for name in ("payments", "orders"):
        condition = condition.replace(f"%({name})s", f"%({name})s::uuid[]")
    for name in ("request_ids", "sellers"):
        condition = condition.replace(f"%({name})s", f"%({name})s::text[]")
    return condition
