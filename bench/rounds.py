"""What is measured, in which order: each part prepares nothing for the next."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.pgbench import Pgbench
from bench.plan import LoadPlan, RequestIds
from bench.rig import SLOW_CARD_S, Rig, Round

IN_FLIGHT = 256
SLOW_SHARE = 0.1
# Of what the mesh carries in long lists; the short ones of few payments cost more each.
OFFERED_SHARE = 1 / 5
# Bounds the time of a load that is given by its payments.
_LEAST_PER_SECOND = 20
_WAL_START_S = 10

Say = Callable[[str], None]


@dataclass(frozen=True)
class Size:
    """How much is measured. seconds: of one round; payments: at most in one round.

    wal_fill, wal_payments: payments of a kind before, and in, the measurement of its WAL.
    """

    seconds: int
    payments: int
    rounds: int
    wal_fill: int
    wal_payments: int


@dataclass(frozen=True)
class Interleaved:
    """Rounds of the mesh, each between two of pgbench (transactions a second; none: absent)."""

    mesh: Sequence[Round]
    pgbench: Sequence[float]

    @property
    def ratio(self) -> float | None:
        """The median, over the rounds, of mesh ÷ mean of the two pgbench beside it."""
        if not self.pgbench:
            return None
        return statistics.median(
            one.load.per_second / statistics.mean((before, after))
            for one, before, after in zip(self.mesh, self.pgbench, self.pgbench[1:], strict=False)
        )

    @property
    def mesh_ms(self) -> float:
        """The median of the processor milliseconds of a payment."""
        return statistics.median(one.mesh_ms for one in self.mesh)


@dataclass(frozen=True)
class SlowCards:
    """The same arrivals with all cards fast, and with a share of slow ones; in turns."""

    per_second: float
    without: Sequence[Round]
    among: Sequence[Round]

    @property
    def without_ms(self) -> float:
        """The median p50 of the fast cards, with no others about."""
        return statistics.median(one.load.p50_ms for one in self.without)

    @property
    def among_ms(self) -> float:
        """The median p50 of the fast cards among slow ones."""
        return statistics.median(one.load.p50_ms for one in self.among)

    @property
    def ratio(self) -> float:
        """How much longer a fast card takes among slow ones."""
        return self.among_ms / self.without_ms


def unary(rig: Rig, size: Size, *, in_flight: int) -> Round:
    """One order each, so many at once, one after the other."""
    return rig.measure(LoadPlan(rig.target, size.seconds, size.payments, in_flight=in_flight))


def interleaved(rig: Rig, pgbench: Pgbench | None, size: Size, say: Say) -> Interleaved:
    """pgbench, mesh, pgbench, mesh … pgbench: so that what the machine does hits both."""
    mesh: list[Round] = []
    rates: list[float] = []

    def compare() -> None:
        if pgbench is not None:
            rig.server.checkpoint()
            rates.append(pgbench.measure(size.seconds))
            say(f"  pgbench {rates[-1]:7.0f} transactions/s")

    compare()
    for _ in range(size.rounds):
        one = unary(rig, size, in_flight=IN_FLIGHT)
        mesh.append(one)
        say(
            f"  mesh    {one.load.per_second:7.0f} payments/s     {one.mesh_ms:.2f} ms of "
            f"processor time each, p50 {one.load.p50_ms:.0f} ms, p99 {one.load.p99_ms:.0f} ms"
        )
        compare()
    return Interleaved(mesh, rates)


def slow_cards(rig: Rig, size: Size, most_per_second: float) -> SlowCards:
    """Payments begin by the clock, whatever became of those before.

    So a slow card takes no place that a fast one would have had, and both kinds of run are
    offered the same, at the same random moments. most_per_second: what the mesh carries, of
    which a part is offered.
    """
    per_second = most_per_second * OFFERED_SHARE
    without: list[Round] = []
    among: list[Round] = []

    def offer(rounds: list[Round], slow_share: float, ramp_s: float) -> None:
        plan = LoadPlan(
            rig.target,
            ramp_s + size.seconds,
            size.payments,
            per_second=per_second,
            slow_share=slow_share,
            ramp_s=ramp_s,
        )
        rounds.append(rig.measure(plan))

    for _ in range(min(2, size.rounds)):
        offer(without, 0.0, 1.0)
        # Counted once as many slow cards are waiting as there will ever be.
        offer(among, SLOW_SHARE, SLOW_CARD_S + 0.5)
    return SlowCards(per_second, without, among)


def wal_both_ways(rig: Rig, size: Size) -> dict[RequestIds, Round]:
    """The WAL of a payment with time-ordered and with random request_ids.

    Each kind first fills, so that there are pages of its own to touch, and is measured
    after the next checkpoint, when the first touch of a page writes it out whole.
    """

    def pay(kind: RequestIds, payments: int) -> Round:
        seconds = _WAL_START_S + payments / _LEAST_PER_SECOND
        return rig.measure(
            LoadPlan(rig.target, seconds, payments, in_flight=IN_FLIGHT, request_ids=kind)
        )

    found = {}
    for kind in RequestIds:
        pay(kind, size.wal_fill)
        found[kind] = pay(kind, size.wal_payments)
    return found
