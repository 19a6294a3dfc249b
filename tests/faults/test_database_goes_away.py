"""The database dies, hangs in COMMIT and drops connections under load; the services live on."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator

import pytest
from paymesh.ledger.v1 import ledger_service_pb2 as ledger_pb
from paymesh.payment.v1 import payment_service_pb2 as service_pb
from paymesh.wallet.v1 import wallet_service_pb2 as wallet_pb

from tests.support.checkout import new_checkout
from tests.support.database_faults import (
    cut_connections,
    kill_postgres,
    lose_answers,
    pause,
    restart_postgres,
    start_postgres,
)
from tests.support.folders import open_folder
from tests.support.load import SHORT_WAITS, Load, Told, strange_ends, without_payment
from tests.support.mesh import SERVICES, RunningMesh, eventually, started
from tests.support.refusals import refused

RESTS_WITHIN_S = 30.0
NOTHING_ACCEPTED = ("UNAVAILABLE", "DEPENDENCY_DOWN")
NOT_KNOWN = ("ABORTED", "OUTCOME_UNKNOWN")
OUT_OF_TIME = ("DEADLINE_EXCEEDED", "")


@pytest.fixture(scope="module")
def mesh() -> Iterator[RunningMesh]:
    """A mesh on a PostgreSQL of its own, which can be killed."""
    with (
        open_folder(in_memory=True) as folder,
        started(folder / "mesh", postgres=None, **SHORT_WAITS) as running,
    ):
        yield running


@pytest.mark.timeout(120)
def test_killed_under_load(mesh: RunningMesh) -> None:
    pids = mesh.pids()

    with Load(mesh, repeat=False) as load:
        load.wait_for(40)
        kill_postgres(mesh)
        for request in [new_checkout() for _ in range(10)]:
            refusal = refused(lambda request=request: mesh.pay(request))  # type: ignore[misc]
            assert (refusal.code, refusal.reason) == NOTHING_ACCEPTED
            load.told.append(Told(request, refusals=[refusal]))
        start_postgres(mesh)
        load.wait_for(40)

    _all_is_well(mesh, load, pids)


@pytest.mark.timeout(120)
def test_reads_say_so_and_heal(mesh: RunningMesh) -> None:
    account = ledger_pb.Account(kind=ledger_pb.ACCOUNT_KIND_COMMISSION_REVENUE)
    reads: list[Callable[[], object]] = [
        lambda: mesh.payments.GetPayment(service_pb.GetPaymentRequest(payment_id="0" * 32)),
        lambda: mesh.payments.ListPayments(service_pb.ListPaymentsRequest()),
        lambda: mesh.wallets.GetWallet(wallet_pb.GetWalletRequest(seller_id="a")),
        lambda: mesh.wallets.ListMovements(wallet_pb.ListMovementsRequest(seller_id="a")),
        lambda: mesh.ledger.GetBalance(
            ledger_pb.GetBalanceRequest(account=account, currency_code="EUR")
        ),
        lambda: mesh.ledger.GetTrialBalance(ledger_pb.GetTrialBalanceRequest()),
        lambda: mesh.ledger.ListJournals(ledger_pb.ListJournalsRequest(order_id="0" * 32)),
    ]
    kill_postgres(mesh)
    try:
        for read in reads:
            started_at = time.monotonic()
            refusal = refused(read)
            assert (refusal.code, refusal.reason) == NOTHING_ACCEPTED
            assert refusal.domain == "paymesh"
            assert "postgresql://" not in refusal.everything
            assert time.monotonic() - started_at < 5
    finally:
        start_postgres(mesh)

    for read in reads[1:]:
        read()


@pytest.mark.timeout(120)
def test_connections_are_cut_under_load(mesh: RunningMesh) -> None:
    pids = mesh.pids()

    with Load(mesh, repeat=False) as load:
        for _ in range(12):
            load.wait_for(8)
            cut_connections(mesh)
        load.wait_for(20)

    _all_is_well(mesh, load, pids)


@pytest.mark.timeout(120)
def test_commits_whose_answers_are_lost(mesh: RunningMesh) -> None:
    """COMMIT hangs for want of a standby, and the connection is cut: it is committed."""
    pids = mesh.pids()

    with Load(mesh, repeat=False) as load:
        for _ in range(5):
            load.wait_for(8)
            lose_answers(mesh)
        load.wait_for(20)

    _all_is_well(mesh, load, pids)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("seed", range(3))
def test_all_faults_at_random_for_a_minute(mesh: RunningMesh, seed: int) -> None:
    chance = random.Random(seed)
    faults: list[Callable[[], None]] = [
        lambda: restart_postgres(mesh, chance.uniform(0, 2)),
        lambda: cut_connections(mesh),
        lambda: lose_answers(mesh),
        lambda: mesh.supervisor.restart(chance.choice(SERVICES)),
        lambda: pause(mesh, chance.choice(SERVICES), chance.uniform(0.1, 2.5)),
    ]
    until = time.monotonic() + 60

    with Load(mesh, callers=16, pause_s=0.02, seed=seed) as load:
        while time.monotonic() < until:
            time.sleep(chance.uniform(0.1, 2.0))
            chance.choice(faults)()
        load.wait_for(40)

    assert load.surprises == []
    _books_agree(mesh, load)


def _all_is_well(mesh: RunningMesh, load: Load, pids: dict[str, int]) -> None:
    """No service was started again, what was told is true, and all books agree."""
    assert mesh.pids() == pids
    assert load.surprises == []
    # The services were there all the time, so nobody may hear UNAVAILABLE without a reason.
    assert set(load.refusals()) <= {NOTHING_ACCEPTED, NOT_KNOWN, OUT_OF_TIME}
    refused_ids = without_payment(load.told)
    assert (
        mesh.count(
            "payment",
            "SELECT count(*) FROM payment WHERE request_id = ANY (%s::text[])",
            refused_ids,
        )
        == 0
    ), "a caller was told that nothing was accepted"
    for told in load.told:
        if not told.payments:
            told.payments.append(mesh.pay(told.request))
    _books_agree(mesh, load)


def _books_agree(mesh: RunningMesh, load: Load) -> None:
    eventually(lambda: not mesh.unsettled(), RESTS_WITHIN_S)
    assert strange_ends(mesh) == []
    assert mesh.violations(load.history()) == []
