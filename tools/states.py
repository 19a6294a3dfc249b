"""Draws docs/state-machines.md from the tables in the services' domains.

python tools/states.py          writes it
python tools/states.py --check  exits 1 if it is not what the tables say
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import Path
from typing import TypeVar

from executor_svc import domain as executor
from payment_svc import domain as payment

TARGET = Path(__file__).parent.parent / "docs" / "state-machines.md"

S = TypeVar("S", bound=Enum)
R = TypeVar("R", bound=Enum)


def table(title: str, says: str, transitions: Mapping[tuple[S, R], S]) -> Iterable[str]:
    """A table, a row a state and a column a result; `never` is a pair that can't happen."""
    states = list(dict.fromkeys(state for state, _ in transitions))
    results = list(dict.fromkeys(result for _, result in transitions))
    yield from (f"## {title}", "", says, "")
    yield "| | " + " | ".join(result.name for result in results) + " |"
    yield "|---" * (len(results) + 1) + "|"
    for state in states:
        following = (transitions.get((state, result)) for result in results)
        cells = ("never" if to is None else "·" if to is state else to.name for to in following)
        yield f"| **{state.name}** | " + " | ".join(cells) + " |"
    ends = sorted({to.name for to in transitions.values()} - {state.name for state in states})
    if ends:
        yield from ("", f"Never left: {', '.join(ends)}.")
    yield ""


def document() -> str:
    """The whole page."""
    lines = [
        "# State machines",
        "",
        "Drawn by `make gen` from the tables in the domains; `make check` keeps it fresh.",
        "A dot stays; `never` can't happen, and raises.",
        "",
        *table(
            "An order (payment_svc)",
            "A row is the order's state, a column what one trip over the conveyor taught.",
            payment.TRANSITIONS,
        ),
        *table(
            "An operation at the PSP (executor_svc)",
            "A row is the stored state, a column what a step at the PSP brought to light.",
            executor.TRANSITIONS,
        ),
    ]
    return "\n".join(lines).rstrip() + "\n"


def main() -> int:
    """Writes or checks."""
    text = document()
    if "--check" not in sys.argv[1:]:
        TARGET.write_text(text, encoding="utf-8")
        return 0
    if TARGET.exists() and TARGET.read_text(encoding="utf-8") == text:
        return 0
    print(f"{TARGET.name} is stale: run make gen")
    return 1


if __name__ == "__main__":
    sys.exit(main())
