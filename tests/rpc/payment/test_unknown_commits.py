"""COMMITs whose answer is lost: nobody guesses, and everything ends all the same."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from paymesh.payment.v1 import payment_service_pb2 as pb
from paymesh.payment.v1.payment_service_pb2_grpc import PaymentServiceStub

from mesh.channel import open_channel
from mesh.errors import Reason
from mesh.migrations import provision
from mesh.status import from_status
from payment_svc.intake import Intake
from payment_svc.waiting import Waiting
from tests.support.embedded import embedded, run
from tests.support.eventually import eventually
from tests.support.fakes import captured, pending
from tests.support.payment_replica import State, states_of
from tests.support.payment_world import World, checkout, world_of
from tests.support.serving import error_of

SUCCEEDED = State.ORDER_STATE_SUCCEEDED

STORED = pytest.mark.parametrize("stored", [True, False])


@STORED
async def test_a_repetition_tells_whether_an_accept_was_stored(world: World, stored: bool) -> None:
    replica = await world.replica()
    replica.lose_answers("payment.write", stored=stored)
    payment = await replica.create(checkout(1000, 2000))
    assert states_of(payment) == [SUCCEEDED, SUCCEEDED]
    world.assert_booked(payment)
    assert set(world.executor.asked.values()) == {1}
    await world.quiet()


@STORED
async def test_an_accept_that_is_not_known_to_be_stored(world: World, stored: bool) -> None:
    replica = await world.replica()
    replica.lose_answers("payment.write", 2, stored=stored)
    request = checkout(1000, 2000)
    error = await error_of(replica.stub.CreatePayment(request))
    assert error.reason is Reason.OUTCOME_UNKNOWN
    if stored:
        # It ends by itself, without its caller.
        world.assert_booked(await replica.until(request, SUCCEEDED, SUCCEEDED, timeout_s=3))
    else:
        assert world.rows("SELECT count(*) FROM payment") == [(0,)]
    assert states_of(await replica.create(request)) == [SUCCEEDED, SUCCEEDED]
    assert set(world.executor.asked.values()) == {1}
    await world.quiet()


async def test_an_accept_that_is_seen_long_after_its_answer_was_lost(world: World) -> None:
    """A COMMIT that hangs in the server is invisible until it ends."""
    replica = await world.replica(lease_ms=1_000)
    replica.lose_answers("payment.write", 2, after_s=0.4)
    request = checkout(1000)
    error = await error_of(replica.stub.CreatePayment(request))
    assert error.reason is Reason.OUTCOME_UNKNOWN
    world.assert_booked(await replica.until(request, SUCCEEDED, timeout_s=4))
    await world.quiet()


async def test_a_refusal_says_nothing_of_an_earlier_call(world: World) -> None:
    replica = await world.replica()
    request = checkout(1000)
    replica.lose_answers("payment.write", 2)
    error = await error_of(replica.stub.CreatePayment(request))
    assert error.reason is Reason.OUTCOME_UNKNOWN
    assert world.rows("SELECT count(*) FROM payment") == [(1,)]
    replica.refuse("payment.write")
    error = await error_of(replica.stub.CreatePayment(request))
    assert error.reason is Reason.DEPENDENCY_DOWN
    assert "this call accepted nothing" in error.message
    assert "of an earlier one with this request_id it says nothing" in error.message
    assert states_of(await replica.create(request)) == [SUCCEEDED]
    await world.quiet()


async def test_a_call_that_grpc_repeated_is_not_told_that_nothing_was_accepted(
    world: World,
) -> None:
    """The first attempt's answer is lost with it, and may have been another."""
    replica = await world.replica()
    request = checkout(1000)
    replica.refuse("payment.write", 20)
    async with open_channel(f"127.0.0.1:{replica.wired.server.port}") as retrying:
        error = await error_of(PaymentServiceStub(retrying).CreatePayment(request))
        assert error.reason is Reason.OUTCOME_UNKNOWN
        replica.refuse("payment.write", 0)
        response = await PaymentServiceStub(retrying).CreatePayment(request)
    assert states_of(response.payment) == [SUCCEEDED]
    await world.quiet()


async def test_a_call_that_grpc_repeated_is_not_told_so_by_a_full_replica_either(
    world: World,
) -> None:
    """The attempt before may be under way in another replica, and in no table yet."""
    replica = await world.replica(max_open_orders=100)
    gate = asyncio.Event()
    world.executor.on(777, gate=gate)
    first = asyncio.create_task(replica.create(checkout(*[777] * 100)))
    await eventually(lambda: len(replica.conveyor) == 100)
    request = checkout(1000)
    repeated = (("grpc-previous-rpc-attempts", "1"),)
    error = await error_of(replica.stub.CreatePayment(request, metadata=repeated))
    assert error.reason is Reason.OUTCOME_UNKNOWN
    bulk = replica.stub.CreatePayments(
        iter([pb.CreatePaymentsRequest(request=request)]), metadata=repeated
    )
    (answer,) = [answer async for answer in bulk]
    assert from_status(answer.error).reason is Reason.OUTCOME_UNKNOWN
    error = await error_of(replica.stub.CreatePayment(request))
    assert error.reason is Reason.OVERLOADED
    gate.set()
    await first
    assert states_of(await replica.create(request)) == [SUCCEEDED]
    await world.quiet()


