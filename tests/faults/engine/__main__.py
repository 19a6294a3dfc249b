"""`make faults`: every single fault, every ordered pair of the flow with one order, samples.

python -m tests.faults.engine                       singles and pairs; docs/faults.md
python -m tests.faults.engine --pairs 0             singles alone
python -m tests.faults.engine --all                 every pair of four flows, 3,000 of the others
python -m tests.faults.engine --all --flow silence  every pair of this flow
python -m tests.faults.engine --all --part 1/4      a quarter of them
python -m tests.faults.engine --triples 20000       sampled triples of the flow with one order
python -m tests.faults.engine --replay 'SCENARIO'   one scenario, with the services' log
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from pathlib import Path

from tests.faults.engine import campaign, report
from tests.faults.engine.crew import Crew
from tests.faults.engine.faults import Scenario
from tests.faults.engine.flows import FLOWS
from tests.faults.engine.worker import LOGS


def main() -> int:
    """Runs what the arguments say; 1 if anything failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.engine")
    parser.add_argument("--flow", action="append", choices=sorted(FLOWS), default=[])
    parser.add_argument("--pairs", type=int, metavar="N")
    parser.add_argument("--triples", type=int, default=0, metavar="N")
    parser.add_argument("--races", type=int, default=0, metavar="N")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--part", type=_part, default=(1, 1), metavar="NUMBER/OF")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--report", type=Path)
    parser.add_argument("--replay", type=Scenario.parse, metavar="SCENARIO")
    asked = parser.parse_args()
    if asked.replay is not None:
        return asyncio.run(_replay(asked.replay))
    if asked.races:
        return asyncio.run(_races(asked.races // asked.part[1]))
    flows = asked.flow or [flow for flow in FLOWS if flow != "race"]
    plan = campaign.Asked(
        flows, {flow: _pairs(flow, asked) for flow in flows}, asked.triples, asked.seed, asked.part
    )
    started = time.monotonic()
    done, replaced = asyncio.run(campaign.run(plan, _say))
    seconds = time.monotonic() - started
    if asked.report is not None:
        asked.report.write_text(report.text(done, plan, seconds=seconds, replaced=replaced))
    _say(report.summary(done, seconds, replaced))
    return 1 if report.failures(done) else 0


def _part(text: str) -> tuple[int, int]:
    number, of = map(int, text.split("/"))
    if not 1 <= number <= of:
        raise ValueError
    return number, of


def _pairs(flow: str, asked: argparse.Namespace) -> int | None:
    if asked.all:
        return None if asked.flow else campaign.most(flow)
    return campaign.usual(flow) if asked.pairs is None else int(asked.pairs)


async def _races(count: int) -> int:
    started = time.monotonic()
    failed = 0
    async with Crew() as crew:
        for result in await crew.run_each([Scenario("race")] * count):
            failed += bool(result.problems)
            if result.problems:
                _say(report.told(result))
    _say(f"{count} races in {time.monotonic() - started:.0f} s: {failed} failed")
    return 1 if failed else 0


async def _replay(scenario: Scenario) -> int:
    os.environ[LOGS] = "1"
    async with Crew(1, 1) as crew:
        (result,) = await crew.run([scenario])
    _say(report.told(result))
    return 1 if result.problems or not result.all_fired else 0


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
