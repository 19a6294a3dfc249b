"""When what is open is driven again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from payment_svc.domain import Result
from payment_svc.schedule import Backoff, Schedule


@given(st.integers(min_value=0, max_value=10_000))
def test_backoff_grows_to_its_most_and_never_overflows(attempt: int) -> None:
    backoff = Backoff(first_s=0.2, most_s=5.0)
    assert 0.2 <= backoff.after(attempt) <= backoff.after(attempt + 1) <= 5.0


def test_what_rests_is_not_scheduled_and_what_does_not_is() -> None:
    wait = Backoff(1.0, 2.0)
    schedule = Schedule(pending=wait, unknown=wait, delayed=wait, parked_s=60.0)
    resting = {r for r in Result if schedule.retry_after_s(r, 0, poll=False) is None}
    assert resting == {Result.BOOKED, Result.DECLINED, Result.PARKED}
    assert schedule.retry_after_s(Result.PARKED, 0, poll=True) == 60.0
