"""The embedded PostgreSQL: what a developer, an operator and a reviewer may rely on."""

import os
import signal
import socket
import stat
import subprocess
import time
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from mesh.embedded import (
    EmbeddedConfig,
    EmbeddedPostgres,
    EmbeddedPostgresError,
    EmbeddedPostgresReason,
    launcher,
)
from mesh.embedded.account import server_account
from mesh.processes import spawn
from tests.support.embedded import (
    ask,
    ask_at,
    busy_session,
    embedded,
    is_running,
    on_linux,
    run,
    run_at,
    server_pid,
    wait_until,
)
from tests.support.ports import free_port, free_port_base, is_free
from tests.support.postgres import PostgresServer

_LOCALE = (
    "SELECT datlocprovider::text || datlocale FROM pg_database WHERE datname = current_database()"
)


# --- what it is -------------------------------------------------------------------------


def test_a_fresh_one_starts_and_answers(server_folder: Path) -> None:
    with embedded(server_folder / "data") as server:
        assert ask(server, "SHOW server_version_num").startswith("18")
        assert server.poll() is None
        assert is_running(server.pid)
    assert server.pid is None
    assert server.poll() == 0


def test_it_keeps_what_was_acknowledged(data_dir: Path) -> None:
    with embedded(data_dir) as server:
        shown = {
            name: ask(server, f"SHOW {name}")
            for name in ("fsync", "synchronous_commit", "full_page_writes", "data_checksums")
        }
        assert set(shown.values()) == {"on"}


def test_it_speaks_utf8_and_utc_and_orders_strings_alike_everywhere(data_dir: Path) -> None:
    with embedded(data_dir) as server:
        assert ask(server, "SHOW server_encoding") == "UTF8"
        assert ask(server, "SHOW timezone") == "UTC"
        assert ask(server, _LOCALE) == "bC.UTF-8"


def test_it_is_found_on_loopback_only_and_by_no_socket(data_dir: Path) -> None:
    with embedded(data_dir) as server:
        assert ask(server, "SHOW listen_addresses") == "127.0.0.1"
        assert ask(server, "SHOW unix_socket_directories") == ""


def test_another_user_of_the_machine_cannot_log_in(server_folder: Path) -> None:
    with embedded(server_folder / "data") as server:
        password = server.admin_url.split("@")[0].rpartition(":")[2]
        for wrong in (
            server.admin_url.replace(password, "guess"),
            server.admin_url.replace(f":{password}", ""),
        ):
            with pytest.raises(psycopg.OperationalError, match=r"password"):
                psycopg.connect(wrong)
        file = server_folder / "data" / "postgres.password"
        assert file.read_text() == password
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert file.stat().st_uid == os.geteuid()


def test_settings_of_a_test_go_over_those_of_the_launcher(data_dir: Path) -> None:
    with embedded(data_dir, synchronous_standby_names="standby", max_connections="40") as server:
        assert ask(server, "SHOW synchronous_standby_names") == "standby"
        assert ask(server, "SHOW max_connections") == "40"


@pytest.mark.parametrize("name", ["fsync", "synchronous_commit", "listen_addresses", "PORT"])
def test_what_a_promise_hangs_on_cannot_be_set(server_folder: Path, name: str) -> None:
    with pytest.raises(EmbeddedPostgresError, match=name) as refused:
        EmbeddedPostgres(EmbeddedConfig(server_folder / "data", 5432, settings={name: "off"}))
    assert refused.value.reason is EmbeddedPostgresReason.INVALID_SETTING


def test_a_port_that_cannot_be_is_refused(server_folder: Path) -> None:
    with pytest.raises(EmbeddedPostgresError, match="70000") as refused:
        EmbeddedPostgres(EmbeddedConfig(server_folder / "data", 70000))
    assert refused.value.reason is EmbeddedPostgresReason.INVALID_SETTING


def test_its_url_is_not_known_before_it_was_started(server_folder: Path) -> None:
    with pytest.raises(EmbeddedPostgresError) as refused:
        _ = EmbeddedPostgres(EmbeddedConfig(server_folder / "data", 5432)).admin_url
    assert refused.value.reason is EmbeddedPostgresReason.NOT_STARTED


# --- stop and start again ---------------------------------------------------------------


