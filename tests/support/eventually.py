"""Waiting for what happens soon, in tests that run on the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

_POLL_S = 0.01


async def eventually(condition: Callable[[], object], timeout_s: float = 10) -> None:
    """Asks again and again until the condition holds; fails after `timeout_s`."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, f"not within {timeout_s} s"
        await asyncio.sleep(_POLL_S)
