"""WatchPayment: how a payment stands now, and after each change, on any replica."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from paymesh.payment.v1 import payment_pb2
from paymesh.payment.v1 import payment_service_pb2 as pb

from mesh.errors import Reason
from tests.support.eventually import eventually
from tests.support.fakes import captured, declined, parked, pending, unknown
from tests.support.payment_replica import Replica, State, states_of
from tests.support.payment_world import World, checkout
from tests.support.refusals import refusal_of

SUCCEEDED = State.ORDER_STATE_SUCCEEDED
PROCESSING = State.ORDER_STATE_PROCESSING
UNKNOWN = State.ORDER_STATE_UNKNOWN
PARKED = State.ORDER_STATE_PARKED
DECLINED = State.ORDER_STATE_DECLINED

SLOW, OTHER = 777, 778


class Watch:
    """One watcher, and what it was told."""

    def __init__(self, replica: Replica, payment_id: str, timeout_s: float = 20) -> None:
        self.told: list[payment_pb2.Payment] = []
        self._call = replica.stub.WatchPayment(
            pb.WatchPaymentRequest(payment_id=payment_id), timeout=timeout_s
        )
        self.watching = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        async for response in self._call:
            self.told.append(response.payment)

    @property
    def states(self) -> list[list[State.ValueType]]:
        """The orders' states in each thing that was told."""
        return [states_of(payment) for payment in self.told]


async def started(world: World, replica: Replica, *amounts: int) -> payment_pb2.Payment:
    """A payment that is under way."""
    request = checkout(*amounts)
    asyncio.get_running_loop().create_task(replica.create(request)).add_done_callback(
        lambda task: task.exception()
    )
    return await replica.until(request, *[PROCESSING] * len(amounts))


@pytest.mark.parametrize("where", [0, 1], ids=["where it is driven", "on another replica"])
async def test_each_change_is_told_up_to_the_end(world: World, where: int) -> None:
    replicas = [await world.replica(), await world.replica()]
    gates = [asyncio.Event(), asyncio.Event()]
    world.executor.on(SLOW, gate=gates[0])
    world.executor.on(OTHER, declined, gate=gates[1])
    payment = await started(world, replicas[0], SLOW, OTHER)
    watch = Watch(replicas[where], payment.payment_id)
    await eventually(lambda: watch.states == [[PROCESSING, PROCESSING]])
    gates[0].set()
    await eventually(lambda: watch.states[1:] == [[SUCCEEDED, PROCESSING]])
    gates[1].set()
    await watch.watching
    assert watch.states[2:] == [[SUCCEEDED, DECLINED]]
    assert watch.told[-1].state == payment_pb2.PAYMENT_STATE_PARTIALLY_SUCCEEDED
    assert watch.told[-1] == await replicas[0].get(payment.request_id)


async def test_a_payment_that_has_ended_is_told_once(world: World) -> None:
    replica = await world.replica()
    payment = await replica.create(checkout(100))
    watch = Watch(replica, payment.payment_id)
    await watch.watching
    assert watch.told == [payment]


async def test_the_whole_ladder_is_seen_in_its_order(world: World) -> None:
    replica = await world.replica()
    world.executor.on(SLOW, pending, unknown, parked(poll=True), captured)
    payment = await replica.create(checkout(SLOW))
    watch = Watch(replica, payment.payment_id)
    await watch.watching
    assert watch.states[-1] == [SUCCEEDED]
    order = [[PROCESSING], [UNKNOWN], [PARKED], [SUCCEEDED]]
    assert sorted(watch.states, key=order.index) == watch.states


async def test_a_parked_payment_is_watched_until_it_is_retried(world: World) -> None:
    replica = await world.replica()
    world.executor.on(SLOW, parked(poll=False), captured)
    payment = await replica.create(checkout(SLOW))
    watch = Watch(replica, payment.payment_id)
    await asyncio.sleep(0.2)
    assert watch.states == [[PARKED]]
    await replica.retry(payment)
    await watch.watching
    assert watch.states == [[PARKED], [SUCCEEDED]]


async def test_a_hundred_watchers_hear_the_same(world: World) -> None:
    one, two = await world.replica(), await world.replica()
    gate = asyncio.Event()
    world.executor.on(SLOW, gate=gate)
    payment = await started(world, one, SLOW)
    watches = [Watch(replica, payment.payment_id) for replica in (one, two) for _ in range(50)]
    await eventually(lambda: all(watch.states for watch in watches))
    gate.set()
    await asyncio.gather(*(watch.watching for watch in watches))
    assert {watch.told[-1].SerializeToString(deterministic=True) for watch in watches} == {
        watches[0].told[-1].SerializeToString(deterministic=True)
    }
    await world.quiet()
    assert not one.watching._watches


async def test_the_database_may_go_away_meanwhile(world: World) -> None:
    replica = await world.replica()
    gate = asyncio.Event()
    world.executor.on(SLOW, gate=gate)
    payment = await started(world, replica, SLOW)
    watch = Watch(replica, payment.payment_id)
    await eventually(lambda: bool(watch.told))
    world.take_database_away()
    await asyncio.sleep(0.3)
    world.bring_database_back()
    gate.set()
    await watch.watching
    assert watch.states == [[PROCESSING], [SUCCEEDED]]


async def test_a_payment_that_is_not_there_can_not_be_watched(world: World) -> None:
    watch = Watch(await world.replica(), "0" * 32)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await watch.watching
    assert refusal_of(refused.value).reason == Reason.PAYMENT_NOT_FOUND


@pytest.mark.parametrize("payment_id", ["", "0" * 31, "0" * 33, "F" * 32, "x" * 32])
async def test_what_is_no_id_is_refused(world: World, payment_id: str) -> None:
    watch = Watch(await world.replica(), payment_id)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await watch.watching
    refusal = refusal_of(refused.value)
    assert refusal.reason == Reason.VALIDATION_FAILED


async def test_a_replica_that_stops_sends_its_watchers_away(world: World) -> None:
    one, two = await world.replica(), await world.replica()
    world.executor.on(SLOW, parked(poll=False))
    payment = await one.create(checkout(SLOW))
    watch = Watch(one, payment.payment_id)
    await eventually(lambda: bool(watch.told))
    await asyncio.wait_for(one.stop(), 3)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await watch.watching
    assert refusal_of(refused.value).reason == Reason.DEPENDENCY_DOWN
    again = Watch(two, payment.payment_id)
    await eventually(lambda: again.told == watch.told)
    again.watching.cancel()


async def test_a_watcher_that_leaves_is_forgotten(world: World) -> None:
    replica = await world.replica()
    world.executor.on(SLOW, parked(poll=False))
    payment = await replica.create(checkout(SLOW))
    watch = Watch(replica, payment.payment_id, timeout_s=0.5)
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await watch.watching
    assert ended.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await eventually(lambda: not replica.watching._watches)
