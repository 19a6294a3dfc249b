"""The user that runs the server when we are root, and which folders that user can reach."""

import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path

from mesh.embedded.errors import EmbeddedPostgresError, EmbeddedPostgresReason

ENTER = stat.S_IXOTH
READ = stat.S_IROTH


@dataclass(frozen=True)
class Account:
    """An unprivileged user of this machine, without any group but its own."""

    name: str
    uid: int
    gid: int

    def may(self, path: Path, permission: int) -> bool:
        """Whether the permission bits of `path` grant `permission` (READ, ENTER or both).

        Access control lists are not looked at. Raises OSError if `path` cannot be looked at.
        """
        status = path.stat()
        if status.st_uid == self.uid:
            granted = status.st_mode >> 6
        elif status.st_gid == self.gid:
            granted = status.st_mode >> 3
        else:
            granted = status.st_mode
        return granted & permission == permission

    def first_closed_folder(self, path: Path) -> Path | None:
        """The topmost of `path` and its parents that the user cannot enter, or None.

        `path` is absolute and free of symbolic links; what does not exist yet counts as open.
        """
        for folder in reversed((path, *path.parents)):
            if not folder.exists():
                return None
            if not self.may(folder, ENTER):
                return folder
        return None


def server_account(run_as: str) -> Account | None:
    """The user to run the server as: None (stay who we are) unless we are root.

    PostgreSQL refuses to run as root. It also refuses a uid that has no name (initdb looks it
    up), so an unused number will not do, and creating a user is not ours to do: there remains an
    existing user, by default `nobody`.

    Raises EmbeddedPostgresError NO_UNPRIVILEGED_USER if `run_as` does not exist or is root.
    """
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam(run_as)
    except KeyError:
        entry = None
    if entry is None or entry.pw_uid == 0:
        problem = "does not exist" if entry is None else "is root"
        raise EmbeddedPostgresError(
            EmbeddedPostgresReason.NO_UNPRIVILEGED_USER,
            f"PostgreSQL does not run as root, and the user {run_as!r} to run it as {problem}; "
            "name another one, or start Paymesh as an ordinary user",
        )
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def temporary_storage(account: Account | None, *, for_programs: bool = False) -> Path | None:
    """A folder of the system's temporary storage that `account` can reach, or None.

    $TMPDIR, else /var/tmp (which, unlike /tmp, outlives a reboot), else /tmp. Only folders in
    which nobody but us can rename what we put there, and, `for_programs`, from which programs
    may be run.
    """
    candidates = (os.environ.get("TMPDIR"), "/var/tmp", "/tmp")  # noqa: S108 - checked below
    for candidate in candidates:
        if candidate is None or not Path(candidate).is_dir():
            continue
        folder = Path(candidate).resolve()
        status = folder.stat()
        if status.st_uid not in (0, os.geteuid()):
            continue
        if status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX:
            continue
        # The flag is known on Linux only.
        no_programs = os.statvfs(folder).f_flag & getattr(os, "ST_NOEXEC", 0)
        if for_programs and no_programs:
            continue
        if account is None or account.first_closed_folder(folder) is None:
            return folder
    return None
