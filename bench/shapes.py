"""Other loads than the first ones: fewer in flight, streams, one seller, a slow PSP, a long run."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.plan import LoadPlan
from bench.report import Mark
from bench.rig import Rig, Round, rig
from bench.rounds import IN_FLIGHT, Interleaved, Size

FEWER_IN_FLIGHT = (16, 64)
STREAMS = (1, 4)
LEAST_STREAMED_RATIO = 1.5
MOST_HOT_RATIO = 1.1
MOST_MEMORY_RATIO = 1.1

PSP_MEDIAN_MS = 400
PSP_P99_MS = 1_200
SLOW_IN_FLIGHT = 1_024

# A long run is bounded by its payments; these only end one that hangs.
_LEAST_PER_SECOND = 100
_GRACE_S = 30

Say = Callable[[str], None]


@dataclass(frozen=True)
class Shapes:
    """What came of each load, by its name, and the two that are compared."""

    rounds: Mapping[str, Round]
    hot_ms: float
    distinct_ms: float
    streamed_per_second: float


def measure_shapes(running: Rig, size: Size, say: Say) -> Shapes:
    """Rounds on the mesh that is there. One seller and many take turns."""
    rounds: dict[str, Round] = {}

    def run(name: str, in_flight: int = IN_FLIGHT, **more: Any) -> Round:
        one = running.measure(
            LoadPlan(running.target, size.seconds, size.payments, in_flight=in_flight, **more)
        )
        rounds[name] = one
        say(f"  {name:<38}{one.load.per_second:7.0f} payments/s  {one.mesh_ms:.2f} ms")
        return one

    for in_flight in FEWER_IN_FLIGHT:
        run(f"unary, {in_flight} in flight", in_flight=in_flight)
    hot: list[float] = []
    distinct: list[float] = []
    for _ in range(min(2, size.rounds)):
        distinct.append(run(f"unary, {IN_FLIGHT} in flight").mesh_ms)
        hot.append(run("the same, all of one seller", sellers=1).mesh_ms)
    streamed = [
        run(
            f"{streams} stream{'s' * (streams > 1)}, {IN_FLIGHT} in flight",
            streams=streams,
        )
        for streams in STREAMS
    ]
    return Shapes(
        rounds,
        statistics.mean(hot),
        statistics.mean(distinct),
        max(one.load.per_second for one in streamed),
    )


def slow_psp(place: Path | None, size: Size) -> Round:
    """A PSP whose median is 400 ms, on a mesh of its own, with 1,024 in flight."""
    with rig(
        place,
        PAYMESH_PSP_STUB_LATENCY_MEDIAN_MS=str(PSP_MEDIAN_MS),
        PAYMESH_PSP_STUB_LATENCY_P99_MS=str(PSP_P99_MS),
    ) as running:
        plan = LoadPlan(
            running.target, size.seconds, size.payments, in_flight=SLOW_IN_FLIGHT, ramp_s=2.0
        )
        return running.measure(plan)


@dataclass(frozen=True)
class Memory:
    """Resident KiB by service after so many payments, and after so many more."""

    few: int
    many: int
    early: Mapping[str, int]
    late: Mapping[str, int]

    @property
    def ratio(self) -> float:
        """Of the service that grew most."""
        return max(self.late[service] / early for service, early in self.early.items())


def memory(place: Path | None, few: int, many: int) -> Memory:
    """What services hold after `few` payments and after `many`, on a mesh of its own."""
    with rig(place) as running:

        def pay(payments: int) -> Mapping[str, int]:
            seconds = payments / _LEAST_PER_SECOND + _GRACE_S
            plan = LoadPlan(running.target, seconds, payments, in_flight=IN_FLIGHT, streams=4)
            running.measure(plan)
            return running.memory_kib()

        early = pay(few)
        return Memory(few, many, early, pay(many - few))


def shape_lines(shapes: Shapes, slow: Round) -> Iterable[str]:
    """A line each."""
    yield f"{'other loads':<38}{'payments/s':>12}{'p50 ms':>9}{'p99 ms':>9}{'processor ms':>14}"
    slow_name = f"PSP's median {PSP_MEDIAN_MS} ms, {SLOW_IN_FLIGHT} in flight"
    for name, one in {**shapes.rounds, slow_name: slow}.items():
        load = one.load
        yield (
            f"  {name:<36}{load.per_second:>12.0f}{load.p50_ms:>9.0f}{load.p99_ms:>9.0f}"
            f"{one.mesh_ms:>14.2f}"
        )


def memory_lines(found: Memory) -> Iterable[str]:
    """By service."""
    yield f"resident memory, MiB, after {found.few:,} and {found.many:,} payments"
    for service, early in found.early.items():
        late = found.late[service]
        yield f"  {service:<33}{early / 1024:>15.1f}{late / 1024:>15.1f}{late / early:>8.2f}"


def shape_marks(shapes: Shapes, found: Memory, full: Interleaved) -> list[Mark]:
    """The bounds of these loads."""
    streamed = (
        None if not full.pgbench else shapes.streamed_per_second / statistics.median(full.pgbench)
    )
    hot = shapes.hot_ms / shapes.distinct_ms
    return [
        Mark(
            "streamed payments ÷ pgbench's transactions: "
            f"{'—' if streamed is None else f'{streamed:.2f}'} (at least {LEAST_STREAMED_RATIO})",
            None if streamed is None else streamed >= LEAST_STREAMED_RATIO,
        ),
        Mark(
            f"processor time with one hot seller ÷ distinct sellers: {hot:.2f} "
            f"(at most {MOST_HOT_RATIO})",
            hot <= MOST_HOT_RATIO,
        ),
        Mark(
            "memory after many payments ÷ after few, of the service that grew most: "
            f"{found.ratio:.2f} (at most {MOST_MEMORY_RATIO})",
            found.ratio <= MOST_MEMORY_RATIO,
        ),
    ]
