"""Where the databases are, as the environment says; and the verb `migrate`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import typer

from mesh.migrations import PACKAGES, ProvisionError, head_revision, provision
from mesh.secret_files import BadSecretError, database_url
from paymeshctl.exits import CommandError, Exit, reporting

ADMIN_SETTING = "PAYMESH_DATABASE_URL"


@dataclass(frozen=True, slots=True)
class DatabaseSettings:
    """admin_url: None for the embedded PostgreSQL. urls: service → its own URL, if given."""

    admin_url: str | None
    urls: Mapping[str, str]

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> DatabaseSettings:
        """From PAYMESH_DATABASE_URL and the PAYMESH_<SERVICE>_DATABASE_URLs, or their files.

        Raises CommandError for URLs of services on a server that is not named, and for
        files that don't hold what they should (see mesh.secret_files).
        """
        try:
            admin_url = database_url(ADMIN_SETTING, environment)
            given = {
                service: database_url(url_setting(service), environment) for service in PACKAGES
            }
        except BadSecretError as error:
            raise CommandError(Exit.BAD_USAGE, f"bad setting: {error}") from error
        urls = {service: url for service, url in given.items() if url is not None}
        if urls and admin_url is None:
            raise CommandError(
                Exit.BAD_USAGE,
                f"{', '.join(url_setting(service) for service in urls)} without {ADMIN_SETTING}: "
                "set that too, to the administrative URL of the same server",
            )
        return cls(admin_url, urls)


def url_setting(service: str) -> str:
    """The variable that holds the URL of a service's own database."""
    return f"PAYMESH_{service.upper()}_DATABASE_URL"


def migrate(
    *, as_json: Annotated[bool, typer.Option("--json", help="Print what was done as JSON.")] = False
) -> None:
    """Make the databases and roles of all services on a PostgreSQL, and migrate them.

    PAYMESH_DATABASE_URL names the server and a role that may make databases and roles; each
    PAYMESH_<SERVICE>_DATABASE_URL names the database, role and password of one service.
    Each may stand in a file that …_DATABASE_URL_FILE names, or the password alone in one that
    …_DATABASE_PASSWORD_FILE names. May be repeated.
    """
    with reporting(as_json=as_json):
        settings = DatabaseSettings.read(os.environ)
        missing = [url_setting(service) for service in PACKAGES if service not in settings.urls]
        if settings.admin_url is None:
            missing.insert(0, ADMIN_SETTING)
        if missing or settings.admin_url is None:
            raise CommandError(Exit.BAD_USAGE, f"not set: {', '.join(missing)}")
        try:
            provision(settings.admin_url, urls=settings.urls)
            revisions = {service: head_revision(service) for service in PACKAGES}
        except ProvisionError as error:
            code = Exit.UNREACHABLE if error.unreachable else Exit.BAD_USAGE
            raise CommandError(code, str(error)) from error
    if as_json:
        typer.echo(json.dumps({"revisions": revisions}))
        return
    for service, revision in revisions.items():
        typer.echo(f"{service}: at revision {revision}")
