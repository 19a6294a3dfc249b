"""What can go wrong, where, and how it is written: `wallet.apply#1/cut-after`.

A point is a commit by its name, or a call as `caller>callee Method`; `#2` is its second
passage, counted from the start of the scenario, or from where the fault before it happened.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Self


class Kind(Enum):
    """A fault. The value is its name in scenarios and reports."""

    # Of a commit.
    KILLED_BEFORE = "killed-before"
    """The process dies; nothing of the commit reached the server."""
    KILLED_AFTER = "killed-after"
    """The process dies; the commit is durable and nobody was told."""
    TWO_RESUME_BEFORE = "two-resume-before"
    """As killed-before, and two replicas start in its place at once."""
    TWO_RESUME_AFTER = "two-resume-after"
    """As killed-after, and two replicas start in its place at once."""
    CUT_BEFORE = "cut-before"
    """The connection is gone before COMMIT arrives: the server rolls back."""
    CUT_AFTER = "cut-after"
    """The connection is gone before the answer to COMMIT arrives."""
    SERIALIZATION = "serialization"
    """SQLSTATE 40001."""
    DEADLOCK = "deadlock"
    """SQLSTATE 40P01."""
    STATEMENT = "statement"
    """The server refuses for want of disk, 53100."""
    RESTART = "restart"
    """Every session of every service ends before COMMIT arrives, as when the server restarts."""

    # Of a call.
    REQUEST_LOST = "request-lost"
    ANSWER_LOST = "answer-lost"
    DUPLICATED = "duplicated"
    """The callee gets it twice at once."""
    LATE_DUPLICATE = "late-duplicate"
    """The callee gets it again when all is over."""
    SLOW = "slow"
    """It arrives late, within its deadline."""
    TOO_SLOW = "too-slow"
    """It arrives when its caller has given up."""
    PAUSED = "callee-paused"
    """The callee does nothing for longer than the deadline and the lease."""


OF_COMMITS = (
    Kind.KILLED_BEFORE,
    Kind.KILLED_AFTER,
    Kind.CUT_BEFORE,
    Kind.CUT_AFTER,
    Kind.SERIALIZATION,
    Kind.DEADLOCK,
    Kind.STATEMENT,
    Kind.RESTART,
)
OF_PAYMENT_COMMITS = (*OF_COMMITS, Kind.TWO_RESUME_BEFORE, Kind.TWO_RESUME_AFTER)
OF_CALLS = (
    Kind.REQUEST_LOST,
    Kind.ANSWER_LOST,
    Kind.DUPLICATED,
    Kind.LATE_DUPLICATE,
    Kind.SLOW,
    Kind.TOO_SLOW,
    Kind.PAUSED,
)

KILLS = frozenset(
    {Kind.KILLED_BEFORE, Kind.KILLED_AFTER, Kind.TWO_RESUME_BEFORE, Kind.TWO_RESUME_AFTER}
)
AFTER_COMMIT = frozenset({Kind.KILLED_AFTER, Kind.TWO_RESUME_AFTER, Kind.CUT_AFTER})


def is_call(point: str) -> bool:
    """Whether the point is a call; else it is a commit."""
    return ">" in point


def kinds_at(point: str) -> tuple[Kind, ...]:
    """The faults that apply to a point."""
    if is_call(point):
        return OF_CALLS
    # Replicas of the others share nothing but rows with keys: only payment_svc has owners.
    return OF_PAYMENT_COMMITS if point.startswith("payment.") else OF_COMMITS


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault at the nth passage of a point."""

    point: str
    nth: int
    kind: Kind

    def __str__(self) -> str:
        return f"{self.point}#{self.nth}/{self.kind.value}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The reverse of str()."""
        place, _, kind = text.rpartition("/")
        point, _, nth = place.rpartition("#")
        return cls(point, int(nth), Kind(kind))


@dataclass(frozen=True, slots=True)
class Scenario:
    """A flow and its faults, each armed when the one before it has happened."""

    flow: str
    faults: tuple[Fault, ...] = ()

    def __str__(self) -> str:
        return f"{self.flow}: {' + '.join(map(str, self.faults)) or 'no fault'}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The reverse of str()."""
        flow, _, faults = text.partition(": ")
        if faults in ("", "no fault"):
            return cls(flow)
        return cls(flow, tuple(map(Fault.parse, faults.split(" + "))))
