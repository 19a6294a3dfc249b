"""Databases, roles and migrations on a real PostgreSQL."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from psycopg import sql
from sqlalchemy import make_url

from mesh import migrations
from mesh.migrations import PACKAGES, ProvisionError, head_revision, provision
from tests.support.postgres import PostgresServer


@pytest.fixture
def prefix() -> str:
    """Names of this test's own: databases and roles that others use must not change."""
    return f"t{uuid.uuid4().hex[:12]}"


@pytest.fixture
def plain_admin(postgres_server: PostgresServer) -> str:
    """An administrator who is no superuser, as managed PostgreSQLs give one."""
    name = f"admin_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres_server.admin_url, autocommit=True) as connection:
        connection.execute(
            sql.SQL("CREATE ROLE {} LOGIN CREATEDB CREATEROLE PASSWORD 'plain'").format(
                sql.Identifier(name)
            )
        )
    url = make_url(postgres_server.admin_url).set(username=name, password="plain")
    return url.render_as_string(hide_password=False)


def revision(url: str) -> str:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    assert row is not None
    return str(row[0])


@pytest.mark.parametrize("service", PACKAGES)
def test_the_head_is_what_alembic_says(service: str) -> None:
    config = Config()
    config.set_main_option("script_location", f"{PACKAGES[service]}:migrations")
    config.set_main_option("path_separator", "os")
    script = ScriptDirectory.from_config(config)
    assert script.get_heads() == [head_revision(service)]
    for version in script.walk_revisions():
        assert Path(version.path).name.startswith(f"{version.revision}_")


def test_every_service_gets_a_database_at_its_head(
    postgres_server: PostgresServer, prefix: str
) -> None:
    urls = provision(postgres_server.admin_url, prefix=prefix)
    assert set(urls) == set(PACKAGES)
    for service, url in urls.items():
        assert revision(url) == head_revision(service)
        assert make_url(url).database == f"{prefix}_{service}"


def test_again_it_changes_nothing_and_whoever_came_first_is_not_locked_out(
    postgres_server: PostgresServer, prefix: str
) -> None:
    first = provision(postgres_server.admin_url, prefix=prefix, services=["wallet"])["wallet"]
    with psycopg.connect(first) as connection:
        connection.execute("SELECT count(*) FROM movement")
    second = provision(postgres_server.admin_url, prefix=prefix, services=["wallet"])["wallet"]
    assert second == first
    assert revision(first) == head_revision("wallet")


def test_each_service_has_a_password_of_its_own(
    postgres_server: PostgresServer, prefix: str
) -> None:
    urls = provision(postgres_server.admin_url, prefix=prefix, services=["wallet", "ledger"])
    passwords = {make_url(url).password for url in (*urls.values(), postgres_server.admin_url)}
    assert len(passwords) == 3
    neighbour = make_url(urls["wallet"]).set(password=make_url(urls["ledger"]).password)
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(neighbour.render_as_string(hide_password=False))


def test_with_the_administrator_s_password_the_services_change_theirs(
    postgres_server: PostgresServer, plain_admin: str, prefix: str
) -> None:
    first = provision(plain_admin, prefix=prefix, services=["wallet"])["wallet"]
    admin = make_url(plain_admin)
    with psycopg.connect(postgres_server.admin_url, autocommit=True) as connection:
        connection.execute(
            sql.SQL("ALTER ROLE {} PASSWORD 'another'").format(sql.Identifier(str(admin.username)))
        )
    admin = admin.set(password="another")
    url = admin.render_as_string(hide_password=False)
    second = provision(url, prefix=prefix, services=["wallet"])["wallet"]
    assert revision(second) == head_revision("wallet")
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(first)


def test_an_administrator_without_a_password_makes_a_new_one_each_time(
    postgres_server: PostgresServer, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin = make_url(postgres_server.admin_url)
    monkeypatch.setenv("PGPASSWORD", str(admin.password))
    bare = admin._replace(password=None).render_as_string(hide_password=False)
    first = provision(bare, prefix=prefix, services=["wallet"])["wallet"]
    second = provision(bare, prefix=prefix, services=["wallet"])["wallet"]
    assert revision(second) == head_revision("wallet")
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(first)


def test_the_app_role_may_do_little(postgres_server: PostgresServer, prefix: str) -> None:
    urls = provision(postgres_server.admin_url, prefix=prefix, services=["wallet", "ledger"])
    owner = f"{prefix}_wallet_owner"
    with psycopg.connect(urls["wallet"], autocommit=True) as connection:
        for statement in (
            "CREATE TABLE mine ()",
            "CREATE TEMPORARY TABLE mine ()",
            "CREATE SCHEMA mine",
            "ALTER TABLE movement DISABLE TRIGGER ALL",
            "DROP TABLE movement",
            "TRUNCATE movement",
            "UPDATE alembic_version SET version_num = '0000'",
            f"SET ROLE {owner}",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement.encode())
    neighbour = make_url(urls["wallet"]).set(database=f"{prefix}_ledger")
    with pytest.raises(psycopg.OperationalError, match="CONNECT"):
        psycopg.connect(neighbour.render_as_string(hide_password=False))


def test_nobody_logs_in_as_the_owner_and_everything_is_its(
    postgres_server: PostgresServer, prefix: str
) -> None:
    url = provision(postgres_server.admin_url, prefix=prefix, services=["wallet"])["wallet"]
    with psycopg.connect(url) as connection:
        owners = connection.execute(
            "SELECT DISTINCT pg_get_userbyid(relowner) FROM pg_class"
            " WHERE relnamespace = 'public'::regnamespace"
            " UNION SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = 'public'"
            " UNION SELECT pg_get_userbyid(datdba) FROM pg_database"
            " WHERE datname = current_database()"
        ).fetchall()
        logins = connection.execute(
            "SELECT rolcanlogin FROM pg_roles WHERE rolname = %s", (f"{prefix}_wallet_owner",)
        ).fetchall()
    assert owners == [(f"{prefix}_wallet_owner",)]
    assert logins == [(False,)]


def test_several_at_once_wait_for_each_other(postgres_server: PostgresServer, prefix: str) -> None:
    def run(_: int) -> dict[str, str]:
        return provision(postgres_server.admin_url, prefix=prefix, services=["wallet", "ledger"])

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(run, range(4)))
    assert all(urls == results[0] for urls in results)
    for service, url in results[0].items():
        assert revision(url) == head_revision(service)