@STORED
@pytest.mark.parametrize("times", [1, 2, 5])
async def test_a_finish_that_is_not_known_to_be_stored(
    world: World, stored: bool, times: int
) -> None:
    replica = await world.replica()
    gate = asyncio.Event()
    world.executor.on(777, gate=gate)
    request = checkout(777, 777)
    call = asyncio.create_task(replica.create(request))
    await eventually(lambda: world.executor.asked.total() == 2)
    replica.lose_answers("payment.write", times, stored=stored)
    gate.set()
    payment = await asyncio.wait_for(call, 5)
    assert states_of(payment) == [SUCCEEDED, SUCCEEDED]
    world.assert_booked(payment)
    assert set(world.executor.asked.values()) == {1}
    await world.quiet()


async def test_a_lost_answer_of_a_finish_that_is_due_again_at_once(world: World) -> None:
    """The item is taken again, by the same epoch, before its finish is repeated."""
    replica = await world.replica(pending_first_ms=10, pending_most_ms=10, poll_ms=10)
    gate = asyncio.Event()
    world.executor.on(61, pending, pending, pending, captured)
    world.executor.on(777, gate=gate)
    for _ in range(3):
        replica.lose_answers("payment.write", 2)
        call = asyncio.create_task(replica.create(request := checkout(61)))
        await asyncio.gather(call, return_exceptions=True)
        replica.lose_answers("payment.write", 3)
        world.assert_booked(await replica.until(request, SUCCEEDED, timeout_s=4))
    await world.quiet()


@STORED
async def test_a_take_that_is_not_known_to_be_stored(world: World, stored: bool) -> None:
    replica = await world.replica()
    world.executor.on(61, pending, captured)
    await replica.fall_asleep()
    await replica.create(request := checkout(61))
    replica.lose_answers("payment.take", stored=stored)
    await asyncio.sleep(0.05)
    replica.wake()
    world.assert_booked(await replica.until(request, SUCCEEDED, timeout_s=3))
    await world.quiet()


@pytest.mark.parametrize("broken", [(Waiting, "carry"), (Intake, "_finished")])
async def test_a_bug_after_the_commit_loses_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, broken: tuple[type, str]
) -> None:
    replica = await world.replica(lease_ms=1_000)
    bugs = 1
    original = getattr(*broken)

    def buggy(*arguments: object) -> object:
        nonlocal bugs
        if bugs:
            bugs -= 1
            raise ZeroDivisionError
        return original(*arguments)

    monkeypatch.setattr(*broken, buggy)
    requests = [checkout(1000, 5) for _ in range(3)]
    calls = [asyncio.create_task(replica.create(request)) for request in requests]
    await asyncio.gather(*calls, return_exceptions=True)
    assert not bugs
    for request in requests:
        world.assert_booked(await replica.until(request, SUCCEEDED, SUCCEEDED, timeout_s=4))
    await world.quiet()


async def test_a_commit_that_hangs_for_a_standby(data_dir: Path) -> None:
    """The real thing: the row is committed, and the session that might tell is gone."""
    with embedded(data_dir) as server:
        url = provision(server.admin_url, prefix="own", services=["payment"])["payment"]
        admin_url = f"{server.admin_url.rpartition('/')[0]}/own_payment"
        async with world_of(url, admin_url) as world:
            replica = await world.replica(lease_ms=2_000)
            world.assert_booked(await replica.create(checkout(5)))
            ghost = "ALTER SYSTEM SET synchronous_standby_names = 'ghost'"
            world.execute(ghost)
            run(server, "SELECT pg_reload_conf()")
            request = checkout(1000, 2000)
            call = asyncio.create_task(replica.create(request, timeout_s=20))
            waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
            await eventually(lambda: world.rows(waits) != [(0,)])
            assert world.rows("SELECT count(*) FROM payment") == [(1,)]
            world.hang_up()
            await eventually(lambda: world.rows("SELECT count(*) FROM payment") == [(2,)])
            world.execute("ALTER SYSTEM RESET synchronous_standby_names")
            run(server, "SELECT pg_reload_conf()")
            payment = await call
            assert states_of(payment) == [SUCCEEDED, SUCCEEDED]
            world.assert_booked(payment)
            assert await replica.create(request) == payment
            await world.quiet()
