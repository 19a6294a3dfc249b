"""What the flow tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.mesh import RunningMesh, mesh

__all__ = ["mesh"]


@pytest.fixture(scope="module")
def balanced_books(mesh: RunningMesh) -> Iterator[None]:
    """After the module's tests all books of the shared mesh say the same."""
    yield
    assert mesh.violations(at_rest=False) == []
