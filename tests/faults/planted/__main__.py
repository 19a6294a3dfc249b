"""`make planted`: each bug and what caught it; exit code 1 if one was not caught.

python -m tests.faults.planted                   all of them, and their scenarios without a bug
python -m tests.faults.planted 4 9               these alone
python -m tests.faults.planted --report FILE     writes docs/planted-bugs.md
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.faults.planted import report, worker
from tests.faults.planted.bench import Bench
from tests.faults.planted.bugs import BUGS, scenarios


def main() -> int:
    """Runs what the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.planted")
    parser.add_argument("numbers", nargs="*", type=int, metavar="N")
    parser.add_argument("--report", type=Path)
    asked = parser.parse_args()
    wanted = [bug for bug in BUGS if not asked.numbers or bug.number in asked.numbers]

    async def work(bench: Bench) -> int:
        tried = []
        for bug in wanted:
            tried.append((bug, await bench.try_bug(bug)))
            _say(report.line(*tried[-1]))
        right = []
        for scenario in scenarios(wanted):
            right.append(await bench.play(scenario))
            if not report.clean(right[-1]):
                _say(f"WITHOUT A BUG {right[-1]}")
        _say(f"{report.verdict(tried)} caught; {len(right)} scenarios played without a bug")
        if asked.report is not None:
            asked.report.write_text(report.text(tried, right), encoding="utf-8")
        missed = any(report.caught(*one) is None for one in tried)
        return 1 if missed or not all(map(report.clean, right)) else 0

    return worker.run(work)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
