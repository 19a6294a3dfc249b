"""What the embedded PostgreSQL refuses, and why."""

from enum import StrEnum


class EmbeddedPostgresReason(StrEnum):
    """Why the embedded PostgreSQL could not be started or stopped."""

    INVALID_SETTING = "invalid_setting"
    """A value of the configuration is not allowed."""
    BINARIES_NOT_FOUND = "binaries_not_found"
    """No PostgreSQL of the right major version was found."""
    BINARIES_NOT_COPIED = "binaries_not_copied"
    """The server's user cannot reach the binaries, and they could not be copied safely."""
    NO_UNPRIVILEGED_USER = "no_unprivileged_user"
    """Root has to run the server as somebody else, and there is no such user."""
    DATA_DIR_UNREACHABLE = "data_dir_unreachable"
    """The server's user cannot enter a folder above the data folder."""
    DATA_DIR_NOT_OURS = "data_dir_not_ours"
    """The data folder belongs to another user or another program, or anyone may write to it."""
    DATA_DIR_IN_USE = "data_dir_in_use"
    """Another process runs a server on the data folder."""
    OTHER_MAJOR_VERSION = "other_major_version"
    """The data folder was made by another major version of PostgreSQL."""
    PASSWORD_MISSING = "password_missing"  # noqa: S105 - a reason, no password
    """The superuser's password file is gone while the data is still there."""
    PORT_IN_USE = "port_in_use"
    """Another program listens on the port."""
    INITDB_FAILED = "initdb_failed"
    """The database cluster could not be made; the message ends with the log's last lines."""
    START_FAILED = "start_failed"
    """The server ended or stayed silent; the message ends with the log's last lines."""
    STOP_FAILED = "stop_failed"
    """The server outlived every signal."""
    NOT_STARTED = "not_started"
    """Something was asked that is known only once start() has succeeded."""


class EmbeddedPostgresError(Exception):
    """The embedded PostgreSQL refused; `reason` is for programs, the message for people."""

    def __init__(self, reason: EmbeddedPostgresReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
