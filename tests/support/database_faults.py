"""What can happen to a mesh's PostgreSQL and processes while it is at work."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import psycopg

from tests.support.mesh import RunningMesh, eventually

_OF_SERVICES = "FROM pg_stat_activity WHERE right(usename, 4) = '_app'"

# Where each service's own writes go first.
FIRST_TABLE = {
    "payment": "payment",
    "executor": "operation",
    "wallet": "movement",
    "ledger": "journal",
    "psp_stub": "truth",
}


def kill_postgres(mesh: RunningMesh) -> None:
    """Returns when its sessions have ended too: they outlive it for a moment, and may commit."""
    pid = mesh.supervisor.postgres_pid
    assert pid is not None
    sessions = mesh.ask("admin", f"SELECT pid {_OF_SERVICES}")
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: mesh.supervisor.postgres_pid is None)
    eventually(lambda: not any(_lives(int(str(session))) for (session,) in sessions))


def _lives(pid: int) -> bool:
    try:
        told = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return told.rpartition(")")[2].split()[0] != "Z"


def start_postgres(mesh: RunningMesh) -> None:
    """The supervisor does that by itself, when it is polled."""

    def serves() -> bool:
        mesh.supervisor.poll()
        return mesh.supervisor.postgres_pid is not None

    eventually(serves)


def restart_postgres(mesh: RunningMesh, away_s: float) -> None:
    kill_postgres(mesh)
    time.sleep(away_s)
    start_postgres(mesh)


def pause(mesh: RunningMesh, service: str, seconds: float) -> None:
    pid = mesh.supervisor.pid(service)
    os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(seconds)
    finally:
        os.kill(pid, signal.SIGCONT)


def stop_postgres_at_once(mesh: RunningMesh) -> None:
    """What `pg_ctl stop -m immediate` sends."""
    pid = mesh.supervisor.postgres_pid
    assert pid is not None
    os.kill(pid, signal.SIGQUIT)
    eventually(lambda: mesh.supervisor.postgres_pid is None)


def lose_answers(mesh: RunningMesh) -> None:
    """Cuts connections whose COMMIT is done and not answered yet."""
    with commits_hanging(mesh):
        wait_for_commit(mesh, "payment")
        # Let some more come and wait.
        time.sleep(0.1)
        cut_connections(mesh)


@contextmanager
def commits_hanging(mesh: RunningMesh) -> Iterator[None]:
    """Whoever commits waits for a standby that there is not, with its work already done."""
    _configure(mesh, "SET synchronous_standby_names = 'ghost'")
    try:
        _wait_until_commits_hang(mesh)
        yield
    finally:
        _configure(mesh, "RESET synchronous_standby_names")


def _wait_until_commits_hang(mesh: RunningMesh) -> None:
    # A reload is asked for and not waited for: it is the checkpointer that tells the sessions of a
    # standby, a moment later. So one of ours commits until it hangs, and is cut then.
    with closing(psycopg.connect(mesh.databases["admin"], autocommit=True)) as probe:

        def hangs() -> bool:
            probe.pgconn.consume_input()
            if not probe.pgconn.is_busy():
                while probe.pgconn.get_result():
                    pass
                probe.pgconn.send_query(b"SELECT pg_logical_emit_message(true, 'probe', '')")
            return _waits_for_standby(mesh, "pid = %s", probe.info.backend_pid)

        eventually(hangs)
        _admin(mesh, f"SELECT pg_terminate_backend({probe.info.backend_pid})")


def wait_for_commit(mesh: RunningMesh, service: str, timeout_s: float = 30.0) -> None:
    """Until a commit of the service waits for the standby. AssertionError if none does."""
    eventually(lambda: _waits_for_standby(mesh, "datname = %s", f"paymesh_{service}"), timeout_s)


def _waits_for_standby(mesh: RunningMesh, which: str, value: object) -> bool:
    hanging = f"SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND {which}"
    return mesh.count("admin", hanging, value) > 0


def cut_connections(mesh: RunningMesh) -> None:
    _admin(
        mesh,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        " AND usename LIKE '%\\_app'",
    )


def _configure(mesh: RunningMesh, change: str) -> None:
    _admin(mesh, f"ALTER SYSTEM {change}")
    _admin(mesh, "SELECT pg_reload_conf()")


def _admin(mesh: RunningMesh, statement: str) -> None:
    with psycopg.connect(mesh.databases["admin"], autocommit=True) as connection:
        # Ours must not wait for a standby.
        connection.execute("SET synchronous_commit = local")
        connection.execute(statement.encode())


@contextmanager
def all_connections_taken(mesh: RunningMesh) -> Iterator[None]:
    """Every connection is somebody else's, and those of the services are cut."""
    with ExitStack() as taken:
        watch = taken.enter_context(psycopg.connect(mesh.databases["admin"], autocommit=True))
        # What a service was quicker to take is cut, until none is left to take.
        while watch.execute(f"SELECT pg_terminate_backend(pid) {_OF_SERVICES}".encode()).rowcount:
            with suppress(psycopg.OperationalError):
                while True:
                    taken.enter_context(psycopg.connect(mesh.databases["admin"]))
        yield


@contextmanager
def disk_full(mesh: RunningMesh, service: str) -> Iterator[None]:
    """What PostgreSQL says when a file can't grow, for every row that a service writes."""
    table = FIRST_TABLE[service]
    with psycopg.connect(mesh.databases[service], autocommit=True) as connection:
        connection.execute(
            "CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE"
            " 'could not extend file' USING ERRCODE = 'disk_full'; END$$"
        )
        connection.execute(
            f"CREATE TRIGGER aaa_no_room BEFORE INSERT ON {table}"
            " FOR EACH STATEMENT EXECUTE FUNCTION no_room()".encode()
        )
        try:
            yield
        finally:
            connection.execute(f"DROP TRIGGER aaa_no_room ON {table}".encode())
            connection.execute("DROP FUNCTION no_room")
