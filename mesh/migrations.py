"""Makes the services' databases and roles, and brings them to their newest schema.

Each service has a database of its own with two roles: an owner that nobody can log in
as, to whom everything belongs, and an app role that the service logs in as and that may
do only what the migrations grant. So a service cannot touch its triggers, its schema or
its neighbours' tables, whatever a bug makes it say.

Everything here is synchronous and may be repeated: it changes only what differs.

Alembic is imported where it is used: every service asks for `head_revision` when it
starts, and would spend a third of its start on an Alembic that only `provision` needs.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib.resources import files

import psycopg
from psycopg import sql
from sqlalchemy import URL, create_engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.pool import NullPool

PACKAGES: Mapping[str, str] = {
    "payment": "payment_svc",
    "executor": "executor_svc",
    "wallet": "wallet_svc",
    "ledger": "ledger_svc",
    "psp_stub": "psp_stub",
}
"""The services that have a database, and the package of each that holds its migrations."""

DEFAULT_PREFIX = "paymesh"

# Statements of payment_svc ask RETURNING for old and new, which came with 18.
_OLDEST_SERVER = 18
_CONNECT_TIMEOUT_S = 5
# For the other run's lock, which it holds while it migrates all databases.
_LOCK_TIMEOUT_MS = 120_000
# For tables: a migration that waits for a lock makes all who come after it wait.
_MIGRATION_LOCK_TIMEOUT_MS = 5_000
_LOCK_KEY = 0x7061_796D_6573_68  # "paymesh"
_PASSWORD_BYTES = 24
# Some 50 ms and 16 MiB for each guess of an administrator's password.
_SCRYPT_COST = 1 << 14
_SCRYPT_BLOCKS = 8
_SCRYPT_SALT = b"paymesh: passwords of services"
_VERSION = re.compile(r"\d{4}_\w+\.py")
# A refused connection carries no SQLSTATE; the server's words tell that waiting is in vain.
_WRONG_URL = ("authentication failed", "does not exist", "no password supplied")


class ProvisionError(Exception):
    """The databases could not be made ready; the message is for people.

    unreachable: whether the server could not be reached, so that trying again may help.
    """

    def __init__(self, message: str, *, unreachable: bool = False) -> None:
        super().__init__(message)
        self.unreachable = unreachable


@dataclass(frozen=True, slots=True)
class _Plan:
    """One service's database as it is to be. password: None leaves the app role's as it is."""

    service: str
    database: str
    owner_role: str
    app_role: str
    password: str | None
    app_url: str


def provision(
    admin_url: str,
    *,
    urls: Mapping[str, str] | None = None,
    prefix: str = DEFAULT_PREFIX,
    services: Collection[str] = tuple(PACKAGES),
) -> dict[str, str]:
    """Makes databases and roles, migrates them, and returns each service's own URL.

    admin_url: a role that may make databases and roles (a superuser, or CREATEDB and
        CREATEROLE). It must lead to the server itself, not to a pooler.
    urls: service → the URL that the service will use; its database, role and password are
        made so. For a service without one they are `<prefix>_<service>`,
        `<database>_app` and a password that follows from the administrator's: who does the
        same elsewhere locks nobody out. Where admin_url has none it is a new random one,
        which takes the place of the last.
    prefix: begins the names of databases and roles; tests keep apart by it.
    services: which of PACKAGES.

    Idempotent. Of several that run at once on a server, each waits for the one before it.
    Raises ProvisionError; ValueError for a service that there is not.
    """
    urls = urls or {}
    unknown = sorted({*services, *urls} - set(PACKAGES))
    if unknown:
        raise ValueError(f"there is no service {', '.join(unknown)}")
    admin = _parse(admin_url, "the administrative URL")
    key = _key(admin)
    plans = [_plan(service, admin, urls.get(service), prefix, key) for service in services]
    try:
        with _connect(admin) as connection:
            _refuse_old_server(connection)
            connection.execute(f"SET lock_timeout = {_LOCK_TIMEOUT_MS}")
            # Two runs would make the same roles at the same time; held until we close.
            connection.execute("SELECT pg_advisory_lock(%s)", (_LOCK_KEY,))
            for plan in plans:
                _make_roles(connection, plan)
                _make_database(connection, plan)
                with _connect(admin.set(database=plan.database)) as inside:
                    _secure_schema(inside, plan)
                _migrate(admin.set(database=plan.database), plan)
    except psycopg.Error as error:
        raise _explain(error) from error
    except DBAPIError as error:
        raise _explain(error.orig or error) from error
    return {plan.service: plan.app_url for plan in plans}


def refusal_of_server(version: int) -> str | None:
    """Why a server won't do, in a sentence; None if it does. version: its server_version_num."""
    major = version // 10_000
    if major >= _OLDEST_SERVER:
        return None
    return f"the server is PostgreSQL {major}; Paymesh needs {_OLDEST_SERVER} or newer"


