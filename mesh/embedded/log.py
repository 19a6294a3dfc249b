"""The server's log file: appended to by the server, kept small and read by the launcher."""

import os
import shutil
from pathlib import Path
from typing import IO

_LIMIT_BYTES = 16 * 1024 * 1024
_TAIL_BYTES = 8 * 1024
_TAIL_LINES = 20


class ServerLog:
    """One log file and, once it has grown past 16 MiB, one earlier generation (`.1`)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._not_copied_bytes = 0

    def open(self) -> IO[bytes]:
        """The file to append to, readable by us alone. Raises OSError, also for a symlink."""
        return _open_private(self.path, os.O_APPEND)

    def size(self) -> int:
        """Bytes written so far; 0 for no file."""
        return self.path.stat().st_size if self.path.exists() else 0

    def keep_small(self) -> None:
        """Moves the content to the earlier generation when there is too much of it.

        Copies and truncates, because the running server holds the file open; it appends, so it
        goes on at the new end. Lines written during the copy may be lost. Where the copy can't be
        written, as on a full disk, there is no earlier generation, and the log stays whole until
        as much again was written: it may tell what filled the disk. Raises OSError if the log
        itself can't be read or cut.
        """
        size = self.size()
        if size <= self._not_copied_bytes + _LIMIT_BYTES:
            return
        earlier = self.path.with_name(f"{self.path.name}.1")
        try:
            with self.path.open("rb") as content, _open_private(earlier, os.O_TRUNC) as copy:
                shutil.copyfileobj(content, copy)
        except OSError:
            # Half a copy is worth less than its room.
            earlier.unlink(missing_ok=True)
            self._not_copied_bytes = size
            return
        os.truncate(self.path, 0)
        self._not_copied_bytes = 0

    def tail(self, since: int) -> str:
        """The last lines written after byte `since`, for an error message."""
        with self.path.open("rb") as file:
            file.seek(max(since, self.size() - _TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
        return "\n".join(lines[-_TAIL_LINES:])


def _open_private(path: Path, flag: int) -> IO[bytes]:
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | flag
    return os.fdopen(os.open(path, flags, 0o600), "wb")
