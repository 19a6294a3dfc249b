"""Every single fault of every flow, and a sample of pairs; `make faults` runs the rest."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from tests.faults.engine import campaign, report
from tests.faults.engine.campaign import Asked, Done
from tests.faults.engine.faults import Kind, kinds_at
from tests.faults.engine.flows import FLOWS

PAIRS = 15
"""Of each flow, always the same ones."""

_FLOWS = [name for name, flow in FLOWS.items() if name != "race" and not flow.waits]

pytestmark = pytest.mark.timeout(1_200)


@pytest.fixture(scope="module")
def done() -> Mapping[str, Done]:
    """All of it, once."""
    asked = Asked(_FLOWS, dict.fromkeys(_FLOWS, PAIRS))
    done, _ = asyncio.run(campaign.run(asked, print))
    return {flow.flow: flow for flow in done}


@pytest.mark.parametrize("flow", _FLOWS)
def test_whatever_happens_once_or_twice_the_books_agree(
    flow: str, done: Mapping[str, Done]
) -> None:
    failed = report.failures([done[flow]])

    assert not failed, "\n".join(f"{report.command(r)}\n{report.told(r)}" for r in failed)


@pytest.mark.parametrize("flow", _FLOWS)
def test_each_single_fault_really_happens(flow: str, done: Mapping[str, Done]) -> None:
    """Of what each run without a fault passes; a pair's second one may not come to pass."""
    missed = [r.scenario for r in done[flow].singles if not r.all_fired]

    assert not missed


def test_a_payment_passes_every_commit_and_call_of_its_way(done: Mapping[str, Done]) -> None:
    """A failpoint that nobody passes any more would make everything pass."""
    passed = done["one-order"].points

    assert set(passed) >= {
        "client>payment CreatePayment",
        "payment.write",
        "payment>executor Execute",
        "executor.write",
        "executor>psp_stub Charge",
        "psp_stub.charge",
        "payment>wallet ApplyMovements",
        "wallet.apply",
        "payment>ledger PostEvents",
        "ledger.post",
        "payment.take",
        "payment.renew_epoch",
    }


def test_every_kind_of_fault_happens(done: Mapping[str, Done]) -> None:
    fired = {
        fault.kind
        for flow in done.values()
        for result in flow.singles
        for fault in result.scenario.faults[: result.fired]
    }

    assert fired == set(Kind)
    assert {*kinds_at("payment.write"), *kinds_at("payment>wallet ApplyMovements")} == set(Kind)