def head_revision(service: str) -> str:
    """The revision that this code's migrations of `service` lead to.

    Told by the names of their files, `<revision>_<what>.py`: revisions are numbers of
    equal length, each on top of the one before it.
    """
    versions = files(PACKAGES[service]) / "migrations" / "versions"
    names = [entry.name for entry in versions.iterdir() if _VERSION.fullmatch(entry.name)]
    if not names:
        raise ProvisionError(f"{PACKAGES[service]} has no migrations")
    return max(names).partition("_")[0]


def run_env() -> None:
    """What a service's migrations/env.py does: runs the migrations on provision's connection."""
    from alembic import context  # noqa: PLC0415 - see the module

    context.configure(connection=context.config.attributes["connection"])
    with context.begin_transaction():
        context.run_migrations()


def app_role() -> str:
    """The name, quoted, of the app role for a migration's GRANTs.

    Use this instead of a literal: the name follows PAYMESH_<SERVICE>_DATABASE_URL.
    """
    from alembic import context  # noqa: PLC0415 - see the module

    plan: _Plan = context.config.attributes["plan"]
    return sql.Identifier(plan.app_role).as_string()


def _key(admin: URL) -> bytes:
    """What the services' passwords follow from: the administrator's, or chance if it has none.

    Slow on purpose: whoever gets hold of a service's password must not find a weak one of the
    administrator by trying many, out of the server's sight.
    """
    if not admin.password:
        return secrets.token_bytes(_PASSWORD_BYTES)
    return hashlib.scrypt(
        str(admin.password).encode(), salt=_SCRYPT_SALT, n=_SCRYPT_COST, r=_SCRYPT_BLOCKS, p=1
    )


def _password(key: bytes, role: str) -> str:
    """The role's own: it tells nothing of the others'. None of it needs quoting in a URL."""
    digest = hmac.digest(key, role.encode(), "sha256")
    return base64.urlsafe_b64encode(digest[:_PASSWORD_BYTES]).decode()


def _plan(service: str, admin: URL, given: str | None, prefix: str, key: bytes) -> _Plan:
    if given is None:
        database = f"{prefix}_{service}"
        role = f"{database}_app"
        password = _password(key, role)
        url = admin.set(username=role, password=password, database=database)
        app_url = url.render_as_string(hide_password=False)
        return _Plan(service, database, f"{database}_owner", role, password, app_url)
    asked = _parse(given, f"the URL of the service {service}")
    if not asked.database or not asked.username:
        raise ProvisionError(f"the URL of the service {service} must name a role and a database")
    if asked.username == admin.username:
        raise ProvisionError(
            f"the URL of the service {service} names the administrative role "
            f"{asked.username!r}; a service runs as a role of its own, with fewer rights"
        )
    told = None if asked.password is None else str(asked.password)
    owner = f"{asked.database}_owner"
    return _Plan(service, asked.database, owner, asked.username, told, given)


def _parse(url: str, what: str) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        # Not the library's own message: it repeats the URL with its password.
        raise ProvisionError(f"{what} is not a PostgreSQL URL") from error
    if parsed.get_backend_name() not in {"postgresql", "postgres"}:
        raise ProvisionError(f"{what} must begin with postgresql://")
    return parsed.set(drivername="postgresql")


def _connect(url: URL) -> psycopg.Connection[tuple[object, ...]]:
    """A connection that commits each statement by itself."""
    return psycopg.connect(
        url.set(drivername="postgresql").render_as_string(hide_password=False),
        autocommit=True,
        connect_timeout=_CONNECT_TIMEOUT_S,
        application_name="paymesh-migrations",
    )


