"""Orders that are unknown are driven on by what a settlement file proves, once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from paymesh.payment.v1 import payment_pb2
from paymesh.payment.v1 import payment_service_pb2 as pb

from mesh.errors import MeshError, Reason
from tests.support.eventually import eventually
from tests.support.fakes import declined, parked, pending, unknown
from tests.support.payment_replica import Replica, State, states_of
from tests.support.payment_world import World, checkout

SUCCEEDED = State.ORDER_STATE_SUCCEEDED
PARKED = State.ORDER_STATE_PARKED
DECLINED = State.ORDER_STATE_DECLINED
UNKNOWN = State.ORDER_STATE_UNKNOWN
PROCESSING = State.ORDER_STATE_PROCESSING

ODD, OTHER = 777, 778
BAD = "a seller whom the wallet does not take"
LONG = {"unknown_first_ms": 60_000, "unknown_most_ms": 60_000, "parked_poll_ms": 60_000}
"""Schedules that bring nothing within a test: what happens, the evidence did."""

FORGOTTEN = parked(poll=True, reason="OUTCOME_UNKNOWN: the PSP does not know the key")


def operation_ids(payment: payment_pb2.Payment) -> list[str]:
    """The operations of a payment's orders, in order."""
    return [order.operations[0].operation_id for order in payment.orders]


async def looked(world: World, operation_id: str, times: int = 2) -> None:
    """Waits until files were searched for the operation so many times more."""
    before = world.ledger.looked_up[operation_id]
    await eventually(lambda: world.ledger.looked_up[operation_id] >= before + times)


@pytest.mark.parametrize(
    ("step", "state"), [(unknown, UNKNOWN), (FORGOTTEN, PARKED)], ids=["unknown", "parked"]
)
async def test_what_the_psp_never_told_succeeds_by_the_file(
    world: World, step: Any, state: State.ValueType
) -> None:
    replica = await world.replica(**LONG)
    world.executor.on(ODD, step)
    request = checkout(ODD, 100)
    payment = await replica.create(request)
    assert states_of(payment) == [state, SUCCEEDED]
    silent, _ = operation_ids(payment)
    watch = replica.stub.WatchPayment(pb.WatchPaymentRequest(payment_id=payment.payment_id))
    world.ledger.settle(silent, ODD - 7, gross_minor=ODD, fee_minor=7)
    done = await replica.until(request, SUCCEEDED, SUCCEEDED)
    assert done.state == payment_pb2.PAYMENT_STATE_SUCCEEDED
    (operation,) = done.orders[0].operations
    assert operation.source == payment_pb2.EVIDENCE_SOURCE_SETTLEMENT_FILE
    assert operation.psp_reference == f"settled-{silent[:8]}"
    assert done.orders[0].attention_reason == ""
    world.assert_booked(done)
    assert world.ledger.fees == {silent: 7}
    assert world.executor.asked[silent] == 2
    seen = [response.payment.state async for response in watch]
    assert seen[-1] == payment_pb2.PAYMENT_STATE_SUCCEEDED
    await world.quiet()


async def test_two_replicas_that_find_it_at_once_book_it_once(world: World) -> None:
    one, two = await world.replica(**LONG), await world.replica(**LONG)
    world.executor.on(ODD, unknown)
    requests = [checkout(ODD) for _ in range(20)]
    payments = await asyncio.gather(
        *((one, two)[number % 2].create(request) for number, request in enumerate(requests))
    )
    for payment in payments:
        world.ledger.settle(operation_ids(payment)[0], ODD)
    for request in requests:
        world.assert_booked(await one.until(request, SUCCEEDED))
    assert set(world.executor.asked.values()) == {2}
    await world.quiet()


