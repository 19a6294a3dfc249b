"""The hop to the executor: it loses nothing, waits for nothing for ever, and doubles nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from paymesh.executor.v1 import executor_service_pb2 as pb
from paymesh.payment.v1 import payment_pb2
from structlog.testing import capture_logs

from mesh.errors import MeshError, Reason
from payment_svc import clients
from tests.support.eventually import eventually
from tests.support.fakes import Break, Step, captured, declined, failed, unknown
from tests.support.payment_replica import State, states_of
from tests.support.payment_world import World, checkout

SUCCEEDED = State.ORDER_STATE_SUCCEEDED
PROCESSING = State.ORDER_STATE_PROCESSING
DECLINED = State.ORDER_STATE_DECLINED
PARKED = State.ORDER_STATE_PARKED

SLOW = 777


@pytest.fixture(autouse=True)
def _sweep_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "SWEEP_S", 0.05)


async def test_an_executor_that_is_not_there_yet_is_waited_for(world: World) -> None:
    await world.executor.stop()
    replica = await world.replica()
    request = checkout(1000, 2000)
    payment = await replica.create(request, timeout_s=0.4)
    assert states_of(payment) == [PROCESSING, PROCESSING]
    await world.executor.start()
    payment = await replica.until(request, SUCCEEDED, SUCCEEDED)
    world.assert_booked(payment)
    await world.quiet()


@pytest.mark.parametrize("cut", ["before_ack", "after_ack", "after_outcome"])
async def test_what_a_broken_stream_left_unanswered_is_sent_again(world: World, cut: Break) -> None:
    replica = await world.replica()
    world.executor.breaks = [cut]
    payment = await replica.create(checkout(1000, 2000, 3000), timeout_s=5)
    assert states_of(payment) == [SUCCEEDED] * 3
    assert world.executor.opened == 2
    assert set(world.executor.asked.values()) <= {1, 2}
    world.assert_booked(payment)
    assert len(world.wallet.rows) == len(world.ledger.rows) == 3
    await world.quiet()


async def test_an_executor_that_restarts_under_way_loses_nothing(world: World) -> None:
    replica = await world.replica()
    gate = asyncio.Event()
    world.executor.on(SLOW, gate=gate)
    requests = [checkout(SLOW, 5) for _ in range(5)]
    calls = [asyncio.create_task(replica.create(request)) for request in requests]
    await eventually(lambda: len(world.wallet.rows) == 5)
    for _ in range(3):
        await world.executor.stop()
        await world.executor.start()
    gate.set()
    for call in calls:
        payment = await call
        assert states_of(payment) == [SUCCEEDED, SUCCEEDED]
        world.assert_booked(payment)
    await world.quiet()


async def test_an_outcome_that_is_told_twice_counts_once(world: World) -> None:
    replica = await world.replica()
    world.executor.on(50, times=3)
    world.executor.on(51, declined, times=3)
    for _ in range(5):
        payment = await replica.create(checkout(50, 51))
        assert states_of(payment) == [SUCCEEDED, DECLINED]
    assert len(world.wallet.rows) == len(world.ledger.rows) == 5
    await world.quiet()


async def test_an_outcome_may_come_again_while_the_item_is_asked_again(world: World) -> None:
    """The late second answer of one round meets the next round of the same item."""
    replica = await world.replica(unknown_first_ms=10, unknown_most_ms=10)
    world.executor.on(60, unknown, unknown, unknown, captured, times=4)
    request = checkout(60)
    await replica.create(request)
    payment = await replica.until(request, SUCCEEDED)
    world.assert_booked(payment)
    await world.quiet()


async def test_an_item_without_an_answer_is_sent_again_after_its_time(world: World) -> None:
    replica = await world.replica(item_timeout_ms=1_000)
    world.executor.on(SLOW, None, captured)
    payment = await replica.create(checkout(SLOW, 5), timeout_s=5)
    assert states_of(payment) == [SUCCEEDED, SUCCEEDED]
    assert sorted(world.executor.asked.values()) == [1, 2]
    await world.quiet()


async def test_a_list_that_is_never_acknowledged_does_not_stop_the_next(world: World) -> None:
    replica = await world.replica(item_timeout_ms=1_000)
    world.executor.acknowledging.clear()
    first = asyncio.create_task(replica.create(checkout(1)))
    await eventually(lambda: world.executor.asked.total() == 1)
    second = asyncio.create_task(replica.create(checkout(2)))
    await eventually(lambda: len(world.executor.asked) == 2, 3)
    world.executor.acknowledging.set()
    assert states_of(await first) == states_of(await second) == [SUCCEEDED]
    await world.quiet()


async def test_what_is_not_sent_yet_is_not_sent_again(world: World) -> None:
    """While the executor is away, nothing piles up for its return."""
    await world.executor.stop()
    replica = await world.replica(item_timeout_ms=1_000)
    replica.executor._item_timeout_s = 0.05
    requests = [checkout(1000) for _ in range(3)]
    for request in requests:
        await replica.create(request, timeout_s=0.3)
    await asyncio.sleep(0.5)
    assert replica.executor._to_send.qsize() <= len(requests)
    replica.executor._item_timeout_s = 60
    await world.executor.start()
    for request in requests:
        await replica.until(request, SUCCEEDED)
    assert max(world.executor.asked.values()) <= 3
    await world.quiet()


async def test_broken_streams_leave_nothing_behind(world: World) -> None:
    replica = await world.replica()
    await replica.create(checkout(1))
    before = len(asyncio.all_tasks())
    for number in range(2, 8):
        await world.executor.cut()
        await eventually(lambda n=number: world.executor.opened == n)  # type: ignore[misc]
    assert states_of(await replica.create(checkout(1))) == [SUCCEEDED]
    await eventually(lambda: len(asyncio.all_tasks()) <= before + 1, 2)


# --- errors of items ----------------------------------------------------------------------


@pytest.mark.parametrize("reason", [Reason.DEPENDENCY_DOWN, Reason.OUTCOME_UNKNOWN])
async def test_what_the_executor_could_not_look_at_is_asked_again(
    world: World, reason: Reason
) -> None:
    replica = await world.replica()
    error = failed(MeshError(reason, "not now"))
    world.executor.on(70, error, error, captured)
    payment = await replica.create(checkout(70, 5))
    assert states_of(payment) == [SUCCEEDED, SUCCEEDED]
    assert sorted(world.executor.asked.values()) == [1, 3]
    world.assert_booked(payment)
    await world.quiet()


async def test_what_the_executor_refuses_for_good_is_parked_with_the_reason(
    world: World,
) -> None:
    replica = await world.replica()
    world.executor.on(71, failed(MeshError(Reason.OPERATION_CONFLICT, "other fields")))
    payment = await replica.create(checkout(71, 5))
    assert states_of(payment) == [PARKED, SUCCEEDED]
    assert payment.state == payment_pb2.PAYMENT_STATE_NEEDS_ATTENTION
    assert payment.orders[0].attention_reason.startswith("EXECUTOR_REFUSED: OPERATION_CONFLICT")
    world.assert_booked(payment)
    await world.quiet()


def _without_result(item: pb.OperationItem) -> pb.OperationOutcome:
    return pb.OperationOutcome(operation_id=item.operation_id)


def _new_evidence(item: pb.OperationItem) -> pb.OperationOutcome:
    outcome = captured(item)
    outcome.captured.evidence = 77  # type: ignore[assignment]  # of a later release
    return outcome


@pytest.mark.parametrize("strange", [_without_result, _new_evidence])
async def test_an_answer_that_is_not_understood_loses_and_stops_nothing(
    world: World, strange: Callable[[pb.OperationItem], pb.OperationOutcome]
) -> None:
    replica = await world.replica()
    world.executor.on(72, strange, strange, captured)
    payment = await replica.create(checkout(72, 5))
    assert states_of(payment) == [SUCCEEDED, SUCCEEDED]
    world.assert_booked(payment)
    await world.quiet()


async def test_an_answer_about_nothing_that_was_asked_is_ignored(world: World) -> None:
    replica = await world.replica()

    def unasked(item: pb.OperationItem) -> pb.OperationOutcome:
        return pb.OperationOutcome(operation_id="not an id", unknown=pb.Unknown())

    steps: list[Step] = [unasked, captured]
    replica.executor._item_timeout_s = 0.1
    world.executor.on(73, *steps)
    assert states_of(await replica.create(checkout(73, 5))) == [SUCCEEDED, SUCCEEDED]
    await world.quiet()


async def test_another_amount_than_asked_is_parked_and_never_booked(world: World) -> None:
    replica = await world.replica()

    def other_amount(item: pb.OperationItem) -> pb.OperationOutcome:
        outcome = captured(item)
        outcome.captured.amount.amount_minor += 1
        return outcome

    world.executor.on(74, other_amount)
    payment = await replica.create(checkout(74, 5))
    assert states_of(payment) == [PARKED, SUCCEEDED]
    assert payment.orders[0].attention_reason.startswith("WRONG_AMOUNT")
    world.assert_booked(payment)
    assert len(world.wallet.rows) == 1
    await world.quiet()


async def test_what_is_asked_again_has_a_line_with_its_ids(world: World) -> None:
    replica = await world.replica()
    world.executor.breaks = ["after_ack"]
    with capture_logs() as lines:
        payment = await replica.create(checkout(1000, 2000), timeout_s=5)
    again = [line for line in lines if line["event"] == "order_asked_again"]
    assert {line["order_id"] for line in again} == {o.order_id for o in payment.orders}
    assert {line["payment_id"] for line in again} == {payment.payment_id}
    with capture_logs() as lines:
        await replica.create(checkout(3000), timeout_s=5)
    assert [line for line in lines if line["event"] == "order_asked_again"] == []
    await world.quiet()