def _refuse_old_server(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    refusal = refusal_of_server(connection.info.server_version)
    if refusal is not None:
        raise ProvisionError(refusal)


def _make_roles(connection: psycopg.Connection[tuple[object, ...]], plan: _Plan) -> None:
    """The owner, who cannot log in, and the app role, who can and may do nothing yet."""
    _make_role(connection, plan.owner_role, sql.SQL("NOLOGIN"))
    _make_role(connection, plan.app_role, sql.SQL("LOGIN NOINHERIT"))
    row = connection.execute(
        "SELECT rolsuper OR rolcreaterole OR rolcreatedb OR rolbypassrls OR rolreplication,"
        " pg_has_role(oid, %s, 'MEMBER') FROM pg_roles WHERE rolname = %s",
        (plan.owner_role, plan.app_role),
    ).fetchone()
    if row is None or any(row):
        raise ProvisionError(
            f"the role {plan.app_role!r} of the service {plan.service} exists and has rights "
            "that a service must not have (superuser, CREATEROLE, CREATEDB, BYPASSRLS, "
            "REPLICATION or its owner's)"
        )
    if plan.password is not None:
        # Hashed here, so that the password never stands in the server's log.
        verifier = connection.pgconn.encrypt_password(
            plan.password.encode(), plan.app_role.encode(), b"scram-sha-256"
        )
        connection.execute(
            sql.SQL("ALTER ROLE {} PASSWORD {}").format(
                sql.Identifier(plan.app_role), sql.Literal(verifier.decode())
            )
        )
    row = connection.execute(
        "SELECT rolsuper FROM pg_roles WHERE rolname = current_user"
    ).fetchone()
    if row != (True,):
        # Who made a role may grant it, and needs it to hand over and migrate the database.
        connection.execute(
            sql.SQL("GRANT {} TO CURRENT_USER").format(sql.Identifier(plan.owner_role))
        )


def _make_role(
    connection: psycopg.Connection[tuple[object, ...]], name: str, attributes: sql.SQL
) -> None:
    known = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (name,)).fetchone()
    if known is None:
        connection.execute(sql.SQL("CREATE ROLE {} {}").format(sql.Identifier(name), attributes))


def _make_database(connection: psycopg.Connection[tuple[object, ...]], plan: _Plan) -> None:
    """The database, closed to everyone but its two roles."""
    database, owner = sql.Identifier(plan.database), sql.Identifier(plan.owner_role)
    row = connection.execute(
        "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = %s", (plan.database,)
    ).fetchone()
    if row is None:
        connection.execute(
            sql.SQL(
                "CREATE DATABASE {} OWNER {} TEMPLATE template0 ENCODING 'UTF8'"
                " LOCALE 'C' LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8'"
            ).format(database, owner)
        )
    elif row[0] != plan.owner_role:
        raise ProvisionError(
            f"the database {plan.database!r} exists and belongs to {row[0]!r}, not to "
            f"{plan.owner_role!r}: choose another name, or hand it over with ALTER DATABASE"
        )
    with connection.transaction():
        connection.execute(sql.SQL("SET LOCAL ROLE {}").format(owner))
        connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(database))
        connection.execute(
            sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(
                database, sql.Identifier(plan.app_role)
            )
        )


def _secure_schema(connection: psycopg.Connection[tuple[object, ...]], plan: _Plan) -> None:
    """The schema public: the owner's, and for the app role to use but not to create in."""
    with connection.transaction():
        connection.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(plan.owner_role)))
        connection.execute(
            sql.SQL("ALTER SCHEMA public OWNER TO {}").format(sql.Identifier(plan.owner_role))
        )
        connection.execute("REVOKE ALL ON SCHEMA public FROM PUBLIC")
        connection.execute(
            sql.SQL("GRANT USAGE ON SCHEMA public TO {}").format(sql.Identifier(plan.app_role))
        )


def _migrate(database: URL, plan: _Plan) -> None:
    """Runs the migrations that are missing, as the owner, in one transaction."""
    from alembic import command  # noqa: PLC0415 - see the module
    from alembic.config import Config  # noqa: PLC0415
    from alembic.util.exc import CommandError  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", f"{PACKAGES[plan.service]}:migrations")
    config.set_main_option("path_separator", "os")
    engine = create_engine(
        database.set(drivername="postgresql+psycopg"),
        poolclass=NullPool,
        connect_args={
            "connect_timeout": _CONNECT_TIMEOUT_S,
            "application_name": "paymesh-migrations",
        },
    )
    owner = sql.Identifier(plan.owner_role).as_string()
    with engine.connect() as connection:
        connection.exec_driver_sql(f"SET ROLE {owner}")
        connection.exec_driver_sql("SET timezone = 'UTC'")
        connection.exec_driver_sql(f"SET lock_timeout = {_MIGRATION_LOCK_TIMEOUT_MS}")
        connection.commit()
        config.attributes.update(connection=connection, plan=plan)
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            # Also for a revision that these migrations don't know, made by a newer release.
            raise ProvisionError(f"the database {plan.database!r}: {error}") from error
        app = sql.Identifier(plan.app_role).as_string()
        connection.exec_driver_sql(f"GRANT SELECT ON alembic_version TO {app}")
        connection.commit()


def _explain(error: BaseException) -> ProvisionError:
    """The driver's error in one line, without the statement and its values."""
    diagnosis = getattr(error, "diag", None)
    text = getattr(diagnosis, "message_primary", None) or str(error).strip()
    line = " ".join(str(text).split())
    no_session = isinstance(error, psycopg.OperationalError) and error.sqlstate is None
    if no_session and not any(wrong in line for wrong in _WRONG_URL):
        return ProvisionError(f"PostgreSQL can't be reached: {line}", unreachable=True)
    return ProvisionError(f"PostgreSQL refused: {line}")
