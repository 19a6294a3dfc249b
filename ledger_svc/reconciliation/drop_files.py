"""The files of a drop folder: which are whole, held by one at a time, moved when done with.

Whoever may write to the folder must not reach anything else by it: everything is opened below
the folder, no link is followed, and only plain files are read. All of it is synchronous.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

if sys.platform != "win32":
    import fcntl

DONE, REFUSED = "done", "refused"
# A name of the file system has 255 bytes at most; the folder's own additions need some.
_MAX_NAME_BYTES = 200
_IN_WORK = (".part", ".partial", ".filepart", ".tmp")


class Mark(NamedTuple):
    """What changes when somebody still writes to a file."""

    inode: int
    size_bytes: int
    mtime_ns: int
    ctime_ns: int


class Found(NamedTuple):
    """A plain file that lies in a source's folder."""

    source: str
    name: str
    mark: Mark


def look(root: Path, sources: Iterable[str]) -> tuple[list[Found], list[str]]:
    """What lies in the folders of these sources, oldest first, and which folders can't be read.

    A source without a folder has no files. Raises OSError where the drop folder itself can't
    be read.
    """
    found: list[Found] = []
    unreadable = []
    with _opened(root) as root_fd:
        for source in sources:
            try:
                with _source_folder(root_fd, source) as folder:
                    found += [Found(source, name, mark) for name, mark in _plain_files(folder)]
            except FileNotFoundError:
                continue
            except OSError as error:
                unreadable.append(f"{source}: {error.strerror}")
    return sorted(found, key=lambda one: (one.mark.mtime_ns, one.source, one.name)), unreadable


def _plain_files(folder: int) -> Iterator[tuple[str, Mark]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or entry.name.lower().endswith(_IN_WORK):
                continue
            with suppress(FileNotFoundError):
                status = entry.stat(follow_symlinks=False)
                # A second name of a file may stand anywhere.
                if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
                    yield entry.name, _mark(status)


class Held:
    """A file that nobody else takes meanwhile: open, locked, and still where it was found."""

    def __init__(self, folder: int, file: int, found: Found) -> None:
        self._folder = folder
        self._file = file
        self._found = found

    def read(self, size: int) -> bytes:
        """The next bytes, empty at the end."""
        return os.read(self._file, size)

    def has_changed(self) -> bool:
        """Whether somebody has written to it, moved it or put another one in its place."""
        try:
            there = os.stat(self._found.name, dir_fd=self._folder, follow_symlinks=False)
        except FileNotFoundError:
            return True
        return {_mark(there), _mark(os.fstat(self._file))} != {self._found.mark}

    def move(self, to: str, key: str, reason: str = "") -> str:
        """Moves it to `done` or `refused` and tells its name there; a reason is put beside it.

        `key` keeps files of one name apart. The same again replaces the same.
        """
        name = os.fsdecode(os.fsencode(f"{key}-{self._found.name}")[:_MAX_NAME_BYTES])
        with suppress(FileExistsError):
            os.mkdir(to, 0o770, dir_fd=self._folder)
        with _opened(to, dir_fd=self._folder) as target:
            if reason:
                # First the reason: no file is ever refused without one.
                _write(target, f"{name}.reason", reason)
            os.rename(self._found.name, name, src_dir_fd=self._folder, dst_dir_fd=target)
            os.fsync(target)
        return name


@contextmanager
def hold(root: Path, found: Found) -> Iterator[Held | None]:
    """Holds the file; None if somebody else does, or if it is not as it was found."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with _opened(root) as root_fd, _source_folder(root_fd, found.source) as folder:
        try:
            file = os.open(found.name, flags, dir_fd=folder)
        except FileNotFoundError:
            yield None
            return
        try:
            held = Held(folder, file, found)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield None
                return
            yield None if held.has_changed() else held
        finally:
            os.close(file)


@contextmanager
def _source_folder(root: int, source: str) -> Iterator[int]:
    # A source may be called anything; a folder below this one may not.
    if "/" in source or "\0" in source or source in {".", ".."}:
        raise FileNotFoundError(source)
    with _opened(source, dir_fd=root) as folder:
        yield folder


@contextmanager
def _opened(path: Path | str, dir_fd: int | None = None) -> Iterator[int]:
    """A folder. Only the drop folder itself, which a setting names, may be a link."""
    follow = os.O_NOFOLLOW if dir_fd is not None else 0
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | follow
    folder = os.open(path, flags, dir_fd=dir_fd)
    try:
        yield folder
    finally:
        os.close(folder)


def _write(folder: int, name: str, text: str) -> None:
    """Writes a text whole or not at all, in the place of whatever has its name."""
    new = f".{name}.tmp"
    with suppress(FileNotFoundError):
        os.unlink(new, dir_fd=folder)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with os.fdopen(os.open(new, flags, 0o660, dir_fd=folder), "w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.rename(new, name, src_dir_fd=folder, dst_dir_fd=folder)


def _mark(status: os.stat_result) -> Mark:
    return Mark(status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
