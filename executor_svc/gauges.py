"""The metrics of executor_svc: what is under way here, and what has no definite outcome."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prometheus_client.core import GaugeMetricFamily, Metric

from executor_svc import operations
from executor_svc.domain import Standing, State
from mesh import metrics
from mesh.db import Database

# SENT is under way in some process; CAPTURED and DECLINED are the end.
_STATES = (State.UNKNOWN, State.PENDING, State.PARKED_UNKNOWN, State.PARKED)


def publish(under_way: Callable[[], int], oldest_s: Callable[[], float]) -> None:
    """Has the runs of this process asked when the metrics are read."""
    metrics.ask_gauge(
        "paymesh_operations_under_way", "Operations that this process is driving.", under_way
    )
    metrics.ask_gauge(
        "paymesh_oldest_operation_under_way_seconds",
        "How long the oldest of them has been driven; 0 if there is none.",
        oldest_s,
    )


async def read(database: Database) -> Sequence[Metric]:
    """The gauges that only the database knows. Errors: those of Database.read."""
    return families(await operations.unresolved(database))


def families(standing: Sequence[Standing]) -> list[Metric]:
    """The numbers as metrics; a state without operations says 0."""
    unresolved = GaugeMetricFamily(
        "paymesh_operations_unresolved",
        "Operations without a definite outcome, by state; of all of them the 10,000 oldest.",
        labels=["state"],
    )
    oldest = GaugeMetricFamily(
        "paymesh_oldest_unresolved_age_seconds",
        "How long ago the oldest of them was first sent; 0 if there is none.",
        labels=["state"],
    )
    by_state = {s.state: s for s in standing}
    for state in _STATES:
        found = by_state.get(state, Standing(state, 0, 0.0))
        unresolved.add_metric([state.name], found.operations)
        oldest.add_metric([state.name], found.oldest_s)
    return [unresolved, oldest]
