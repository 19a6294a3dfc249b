"""Reading the spans that services wrote: OTLP, a JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Span:
    """One span. links: (trace_id, span_id) of those that it is linked to."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    start_ns: int
    end_ns: int
    attributes: dict[str, str]
    links: list[tuple[str, str]]
    problem: str


def spans_in(files: Iterable[Path]) -> list[Span]:
    """All spans of the files, by their start. Each line has to be whole."""
    found = []
    for file in files:
        for line in file.read_text().splitlines():
            for resource in json.loads(line)["resourceSpans"]:
                service = _attributes(resource["resource"])["service.name"]
                for scope in resource["scopeSpans"]:
                    found += [_span(service, span) for span in scope["spans"]]
    return sorted(found, key=lambda span: span.start_ns)


def _span(service: str, span: dict[str, Any]) -> Span:
    return Span(
        service,
        span["name"],
        span["traceId"],
        span["spanId"],
        span.get("parentSpanId", ""),
        int(span["startTimeUnixNano"]),
        int(span["endTimeUnixNano"]),
        _attributes(span),
        [(link["traceId"], link["spanId"]) for link in span.get("links", [])],
        span.get("status", {}).get("message", ""),
    )


def _attributes(told: dict[str, Any]) -> dict[str, str]:
    return {a["key"]: str(next(iter(a["value"].values()))) for a in told.get("attributes", [])}
