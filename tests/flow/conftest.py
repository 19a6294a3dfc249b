"""What the flow tests share: one running mesh, whose books balance after each module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.mesh import RunningMesh, mesh
from tests.support.truth import problems_of

__all__ = ["mesh"]


@pytest.fixture(autouse=True, scope="module")
def _books_balance(mesh: RunningMesh) -> Iterator[None]:
    yield
    assert problems_of(mesh.databases) == []
