"""Database URLs and their passwords, given in the environment or in files.

What is in the environment of a process is seen by whoever may look at the process, and is
inherited by its children; what is in a file is seen by whoever may read the file. So an
orchestrator mounts files, and three variables say where the URL comes from:

    PAYMESH_WALLET_DATABASE_URL            the URL itself
    PAYMESH_WALLET_DATABASE_URL_FILE       a file that holds the URL
    PAYMESH_WALLET_DATABASE_PASSWORD_FILE  a file that holds the password of a URL without one

A variable that is empty counts as not set, as Compose leaves those that nobody gave.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

MAX_SECRET_BYTES = 8_192

_FILE = "_FILE"


class BadSecretError(Exception):
    """A secret can't be had; the message is for people and holds no part of it.

    variable: the one that is wrong.
    """

    def __init__(self, variable: str, said: str) -> None:
        super().__init__(f"{variable}: {said}")
        self.variable = variable
        self.said = said


def database_url(variable: str, environment: Mapping[str, str]) -> str | None:
    """The URL that `variable` or its files give, with its password; None if none is set.

    variable: PAYMESH_…_DATABASE_URL. The URL is as it was given where it has its password;
    whether it is one is the caller's to check. Raises BadSecretError for two that say the
    same, and for a file that can't be read, is empty, is too large or has several lines.
    """
    file_variable = f"{variable}{_FILE}"
    password_variable = password_file_variable(variable)
    url = environment.get(variable) or None
    if environment.get(file_variable):
        if url is not None:
            raise BadSecretError(file_variable, f"is set beside {variable}: set one of them")
        url = read_secret(file_variable, environment[file_variable])
    if not environment.get(password_variable):
        return url
    if url is None:
        raise BadSecretError(
            password_variable, f"needs {variable}, a URL without a password, and that is not set"
        )
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        return url  # Refused by whoever checks URLs, who names the right variable.
    if parsed.password is not None:
        raise BadSecretError(
            password_variable, f"is set, and the URL of {variable} has a password: give one of them"
        )
    password = read_secret(password_variable, environment[password_variable])
    return parsed.set(password=password).render_as_string(hide_password=False)


def password_file_variable(variable: str) -> str:
    """PAYMESH_…_DATABASE_PASSWORD_FILE for PAYMESH_…_DATABASE_URL."""
    return f"{variable.removesuffix('URL')}PASSWORD{_FILE}"


def names_a_database(variable: str) -> bool:
    """Whether an environment variable says where a database is, or how to log in to it."""
    return variable.startswith("PAYMESH_") and variable.endswith(
        ("DATABASE_URL", f"DATABASE_URL{_FILE}", f"DATABASE_PASSWORD{_FILE}")
    )


def read_secret(variable: str, path: str) -> str:
    """The one line that the file at `path` holds, without its line end.

    Raises BadSecretError, which names `variable` and the path.
    """
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_SECRET_BYTES + 1)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "is not a path"
        raise BadSecretError(variable, f"can't read {path!r}: {why}") from None
    if len(content) > MAX_SECRET_BYTES:
        raise BadSecretError(variable, f"{path!r} holds more than {MAX_SECRET_BYTES} bytes")
    try:
        secret = content.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        # Without the cause, which would repeat the bytes.
        raise BadSecretError(variable, f"{path!r} does not hold UTF-8 text") from None
    if not secret.strip():
        raise BadSecretError(variable, f"{path!r} is empty")
    if not secret.isprintable():
        raise BadSecretError(variable, f"{path!r} must hold one line of printable characters")
    return secret
