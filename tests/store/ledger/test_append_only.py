"""What is written is never changed, by nobody, and nothing unsound can be written."""

from __future__ import annotations

import uuid
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from ledger_svc import chart
from ledger_svc.domain import Account, AccountKind
from ledger_svc.operations import post_events
from mesh.db import Database
from tests.support.captures import new_capture
from tests.support.databases import superuser_url

Connection = psycopg.Connection[tuple[object, ...]]

JOURNAL = """
INSERT INTO journal (journal_id, operation_id, order_id, revision, kind, line_count)
VALUES (%(id)s, %(id)s, %(id)s, 0, 1, %(count)s)
"""
ENTRIES = """
INSERT INTO entry (journal_id, line, account_kind, owner_id, source, direction, currency,
                   amount_minor)
VALUES {}
"""
DEBIT = "(%(id)s, 0, 1, '', 'psp', 1, 'EUR', 5)"
CREDIT = "(%(id)s, 1, 6, '', '', 2, 'EUR', 5)"


def both(*entries: str) -> sql.Composed:
    """Journal and entries by one statement."""
    return sql.SQL("WITH j AS ({}) {}").format(sql.SQL(JOURNAL), only(*entries))


def only(*entries: str) -> sql.Composed:
    return sql.SQL(ENTRIES).format(sql.SQL(", ".join(entries)))


def write(
    connection: Connection, *entries: str, count: int = 2, journal_id: uuid.UUID | None = None
) -> uuid.UUID:
    journal_id = journal_id or uuid.uuid4()
    connection.execute(both(*entries), {"id": journal_id, "count": count})
    return journal_id


def role(url: str) -> sql.Identifier:
    return sql.Identifier(str(conninfo_to_dict(url)["user"]))


@pytest.fixture(params=["app", "owner", "superuser", "replica"])
def anyone(
    request: pytest.FixtureRequest, databases: dict[str, str], superuser: Connection
) -> Connection:
    """Each who might try; a replica session has ordinary triggers switched off."""
    if request.param == "app":
        superuser.execute(sql.SQL("SET ROLE {}").format(role(databases["ledger"])))
    elif request.param == "owner":
        owner = str(conninfo_to_dict(databases["ledger"])["dbname"]) + "_owner"
        superuser.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(owner)))
    elif request.param == "replica":
        superuser.execute("SET session_replication_role = replica")
    return superuser


REFUSED = (psycopg.errors.RestrictViolation, psycopg.errors.InsufficientPrivilege)


@pytest.mark.parametrize("table", ["journal", "entry"])
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE {} SET journal_id = journal_id",
        "UPDATE {} SET create_time = now() WHERE false",
        "DELETE FROM {}",
        "DELETE FROM {} WHERE false",
        "TRUNCATE {} CASCADE",
        "MERGE INTO {} USING (SELECT) ON true WHEN MATCHED THEN DELETE",
    ],
)
def test_nobody_changes_what_is_written(anyone: Connection, table: str, statement: str) -> None:
    with pytest.raises(REFUSED):
        anyone.execute(statement.format(table))


def test_the_owner_is_refused_by_the_trigger(
    databases: dict[str, str], superuser: Connection
) -> None:
    owner = str(conninfo_to_dict(databases["ledger"])["dbname"]) + "_owner"
    superuser.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(owner)))
    with pytest.raises(psycopg.errors.RestrictViolation, match="only ever added to"):
        superuser.execute("UPDATE journal SET revision = 1")


