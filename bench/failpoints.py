"""What a failpoint costs while nothing is installed: `python -m bench.failpoints`.

A commit passes two of them and a read one, and each is a comparison of a local name with None,
which mesh/db.py reads once from the database. A call passes none: the channel is as it was.
"""

from __future__ import annotations

import sys
import timeit

MOST_US = 0.1
_TIMES = 500_000
_REPEATS = 9
_POINTS = 2


class _Database:
    def __init__(self) -> None:
        self._failpoints = None

    def without(self, name: str) -> str:
        """The code around a failpoint."""
        return name

    def passing(self, name: str) -> str:
        """The same, and what mesh/db.py asks."""
        points = self._failpoints
        if points is not None:
            raise AssertionError(name)
        if points is not None:
            raise AssertionError(name)
        return name


def main() -> int:
    """Prints the cost of one; 1 if it is above the mark."""
    names = {"database": _Database()}
    timers = [
        timeit.Timer(f"database.{call}('payment.write')", globals=names)
        for call in ("without", "passing")
    ]
    # In turns, so that a machine that is busy for a while is so for both.
    turns = [[timer.timeit(_TIMES) for timer in timers] for _ in range(_REPEATS)]
    without, passing = (min(times) for times in zip(*turns, strict=True))
    cost_us = (passing - without) / _TIMES / _POINTS * 1e6
    sys.stdout.write(f"a failpoint that is off: {cost_us:.3f} µs (at most {MOST_US})\n")
    return 1 if cost_us > MOST_US else 0


if __name__ == "__main__":
    sys.exit(main())