def test_an_administrator_need_not_be_a_superuser(plain_admin: str, prefix: str) -> None:
    provision(plain_admin, prefix=prefix)
    urls = provision(plain_admin, prefix=prefix)
    for service, url in urls.items():
        assert revision(url) == head_revision(service)


def test_names_and_password_follow_the_services_url(
    postgres_server: PostgresServer, prefix: str
) -> None:
    url = (
        make_url(postgres_server.admin_url)
        .set(username=f"{prefix}-Role", password="p@ss/w%rd", database=f"{prefix}-Data")
        .render_as_string(hide_password=False)
    )
    for _ in range(2):
        urls = {"ledger": url}
        assert provision(postgres_server.admin_url, urls=urls, services=["ledger"]) == urls
    assert revision(url) == head_revision("ledger")


def test_a_role_with_rights_to_spare_is_refused(
    postgres_server: PostgresServer, plain_admin: str, prefix: str
) -> None:
    mighty = make_url(plain_admin).set(database=prefix).render_as_string(hide_password=False)
    with pytest.raises(ProvisionError, match="must not have"):
        provision(postgres_server.admin_url, urls={"wallet": mighty}, services=["wallet"])


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("mysql://x:y@z/w", "postgresql://"),
        ("not a url", "not a PostgreSQL URL"),
        ("postgresql://127.0.0.1/x", "must name a role and a database"),
        ("postgresql://postgres:x@127.0.0.1/x", "administrative role"),
    ],
)
def test_a_url_that_will_not_do_is_refused(
    postgres_server: PostgresServer, url: str, says: str
) -> None:
    with pytest.raises(ProvisionError, match=says):
        provision(postgres_server.admin_url, urls={"wallet": url}, services=["wallet"])


def test_a_database_of_somebody_else_is_refused(
    postgres_server: PostgresServer, prefix: str
) -> None:
    with psycopg.connect(postgres_server.admin_url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(f"{prefix}_wallet")))
    with pytest.raises(ProvisionError, match="belongs to 'postgres'"):
        provision(postgres_server.admin_url, prefix=prefix, services=["wallet"])


def test_a_database_of_a_newer_release_is_left_alone(
    postgres_server: PostgresServer, prefix: str
) -> None:
    provision(postgres_server.admin_url, prefix=prefix, services=["wallet"])
    inside = make_url(postgres_server.admin_url).set(database=f"{prefix}_wallet")
    with psycopg.connect(inside.render_as_string(hide_password=False)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(ProvisionError, match="9999"):
        provision(postgres_server.admin_url, prefix=prefix, services=["wallet"])


def test_a_server_that_is_down_and_a_wrong_password_are_told_apart(
    postgres_server: PostgresServer,
) -> None:
    admin = make_url(postgres_server.admin_url)
    for url, unreachable in ((admin.set(port=9), True), (admin.set(password="wrong"), False)):
        with pytest.raises(ProvisionError) as raised:
            provision(url.render_as_string(hide_password=False))
        assert raised.value.unreachable is unreachable
        assert "wrong" not in str(raised.value)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("version", [150_004, 170_010])
def test_an_older_postgresql_is_refused(version: int) -> None:
    refused = f"the server is PostgreSQL {version // 10_000}; Paymesh needs 18 or newer"
    assert migrations.refusal_of_server(version) == refused
    assert migrations.refusal_of_server(180_000) is None


def test_nothing_is_made_on_an_older_postgresql(
    postgres_server: PostgresServer, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrations, "_OLDEST_SERVER", 99)
    with pytest.raises(ProvisionError, match="needs 99 or newer") as raised:
        provision(postgres_server.admin_url, prefix=prefix, services=["wallet"])
    assert not raised.value.unreachable
    with psycopg.connect(postgres_server.admin_url) as connection:
        made = connection.execute(
            "SELECT FROM pg_database WHERE datname = %s", (f"{prefix}_wallet",)
        )
        assert made.fetchall() == []


def test_there_are_only_the_services_that_there_are(postgres_server: PostgresServer) -> None:
    with pytest.raises(ValueError, match="purse"):
        provision(postgres_server.admin_url, services=["purse"])