def test_a_restart_keeps_the_data_and_the_password(data_dir: Path) -> None:
    with embedded(data_dir) as server:
        password = server.admin_url.rpartition("@")[0]
        run(server, "CREATE TABLE kept AS SELECT 'this' AS what")
    with embedded(data_dir) as server:
        assert ask(server, "SELECT what FROM kept") == "this"
        assert server.admin_url.rpartition("@")[0] == password


def test_an_immediate_stop_loses_nothing_that_was_committed(data_dir: Path) -> None:
    server = EmbeddedPostgres(EmbeddedConfig(data_dir, free_port()))
    server.start()
    run(server, "CREATE TABLE kept AS SELECT 'this' AS what")
    server.stop(immediate=True)
    assert "immediate shutdown" in server.log_path.read_text()
    server.start()
    assert ask(server, "SELECT what FROM kept") == "this"
    server.stop()


def test_a_stop_ends_the_sessions_that_are_at_work(data_dir: Path) -> None:
    with embedded(data_dir) as server, busy_session(server):
        began = time.monotonic()
        server.stop()
        assert time.monotonic() - began < 5
        assert server.poll() == 0


def test_a_server_that_does_not_stop_in_time_is_made_to(data_dir: Path) -> None:
    config = EmbeddedConfig(data_dir, free_port(), stop_timeout_s=0.3)
    with EmbeddedPostgres(config) as server:
        pid = server.pid
        assert pid is not None
        # A process of the server that does not react holds up the fast shutdown.
        with closing(psycopg.connect(server.admin_url)) as session:
            os.kill(session.info.backend_pid, signal.SIGSTOP)
            server.stop()
        assert server.pid is None
        assert not is_running(pid)


def test_stop_without_a_server_does_nothing(server_folder: Path) -> None:
    server = EmbeddedPostgres(EmbeddedConfig(server_folder / "data", free_port()))
    server.stop()
    assert (server.pid, server.poll()) == (None, None)


@on_linux
def test_a_crashed_server_starts_again(data_dir: Path) -> None:
    with embedded(data_dir) as server:
        run(server, "CREATE TABLE kept AS SELECT 'this' AS what")
        # A session that computes does not notice at once that its server is gone, and until
        # it does PostgreSQL does not start again.
        with busy_session(server, "SELECT count(*) FROM generate_series(1, 4000000)"):
            os.kill(server_pid(server), signal.SIGKILL)
            wait_until(lambda: server.poll() is not None)
            assert server.poll() == -signal.SIGKILL
            server.start()
        assert ask(server, "SELECT what FROM kept") == "this"


def test_a_stale_pid_file_of_a_dead_process_is_survived(data_dir: Path) -> None:
    gone = subprocess.Popen(["/bin/sh", "-c", "exit"])
    gone.wait()
    _write_pid_file(data_dir, gone.pid)
    with embedded(data_dir) as server:
        assert ask(server, "SELECT 1") == "1"


def test_a_stale_pid_file_whose_number_is_another_program_now_is_survived(data_dir: Path) -> None:
    account = server_account("nobody")
    # PostgreSQL itself refuses exactly this: a living process of its own user.
    other = spawn(
        ["/bin/sleep", "600"],
        death_signal=signal.SIGKILL,
        user=None if account is None else (account.uid, account.gid),
    )
    try:
        _write_pid_file(data_dir, other.pid)
        with embedded(data_dir) as server:
            assert ask(server, "SELECT 1") == "1"
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


@on_linux
def test_a_stale_pid_file_whose_number_is_another_postgresql_now_is_survived(
    server_folder: Path,
    data_dir: Path,
) -> None:
    with embedded(server_folder / "other") as other:
        with embedded(data_dir):
            pass
        assert other.pid is not None
        _write_pid_file(data_dir, other.pid)
        with embedded(data_dir) as server:
            assert ask(server, "SELECT 1") == "1"
        assert ask(other, "SELECT 1") == "1"


def test_a_pid_file_left_empty_by_a_power_cut_is_survived(data_dir: Path) -> None:
    (data_dir / "postgres" / "postmaster.pid").write_text("")
    with embedded(data_dir) as server:
        assert ask(server, "SELECT 1") == "1"


