"""The data folder: what lies in it, whose it is, and whether a server runs on it."""

import errno
import fcntl
import os
import secrets
import shutil
import stat
import subprocess
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from mesh.embedded.account import Account, server_account, temporary_storage
from mesh.embedded.binaries import POSTGRES_MAJOR
from mesh.embedded.errors import EmbeddedPostgresError, EmbeddedPostgresReason

_PASSWORD_BYTES = 24
# Lines of postmaster.pid, which PostgreSQL writes; its own pg_ctl reads the same ones.
_PID_LINE, _STATUS_LINE = 0, 7
_PROCESS_LIST_TIMEOUT_S = 10


@dataclass(frozen=True)
class DataFolder:
    """A folder of ours, in which only the cluster belongs to the server's user.

    So the server cannot read the password nor put a link in the place of a file that we write.
    """

    root: Path

    @property
    def cluster(self) -> Path:
        """PostgreSQL's own data directory."""
        return self.root / "postgres"

    @property
    def staging(self) -> Path:
        """Where a cluster is made; renamed once it is whole."""
        return self.root / "postgres.initdb"

    @property
    def log_file(self) -> Path:
        """The server's log."""
        return self.root / "postgres.log"

    @property
    def password_file(self) -> Path:
        """The superuser's password, readable by us alone."""
        return self.root / "postgres.password"

    def refuse_other_major(self) -> None:
        """Refuses data of another PostgreSQL; changes nothing. Expects a prepared folder.

        Raises EmbeddedPostgresError OTHER_MAJOR_VERSION, or DATA_DIR_NOT_OURS for a cluster of
        somebody else that lies right here.
        """
        for place in (self.root, self.cluster):
            try:
                version = (place / "PG_VERSION").read_text().strip()
            except (FileNotFoundError, NotADirectoryError):
                continue
            if version != str(POSTGRES_MAJOR):
                raise EmbeddedPostgresError(
                    EmbeddedPostgresReason.OTHER_MAJOR_VERSION,
                    f"the data in {place} is of PostgreSQL {version}, and this is "
                    f"{POSTGRES_MAJOR}: bring it over with pg_upgrade or a dump, or choose "
                    "another data folder",
                )
            if place == self.root:
                raise _not_ours(
                    place,
                    "is itself a PostgreSQL data directory; Paymesh keeps its own inside its data "
                    "folder: choose another one",
                )

    def prepare(self, account: Account | None) -> None:
        """Makes the folder if there is none, and refuses one that is not ours to use.

        What we did not make keeps its owner and permissions. Raises EmbeddedPostgresError
        DATA_DIR_UNREACHABLE, DATA_DIR_NOT_OURS.
        """
        try:
            self._refuse_closed(account)
            self._make_missing(account)
            self._refuse_foreign(account)
        except OSError as error:
            raise EmbeddedPostgresError(
                EmbeddedPostgresReason.DATA_DIR_UNREACHABLE,
                f"the data folder {self.root} cannot be used: {error}",
            ) from error

    def _refuse_closed(self, account: Account | None) -> None:
        closed = account.first_closed_folder(self.root) if account is not None else None
        if account is not None and closed is not None:
            raise EmbeddedPostgresError(
                EmbeddedPostgresReason.DATA_DIR_UNREACHABLE,
                f"the data folder {self.root} cannot be reached by the user {account.name!r}, who "
                f"runs PostgreSQL because root must not: {closed} does not let it in "
                f"(mode {stat.S_IMODE(closed.stat().st_mode):04o}); choose a data folder elsewhere",
            )

    def _make_missing(self, account: Account | None) -> None:
        missing = [path for path in (self.root, *self.root.parents) if not path.exists()]
        for folder in reversed(missing):
            folder.mkdir()
            if account is not None:
                # Our own folders, open to pass through even if our umask is strict.
                folder.chmod(folder.stat().st_mode | 0o011)
        if missing:
            self.root.chmod(0o711 if account is not None else 0o700)

    def _refuse_foreign(self, account: Account | None) -> None:
        status = self.root.stat()
        if not stat.S_ISDIR(status.st_mode):
            raise _not_ours(self.root, "is not a folder")
        if status.st_uid != os.geteuid():
            raise _not_ours(
                self.root,
                f"belongs to uid {status.st_uid}, and we are uid {os.geteuid()}: start Paymesh as "
                "that user, or choose another one",
            )
        if status.st_mode & stat.S_IWOTH:
            raise _not_ours(self.root, "can be written to by every user; choose another one")
        server_uid = os.geteuid() if account is None else account.uid
        if self.cluster.exists() and self.cluster.lstat().st_uid != server_uid:
            raise _not_ours(
                self.cluster,
                f"belongs to uid {self.cluster.lstat().st_uid}, and PostgreSQL would run as uid "
                f"{server_uid}: start Paymesh as it was started before",
            )

    def lock(self) -> int:
        """Takes the launcher's lock: held until its process closes the descriptor, or dies.

        Unlike a pid in a file it cannot be stale. Raises EmbeddedPostgresError DATA_DIR_IN_USE.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        descriptor = os.open(self.root / "postgres.lock", flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise data_dir_in_use(self.root, self.running_server()) from error
        return descriptor

    def running_server(self) -> int | None:
        """The pid of the PostgreSQL that runs on this folder, whoever started it, or None."""
        pid = self._pid()
        return pid if pid is not None and _is_server_of(pid, self.cluster) else None

    def is_ready(self, pid: int) -> bool:
        """Whether the server with this pid has written that it accepts connections."""
        lines = self._pid_file_lines()
        ready = len(lines) > _STATUS_LINE and lines[_STATUS_LINE].strip() == "ready"
        return ready and self._pid() == pid

    def drop_misleading_pid_file(self) -> None:
        """Removes a stale pid file that PostgreSQL would take for a running server's.

        PostgreSQL itself replaces a file whose process is gone. It does not start if the number
        has since been given to another process, or if a power cut left the file empty. Only to be
        called with the lock held and no server running.
        """
        pid = self._pid()
        if pid is None or _is_alive(pid):
            (self.cluster / "postmaster.pid").unlink(missing_ok=True)

    def _pid(self) -> int | None:
        lines = self._pid_file_lines()
        # A server for one session only (postgres --single) writes its pid as a negative number.
        digits = lines[_PID_LINE].strip().removeprefix("-") if lines else ""
        return int(digits) if digits.isdigit() else None

    def _pid_file_lines(self) -> list[str]:
        try:
            return (self.cluster / "postmaster.pid").read_text(errors="replace").splitlines()
        except (FileNotFoundError, NotADirectoryError):
            return []

    def make_staging(self, account: Account | None, password: str) -> Path:
        """An empty place for a new cluster, the server's own; returns the password file for it."""
        if self.staging.exists():
            shutil.rmtree(self.staging)
        self.staging.mkdir(mode=0o700)
        hint = self.staging / "password"
        with os.fdopen(os.open(hint, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(password)
        if account is not None:
            os.chown(hint, account.uid, account.gid)
            os.chown(self.staging, account.uid, account.gid)
        return hint

    def adopt_staging(self, password: str) -> None:
        """Puts the new cluster in its place. The password comes first: data without it is lost."""
        fresh = self.password_file.with_name(f"{self.password_file.name}.new")
        fresh.unlink(missing_ok=True)
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(password)
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(self.password_file)
        (self.staging / "cluster").rename(self.cluster)
        shutil.rmtree(self.staging)
        descriptor = os.open(self.root, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def password(self) -> str:
        """The superuser's password. Raises EmbeddedPostgresError PASSWORD_MISSING."""
        try:
            return self.password_file.read_text()
        except OSError as error:
            raise EmbeddedPostgresError(
                EmbeddedPostgresReason.PASSWORD_MISSING,
                f"the data in {self.cluster} needs the password in {self.password_file}, which "
                f"cannot be read ({error.strerror}): bring that file back, or remove the folder "
                f"{self.root} to begin anew without its data",
            ) from error


def new_password() -> str:
    """A random password of 32 characters, none of which needs quoting in a URL."""
    return secrets.token_urlsafe(_PASSWORD_BYTES)


def data_dir_in_use(root: Path, pid: int | None) -> EmbeddedPostgresError:
    """The error that names who uses the folder: its server, or a launcher that is at work on it."""
    user = f"a running PostgreSQL (pid {pid})" if pid is not None else "another launcher"
    return EmbeddedPostgresError(
        EmbeddedPostgresReason.DATA_DIR_IN_USE,
        f"the data folder {root} is in use by {user}: stop it, or choose another folder",
    )


@dataclass(frozen=True)
class DataDirChoice:
    """A data folder, and the notice that the user must see if it is not the usual one."""

    path: Path
    notice: str | None


def default_data_dir(preferred: Path, *, run_as: str = "nobody") -> DataDirChoice:
    """`preferred`, or a folder in temporary storage if the server's user could not reach that.

    The same `preferred` always leads to the same folder. Raises EmbeddedPostgresError
    NO_UNPRIVILEGED_USER, or DATA_DIR_UNREACHABLE if no temporary storage can be reached either.
    """
    preferred = preferred.absolute().resolve()
    account = server_account(run_as)
    closed = account.first_closed_folder(preferred) if account is not None else None
    if account is None or closed is None:
        return DataDirChoice(preferred, None)
    why = (
        f"root must not run PostgreSQL, and the user {account.name!r}, who runs it instead, cannot "
        f"enter {closed}"
    )
    storage = temporary_storage(account)
    if storage is None:
        raise EmbeddedPostgresError(
            EmbeddedPostgresReason.DATA_DIR_UNREACHABLE,
            f"{why}; nor is there a temporary folder that it can reach: choose a data folder",
        )
    name = sha256(os.fsencode(preferred)).hexdigest()[:16]
    path = storage / f"paymesh-data-{os.geteuid()}-{name}"
    return DataDirChoice(
        path,
        f"data is kept in {path} instead of {preferred}, because {why}; the system may empty its "
        "temporary storage, so choose a data folder for what must stay",
    )


def _not_ours(path: Path, problem: str) -> EmbeddedPostgresError:
    return EmbeddedPostgresError(
        EmbeddedPostgresReason.DATA_DIR_NOT_OURS, f"the data folder {path} {problem}"
    )


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError as error:
        return error.errno != errno.ESRCH
    return True


def _is_server_of(pid: int, cluster: Path) -> bool:
    """Whether the process is a PostgreSQL on this cluster, and not another heir of its number."""
    if Path("/proc/self/comm").exists():
        return _is_server_by_proc(pid, cluster)
    listing = subprocess.run(
        ["/bin/ps", "-o", "command=", "-p", str(pid)],
        capture_output=True,
        text=True,
        timeout=_PROCESS_LIST_TIMEOUT_S,
        check=False,
    ).stdout
    return "postgres" in listing and str(cluster) in listing


def _is_server_by_proc(pid: int, cluster: Path) -> bool:
    process = Path("/proc", str(pid))
    try:
        if (process / "comm").read_text().strip() != "postgres":
            return False
        arguments = (process / "cmdline").read_bytes().split(b"\0")
        # Each process of a server works in its cluster; but root of a container may not look
        # there, and has to be content with the command line.
        return os.fsencode(cluster) in arguments or (process / "cwd").samefile(cluster)
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False
