"""What a mixture of faults came to, for people to read."""

from __future__ import annotations

from collections import Counter

from paymesh.reconciliation.v1 import reconciliation_service_pb2 as pb

from tests.support.mixture import Nights
from tests.support.mixture_truth import Finding
from tests.support.tables import table

_NOTES = """
Class 22, errors that offset each other, is two of class 4 each, and a pair of class 23 leaves two
captures of class 1. What is in no file by the fourth day has gone from class 1 to 2. Fees of no
charge and transfers that come back are booked by rule and explain themselves. Classes 11, 12 and
17 are of statements: one in each currency. 16, 19 and 25 are of files, each on a day of its own,
and 18 is the right file after each, sent twice.
"""


def report(nights: Nights, title: str, bad: Counter[str]) -> str:
    """By class; what several runs find is one difference, as the last of them found it.

    bad: how many files were refused by class, or taken once.
    """
    expected, missing, false = (
        {one for compared in nights.compared for one in getattr(compared, name)}
        for name in ("expected", "missing", "false")
    )
    states: dict[Finding, pb.BreakState.ValueType] = {}
    for compared in nights.compared:
        states.update(compared.states)
    rows = []
    for class_ in sorted({one.class_ for one in expected | false}):
        found_as = Counter(state for one, state in states.items() if one.class_ == class_)
        counts = [sum(one.class_ == class_ for one in ones) for ones in (expected, missing, false)]
        rows.append(
            (
                class_,
                pb.BreakClass.Name(class_).removeprefix("BREAK_CLASS_"),
                counts[0],
                counts[0] - counts[1],
                *counts[1:],
                ", ".join(
                    f"{count} {pb.BreakState.Name(state).removeprefix('BREAK_STATE_')}"
                    for state, count in sorted(found_as.items())
                ),
            )
        )
    return (
        table(
            title,
            ("class", "", "seeded", "found", "missing", "false", "as"),
            rows,
        )
        + "\n"
        + _NOTES
        + table("Files", ("refused, or taken once", "files"), sorted(bad.items()))
        + "\n"
        + table("Seconds", ("", "s"), [(name, f"{s:.1f}") for name, s in nights.seconds.items()])
        + "\n"
    )
