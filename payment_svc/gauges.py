"""The metrics of payment_svc: what became of trips, and what does not rest for good."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from prometheus_client import Counter as CounterMetric
from prometheus_client.core import GaugeMetricFamily, Metric

from mesh import metrics
from mesh.db import Database
from payment_svc import operations
from payment_svc.clients import ExecutorStream
from payment_svc.conveyor import Conveyor
from payment_svc.domain import OPEN_STATES, TRANSITIONS, OrderState
from payment_svc.recovery import Lease
from payment_svc.views import Replicas, Standing
from payment_svc.waiting import Waiting

_ACCEPTED = CounterMetric("paymesh_payments_accepted_total", "New payments that were stored.")
_TRIPS = CounterMetric(
    "paymesh_order_trips_total",
    "Trips of orders over the conveyor that were recorded, by the order's state after it.",
    ["state"],
)
_TRIPS_TO = {state: _TRIPS.labels(state.name) for state in sorted(set(TRANSITIONS.values()))}

# States of orders that do not rest for good and can be met today.
_STATES = (*sorted(OPEN_STATES - {OrderState.NOT_STARTED}), OrderState.PARKED)


def count_commit(accepted: int, trips: Sequence[OrderState]) -> None:
    """Counts what one commit held: new payments, and the states that trips led to."""
    if accepted:
        _ACCEPTED.inc(accepted)
    for state, orders in Counter(trips).items():
        _TRIPS_TO[state].inc(orders)


def publish(conveyor: Conveyor, executor: ExecutorStream, waiting: Waiting) -> None:
    """Has the parts of this process asked when the metrics are read."""
    metrics.ask_gauge(
        "paymesh_orders_carried", "Orders on the conveyor of this process.", conveyor.__len__
    )
    metrics.ask_gauge(
        "paymesh_executor_unanswered",
        "Operations that were sent to the executor and not answered yet.",
        executor.unanswered,
    )
    metrics.ask_gauge(
        "paymesh_payments_waited_for",
        "Payments whose callers wait in this process.",
        waiting.waited_for,
    )


async def read(database: Database, lease: Lease) -> Sequence[Metric]:
    """The gauges that only the database knows. Errors: those of Database.read."""
    return families(*await operations.standing(database, lease.epoch), lease.epoch)


def families(standing: Sequence[Standing], replicas: Replicas, epoch: int) -> list[Metric]:
    """The numbers as metrics; a state without orders says 0."""
    orders = GaugeMetricFamily(
        "paymesh_orders", "Orders that do not rest for good, by state.", labels=["state"]
    )
    oldest = GaugeMetricFamily(
        "paymesh_oldest_order_age_seconds",
        "How long ago the oldest order in the state was accepted; 0 if there is none.",
        labels=["state"],
    )
    for state in _STATES:
        found = [s for s in standing if s.state is state]
        orders.add_metric([state.name], sum(s.orders for s in found))
        oldest.add_metric([state.name], max((s.oldest_s for s in found), default=0.0))
    parked = GaugeMetricFamily(
        "paymesh_orders_parked", "Parked orders by reason; none is left out.", labels=["reason"]
    )
    for s in standing:
        if s.state is OrderState.PARKED:
            parked.add_metric([s.reason], s.orders)
    return [
        orders,
        oldest,
        parked,
        GaugeMetricFamily(
            "paymesh_replicas", "Replicas of payment_svc that are not dead.", value=replicas.living
        ),
        GaugeMetricFamily(
            "paymesh_lease_remaining_seconds",
            "What is left of this process's lease; others take its orders when it has run out.",
            value=replicas.lease_left_s,
        ),
        GaugeMetricFamily("paymesh_epoch", "The epoch of this process.", value=epoch),
    ]
