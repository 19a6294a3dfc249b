"""What is told of the items of a list: a line for each that was refused, spans for all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol
from uuid import UUID

import structlog

from mesh import ids, tracing
from mesh.errors import MeshError
from mesh.tracing import Part

log = structlog.get_logger()


class Item(Protocol):
    """An item on the wire, by its ids, each of which may be anything."""

    operation_id: str
    order_id: str
    payment_id: str


def refused(event: str, asked: Sequence[Item], answers: Sequence[object | MeshError]) -> None:
    """A line for each item whose answer is an error."""
    for item, answer in zip(asked, answers, strict=True):
        if isinstance(answer, MeshError):
            log.warning(
                event,
                payment_id=ids.shown(item.payment_id),
                order_id=ids.shown(item.order_id),
                operation_id=ids.shown(item.operation_id),
                reason=answer.reason.value,
                fields=[v.field for v in answer.violations] or answer.metadata.get("fields", ""),
            )


def spans(
    step: str, started_ns: int, asked: Sequence[Item], answers: Sequence[object | MeshError]
) -> None:
    """The spans of a list that was answered, for whoever traces."""
    recorder = tracing.recorder()
    if recorder is not None:
        recorder.handled(step, started_ns, list(_parts(asked, answers)))


def _parts(asked: Sequence[Item], answers: Sequence[object | MeshError]) -> Iterator[Part]:
    """Of those whose payment is told: one from an earlier release does not say it."""
    for item, answer in zip(asked, answers, strict=True):
        told = (item.payment_id, item.order_id, item.operation_id)
        if all(map(ids.shown, told)):
            problem = answer.reason.value if isinstance(answer, MeshError) else ""
            yield Part(UUID(told[0]), UUID(told[1]), UUID(told[2]), problem)