async def test_what_a_replica_took_and_did_not_end_is_found_again(world: World) -> None:
    dying = await world.replica(**LONG, lease_ms=1_000)
    world.executor.on(ODD, unknown)
    request = checkout(ODD)
    payment = await dying.create(request)
    (silent,) = operation_ids(payment)
    gate = asyncio.Event()
    world.executor.on(ODD, unknown, gate=gate)
    world.ledger.settle(silent, ODD)
    await eventually(lambda: world.executor.asked[silent] == 2)
    await dying.die()
    gate.set()
    heir = await world.replica(**(LONG | {"lease_ms": 1_000}))
    world.assert_booked(await heir.until(request, SUCCEEDED, timeout_s=20))
    await world.quiet()


async def test_the_answer_of_the_commit_that_takes_it_may_be_lost(world: World) -> None:
    replica = await world.replica(**LONG)
    world.executor.on(ODD, unknown)
    request = checkout(ODD)
    (silent,) = operation_ids(await replica.create(request))
    replica.lose_answers("payment.take_unknown")
    world.ledger.settle(silent, ODD)
    # The audit drives it as unknown, and is told so: then its schedule is long.
    await replica.until(request, SUCCEEDED)
    await world.quiet()


async def test_evidence_that_is_stored_is_booked_when_the_wallet_is_back(world: World) -> None:
    replica = await world.replica(**LONG)
    world.executor.on(ODD, unknown)
    request = checkout(ODD)
    payment = await replica.create(request)
    (silent,) = operation_ids(payment)
    world.wallet.fail = MeshError(Reason.DEPENDENCY_DOWN, "not now")
    world.ledger.settle(silent, ODD)
    await replica.until(request, State.ORDER_STATE_CAPTURED)
    # From now on the executor's row says so: the file is not asked again.
    before = world.ledger.looked_up[silent]
    await asyncio.sleep(0.2)
    assert world.ledger.looked_up[silent] == before
    world.wallet.fail = None
    world.assert_booked(await replica.until(request, SUCCEEDED))


async def test_another_amount_is_parked_and_not_booked(world: World) -> None:
    replica = await world.replica(**LONG)
    world.executor.on(ODD, unknown)
    request = checkout(ODD)
    (silent,) = operation_ids(await replica.create(request))
    world.ledger.settle(silent, ODD + 1)
    done = await replica.until(request, PARKED)
    assert done.orders[0].attention_reason.startswith("WRONG_AMOUNT: ")
    world.assert_booked(done)
    before = world.ledger.looked_up[silent]
    await asyncio.sleep(0.2)
    assert world.ledger.looked_up[silent] == before
    assert world.executor.asked[silent] == 2


async def _unclear(
    world: World, replica: Replica, *lines: dict[str, Any]
) -> tuple[pb.CreatePaymentRequest, str]:
    world.executor.on(ODD, unknown)
    request = checkout(ODD)
    (silent,) = operation_ids(await replica.create(request))
    for change in lines:
        world.ledger.settle(silent, **({"amount_minor": ODD} | change))
    await looked(world, silent, 3)
    return request, silent


