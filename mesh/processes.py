"""Child processes that die with their parent, however it dies."""

import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

_DIE_WITH_PARENT = Path(__file__).resolve().with_name("die_with_parent.py")
_UNCHANGED = -1

# Linux tells a child of its parent's death; elsewhere a watchdog process has to.
KERNEL_SIGNALS_ORPHANS = sys.platform == "linux"


def spawn(
    argv: Sequence[str],
    *,
    death_signal: int,
    env: Mapping[str, str] | None = None,
    stdout: int | IO[bytes] | None = None,
    user: tuple[int, int] | None = None,
    cwd: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Starts `argv` as a child that gets `death_signal` as soon as this process is gone.

    argv: absolute path of the program, and its arguments.
    env: the whole environment; None hands ours on.
    stdout: descriptor or file for both standard output and error; None shares ours.
    user: (uid, gid) to become, without further groups and with umask 077; needs root.

    Returns at once. A program that cannot be executed exits with 127 and says why on its output.
    Raises RuntimeError outside the main thread: Linux binds the child to the *thread* that made
    it, so a child of a worker thread would be killed as soon as that thread ends.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("spawn() must be called in the main thread, to which children are bound")
    uid, gid = user if user is not None else (_UNCHANGED, _UNCHANGED)
    read_end, write_end = (_UNCHANGED, _UNCHANGED) if KERNEL_SIGNALS_ORPHANS else os.pipe()
    numbers = (int(death_signal), os.getpid(), uid, gid, read_end)
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_DIE_WITH_PARENT), *map(str, numbers), *argv],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            pass_fds=() if read_end == _UNCHANGED else (read_end,),
            # Out of the terminal's process group: Ctrl-C must reach the supervisor alone, which
            # stops its children in their order.
            start_new_session=True,
        )
    except BaseException:
        if write_end != _UNCHANGED:
            os.close(write_end)
        raise
    finally:
        if read_end != _UNCHANGED:
            os.close(read_end)
    if write_end != _UNCHANGED:
        weakref.finalize(process, os.close, write_end)
    return process
