"""The demo's night is well only if the seeded difference is the one that is found."""

from __future__ import annotations

import pytest
from paymesh.reconciliation.v1 import reconciliation_service_pb2 as reconciliation_pb
from rich.console import Console

from paymeshctl import night
from paymeshctl.night import Night
from tests.support.nights import the_night


def test_a_night_with_the_seeded_difference_only_is_well() -> None:
    assert night.problems(the_night()) == []


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (the_night(reconciliation_pb.RUN_STATE_BROKEN), "is BROKEN, not EXPLAINED"),
        (the_night(difference_minor=-5), "misses the PSP's file by -0.05 EUR"),
        (the_night(classes=()), "the differences are none"),
        (the_night(classes=(3, 7)), "UNKNOWN_TO_US, DUPLICATE_IN_FILE"),
        (the_night(credit_minor=1), "debits 12.34 EUR ≠ credits 0.01 EUR"),
    ],
)
def test_a_night_that_is_not_as_it_must_be_is_told(bad: Night, said: str) -> None:
    (problem,) = night.problems(bad)
    assert said in problem


def test_the_night_is_told_with_what_was_booked(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(width=200)
    for line in night.lines(the_night()):
        console.print(line)
    told = capsys.readouterr().out
    for text in ("2026-11-22", "EXPLAINED", "stub_x", "line 7", "credit suspense 12.34 EUR"):
        assert text in told
