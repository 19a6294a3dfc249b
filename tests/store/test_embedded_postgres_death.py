"""The embedded PostgreSQL dies with the process that started it, however that dies."""

import os
import stat
import time
from pathlib import Path

import pytest

from mesh.embedded import EmbeddedConfig, EmbeddedPostgres
from mesh.embedded.account import server_account
from tests.support.embedded import (
    LauncherProcess,
    as_root,
    ask,
    busy_session,
    children,
    embedded,
    is_running,
    on_linux,
    processes_about,
    run,
    wait_until,
)
from tests.support.ports import is_free

pytestmark = on_linux


def test_it_dies_with_a_killed_parent_and_leaves_no_session(data_dir: Path) -> None:
    with LauncherProcess(data_dir) as parent:
        parent.wait_until_started()
        _assert_dies_with(parent, data_dir)


@as_root
def test_it_dies_with_a_killed_parent_that_is_an_ordinary_user(server_folder: Path) -> None:
    account = server_account("nobody")
    assert account is not None
    mine = server_folder / "mine"
    mine.mkdir()
    os.chown(mine, account.uid, account.gid)
    with LauncherProcess(mine / "data", account) as parent:
        parent.wait_until_started()
        assert (mine / "data").stat().st_uid == account.uid
        assert stat.S_IMODE((mine / "data").stat().st_mode) == 0o700
        _assert_dies_with(parent, mine / "data")


@pytest.mark.parametrize("after_s", [0.05, 0.2, 0.4])
def test_a_parent_killed_while_the_cluster_is_made_leaves_nothing_in_the_way(
    server_folder: Path, after_s: float
) -> None:
    with LauncherProcess(server_folder / "data") as parent:
        time.sleep(after_s)
        parent.kill()
    wait_until(lambda: not processes_about(server_folder / "data"), timeout_s=2)
    with embedded(server_folder / "data") as server:
        assert ask(server, "SELECT 1") == "1"


def test_a_new_launcher_takes_over_at_once_when_the_old_one_was_killed(data_dir: Path) -> None:
    with LauncherProcess(data_dir) as old:
        old.wait_until_started()
        run(old, "CREATE TABLE kept AS SELECT 'this' AS what")
        old.kill()
        with EmbeddedPostgres(EmbeddedConfig(data_dir, old.port)) as server:
            assert ask(server, "SELECT what FROM kept") == "this"


def _assert_dies_with(parent: LauncherProcess, data_dir: Path) -> None:
    with busy_session(parent) as session:
        server = [parent.server_pid, *children(parent.server_pid)]
        assert session.info.backend_pid in server
        parent.kill()
        wait_until(lambda: not any(map(is_running, server)), timeout_s=2)
        wait_until(lambda: is_free(parent.port), timeout_s=0.5)
    assert processes_about(data_dir) == []
