"""Temporary folders for servers of tests."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PREFIX = "paymesh-test-"
_MEMORY = Path("/dev/shm")
_NEEDED_BYTES = 2 * 1024**3


@contextmanager
def open_folder(*, in_memory: bool = False) -> Iterator[Path]:
    """A new temporary folder that the server's user can pass through, unlike pytest's tmp_path."""
    parent = Path(tempfile.gettempdir())
    if in_memory and _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > _NEEDED_BYTES:
        parent = _MEMORY
    _remove_leftovers(parent)
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=parent))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def _remove_leftovers(parent: Path) -> None:
    """Removes the folders of test sessions that were killed: in memory they would cost memory.

    Others may do the same at the same time: what is not there any more is no error.
    """
    for folder in parent.glob(f"{_PREFIX}*-*"):
        pid = folder.name.removeprefix(_PREFIX).partition("-")[0]
        with suppress(FileNotFoundError):
            ours = folder.lstat().st_uid == os.geteuid()
            if ours and pid.isdigit() and not _is_alive(int(pid)):
                shutil.rmtree(folder, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