async def test_a_refused_change_changes_nothing(
    database: Database, databases: dict[str, str]
) -> None:
    await post_events(database, [new_capture()])
    with psycopg.connect(superuser_url(databases, "ledger"), autocommit=True) as connection:
        before = connection.execute("SELECT count(*) FROM entry").fetchone()
        with pytest.raises(psycopg.errors.RestrictViolation):
            connection.execute("TRUNCATE entry")
        assert connection.execute("SELECT count(*) FROM entry").fetchone() == before


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE entry DISABLE TRIGGER append_only",
        "ALTER TABLE entry DISABLE TRIGGER ALL",
        "ALTER TABLE journal DISABLE TRIGGER USER",
        "DROP TRIGGER append_only ON journal",
        "DROP TRIGGER entry_complete_and_balanced ON entry",
        "DROP FUNCTION refuse_change() CASCADE",
        "CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS ''",
        "CREATE OR REPLACE FUNCTION paymesh_now() RETURNS timestamptz LANGUAGE sql AS ''",
        "SET session_replication_role = replica",
        "SET ROLE paymesh_ledger_owner",
        "ALTER TABLE entry OWNER TO CURRENT_USER",
        "DROP TABLE entry",
        "CREATE RULE nothing AS ON INSERT TO entry DO INSTEAD NOTHING",
        "CREATE TEMPORARY TABLE journal (journal_id uuid)",
        "CREATE TABLE public.mine ()",
        "INSERT INTO journal (journal_id, create_time) VALUES (gen_random_uuid(), now())",
        "INSERT INTO entry (journal_id, create_time) VALUES (gen_random_uuid(), now())",
    ],
)
def test_the_service_cannot_touch_its_guards(app: Connection, statement: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        app.execute(statement)


@pytest.fixture(params=["app", "superuser"])
def writer(request: pytest.FixtureRequest) -> Any:
    """Raw SQL, by the service's own role and by one that may do all."""
    return request.getfixturevalue(request.param)


def test_a_balanced_journal_is_taken(writer: Connection) -> None:
    journal_id = write(writer, DEBIT, CREDIT)
    rows = writer.execute("SELECT line FROM entry WHERE journal_id = %s", (journal_id,)).fetchall()
    assert len(rows) == 2


@pytest.mark.parametrize(
    ("entries", "constraint"),
    [
        ((DEBIT, CREDIT.replace("5)", "4)")), "journal_balanced"),
        ((DEBIT, CREDIT.replace("EUR", "USD")), "journal_balanced"),
        ((DEBIT, CREDIT.replace("2, 'EUR'", "1, 'EUR'")), "journal_balanced"),
        ((DEBIT,), "journal_complete"),
        ((DEBIT, CREDIT, DEBIT.replace("0,", "2,", 1)), "journal_complete"),
        ((DEBIT, CREDIT.replace("1,", "2,", 1)), "journal_complete"),
    ],
)
def test_an_unsound_journal_is_refused(
    writer: Connection, entries: tuple[str, ...], constraint: str
) -> None:
    with pytest.raises(psycopg.errors.CheckViolation) as raised:
        write(writer, *entries)
    assert raised.value.diag.constraint_name == constraint


def test_one_unsound_journal_refuses_the_statement(writer: Connection) -> None:
    other = uuid.uuid4()
    with pytest.raises(psycopg.errors.CheckViolation) as raised:
        writer.execute(
            sql.SQL("WITH o AS ({}), {}").format(
                sql.SQL(JOURNAL.replace("%(id)s", "%(other)s")),
                sql.SQL(
                    both(DEBIT, CREDIT, DEBIT.replace("%(id)s", "%(other)s"))
                    .as_string()
                    .removeprefix("WITH ")
                ),
            ),
            {"id": uuid.uuid4(), "other": other, "count": 2},
        )
    assert raised.value.diag.constraint_name in {"journal_complete", "journal_balanced"}


def test_two_statements_are_refused(writer: Connection) -> None:
    """A journal without its entries does not exist, not even within a transaction."""
    with pytest.raises(psycopg.errors.CheckViolation) as raised:
        writer.execute(JOURNAL, {"id": uuid.uuid4(), "count": 2})
    assert raised.value.diag.constraint_name == "journal_has_entries"


def test_entries_without_a_journal_are_refused(writer: Connection) -> None:
    with pytest.raises(psycopg.errors.CheckViolation) as raised:
        writer.execute(only(DEBIT, CREDIT), {"id": uuid.uuid4()})
    assert raised.value.diag.constraint_name == "journal_complete"


def test_entries_added_later_are_refused(writer: Connection) -> None:
    journal_id = write(writer, DEBIT, CREDIT)
    late = (DEBIT.replace("0,", "2,", 1), CREDIT.replace("1,", "3,", 1))
    with pytest.raises(psycopg.errors.CheckViolation) as raised:
        writer.execute(only(*late), {"id": journal_id})
    assert raised.value.diag.constraint_name == "journal_complete"


def test_entries_written_twice_are_refused(writer: Connection) -> None:
    journal_id = write(writer, DEBIT, CREDIT)
    with pytest.raises(psycopg.errors.UniqueViolation):
        writer.execute(only(DEBIT, CREDIT), {"id": journal_id})


def test_a_gap_between_the_lines_is_refused(writer: Connection) -> None:
    with pytest.raises(psycopg.errors.CheckViolation) as raised:
        write(writer, DEBIT, CREDIT.replace("1,", "2,", 1), count=3)
    assert raised.value.diag.constraint_name == "journal_complete"


@pytest.mark.parametrize("times", [("2000-01-01", "now"), ("now", "2100-01-01")])
def test_another_time_than_the_journals_is_refused(
    superuser: Connection, times: tuple[str, str]
) -> None:
    first, second = ("paymesh_now()" if time == "now" else f"'{time}'" for time in times)
    statement = both(
        DEBIT.replace("5)", f"5, {first})"), CREDIT.replace("5)", f"5, {second})")
    ).as_string()
    with pytest.raises(psycopg.errors.CheckViolation) as raised:
        superuser.execute(
            statement.replace("amount_minor)", "amount_minor, create_time)"),
            {"id": uuid.uuid4(), "count": 2},
        )
    assert raised.value.diag.constraint_name == "journal_complete"


@pytest.mark.parametrize("amount", [0, -5, 10**15])
def test_an_amount_out_of_bounds_is_refused(writer: Connection, amount: int) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        write(writer, DEBIT.replace("5)", f"{amount})"), CREDIT.replace("5)", f"{amount})"))


@pytest.mark.parametrize("kind", AccountKind)
@pytest.mark.parametrize("owner_id", ["", "seller"])
@pytest.mark.parametrize("source", ["", "psp"])
def test_the_table_knows_the_chart(
    app: Connection, kind: AccountKind, owner_id: str, source: str
) -> None:
    line = f"(%(id)s, {{}}, {kind.value}, '{owner_id}', '{source}', {{}}, 'EUR', 5)"
    entries = (line.format(0, 1), line.format(1, 2))
    if chart.violations(Account(kind, owner_id, source)):
        with pytest.raises(psycopg.errors.CheckViolation):
            write(app, *entries)
    else:
        write(app, *entries)
