"""Spans: one trace a payment, though its orders travel in lists of many payments'.

The trace's id is the payment_id, and the ids of the two spans that others hang below are
computed, too: no context travels in messages, and what is recovered after a restart goes on
in the same trace (docs/decisions/0011).

    trace payment_id                         trace of its own
    CreatePayment                            credit, a list of 40
      order              ◀── parent ──┐        links to the 40 spans
        execute, credit, book, finish ┘
        and what the other services did for it

Spans are told when they are over, with their start. A thread of the SDK writes them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import ParamSpec
from uuid import UUID

import structlog
from opentelemetry.exporter.otlp.json.file.trace_exporter import FileSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from mesh.tracing import Part

P = ParamSpec("P")

log = structlog.get_logger()

# A list has at most so many items, and its span a link to each.
_MAX_LINKS = 4_000
# Spans of some seconds at full load. More is dropped, and said in the log by the SDK.
_MAX_WAITING = 2**16
_WRITE_EVERY_MS = 1_000
_MAX_BATCH = 2**12

# The bits of an id that are random whatever made it; all services choose by the same ones.
_CHOOSING_BITS = 56
_ID_BITS = 64
_SPAN_ID = (1 << _ID_BITS) - 1


def _harmless(tell: Callable[P, None]) -> Callable[P, None]:
    """What is only for looking on fails nobody's payment."""

    @wraps(tell)
    def telling(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            tell(*args, **kwargs)
        except Exception:
            log.exception("span_lost", span=tell.__name__)

    return telling


class Recorder:
    """Takes spans. Belongs to one event loop."""

    def __init__(self, service: str, path: Path, ratio: float) -> None:
        """`path` is appended to; `ratio` is the share of payments that are traced.

        Errors: OSError.
        """
        exporter = FileSpanExporter(path)
        self._ids = _Ids()
        self._provider = TracerProvider(
            resource=Resource.create({"service.name": service}),
            sampler=ALWAYS_ON,  # we choose before
            id_generator=self._ids,
            span_limits=SpanLimits(max_links=_MAX_LINKS),
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(
                exporter,
                max_queue_size=_MAX_WAITING,
                schedule_delay_millis=_WRITE_EVERY_MS,
                max_export_batch_size=_MAX_BATCH,
            )
        )
        self._tracer = self._provider.get_tracer("paymesh")
        self._bound = round(ratio * (1 << _CHOOSING_BITS))

    def close(self) -> None:
        """Writes what was told."""
        self._provider.shutdown()

    def traces(self, payment_id: UUID) -> bool:
        """Whether the payment is one of those that are traced."""
        return (payment_id.int & ((1 << _CHOOSING_BITS) - 1)) < self._bound

    @_harmless
    def payment(
        self,
        payment_id: UUID,
        started_ns: int,
        *,
        new: bool,
        attributes: Mapping[str, str],
        traceparent: str = "",
        problem: str = "",
    ) -> None:
        """A call to create the payment has ended.

        The one that made it (`new`) is the trace's root; a repeated one hangs below it.
        traceparent: of the caller, as in W3C Trace Context, to whose span it is linked.
        """
        if not self.traces(payment_id):
            return
        theirs = _context_of(traceparent)
        self._write(
            "CreatePayment",
            payment_id,
            None if new else _span_id(payment_id),
            started_ns,
            span_id=_span_id(payment_id) if new else None,
            kind=SpanKind.SERVER,
            attributes={"paymesh.payment_id": payment_id.hex, **attributes},
            links=() if theirs is None else (Link(theirs),),
            problem=problem,
        )

    @_harmless
    def order(
        self,
        part: Part,
        seconds: float,
        *,
        first: bool,
        attributes: Mapping[str, str | int],
    ) -> None:
        """A trip of an order has ended, `seconds` after it began.

        What is done for it in any service hangs below that of its first trip, and later
        trips do, too.
        """
        if not self.traces(part.payment_id):
            return
        computed = _parent(part)
        self._write(
            "order",
            part.payment_id,
            _span_id(part.payment_id) if first else computed,
            _ago(seconds),
            span_id=computed if first else None,
            attributes={**_ids_of(part), **attributes},
            problem=part.problem,
        )

    @_harmless
    def step(self, name: str, seconds: float, part: Part) -> None:
        """A step of one order has ended, `seconds` after it began."""
        if self.traces(part.payment_id):
            self._write(
                name,
                part.payment_id,
                _parent(part),
                _ago(seconds),
                attributes=_ids_of(part),
                problem=part.problem,
            )

    @_harmless
    def handled(self, name: str, started_ns: int, parts: Iterable[Part]) -> None:
        """A list was handled since `started_ns` (time.time_ns): a span for it and each item.

        The list's is in a trace of its own and linked to the items', and they to it.
        """
        chosen = [part for part in parts if self.traces(part.payment_id)]
        if not chosen:
            return
        of_list = self._tracer.start_span(
            f"{name} list", start_time=started_ns, attributes={"paymesh.items": len(chosen)}
        )
        link = (Link(of_list.get_span_context()),)
        for part in chosen:
            written = self._write(
                name,
                part.payment_id,
                _parent(part),
                started_ns,
                attributes=_ids_of(part),
                links=link,
                problem=part.problem,
            )
            of_list.add_link(written)
        of_list.end()

    def _write(
        self,
        name: str,
        payment_id: UUID,
        parent: int | None,
        started_ns: int,
        *,
        span_id: int | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Mapping[str, str | int],
        links: Sequence[Link] = (),
        problem: str,
    ) -> SpanContext:
        above = None
        if parent is not None:
            above = set_span_in_context(NonRecordingSpan(_context(payment_id.int, parent)))
        self._ids.next_trace_id = payment_id.int if parent is None else None
        self._ids.next_span_id = span_id
        span = self._tracer.start_span(
            name,
            # An empty one, lest the SDK look for what goes on around here.
            context={} if above is None else above,  # type: ignore[arg-type]
            kind=kind,
            start_time=started_ns,
            attributes=dict(attributes),
            links=links,
        )
        if problem:
            span.set_status(Status(StatusCode.ERROR, problem))
        span.end()
        return span.get_span_context()


class _Ids(RandomIdGenerator):
    """Random ids, unless the next one is computed."""

    next_trace_id: int | None = None
    next_span_id: int | None = None

    def generate_trace_id(self) -> int:
        """For a span without a parent."""
        computed, self.next_trace_id = self.next_trace_id, None
        return computed or super().generate_trace_id()

    def generate_span_id(self) -> int:
        """For any span."""
        computed, self.next_span_id = self.next_span_id, None
        return computed or super().generate_span_id()


def _span_id(computed: UUID) -> int:
    """The last 64 bits of an id of ours, which are its variant and 62 bits of hash."""
    return computed.int & _SPAN_ID


def _context(trace_id: int, span_id: int) -> SpanContext:
    return SpanContext(trace_id, span_id, True, TraceFlags(TraceFlags.SAMPLED))


def _context_of(traceparent: str) -> SpanContext | None:
    """The caller's span; None if the text is not one: it is only for looking on."""
    version, _, rest = traceparent.partition("-")
    fields = rest.split("-")
    if version == "ff" or [len(field) for field in fields[:3]] != [32, 16, 2]:
        return None
    with suppress(ValueError):
        found = _context(int(fields[0], 16), int(fields[1], 16))
        return found if found.is_valid else None
    return None


def _parent(part: Part) -> int:
    return _span_id(part.operation_id or part.payment_id)


def _ago(seconds: float) -> int:
    return time.time_ns() - int(seconds * 1e9)


def _ids_of(part: Part) -> dict[str, str]:
    ids = {"paymesh.payment_id": part.payment_id.hex}
    if part.order_id is not None:
        ids["paymesh.order_id"] = part.order_id.hex
    if part.operation_id is not None:
        ids["paymesh.operation_id"] = part.operation_id.hex
    return ids