def test_a_half_made_cluster_is_made_anew(server_folder: Path) -> None:
    half = server_folder / "data" / "postgres.initdb" / "cluster"
    half.mkdir(parents=True)
    (server_folder / "data").chmod(0o711)
    (half / "PG_VERSION").write_text("18\n")
    with embedded(server_folder / "data") as server:
        assert ask(server, "SELECT 1") == "1"
    assert not half.parent.exists()


# --- what it refuses --------------------------------------------------------------------


@pytest.mark.parametrize("place", [".", "postgres"])
def test_data_of_another_major_version_is_refused_before_anything_is_started(
    server_folder: Path, place: str
) -> None:
    account = server_account("nobody")
    cluster = server_folder / "data" / place
    cluster.mkdir(parents=True)
    if place == "postgres" and account is not None:
        os.chown(cluster, account.uid, account.gid)
    (server_folder / "data").chmod(0o711)
    (cluster / "PG_VERSION").write_text("17\n")
    before = _snapshot(server_folder)
    with pytest.raises(EmbeddedPostgresError, match=r"PostgreSQL 17, and this is 18") as refused:
        EmbeddedPostgres(EmbeddedConfig(server_folder / "data", free_port())).start()
    assert refused.value.reason is EmbeddedPostgresReason.OTHER_MAJOR_VERSION
    assert _snapshot(server_folder) == before


def test_a_cluster_that_paymesh_did_not_make_is_refused(server_folder: Path) -> None:
    (server_folder / "PG_VERSION").write_text("18\n")
    with pytest.raises(EmbeddedPostgresError, match="itself a PostgreSQL data dir") as refused:
        EmbeddedPostgres(EmbeddedConfig(server_folder, free_port())).start()
    assert refused.value.reason is EmbeddedPostgresReason.DATA_DIR_NOT_OURS


