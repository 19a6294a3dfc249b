"""RetryPayment: an operator has parked orders driven again, once for each wish."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from paymesh.payment.v1 import payment_pb2

from mesh.errors import Code, MeshError, Reason
from tests.support.eventually import eventually
from tests.support.fakes import captured, declined, parked, unknown
from tests.support.payment_replica import Replica, State, states_of
from tests.support.payment_world import World, checkout
from tests.support.refusals import refusal_of

SUCCEEDED = State.ORDER_STATE_SUCCEEDED
PARKED = State.ORDER_STATE_PARKED
DECLINED = State.ORDER_STATE_DECLINED

ODD, OTHER = 777, 778
REFUSED = MeshError(Reason.VALIDATION_FAILED, "no such seller", peer_code=Code.INVALID_ARGUMENT)


async def refusal(replica: Replica, payment: payment_pb2.Payment, **change: str) -> str:
    """Why a retry was refused."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await replica.retry(payment, **change)
    return refusal_of(refused.value).reason


async def test_parked_orders_are_driven_again_and_their_neighbours_are_not(world: World) -> None:
    replica = await world.replica()
    world.executor.on(ODD, parked(poll=False), captured)
    world.executor.on(OTHER, parked(poll=False), declined)
    payment = await replica.create(checkout(ODD, 100, OTHER))
    assert states_of(payment) == [PARKED, SUCCEEDED, PARKED]
    retried = await replica.retry(payment)
    assert states_of(retried) == [SUCCEEDED, SUCCEEDED, DECLINED]
    assert retried.state == payment_pb2.PAYMENT_STATE_PARTIALLY_SUCCEEDED
    world.assert_booked(retried)
    assert sorted(world.executor.asked.values()) == [1, 2, 2]
    assert len(world.executor.restarted) == 2
    await world.quiet()


async def test_the_same_retry_again_drives_nothing(world: World) -> None:
    one, two = await world.replica(), await world.replica()
    world.executor.on(ODD, parked(poll=False))
    payment = await one.create(checkout(ODD))
    answers = await asyncio.gather(
        *(replica.retry(payment) for _ in range(16) for replica in (one, two))
    )
    assert {tuple(states_of(answer)) for answer in answers} == {(PARKED,)}
    assert list(world.executor.asked.values()) == [2]
    await one.retry(payment, request_id="another", note="and again")
    assert list(world.executor.asked.values()) == [3]
    assert world.rows("SELECT caller, request_id, note FROM payment_retry ORDER BY 2") == [
        ("default", "another", "and again"),
        ("default", "retry", "looked at it"),
    ]
    await world.quiet()


async def test_a_replay_of_a_retry_comes_before_the_rules(world: World) -> None:
    replica = await world.replica()
    world.executor.on(ODD, parked(poll=False), captured)
    payment = await replica.create(checkout(ODD))
    retried = await replica.retry(payment)
    assert await replica.retry(payment) == retried
    assert await refusal(replica, payment, request_id="new") == Reason.WRONG_STATE


async def test_another_note_under_the_same_request_id_is_refused(world: World) -> None:
    replica = await world.replica()
    world.executor.on(ODD, parked(poll=False))
    payment = await replica.create(checkout(ODD))
    await replica.retry(payment)
    assert await refusal(replica, payment, note="another") == Reason.REQUEST_ID_REUSED
    assert list(world.executor.asked.values()) == [2]


async def test_what_is_not_parked_is_not_retried_and_nothing_is_stored(world: World) -> None:
    replica = await world.replica()
    payment = await replica.create(checkout(100))
    assert await refusal(replica, payment) == Reason.WRONG_STATE
    missing = payment_pb2.Payment(payment_id="0" * 32)
    assert await refusal(replica, missing) == Reason.PAYMENT_NOT_FOUND
    assert world.rows("SELECT count(*) FROM payment_retry") == [(0,)]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"request_id": ""}, Reason.VALIDATION_FAILED),
        ({"request_id": "x" * 256}, Reason.VALIDATION_FAILED),
        ({"note": ""}, Reason.VALIDATION_FAILED),
        ({"note": "x" * 501}, Reason.VALIDATION_FAILED),
        ({"note": "a\nb"}, Reason.VALIDATION_FAILED),
        ({"note": "4242424242424242"}, Reason.CARD_NUMBER_REFUSED),
    ],
)
async def test_bad_input_is_refused(world: World, change: dict[str, str], reason: Reason) -> None:
    replica = await world.replica()
    world.executor.on(ODD, parked(poll=False))
    payment = await replica.create(checkout(ODD))
    assert await refusal(replica, payment, **change) == reason
    assert world.rows("SELECT count(*) FROM payment_retry") == [(0,)]


async def test_what_was_captured_and_not_booked_is_booked(world: World) -> None:
    replica = await world.replica()
    request = checkout(1000)
    seller = request.orders[0].seller_id
    world.wallet.refuse[seller] = REFUSED
    payment = await replica.create(request)
    assert states_of(payment) == [PARKED]
    assert payment.orders[0].attention_reason.startswith("BOOKING_REFUSED")
    del world.wallet.refuse[seller]
    retried = await replica.retry(payment)
    assert states_of(retried) == [SUCCEEDED]
    assert retried.orders[0].attention_reason == ""
    world.assert_booked(retried)


