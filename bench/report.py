"""What is printed."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from bench.books import Equation
from bench.pgbench import ABSENT, CLIENTS
from bench.plan import RequestIds
from bench.rig import SLOW_CARD_S, Rig, Round
from bench.rounds import IN_FLIGHT, SLOW_SHARE, Interleaved, SlowCards

LEAST_RATIO = 0.4
MOST_PROCESSOR_MS = 2.0
MOST_SLOW_RATIO = 1.5


@dataclass(frozen=True)
class Mark:
    """A figure and its bound. reached: None where it could not be measured."""

    text: str
    reached: bool | None

    def __str__(self) -> str:
        words = {True: "reached    ", False: "NOT REACHED", None: "NOT MEASURED"}
        return f"  {words[self.reached]}  {self.text}"


def marks(full: Interleaved, slow: SlowCards) -> list[Mark]:
    """The bounds that the mesh is built to keep."""
    ratio, ms = full.ratio, full.mesh_ms
    shown = "—" if ratio is None else f"{ratio:.2f}"
    return [
        Mark(
            f"payments ÷ pgbench's transactions at {IN_FLIGHT} in flight: {shown} "
            f"(at least {LEAST_RATIO})",
            None if ratio is None else ratio >= LEAST_RATIO,
        ),
        Mark(
            f"processor time of a payment, services and PostgreSQL: {ms:.2f} ms "
            f"(at most {MOST_PROCESSOR_MS})",
            ms <= MOST_PROCESSOR_MS,
        ),
        Mark(
            f"p50 of fast cards among slow ones ÷ without: {slow.ratio:.2f} "
            f"(at most {MOST_SLOW_RATIO})",
            slow.ratio <= MOST_SLOW_RATIO,
        ),
    ]


def unary_lines(alone: Round, full: Interleaved) -> Iterable[str]:
    """Rates, times, and what a payment costs, alone and among many."""
    yield f"unary CreatePayment, one order each   {'1 in flight':>14}{f'{IN_FLIGHT} in flight':>16}"
    columns: Sequence[Sequence[Round]] = ([alone], full.mesh)

    def line(name: str, unit: str, digits: int, value: Callable[[Round], float]) -> str:
        cells = (statistics.median(value(one) for one in rounds) for rounds in columns)
        shown = "".join(f"{cell:>15.{digits}f}" for cell in cells)
        return f"  {name:<33}{shown} {unit}"

    yield line("rate", "payments/s", 0, lambda one: one.load.per_second)
    yield line("p50", "ms", 1, lambda one: one.load.p50_ms)
    yield line("p99", "ms", 1, lambda one: one.load.p99_ms)
    yield "  processor time of a payment:"
    for name in alone.processor_ms:
        yield line(f"  {name}", "ms", 3, partial(_processor_ms, name))
    yield line("  sum", "ms", 2, lambda one: one.mesh_ms)
    yield line("  (load generator, not in the sum)", "ms", 3, lambda one: one.generator_ms)
    # The generator does the same for each payment: this compares runs on a noisy machine.
    yield line("  sum ÷ load generator", "", 1, lambda one: one.mesh_ms / one.generator_ms)
    yield line("WAL of a payment", "bytes", 0, lambda one: one.wal_bytes)


def _processor_ms(name: str, one: Round) -> float:
    return one.processor_ms[name]


def commit_lines(alone: Round, full: Interleaved) -> Iterable[str]:
    """Commits, and how long the lists were."""
    if not alone.commits:
        yield "commits: not counted, because this PostgreSQL lacks the extension pg_walinspect"
        return
    yield "commits a payment (transactions that wrote, counted in the WAL)"
    counted = [{**one.commits, "all": sum(one.commits.values())} for one in full.mesh]
    for name, lone in {**alone.commits, "all": sum(alone.commits.values())}.items():
        commits = statistics.median(one[name] for one in counted)
        yield f"  {name:<33}{lone:>15.2f}{commits:>15.3f}" + (
            f"   {1 / commits:.0f} payments each" if commits and name != "all" else ""
        )


def pgbench_lines(full: Interleaved, scale: int) -> Iterable[str]:
    """The comparison, or why there is none."""
    if full.ratio is None:
        yield f"pgbench: {ABSENT}"
        return
    yield f"pgbench TPC-B (-M prepared, scale {scale}, {CLIENTS} clients) on the same server"
    yield f"  median {statistics.median(full.pgbench):10.0f} transactions/s"
    yield f"  ratio  {full.ratio:10.2f} payments ÷ transactions, to the rounds beside it, median"


def slow_lines(slow: SlowCards) -> Iterable[str]:
    """How slow cards bear on the fast ones."""
    yield "fast cards beside slow ones (payments begin by the clock, at the same random moments in"
    yield f"both runs; {slow.per_second:.0f} a second, a fifth of what the mesh carries)"
    for name, p50_ms, rounds in (
        ("all cards fast", slow.without_ms, slow.without),
        (f"{SLOW_SHARE:.0%} of cards taking {SLOW_CARD_S} s", slow.among_ms, slow.among),
    ):
        processor_ms = statistics.median(one.mesh_ms for one in rounds)
        yield f"  {name:<33}p50 {p50_ms:7.1f} ms, processor time {processor_ms:5.2f} ms a payment"
    yield f"  {'ratio':<33}    {slow.ratio:7.2f}"


def wal_lines(wal: dict[RequestIds, Round], fill: int) -> Iterable[str]:
    """What names that carry their time save."""
    payments = wal[RequestIds.UUID7].load.payments
    yield f"WAL of a payment, over {payments} payments after a checkpoint, after {fill} of the same"
    yield "kind (a random id touches any page, whose first touch writes it out whole; with larger"
    yield "tables, see --wal-fill, more pages are touched)"
    yield f"  UUIDv7 request_ids {wal[RequestIds.UUID7].wal_bytes:9.0f} bytes"
    yield f"  random request_ids {wal[RequestIds.UUID4].wal_bytes:9.0f} bytes"


def book_lines(rig: Rig, equations: Sequence[Equation]) -> Iterable[str]:
    """The books, and what went wrong for callers."""
    yield "the books at the end (amounts in cents):"
    for equation in equations:
        yield f"  {'✓' if equation.holds else '✗'} {equation}"
    for what, count in sorted(rig.errors.items()):
        yield f"  {count} payments were not answered as succeeded: {what}"
