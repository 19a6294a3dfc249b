"""Folders of test sessions that were killed."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support import folders


def test_several_who_start_at_once_remove_what_the_dead_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = tmp_path / f"paymesh-test-{dead.pid}-left"
    for number in range(500):
        path = left / f"{number % 10}" / f"{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    def start() -> None:
        with folders.open_folder() as folder:
            assert folder.is_dir()

    with ThreadPoolExecutor(8) as together:
        for started in [together.submit(start) for _ in range(8)]:
            started.result()
    assert not left.exists()
