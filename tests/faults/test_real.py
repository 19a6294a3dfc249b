"""Real processes end or stop at named moments of a payment, and it is paid once all the same."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.checker import Violation
from tests.faults.real.campaign import Campaign, campaign, pairs, singles
from tests.faults.real.inside import Fault, Kind

_TRIES = 3


@pytest.fixture(scope="module")
def running() -> Iterator[Campaign]:
    with campaign() as found:
        yield found


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("kind", "point"),
    [
        (Kind.KILL, "payment_svc AFTER payment.write"),
        (Kind.STOP, "executor_svc IS ANSWERED PspService/Charge"),
        (Kind.POSTGRES, "wallet_svc AFTER wallet.apply"),
        (Kind.COMMIT, "ledger_svc BEFORE ledger.post"),
    ],
)
def test_one_fault(running: Campaign, kind: Kind, point: str) -> None:
    assert _happens(running, [Fault(point, kind)]) == []


@pytest.mark.timeout(120)
def test_two_faults(running: Campaign) -> None:
    faults = [
        Fault("psp_stub AFTER psp_stub.charge", Kind.KILL),
        Fault("wallet_svc BEFORE wallet.apply", Kind.STOP),
    ]

    assert _happens(running, faults) == []


def _happens(running: Campaign, faults: list[Fault]) -> list[Violation]:
    """What is wrong after the faults. One may come too late to do harm: then once more."""
    for _ in range(_TRIES):
        outcome = running.run(faults)
        if outcome.violations or outcome.is_whole:
            return outcome.violations
    pytest.fail(f"{faults} did not happen in {_TRIES} tries")


@pytest.mark.slow
@pytest.mark.timeout(1_800)
def test_every_single_fault_and_some_pairs(running: Campaign) -> None:
    points = running.points()
    assert len(points) > 30

    for faults in (*singles(points), *pairs(points, 30, seed=1)):
        outcome = running.run(faults)
        assert outcome.fired, faults
        assert outcome.violations == [], faults
