"""Embedded PostgreSQLs that a test starts, watches and kills itself."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Self

import psycopg
import pytest

from mesh.embedded import EmbeddedConfig, EmbeddedPostgres
from mesh.embedded.account import Account
from tests.support.folders import open_folder
from tests.support.ports import free_port

REPOSITORY = Path(__file__).parents[2]

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root hands over to another user")
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")

# Starts a server, says its URL and pid, and waits to be killed.
_LAUNCHER = """
import sys, time
from pathlib import Path
from mesh.embedded import EmbeddedConfig, EmbeddedPostgres
server = EmbeddedPostgres(EmbeddedConfig(Path(sys.argv[1]), int(sys.argv[2])))
print("starting", flush=True)
server.start()
print(server.admin_url, server.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def server_folder() -> Iterator[Path]:
    """A folder that the server's user can reach, removed with all that is in it."""
    with open_folder(in_memory=True) as path:
        yield path


@pytest.fixture(scope="session")
def made_once() -> Iterator[Path]:
    """A data folder with a stopped, empty cluster: making one takes most of a test's time."""
    with open_folder(in_memory=True) as path:
        with embedded(path / "data"):
            pass
        yield path / "data"


@pytest.fixture
def data_dir(server_folder: Path, made_once: Path) -> Path:
    """A data folder of the test's own with a cluster that was started and stopped before."""
    subprocess.run(["/bin/cp", "-a", made_once, server_folder / "data"], check=True)
    return server_folder / "data"


@contextmanager
def embedded(data_dir: Path, **settings: str) -> Iterator[EmbeddedPostgres]:
    """A server on the folder and a free port, stopped in the end."""
    with EmbeddedPostgres(EmbeddedConfig(data_dir, free_port(), settings=settings)) as server:
        yield server


def run(server: "EmbeddedPostgres | LauncherProcess", statement: str) -> None:
    """Runs and commits a statement as the superuser."""
    run_at(server.admin_url, statement)


def ask(server: "EmbeddedPostgres | LauncherProcess", question: str) -> str:
    """The first value of a query as the superuser, as text."""
    return ask_at(server.admin_url, question)


def run_at(url: str, statement: str) -> None:
    """Runs and commits a statement."""
    with psycopg.connect(url) as connection:
        connection.execute(statement.encode())


def ask_at(url: str, question: str) -> str:
    """The first value of a query, as text."""
    with psycopg.connect(url) as connection:
        row = connection.execute(question.encode()).fetchone()
        assert row is not None
        return str(row[0])


@contextmanager
def busy_session(
    server: "EmbeddedPostgres | LauncherProcess", query: str = "SELECT pg_sleep(60)"
) -> Iterator[psycopg.Connection]:
    """A session at work on the query."""
    with closing(psycopg.connect(server.admin_url, autocommit=True)) as session:
        session.pgconn.send_query(query.encode())
        state = f"SELECT state FROM pg_stat_activity WHERE pid = {session.info.backend_pid}"
        wait_until(lambda: ask(server, state) == "active")
        yield session


def server_pid(server: EmbeddedPostgres) -> int:
    """The pid of a running server."""
    assert server.pid is not None
    return server.pid


class LauncherProcess:
    """A launcher in a process of its own, to be killed; as a context, killed at the latest then.

    `account` runs it instead of us; skips the test if that user can reach no Python.
    """

    def __init__(self, data_dir: Path, account: Account | None = None) -> None:
        python = sys.executable if account is None else _python_for(account)
        packages = [path for path in sys.path if path.endswith("site-packages")]
        self.port = free_port()
        self._url_and_pid: tuple[str, int] | None = None
        self._process = subprocess.Popen(
            [python, "-c", _LAUNCHER, str(data_dir), str(self.port)],
            cwd="/",
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *packages]),
            },
            stdout=subprocess.PIPE,
            text=True,
            user=None if account is None else account.uid,
            group=None if account is None else account.gid,
            extra_groups=None if account is None else [],
        )
        assert self._read_line() == "starting"

    def wait_until_started(self) -> None:
        """Waits for the end of start()."""
        url, pid = self._read_line().split()
        self._url_and_pid = url, int(pid)

    @property
    def admin_url(self) -> str:
        """The superuser's URL."""
        assert self._url_and_pid is not None
        return self._url_and_pid[0]

    @property
    def server_pid(self) -> int:
        """The pid of its server."""
        assert self._url_and_pid is not None
        return self._url_and_pid[1]

    def kill(self) -> None:
        """Kills the launcher (SIGKILL), not its server."""
        self._process.kill()
        self._process.wait()

    def _read_line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().rstrip("\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        assert self._process.stdout is not None
        self._process.stdout.close()


def _python_for(account: Account) -> str:
    """A Python of our version that the user can reach; ours often lies in root's closed home."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for candidate in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        path = Path(candidate).resolve()
        if path.exists() and account.first_closed_folder(path.parent) is None:
            break
    else:
        pytest.skip(f"the user {account.name} can reach no {version}")
    for package in (REPOSITORY, Path(psycopg.__file__).parent):
        if account.first_closed_folder(package.resolve()) is not None:
            pytest.skip(f"the user {account.name} cannot reach {package}")
    return candidate


def processes_about(data_dir: Path) -> list[int]:
    """The living processes that work in the folder or name it, such as initdb and each session."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        arguments, cwd = b"", Path("/")
        # Gone meanwhile, or closed even to root of a container: then the command line must do.
        with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            arguments = (entry / "cmdline").read_bytes()
            cwd = (entry / "cwd").readlink()
        if data_dir in (cwd, *cwd.parents) or os.fsencode(data_dir) in arguments:
            found.append(int(entry.name))
    return found


def children(pid: int) -> list[int]:
    """The processes that the process started itself, such as a server's sessions."""
    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [child for child in pids if _state_and_parent(child)[1] == pid]


def is_running(pid: int | None) -> bool:
    """Whether there is such a process, and not only an exit code that nobody asked for yet."""
    if pid is None:
        return False
    if Path("/proc/self/stat").exists():
        return _state_and_parent(pid)[0] not in ("Z", "X")
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _state_and_parent(pid: int) -> tuple[str, int]:
    """The state of a process, X if there is none, and its parent's pid. Everybody may see them."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except (FileNotFoundError, ProcessLookupError):
        return "X", 0
    return state, int(parent)


def wait_until(condition: Callable[[], bool], timeout_s: float = 10) -> None:
    """Asks every 20 ms until the condition holds; fails after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s"
        time.sleep(0.02)
