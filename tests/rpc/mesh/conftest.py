"""A scripted server, and what is logged."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, MutableMapping
from typing import Any

import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from tests.support.scripted import Scripted, scripted

Line = MutableMapping[str, Any]


@pytest.fixture
def lines() -> Iterator[list[Line]]:
    """What is logged while the test lasts."""
    with capture_logs() as found:
        yield found


@pytest_asyncio.fixture
async def scene(lines: list[Line]) -> AsyncIterator[Scripted]:
    """A server of its own for each test."""
    async with scripted() as running:
        yield running
