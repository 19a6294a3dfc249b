"""What a process counts, and the port where Prometheus reads it.

The metrics are the process's, as its logs are: there is one registry, that of the library.
What is counted once a call or once a list costs one or two microseconds each time, so
nothing here is done once an item; labels are looked up when something is made, not when it
counts. What can be asked for (how much waits) is asked when Prometheus comes, and costs
nothing before. docs/observability.md lists them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.metadata import version
from threading import Thread
from typing import TYPE_CHECKING

from prometheus_client import (
    Counter,
    Gauge,
    Histogram,
    Info,
    disable_created_metrics,
    start_http_server,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import REGISTRY

if TYPE_CHECKING:
    from wsgiref.simple_server import WSGIServer

# When each series began is one more of each, and Prometheus has no use for it.
disable_created_metrics()  # type: ignore[no-untyped-call]

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_ITEMS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)
_METHOD = ("grpc_type", "grpc_service", "grpc_method")

# The names are those that gRPC's own middlewares use in every language, so that ready-made
# dashboards and alerts fit.
_STARTED = Counter("grpc_server_started_total", "Calls that came in.", _METHOD)
_HANDLED = Counter(
    "grpc_server_handled_total", "Calls that ended, by status code.", (*_METHOD, "grpc_code")
)
_HANDLING = Histogram(
    "grpc_server_handling_seconds", "How long calls took until they ended.", _METHOD,
    buckets=_SECONDS,
)  # fmt: skip
_CALLED = Counter(
    "grpc_client_handled_total", "Calls out that ended, by status code.", (*_METHOD, "grpc_code")
)
_CALLING = Histogram(
    "grpc_client_handling_seconds", "How long calls out took, retries included.", _METHOD,
    buckets=_SECONDS,
)  # fmt: skip

_WAITING = Gauge("paymesh_stage_waiting", "Items that wait for a list, now.", ["stage"])
_UNDER_WAY = Gauge("paymesh_stage_lists_under_way", "Lists being handled, now.", ["stage"])
_LIST_ITEMS = Histogram(
    "paymesh_stage_list_items", "How many items a list had.", ["stage"], buckets=_ITEMS
)
_LIST_SECONDS = Histogram(
    "paymesh_stage_list_seconds", "How long a list took.", ["stage"], buckets=_SECONDS
)
_LISTS_LOST = Counter(
    "paymesh_stage_lists_lost_total", "Lists that failed for a bug; see the log.", ["stage"]
)

_COMMITS = Counter(
    "paymesh_writer_commits_total", "Commits of the one writer, by result.", ["writer", "result"]
)
_COMMIT_ITEMS = Histogram(
    "paymesh_writer_commit_items", "How many items a commit held.", ["writer"], buckets=_ITEMS
)
_COMMIT_SECONDS = Histogram(
    "paymesh_writer_commit_seconds", "How long a commit took, failed ones too.", ["writer"],
    buckets=_SECONDS,
)  # fmt: skip

_SERVICE = Info("paymesh_service", "Which service this is.")


class Calls:
    """The counts of one RPC, served (`of_server`) or called (`of_client`)."""

    def __init__(
        self, method: str, kind: str, handled: Counter, seconds: Histogram, started: Counter | None
    ) -> None:
        """`method` is package.Service/Method; `kind` unary, server_stream and so on."""
        service, _, name = method.partition("/")
        self._labels = (kind, service, name)
        self._handled = handled
        # There before it is counted: what begins with 1 is no increase for Prometheus.
        self._by_code = {"OK": handled.labels(*self._labels, "OK")}
        self._seconds = seconds.labels(*self._labels)
        self._started = None if started is None else started.labels(*self._labels)

    @classmethod
    def of_server(cls, method: str, *, streams_in: bool, streams_out: bool) -> Calls:
        """The counts of an RPC that is served here."""
        return cls(method, _kind(streams_in, streams_out), _HANDLED, _HANDLING, _STARTED)

    @classmethod
    def of_client(cls, method: str, *, streams_out: bool) -> Calls:
        """The counts of an RPC of another service."""
        return cls(method, _kind(False, streams_out), _CALLED, _CALLING, None)

    def started(self) -> None:
        """One more has come."""
        if self._started is not None:
            self._started.inc()

    def ended(self, code: str, seconds: float) -> None:
        """One has ended with this status code (its name), after so many seconds."""
        counter = self._by_code.get(code)
        if counter is None:
            counter = self._by_code[code] = self._handled.labels(*self._labels, code)
        counter.inc()
        self._seconds.observe(seconds)


def _kind(streams_in: bool, streams_out: bool) -> str:
    if streams_in:
        return "bidi_stream" if streams_out else "client_stream"
    return "server_stream" if streams_out else "unary"


class StageCounts:
    """The counts of one stage."""

    def __init__(self, name: str, waiting: Callable[[], int], lists: Callable[[], int]) -> None:
        """`waiting` and `lists` (under way) are asked, in another thread, by whoever reads.

        Of stages with one name in a process, the newest is asked.
        """
        _WAITING.labels(name).set_function(waiting)
        _UNDER_WAY.labels(name).set_function(lists)
        self._items = _LIST_ITEMS.labels(name)
        self._seconds = _LIST_SECONDS.labels(name)
        self._lost = _LISTS_LOST.labels(name)

    def taken(self, items: int) -> None:
        """A list of so many items begins."""
        self._items.observe(items)

    def ended(self, seconds: float, *, lost: bool = False) -> None:
        """A list ended. lost: for a bug."""
        self._seconds.observe(seconds)
        if lost:
            self._lost.inc()


class CommitCounts:
    """The counts of one writer."""

    def __init__(self, name: str) -> None:
        """`name` is the writer's."""
        self._by_result = {
            result: _COMMITS.labels(name, result)
            for result in ("stored", "not_stored", "unknown", "refused", "failed")
        }
        self._items = _COMMIT_ITEMS.labels(name)
        self._seconds = _COMMIT_SECONDS.labels(name)

    def ended(self, result: str, items: int, seconds: float) -> None:
        """A commit ended: stored, not_stored, unknown, refused (a row) or failed (a bug)."""
        self._by_result[result].inc()
        self._items.observe(items)
        self._seconds.observe(seconds)


class Endpoint:
    """The port where the process's metrics are read, served by a thread of its own.

    Not by the event loop: a process whose loop hangs is the one whose numbers are wanted.
    The thread holds the interpreter for some milliseconds a read, a few times a minute.
    """

    def __init__(self, service: str, host: str, port: int) -> None:
        """Listens at once. OSError where it can't."""
        _SERVICE.info({"service": service, "version": version("paymesh")})
        self._server: WSGIServer
        self._server, _ = start_http_server(port, host)

    def close(self) -> None:
        """Ends it within a second, and does not wait for that."""
        Thread(target=self._close, daemon=True).start()

    def _close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


_asked: dict[str, Callable[[], Iterable[Metric]]] = {}


def ask(name: str, collect: Callable[[], Iterable[Metric]]) -> None:
    """Calls `collect` whenever the metrics are read, in another thread.

    `name` is of the source, not of a metric; a second one takes the place of the first.
    """
    _asked[name] = collect


def ask_gauge(name: str, about: str, read: Callable[[], float]) -> None:
    """A gauge of one number that is asked for when the metrics are read, in another thread."""
    ask(name, lambda: [GaugeMetricFamily(name, about, value=read())])


class _Asked:
    """All that is asked, as the library wants it."""

    def collect(self) -> Iterable[Metric]:
        """What everybody says."""
        for collect in list(_asked.values()):
            yield from collect()


REGISTRY.register(_Asked())