def test_a_port_in_use_is_refused_by_its_number(data_dir: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        server = EmbeddedPostgres(EmbeddedConfig(data_dir, port))
        with pytest.raises(EmbeddedPostgresError, match=f"port {port} ") as refused:
            server.start()
        assert refused.value.reason is EmbeddedPostgresReason.PORT_IN_USE
    server.start()
    server.stop()


def test_a_port_taken_at_the_last_moment_is_refused_by_its_number(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[socket.socket] = []
    server = EmbeddedPostgres(EmbeddedConfig(data_dir, free_port()))
    look = server._refuse_port_in_use

    def look_and_lose() -> None:
        look()
        looks.append(socket.create_server(("127.0.0.1", server._config.port)))

    monkeypatch.setattr(server, "_refuse_port_in_use", look_and_lose)
    with pytest.raises(EmbeddedPostgresError) as refused:
        server.start()
    assert refused.value.reason is EmbeddedPostgresReason.PORT_IN_USE
    looks[0].close()


def test_a_folder_on_which_another_launcher_works_is_refused_with_the_servers_pid(
    data_dir: Path,
) -> None:
    with embedded(data_dir) as server:
        with (
            pytest.raises(EmbeddedPostgresError, match=rf"\(pid {server.pid}\)") as refused,
            embedded(data_dir),
        ):
            pass
        assert refused.value.reason is EmbeddedPostgresReason.DATA_DIR_IN_USE
        assert ask(server, "SELECT 1") == "1"


@on_linux
def test_a_folder_on_which_a_server_without_a_launcher_runs_is_refused_with_its_pid(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "_ORPHAN_TIMEOUT_S", 0.2)
    with embedded(data_dir) as server:
        assert server._lock is not None
        os.close(server._lock)
        server._lock = None
        with (
            pytest.raises(EmbeddedPostgresError, match=rf"\(pid {server.pid}\)") as refused,
            embedded(data_dir),
        ):
            pass
        assert refused.value.reason is EmbeddedPostgresReason.DATA_DIR_IN_USE
        assert ask(server, "SELECT 1") == "1"


def test_a_running_server_is_not_started_twice(data_dir: Path) -> None:
    with embedded(data_dir) as server:
        with pytest.raises(EmbeddedPostgresError, match=str(server.pid)) as refused:
            server.start()
        assert refused.value.reason is EmbeddedPostgresReason.DATA_DIR_IN_USE
        assert ask(server, "SELECT 1") == "1"


def test_a_failed_start_tells_what_the_server_said_and_leaves_nothing_running(
    data_dir: Path,
) -> None:
    config = EmbeddedConfig(data_dir, free_port(), settings={"work_mem": "much"})
    server = EmbeddedPostgres(config)
    with pytest.raises(EmbeddedPostgresError, match='invalid value for parameter "work_mem"') as no:
        server.start()
    assert no.value.reason is EmbeddedPostgresReason.START_FAILED
    assert server.pid is None
    with embedded(data_dir) as another:
        assert ask(another, "SELECT 1") == "1"


def test_a_server_that_is_never_ready_is_given_up_and_ended(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = EmbeddedConfig(data_dir, free_port(), startup_timeout_s=0.5)
    server = EmbeddedPostgres(config)
    monkeypatch.setattr(server, "_refusal", lambda: "no, said the test")
    with pytest.raises(EmbeddedPostgresError, match=r"within 0.5 s \(no, said the test") as no:
        server.start()
    assert no.value.reason is EmbeddedPostgresReason.START_FAILED
    assert server.pid is None
    assert is_free(config.port)


def test_data_whose_password_is_lost_is_refused_and_kept(data_dir: Path) -> None:
    (data_dir / "postgres.password").unlink()
    with pytest.raises(EmbeddedPostgresError, match=r"postgres\.password") as refused:
        EmbeddedPostgres(EmbeddedConfig(data_dir, free_port())).start()
    assert refused.value.reason is EmbeddedPostgresReason.PASSWORD_MISSING
    assert (data_dir / "postgres" / "PG_VERSION").exists()


def test_a_data_folder_that_everybody_may_write_to_is_refused(server_folder: Path) -> None:
    (server_folder / "data").mkdir()
    (server_folder / "data").chmod(0o1777)
    with pytest.raises(EmbeddedPostgresError, match="by every user") as refused:
        EmbeddedPostgres(EmbeddedConfig(server_folder / "data", free_port())).start()
    assert refused.value.reason is EmbeddedPostgresReason.DATA_DIR_NOT_OURS


def test_a_data_folder_that_is_a_file_is_refused(server_folder: Path) -> None:
    (server_folder / "data").write_text("")
    (server_folder / "data").chmod(0o755)
    with pytest.raises(EmbeddedPostgresError, match="not a folder") as refused:
        EmbeddedPostgres(EmbeddedConfig(server_folder / "data", free_port())).start()
    assert refused.value.reason is EmbeddedPostgresReason.DATA_DIR_NOT_OURS


# --- the fixture ------------------------------------------------------------------------


def test_the_servers_databases_are_each_their_own(postgres_server: PostgresServer) -> None:
    one, other = postgres_server.create_database(), postgres_server.create_database()
    run_at(one, "CREATE TABLE here ()")
    assert ask_at(one, "SELECT to_regclass('here') IS NULL") == "False"
    assert ask_at(other, "SELECT to_regclass('here') IS NULL") == "True"
    assert ask_at(postgres_server.admin_url, "SHOW port") == str(postgres_server.port)
    assert ask_at(postgres_server.admin_url, "SHOW fsync") == "on"


def test_ports_in_a_row_are_free() -> None:
    base = free_port_base(9)
    assert all(is_free(base + position) for position in range(1, 10))


def test_a_port_in_use_is_not_free() -> None:
    with socket.create_server(("127.0.0.1", free_port())) as server:
        assert not is_free(server.getsockname()[1])


# --- helpers ----------------------------------------------------------------------------


def _write_pid_file(data_dir: Path, pid: int) -> None:
    cluster = data_dir / "postgres"
    owner = cluster.stat()
    file = cluster / "postmaster.pid"
    lines = [pid, cluster, int(time.time()) - 3600, 5432, "", "127.0.0.1", "  1234  5", "ready"]
    file.write_text("".join(f"{line}\n" for line in lines))
    file.chmod(0o600)
    os.chown(file, owner.st_uid, owner.st_gid)


def _snapshot(folder: Path) -> dict[Path, tuple[int, int, float]]:
    return {
        path: (path.lstat().st_mode, path.lstat().st_uid, path.lstat().st_mtime)
        for path in (folder, *folder.rglob("*"))
    }