async def test_a_retry_during_a_poll_follows_it(world: World) -> None:
    replica = await world.replica()
    gate = asyncio.Event()
    gate.set()
    world.executor.on(ODD, parked(poll=True), gate=gate)
    payment = await replica.create(checkout(ODD))
    gate.clear()
    (operation,) = world.executor.asked
    asked = world.executor.asked[operation]
    await eventually(lambda: world.executor.asked[operation] > asked)
    retry = asyncio.create_task(replica.retry(payment))
    await eventually(lambda: world.rows("SELECT restart FROM operation") == [(True,)])
    assert not world.executor.restarted
    gate.set()
    await retry
    assert world.executor.restarted == [operation]
    await eventually(lambda: world.rows("SELECT restart FROM operation") == [(False,)])


async def test_a_retry_outlives_the_replica_that_took_it(world: World) -> None:
    one = await world.replica(lease_ms=1_000)
    world.executor.on(ODD, parked(poll=False), None, captured)
    payment = await one.create(checkout(ODD))
    retry = asyncio.create_task(one.retry(payment))
    await eventually(lambda: len(world.executor.restarted) == 1)
    await one.die()
    await asyncio.gather(retry, return_exceptions=True)
    two = await world.replica(lease_ms=1_000)
    answer = await two.retry(payment)
    assert states_of(answer) == [SUCCEEDED]
    assert len(world.executor.restarted) == 2
    await world.quiet()


async def test_a_retry_without_an_executor_waits_for_it(world: World) -> None:
    replica = await world.replica()
    world.executor.on(ODD, parked(poll=False), captured)
    payment = await replica.create(checkout(ODD))
    await world.executor.stop()
    retry = asyncio.create_task(replica.retry(payment))
    await asyncio.sleep(0.3)
    assert not retry.done()
    await world.executor.start()
    assert states_of(await retry) == [SUCCEEDED]


async def test_a_retry_whose_answer_was_lost_is_driven_all_the_same(world: World) -> None:
    replica = await world.replica()
    world.executor.on(ODD, parked(poll=False), captured)
    payment = await replica.create(checkout(ODD))
    replica.lose_answers("payment.retry")
    assert await refusal(replica, payment) == Reason.OUTCOME_UNKNOWN
    assert states_of(await replica.retry(payment)) == [SUCCEEDED]
    assert list(world.executor.asked.values()) == [2]


async def test_a_retry_whose_caller_leaves_during_its_commit_is_driven_at_once(
    world: World,
) -> None:
    """With a lease of a minute, whose audit would find it too late."""
    replica = await world.replica()
    world.executor.on(ODD, parked(poll=False), captured)
    payment = await replica.create(request := checkout(ODD))
    replica.hang("payment.retry")
    call = asyncio.ensure_future(replica.retry(payment))
    await eventually(lambda: world.rows("SELECT restart FROM operation") == [(True,)])
    call.cancel()
    await replica.until(request, SUCCEEDED, timeout_s=3)
    assert list(world.executor.asked.values()) == [2]
    await world.quiet()


async def test_what_is_still_unknown_stays_parked_and_goes_on(world: World) -> None:
    replica = await world.replica()
    world.executor.on(ODD, parked(poll=False), unknown, captured)
    request = checkout(ODD)
    payment = await replica.create(request)
    retried = await replica.retry(payment)
    assert states_of(retried) in ([PARKED], [SUCCEEDED])
    await replica.until(request, SUCCEEDED)


@pytest.mark.parametrize("how", ["due", "of the dead", "its own"])
@pytest.mark.parametrize(("amount", "end"), [(ODD, DECLINED), (100, SUCCEEDED)])
async def test_what_has_ended_is_let_go_of_and_not_driven(
    world: World, how: str, amount: int, end: State.ValueType
) -> None:
    """As a retry of an earlier release could leave it, and nothing else is held up by it."""
    replica = await world.replica(lease_ms=1_000)
    world.executor.on(ODD, declined)
    await replica.create(request := checkout(amount))
    world.inside("INSERT INTO replica (name, lease_until, dead) VALUES ('gone', now(), true)")
    world.inside(
        {
            "due": "UPDATE operation SET next_attempt_time = now(), restart = true",
            "of the dead": "UPDATE operation SET restart = true,"
            " epoch = (SELECT epoch FROM replica WHERE name = 'gone')",
            "its own": f"UPDATE operation SET restart = true, epoch = {replica.wired.lease.epoch}",
        }[how]
    )
    rests = [(None, None, False)]
    held = "SELECT epoch, next_attempt_time, restart FROM operation"
    await eventually(lambda: world.rows(held) == rests, 3)
    assert states_of(await replica.get(request.request_id)) == [end]
    assert list(world.executor.asked.values()) == [1]
    assert states_of(await replica.create(checkout(101))) == [SUCCEEDED]
    await world.quiet()
