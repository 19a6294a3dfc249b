"""Whether a mesh kept its promises: the invariants I1 to I10, apart from the services' code.

It imports nothing of theirs, nor of mesh/ (a test says so), so that a mistake of theirs is not
made here again. It reads the databases by SQL of its own and judges what they say together with
what callers were told.

- `check`: I1 to I8, of a mesh that is quiet, or of some of its payments. Who asks often opens the
  databases once (`opened`), and makes it fast among many payments (`prepare`).
- `unsettled`: I7 alone, while one waits for the quiet.
- `settlement`: I9, after the day was closed and reconciled.
- `left_behind`: I10, at the end of a run.
"""

from tests.faults.checker.afterwards import left_behind, settlement
from tests.faults.checker.invariants import check, unsettled
from tests.faults.checker.reading import opened, prepare
from tests.faults.checker.records import Sessions, Told, Urls, Violation, seen

__all__ = [
    "Sessions",
    "Told",
    "Urls",
    "Violation",
    "check",
    "left_behind",
    "opened",
    "prepare",
    "seen",
    "settlement",
    "unsettled",
]
