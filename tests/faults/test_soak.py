"""`make soak` in short: it ends well with a mesh that is right, and tells of one that is not."""

from __future__ import annotations

import psycopg
import pytest

from tests.faults.soak import __main__ as soak
from tests.faults.soak import night
from tests.support.mesh import RunningMesh

pytestmark = [pytest.mark.slow, pytest.mark.timeout(500)]


def test_a_short_one_ends_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert soak.main(["--minutes", "0.3", "--seed", "7"]) == 0

    said = capsys.readouterr().out
    assert ", ".join(f"I{number} 0" for number in range(1, 11)) in said
    assert "all is well" in said
    assert said.endswith("again: make soak MINUTES=0.3 SEED=7\n")


def test_a_cent_too_many_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    close = night.without_differences

    def lie_first(mesh: RunningMesh) -> night.Night:
        with psycopg.connect(mesh.databases["wallet"]) as connection:
            connection.execute(
                "UPDATE balance SET pending_minor = pending_minor + 1 WHERE seller_id ="
                " (SELECT min(seller_id) FROM balance)"
            )
        return close(mesh)

    monkeypatch.setattr(night, "without_differences", lie_first)

    assert soak.main(["--minutes", "0.1", "--seed", "7"]) == 1

    said = capsys.readouterr().out
    assert "✗ I4" in said
    assert "all is well" not in said
