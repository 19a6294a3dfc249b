"""When an order that does not rest is driven again. payment_svc owns every schedule."""

from __future__ import annotations

from dataclasses import dataclass

from payment_svc.domain import Result


@dataclass(frozen=True, slots=True)
class Backoff:
    """From `first_s`, doubled at each attempt, up to `most_s`; in seconds."""

    first_s: float
    most_s: float

    def after(self, attempt: int) -> float:
        """The wait after this attempt (from 0)."""
        return min(self.first_s * 2.0 ** min(attempt, 30), self.most_s)


@dataclass(frozen=True, slots=True)
class Schedule:
    """The waits by what was learnt."""

    pending: Backoff
    unknown: Backoff
    delayed: Backoff
    parked_s: float

    def retry_after_s(self, result: Result, attempt: int, *, poll: bool) -> float | None:
        """Seconds until the next attempt; None if the order rests.

        poll: whether asking again about a parked order may bring evidence.
        """
        match result:
            case Result.BOOKED | Result.DECLINED:
                return None
            case Result.PARKED:
                return self.parked_s if poll else None
            case Result.PENDING:
                return self.pending.after(attempt)
            case Result.UNKNOWN:
                return self.unknown.after(attempt)
            case Result.CAPTURED | Result.DELAYED:
                return self.delayed.after(attempt)
