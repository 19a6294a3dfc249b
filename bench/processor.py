"""Processor time (user, system, and of dead children) and memory of processes, from /proc."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from bench.problem import BenchError

_PROC = Path("/proc")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class _Stat(NamedTuple):
    """Of /proc/<pid>/stat. Seconds; `reaped_s` is of children that have ended."""

    state: str
    parent: int
    own_s: float
    reaped_s: float


def processor_seconds(pids: Mapping[str, int]) -> dict[str, float]:
    """Processor seconds since their start of the processes and all that they started.

    By the names of `pids`. Raises BenchError for one that is gone: it died.
    """
    children: dict[int, list[int]] = {}
    stats: dict[int, _Stat] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and (stat := _stat(int(entry.name))) is not None:
            stats[int(entry.name)] = stat
            children.setdefault(stat.parent, []).append(int(entry.name))
    for name, pid in pids.items():
        if pid not in stats or stats[pid].state == "Z":
            raise BenchError(f"{name} died during the measurement")
    return {name: _with_children(pid, stats, children) for name, pid in pids.items()}


def resident_kib(pid: int) -> int:
    """The resident memory of a process, in KiB. Raises BenchError if it is gone."""
    try:
        status = (_PROC / str(pid) / "status").read_text()
    except (FileNotFoundError, ProcessLookupError) as error:
        raise BenchError(f"process {pid} died during the measurement") from error
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1])


def _with_children(
    pid: int, stats: Mapping[int, _Stat], children: Mapping[int, list[int]]
) -> float:
    own = stats[pid].own_s + stats[pid].reaped_s
    return own + sum(_with_children(child, stats, children) for child in children.get(pid, ()))


def _stat(pid: int) -> _Stat | None:
    """None for a process that is gone."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is a name in brackets, with whatever the process put there.
    fields = text.rpartition(")")[2].split()
    user, system, reaped_user, reaped_system = (int(field) for field in fields[11:15])
    return _Stat(
        fields[0],
        int(fields[1]),
        (user + system) / _TICKS_PER_S,
        (reaped_user + reaped_system) / _TICKS_PER_S,
    )
