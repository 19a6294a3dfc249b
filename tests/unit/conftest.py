"""What the tests of the command line share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from paymeshctl import client
from tests.support.fake_channel import FakeMesh


@pytest.fixture
def mesh(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeMesh]:
    """Services that the test plays, in place of those that a command would call."""
    mesh = FakeMesh()
    monkeypatch.setattr(client, "open_channel", mesh.open_channel)
    for name in ("PAYMESH_TARGET", "PAYMESH_CALLER"):
        monkeypatch.delenv(name, raising=False)
    yield mesh
    mesh.close()
