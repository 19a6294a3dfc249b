"""No sequence of what callers, operators and the night do breaks a promise."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.faults.engine.faults import Kind
from tests.faults.engine.sequences import FAULTS


def play(examples: int, steps: int, timeout_s: float) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.engine.sequences", str(examples), str(steps)],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-5_000:]


@pytest.mark.timeout(300)
def test_no_sequence_of_operations_breaks_a_promise() -> None:
    play(examples=8, steps=8, timeout_s=290)


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_no_long_sequence_of_operations_breaks_a_promise() -> None:
    play(examples=200, steps=25, timeout_s=3_590)


def test_every_kind_of_fault_is_among_them() -> None:
    assert {fault.kind for fault in FAULTS} == set(Kind)
