"""What a load generator is asked to do, and what it answers; both travel as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum


class RequestIds(StrEnum):
    """How request_ids are made: the ids of all rows begin with a UUIDv7's time."""

    UUID7 = "uuid7"
    UUID4 = "uuid4"


@dataclass(frozen=True)
class LoadPlan:
    """A load, bounded by `seconds` and by `payments`, whichever is reached first.

    in_flight: payments under way at once, each followed by the next (a closed loop).
    streams: how many streams of CreatePayments they share; 0 is a unary call each.
    per_second: instead, payments begin by the clock at random moments, so many a second on
        average (an open loop); the moments depend on `seed` alone. 0 is the closed loop.
    slow_share: of the cards, how many take `tok_slow`; the share is the same in each stretch.
    ramp_s: what ends before is not counted in rate and latencies.
    """

    target: str
    seconds: float
    payments: int
    in_flight: int = 1
    streams: int = 0
    per_second: float = 0.0
    slow_share: float = 0.0
    ramp_s: float = 1.0
    request_ids: RequestIds = RequestIds.UUID7
    sellers: int = 10_000
    seed: int = 1

    def to_json(self) -> str:
        """The plan as one argument of a command line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> LoadPlan:
        """The opposite of to_json."""
        fields = json.loads(text)
        return cls(**{**fields, "request_ids": RequestIds(fields["request_ids"])})


@dataclass(frozen=True)
class LoadResult:
    """What came of a load.

    per_second: payments that ended after the ramp and before the end of `seconds`, each
        second. p50_ms, p99_ms: of those with fast cards, from the moment at which they
        were to begin. answered: all that were answered, by state; errors: by status and
        reason. processor_s: processor time of the generator itself.
    """

    per_second: float
    p50_ms: float
    p99_ms: float
    counted: int
    processor_s: float
    answered: dict[str, int] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)

    @property
    def succeeded(self) -> int:
        """How many payments were answered as captured, credited and booked."""
        return self.answered.get("SUCCEEDED", 0)

    @property
    def payments(self) -> int:
        """How many payments were answered."""
        return sum(self.answered.values())


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least `percent` of the values do not exceed; 0 of none."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]
