"""What was run, for people: docs/faults.md, and a few lines at the end."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence

from tests.faults.engine.campaign import Asked, Done
from tests.faults.engine.faults import is_call
from tests.faults.engine.run import Result

_HEAD = """\
# Every fault, every pair of faults

`make faults` writes this file. A scenario is a payment through all five services in one process
(real gRPC on loopback, real PostgreSQL in memory) with one or more faults, each armed when the
one before it has happened, and then a comparison of all books. How it works:
tests/faults/engine/. A point is a commit by its name, or a call as `caller>callee Method`.
"""


def failures(done: Sequence[Done]) -> list[Result]:
    """The scenarios that went wrong."""
    return [r for flow in done for r in flow.results if r.problems]


def missed(done: Sequence[Done]) -> list[Result]:
    """The scenarios whose last fault did not come to pass, although they were tried again."""
    return [r for flow in done for r in flow.results if not r.problems and not r.all_fired]


def command(result: Result) -> str:
    """What runs exactly this scenario again."""
    return f"python -m tests.faults.engine --replay {shlex.quote(str(result.scenario))}"


def told(result: Result) -> str:
    """A scenario, what happened and what it passed."""
    lines = [str(result.scenario), f"{result.seconds:.2f} s, {result.fired} fault(s) happened"]
    lines += [
        "passed: " + ", ".join(f"{n} {point}" for point, n in sorted(passed.items()))
        for passed in result.passed
    ]
    lines += [f"told: {refusal}" for refusal in result.told]
    lines += result.problems or ["no problem"]
    return "\n".join(lines)


def summary(done: Sequence[Done], seconds: float, replaced: int) -> str:
    """The verdict. replaced: workers that ended by themselves."""
    lines = [
        f"{flow.flow}: {len(flow.singles)} singles, {len(flow.pairs)} of {flow.pairs_in_all} pairs,"
        f" {len(flow.triples)} triples in {flow.seconds:.0f} s: {len(failures([flow]))} failed,"
        f" {len(missed([flow]))} whose last fault never came to pass"
        for flow in done
    ]
    scenarios = sum(len(flow.results) for flow in done)
    lines.append(
        f"{scenarios} scenarios in {seconds:.0f} s: {len(failures(done))} failed,"
        f" {len(missed(done))} whose last fault never came to pass"
    )
    lines.append(_replaced(replaced))
    for result in failures(done):
        lines += [f"FAILED {result.scenario}", f"  {command(result)}"]
    return "\n".join(lines)


def _replaced(replaced: int) -> str:
    return f"{replaced} workers ended by themselves; what they had under way was run again."


def text(done: Sequence[Done], asked: Asked, *, seconds: float, replaced: int) -> str:
    """The file. replaced: as in summary."""
    lines = [_HEAD, "## Flows", ""]
    lines += [
        "| Flow | Points | Singles | Pairs run | Pairs in all | Triples | Seconds | Failures |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for flow in done:
        lines.append(
            f"| {flow.flow} | {len(flow.points)} | {len(flow.singles)} | {len(flow.pairs)}"
            f" | {flow.pairs_in_all} | {len(flow.triples)} | {flow.seconds:.0f}"
            f" | {len(failures([flow]))} |"
        )
    fired = Counter[tuple[str, str]]()
    for flow in done:
        for result in flow.results:
            for fault in result.scenario.faults[: result.fired]:
                fired[fault.point, fault.kind.value] += 1
    lines += ["", f"{seconds:.0f} s in all; the samples' seed is {asked.seed}.", ""]
    lines += [_replaced(replaced), ""]
    lines += ["## How often each fault happened", ""]
    for title, calls in (("Commits", False), ("Calls", True)):
        points = sorted({point for point, _ in fired if is_call(point) is calls})
        kinds = sorted({kind for point, kind in fired if is_call(point) is calls})
        lines += [f"### {title}", "", "| | " + " | ".join(kinds) + " |"]
        lines.append("| --- |" + " ---: |" * len(kinds))
        for point in points:
            counts = " | ".join(str(fired[point, kind] or "") for kind in kinds)
            lines.append(f"| {point} | {counts} |")
        lines.append("")
    lines += ["## Failures", ""]
    lines += [f"- `{command(result)}`" for result in failures(done)] or ["None."]
    unfired = missed(done)
    lines += ["", "## Second faults that never came to pass", ""]
    lines.append(f"{len(unfired)}: what a run passed before, and the tries of this fault did not.")
    lines += [f"- {result.scenario}" for result in unfired]
    return "\n".join(lines) + "\n"
