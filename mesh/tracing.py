"""Whether this process writes spans, without what that needs: most never do.

OpenTelemetry's SDK is imported by `start` only. Who has something to tell asks first:

    spans = tracing.recorder()
    if spans is not None:
        spans.handled("credit", started_ns, [Part(payment_id, order_id, operation_id)])
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

if TYPE_CHECKING:
    from mesh.spans import Recorder


class Part(NamedTuple):
    """An item in a list. problem: what went wrong with it, empty if nothing did.

    A payment that is not yet orders has the first id only.
    """

    payment_id: UUID
    order_id: UUID | None = None
    operation_id: UUID | None = None
    problem: str = ""


_recorder: Recorder | None = None


def recorder() -> Recorder | None:
    """What takes spans, or None: then nothing is to be told."""
    return _recorder


def start(service: str, path: Path, ratio: float) -> None:
    """From now on this process appends spans to the file. Errors: OSError."""
    from mesh.spans import Recorder  # noqa: PLC0415 - a third of a second that most save

    global _recorder  # noqa: PLW0603 - the process's, as its logs and metrics are
    stop()
    _recorder = Recorder(service, path, ratio)


def stop() -> None:
    """Writes what was told, and takes no more."""
    global _recorder  # noqa: PLW0603
    if _recorder is not None:
        _recorder.close()
        _recorder = None
