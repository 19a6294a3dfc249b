"""What is shown of a run: a table for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tests.conformance.kit import Trial
from tests.conformance.rule import Result, Rule, Verdict

# Where there is no terminal: a piped table must not be cut at 80 columns.
_PIPED_WIDTH = 160

_STYLES = {Verdict.KEPT: "green", Verdict.NOT_KEPT: "bold red", Verdict.NOT_TRIED: "yellow"}


def console() -> Console:
    """The terminal, or what stands in its place."""
    return Console(width=None if sys.stdout.isatty() else _PIPED_WIDTH, highlight=False)


def count(results: Sequence[Result], verdict: Verdict) -> int:
    """How many rules met this verdict."""
    return sum(result.verdict is verdict for result in results)


def print_table(trial: Trial) -> None:
    """Each rule with its verdict; what the broken ones mean; the sum."""
    table = Table("rule", "", "what was seen", box=box.SIMPLE, pad_edge=False)
    for result in trial.results:
        style = _STYLES[result.verdict]
        table.add_row(result.rule.name, f"[{style}]{result.verdict.value}[/]", escape(result.seen))
    out = console()
    out.print(f"the adapter {escape(repr(trial.source))} at {escape(trial.target)}")
    out.print(table)
    for result in trial.results:
        if result.verdict is Verdict.NOT_KEPT:
            out.print(f"[bold red]NOT KEPT[/] {result.rule.name}: {escape(result.rule.holds)}.")
            out.print(f"  Why: {escape(result.rule.why)}.")
    sums = (f"{count(trial.results, verdict)} {verdict.value.lower()}" for verdict in Verdict)
    out.print(", ".join(sums))


def print_json(trial: Trial) -> None:
    """The same as one JSON object."""
    _print_object(
        {
            "target": trial.target,
            "source": trial.source,
            **{verdict.name.lower(): count(trial.results, verdict) for verdict in Verdict},
            "rules": [
                {
                    "name": result.rule.name,
                    "verdict": result.verdict.name,
                    "seen": result.seen,
                    "holds": result.rule.holds,
                    "why": result.rule.why,
                    "seconds": round(result.seconds, 3),
                }
                for result in trial.results
            ],
        }
    )


def print_rules(rules: Iterable[Rule], *, as_json: bool) -> None:
    """The rules themselves: what must hold, and why."""
    if as_json:
        _print_object({"rules": [{"name": r.name, "holds": r.holds, "why": r.why} for r in rules]})
        return
    table = Table("rule", "what must hold", "why", box=box.SIMPLE, pad_edge=False)
    for rule in rules:
        table.add_row(rule.name, escape(rule.holds), escape(rule.why))
    console().print(table)


def print_problem(message: str, *, as_json: bool) -> None:
    """Why there is no result: a sentence on standard error; with --json an object besides."""
    sys.stderr.write(f"conformance: {message}\n")
    if as_json:
        _print_object({"error": message})


def _print_object(value: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")
