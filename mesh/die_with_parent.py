"""Becomes another program that dies with the process that started it.

    python -I -S die_with_parent.py SIGNAL PARENT UID GID LIFELINE PROGRAM [ARGUMENT…]

`mesh.processes.spawn` runs this file; nothing imports it. It is a program of its own, and not a
`preexec_fn`, because code that runs between fork and exec of a process with threads (gRPC's) can
deadlock on a lock that some thread held at the fork; here there is one thread and a clean start.

It runs with the rights of its parent, so that the Python of a closed home folder is no obstacle,
and gives them up itself. Standard library only: it starts in 25 ms, without `site`.

SIGNAL    number of the signal that PROGRAM gets when its parent dies
PARENT    pid of the parent
UID, GID  numbers of the user and group to become, or -1 to stay who we are
LIFELINE  descriptor of a pipe whose other end only the parent holds, or -1 where the kernel
          itself tells a child of its parent's death (Linux)
PROGRAM   absolute path
"""

import ctypes
import os
import select
import signal
import sys

_PR_SET_PDEATHSIG = 1
_NOBODY_WAITS_FOR_US = 1
_CANNOT_EXECUTE = 127
_WATCH_INTERVAL_S = 0.5


def _become(uid: int, gid: int) -> None:
    """Gives up every right of the parent, for good: the group rights first, while we still may."""
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
    os.umask(0o077)


def _ask_kernel(death_signal: int) -> None:
    """Has the kernel send `death_signal` to this process when the parent's thread ends.

    Raises OSError. Must follow the change of user, which clears the request; exec keeps it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, death_signal, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")


def _start_watchdog(lifeline: int, death_signal: int) -> None:
    """Leaves a small process behind that signals this one when the parent's pipe end closes."""
    target = os.getpid()
    os.set_inheritable(lifeline, False)
    intermediate = os.fork()
    if intermediate > 0:
        os.waitpid(intermediate, 0)
        return
    # Forked twice: PROGRAM must not find a child that it never started.
    if os.fork() > 0:
        os._exit(0)
    # A watchdog that kept the output open would keep its reader waiting for the end of file.
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    while not select.select([lifeline], [], [], _WATCH_INTERVAL_S)[0]:
        if not _signal(target, 0):
            os._exit(0)
    _signal(target, death_signal)
    os._exit(0)


def _signal(pid: int, number: int) -> bool:
    """Sends signal `number` (0 only asks); False if the process is gone or no longer ours."""
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def main(arguments: list[str]) -> None:
    """Never returns: becomes the program, or exits with 127 (cannot execute) or 1 (orphaned)."""
    death_signal, parent, uid, gid, lifeline = (int(number) for number in arguments[:5])
    program = arguments[5:]
    if uid >= 0:
        _become(uid, gid)
    if lifeline >= 0:
        _start_watchdog(lifeline, death_signal)
    else:
        _ask_kernel(death_signal)
    # The parent may have died before the request above: nobody would ever signal us.
    if os.getppid() != parent:
        sys.exit(_NOBODY_WAITS_FOR_US)
    # Python ignores these at its start, and what is ignored stays ignored across exec.
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(ignored, signal.SIG_DFL)
    try:
        # Not execvp, whose search of PATH imports a module, which we may no longer be able to read.
        os.execv(program[0], program)
    except OSError as error:
        sys.stderr.write(f"cannot execute {program[0]}: {error.strerror}\n")
        sys.exit(_CANNOT_EXECUTE)


if __name__ == "__main__":
    main(sys.argv[1:])