@pytest.mark.parametrize(
    "lines",
    [
        [{}, {"sequence": 2}],
        [{}, {"kind": "REFUND", "gross_minor": -ODD, "amount_minor": -ODD}],
        [{}, {"kind": "CHARGE_REVERSAL", "gross_minor": -ODD, "amount_minor": -ODD}],
        [{}, {"kind": "DISPUTE", "gross_minor": -ODD, "amount_minor": -ODD}],
        [{"kind": "REFUND"}],
        [{"kind": ""}],
        [{"currency_code": "USD"}],
        [{"gross_minor": None, "amount_minor": ODD - 3}],
    ],
    ids=[
        "duplicate",
        "refunded",
        "reversed",
        "disputed",
        "a refund alone",
        "a bank's line",
        "another currency",
        "net of a fee",
    ],
)
async def test_what_is_unclear_is_left_alone_and_told_once(
    world: World, lines: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    replica = await world.replica(**LONG)
    request, silent = await _unclear(world, replica, *lines)
    assert states_of(await replica.get(request.request_id)) == [UNKNOWN]
    assert world.executor.asked[silent] == 1
    assert silent not in world.executor.settled
    assert silent not in world.wallet.rows
    assert capsys.readouterr().out.count("settlement_unclear") == 1


async def test_what_becomes_clear_is_driven_on(world: World) -> None:
    replica = await world.replica(**LONG)
    request, silent = await _unclear(world, replica, {}, {"sequence": 2})
    # A correction of the file: of the two statements one counts.
    del world.ledger.lines[silent][1]
    world.assert_booked(await replica.until(request, SUCCEEDED))


@pytest.mark.parametrize(
    ("step", "state"),
    [
        (declined, DECLINED),
        (parked(poll=False, reason="WRONG_AMOUNT: captured 1 EUR, asked 777 EUR"), PARKED),
        (parked(poll=False, reason="PSP_REFUSED_REQUEST: (amount)"), PARKED),
    ],
    ids=["declined", "wrong amount", "refused"],
)
async def test_what_is_not_unknown_is_not_asked_about(
    world: World, step: Any, state: State.ValueType
) -> None:
    replica = await world.replica(**LONG)
    world.executor.on(ODD, step)
    world.executor.on(OTHER, unknown)
    request = checkout(ODD, OTHER)
    payment = await replica.create(request)
    definite, silent = operation_ids(payment)
    world.ledger.settle(definite, ODD)
    await looked(world, silent)
    assert states_of(await replica.get(request.request_id)) == [state, UNKNOWN]
    assert world.ledger.looked_up[definite] == 0
    assert world.executor.asked[definite] == 1
    assert definite not in world.wallet.rows


async def test_what_the_psp_calls_pending_for_ever_is_settled_by_its_line(world: World) -> None:
    replica = await world.replica(**LONG, pending_first_ms=60_000, pending_most_ms=60_000)
    world.executor.on(ODD, pending)
    payment = await replica.create(request := checkout(ODD))
    assert states_of(payment) == [PROCESSING]
    (waiting,) = operation_ids(payment)
    world.ledger.settle(waiting, ODD)
    world.assert_booked(await replica.until(request, SUCCEEDED))
    assert world.executor.asked[waiting] == 2


async def test_a_ledger_that_is_away_is_asked_again(world: World) -> None:
    replica = await world.replica(**LONG)
    world.executor.on(ODD, unknown)
    request = checkout(ODD)
    (silent,) = operation_ids(await replica.create(request))
    world.ledger.fail_memos = MeshError(Reason.DEPENDENCY_DOWN, "not now")
    world.ledger.settle(silent, ODD)
    await asyncio.sleep(0.2)
    # What is paid meanwhile does not wait for that.
    assert states_of(await replica.create(checkout(100))) == [SUCCEEDED]
    assert states_of(await replica.get(request.request_id)) == [UNKNOWN]
    world.ledger.fail_memos = None
    world.assert_booked(await replica.until(request, SUCCEEDED))


async def test_an_answer_that_is_cut_is_asked_for_in_parts(world: World) -> None:
    replica = await world.replica(**LONG)
    world.executor.on(ODD, unknown)
    world.ledger.most_lines = 3
    requests = [checkout(*[ODD] * 4) for _ in range(3)]
    for request in requests:
        for silent in operation_ids(await replica.create(request)):
            world.ledger.settle(silent, -1, kind="FEE")
            world.ledger.settle(silent, ODD, sequence=2)
    for request in requests:
        world.assert_booked(await replica.until(request, *[SUCCEEDED] * 4))


async def test_more_than_one_page_is_looked_through(world: World) -> None:
    replica = await world.replica(**LONG)
    world.executor.on(ODD, unknown)
    requests = [checkout(*[ODD] * 100) for _ in range(6)]
    payments = await asyncio.gather(*(replica.create(request, 30) for request in requests))
    assert {state for payment in payments for state in states_of(payment)} == {UNKNOWN}
    for payment in payments:
        for silent in operation_ids(payment):
            world.ledger.settle(silent, ODD)
    for request in requests:
        world.assert_booked(await replica.until(request, *[SUCCEEDED] * 100, timeout_s=20))
    await world.quiet()
