"""The deadline of the call that is being served, for calls made on its behalf.

Only direct reads pass it on. The conveyor's tasks are started with the process, so the
deadline of a caller never leaks into work that outlives the call.
"""

from __future__ import annotations

import contextvars
import time

# What is kept back of the caller's time, so that our answer still arrives.
MARGIN_S = 0.05

_deadline: contextvars.ContextVar[float | None] = contextvars.ContextVar("deadline", default=None)


def set_remaining(remaining_s: float | None) -> None:
    """Notes how long the call being served may take, in seconds; None is no deadline."""
    _deadline.set(None if remaining_s is None else time.monotonic() + remaining_s)


def remaining_s() -> float | None:
    """What is left for calls on behalf of this one, in seconds, at least 0; or None."""
    deadline = _deadline.get()
    return None if deadline is None else max(0.0, deadline - time.monotonic() - MARGIN_S)
