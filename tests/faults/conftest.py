"""What the tests of faults share: a mesh that they may break, apart from that of the flow tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.load import SHORT_WAITS
from tests.support.mesh import RunningMesh, started_on
from tests.support.postgres import PostgresServer


@pytest.fixture(scope="module")
def mesh(postgres_server: PostgresServer) -> Iterator[RunningMesh]:
    """A mesh with short waits; whoever breaks it leaves it running."""
    with started_on(postgres_server, **SHORT_WAITS) as running:
        yield running
