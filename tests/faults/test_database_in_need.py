"""PostgreSQL killed again and again, restarted, full up with connections, or without room on
its disk, under load: nobody starts a service again, and the books agree."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.faults.test_database_goes_away import NOT_KNOWN, NOTHING_ACCEPTED, _all_is_well
from tests.support.checkout import new_checkout
from tests.support.database_faults import (
    all_connections_taken,
    disk_full,
    restart_postgres,
    start_postgres,
)
from tests.support.folders import open_folder
from tests.support.load import SHORT_WAITS, Load
from tests.support.mesh import SERVICES, RunningMesh, eventually, started
from tests.support.refusals import refused


@pytest.fixture(scope="module")
def mesh() -> Iterator[RunningMesh]:
    """A mesh on a PostgreSQL of its own."""
    with (
        open_folder(in_memory=True) as folder,
        started(folder / "mesh", postgres=None, **SHORT_WAITS) as running,
    ):
        yield running


@pytest.mark.timeout(180)
def test_killed_three_times_under_load(mesh: RunningMesh) -> None:
    pids = mesh.pids()

    with Load(mesh, repeat=False) as load:
        for away_s in (0.0, 0.5, 1.5):
            load.wait_for(30)
            restart_postgres(mesh, away_s)
        load.wait_for(30)

    _all_is_well(mesh, load, pids)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["fast", "immediate"])
def test_stopped_by_command_and_started_again(mesh: RunningMesh, how: signal.Signals) -> None:
    pids = mesh.pids()

    with Load(mesh, repeat=False) as load:
        load.wait_for(30)
        pid = mesh.supervisor.postgres_pid
        assert pid is not None
        os.kill(pid, how)
        eventually(lambda: mesh.supervisor.postgres_pid is None)
        start_postgres(mesh)
        load.wait_for(30)

    _all_is_well(mesh, load, pids)


@pytest.mark.timeout(120)
def test_no_connection_is_left(mesh: RunningMesh) -> None:
    pids = mesh.pids()

    with Load(mesh, repeat=False) as load:
        load.wait_for(30)
        with all_connections_taken(mesh):
            refusal = refused(lambda: mesh.pay(new_checkout(), timeout_s=5))
            assert (refusal.code, refusal.reason) in (NOTHING_ACCEPTED, NOT_KNOWN)
            assert "connection" not in refusal.everything
            time.sleep(1.0)
        load.wait_for(30)

    _all_is_well(mesh, load, pids)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("service", SERVICES)
def test_a_table_can_not_grow(mesh: RunningMesh, service: str) -> None:
    pids = mesh.pids()

    with Load(mesh, repeat=False) as load:
        load.wait_for(20)
        with disk_full(mesh, service):
            if service == "payment":
                refusal = refused(lambda: mesh.pay(new_checkout(), timeout_s=5))
                assert (refusal.code, refusal.reason) == NOTHING_ACCEPTED
            time.sleep(1.0)
        load.wait_for(20)

    _all_is_well(mesh, load, pids)


@pytest.mark.timeout(180)
def test_the_log_can_not_be_written(mesh: RunningMesh) -> None:
    """A real write that fails: PostgreSQL panics, and is started again by its supervisor."""
    pids = mesh.pids()

    with Load(mesh, repeat=False) as load:
        load.wait_for(30)
        _let_writes_fail(mesh)
        eventually(lambda: mesh.supervisor.postgres_pid is None, 30)
        start_postgres(mesh)
        load.wait_for(30)

    _all_is_well(mesh, load, pids)


def _let_writes_fail(mesh: RunningMesh) -> None:
    """No process of PostgreSQL may make a file larger than nothing any more."""
    pid = mesh.supervisor.postgres_pid
    assert pid is not None
    with psycopg.connect(mesh.databases["admin"]) as connection:
        rows = connection.execute("SELECT pid FROM pg_stat_activity").fetchall()
    # As PostgreSQL's own user, who alone may do it without more privileges than root has here;
    # by a program, because gRPC's threads in this process do not outlive a fork that changes it.
    owner = Path(f"/proc/{pid}").stat()
    become = ["setpriv", f"--reuid={owner.st_uid}", f"--regid={owner.st_gid}", "--clear-groups"]
    subprocess.run(
        [
            *(become if os.geteuid() == 0 else []),
            *("sh", "-c", 'for pid in "$@"; do prlimit --pid "$pid" --fsize=0:; done', "sh"),
            *(str(process) for process in (pid, *(row[0] for row in rows))),
        ],
        check=False,  # a session may have ended meanwhile
    )
    limit = Path(f"/proc/{pid}/limits").read_text()
    assert re.search(r"^Max file size +0 ", limit, re.MULTILINE), limit
