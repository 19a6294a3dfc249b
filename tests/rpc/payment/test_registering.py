"""The ledger's register is told of everything that is in no journal, whoever dies on the way."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from paymesh.ledger.v1 import operation_register_service_pb2 as register_pb
from paymesh.payment.v1 import payment_pb2

from mesh.errors import MeshError, Reason
from tests.support.eventually import eventually
from tests.support.fakes import captured, declined, parked, pending, unknown
from tests.support.payment_replica import State
from tests.support.payment_world import World, checkout

SUCCEEDED = State.ORDER_STATE_SUCCEEDED
DECLINED = State.ORDER_STATE_DECLINED
ODD, OTHER = 777, 778
LONG = {
    "unknown_first_ms": 60_000,
    "unknown_most_ms": 60_000,
    "pending_first_ms": 60_000,
    "pending_most_ms": 60_000,
    "parked_poll_ms": 60_000,
}
DOWN = MeshError(Reason.DEPENDENCY_DOWN, "not now")


def operation_of(payment: payment_pb2.Payment, position: int = 0) -> str:
    """The operation of an order."""
    return payment.orders[position].operations[0].operation_id


def marked(world: World) -> int:
    """How many operations wait to be told."""
    ((count,),) = world.rows(
        "SELECT count(*) FROM operation WHERE unregistered OR (state IN (3, 4) AND NOT in_register)"
    )
    return int(count)


async def told(world: World, operation_id: str, state: int) -> register_pb.RegisteredOperation:
    """The register's row as soon as it says this, and nothing is left to be told."""
    await eventually(
        lambda: (
            operation_id in world.ledger.register
            and world.ledger.register[operation_id].state == state
        )
    )
    await eventually(lambda: not marked(world))
    return world.ledger.register[operation_id]


@pytest.mark.parametrize(
    ("step", "state", "reason"),
    [
        (declined, register_pb.REGISTER_STATE_DECLINED, ""),
        (unknown, register_pb.REGISTER_STATE_UNKNOWN, ""),
        (pending, register_pb.REGISTER_STATE_PENDING, ""),
        (
            parked(poll=False, reason="WRONG_AMOUNT: captured 1 EUR"),
            register_pb.REGISTER_STATE_PARKED,
            "WRONG_AMOUNT",
        ),
    ],
    ids=["declined", "unknown", "pending", "parked"],
)
async def test_what_ends_without_a_capture_or_waits_is_told(
    world: World, step: Any, state: int, reason: str
) -> None:
    replica = await world.replica(**LONG)
    world.executor.on(ODD, step)
    payment = await replica.create(checkout(ODD, 100))
    row = await told(world, operation_of(payment), state)
    assert row.order_id == payment.orders[0].order_id
    assert row.payment_id == payment.payment_id
    assert (row.amount.amount_minor, row.amount.currency_code) == (ODD, "EUR")
    assert (row.version, row.reason) == (1, reason)
    assert row.psp_reference == ("psp-later" if step is pending else "")
    assert operation_of(payment, 1) not in world.ledger.register


async def test_what_succeeds_at_once_is_not_told_and_marks_nothing(world: World) -> None:
    replica = await world.replica()
    await replica.create(checkout(*range(1, 50)))
    await asyncio.sleep(0.2)
    assert world.ledger.registered == []
    assert world.rows("SELECT count(*) FROM operation WHERE in_register OR unregistered") == [(0,)]


async def test_what_was_told_as_waiting_is_told_again_when_it_ends(world: World) -> None:
    replica = await world.replica()
    world.executor.on(ODD, unknown, unknown, unknown, captured)
    world.executor.on(OTHER, pending, declined)
    request = checkout(ODD, OTHER)
    await replica.create(request)
    payment = await replica.until(request, SUCCEEDED, DECLINED)
    row = await told(world, operation_of(payment), register_pb.REGISTER_STATE_CAPTURED)
    assert row.version == 4
    await told(world, operation_of(payment, 1), register_pb.REGISTER_STATE_DECLINED)


async def test_what_waits_as_before_is_not_told_again(world: World) -> None:
    replica = await world.replica()
    world.executor.on(ODD, unknown)
    payment = await replica.create(checkout(ODD))
    key = operation_of(payment)
    await told(world, key, register_pb.REGISTER_STATE_UNKNOWN)
    lists = len(world.ledger.registered)
    asked = world.executor.asked[key]
    await eventually(lambda: world.executor.asked[key] > asked + 3)
    assert len(world.ledger.registered) == lists


async def test_a_ledger_that_fails_for_a_moment_is_told_a_moment_later(
    world: World,
) -> None:
    """Not when the next look for what others left is due."""
    replica = await world.replica(**LONG, evidence_poll_ms=600_000)
    world.ledger.lose_memos = 2
    world.executor.on(ODD, declined)
    payment = await replica.create(checkout(ODD))
    await told(world, operation_of(payment), register_pb.REGISTER_STATE_DECLINED)


async def test_a_ledger_that_is_away_is_told_later_and_holds_up_nobody(world: World) -> None:
    replica = await world.replica(**LONG)
    world.ledger.fail_memos = DOWN
    world.executor.on(ODD, declined)
    payment = await replica.create(checkout(ODD))
    await asyncio.sleep(0.2)
    assert marked(world) == 1
    assert (await replica.create(checkout(100))).state == payment_pb2.PAYMENT_STATE_SUCCEEDED
    world.ledger.fail_memos = None
    await told(world, operation_of(payment), register_pb.REGISTER_STATE_DECLINED)


async def test_an_answer_that_is_lost_is_told_again(world: World) -> None:
    replica = await world.replica(**LONG)
    world.ledger.lose_memos = 2
    world.executor.on(ODD, declined)
    payment = await replica.create(checkout(ODD))
    key = operation_of(payment)
    await told(world, key, register_pb.REGISTER_STATE_DECLINED)
    assert sum(key in keys for keys in world.ledger.registered) >= 3


async def test_what_a_dead_replica_left_is_told_by_another(world: World) -> None:
    dying = await world.replica(**LONG)
    world.ledger.fail_memos = DOWN
    world.executor.on(ODD, declined)
    payment = await dying.create(checkout(ODD))
    await dying.die()
    assert marked(world) == 1
    world.ledger.fail_memos = None
    await world.replica(**LONG)
    await told(world, operation_of(payment), register_pb.REGISTER_STATE_DECLINED)


async def test_what_an_earlier_release_wrote_is_told_by_its_state(world: World) -> None:
    replica = await world.replica(**LONG)
    world.ledger.fail_memos = DOWN
    world.executor.on(ODD, declined)
    world.executor.on(OTHER, unknown)
    payment = await replica.create(checkout(ODD, OTHER, 100))
    world.inside("UPDATE operation SET unregistered = false, in_register = false")
    world.ledger.fail_memos = None
    await told(world, operation_of(payment), register_pb.REGISTER_STATE_DECLINED)
    await told(world, operation_of(payment, 1), register_pb.REGISTER_STATE_UNKNOWN)
    assert operation_of(payment, 2) not in world.ledger.register


async def test_one_that_is_refused_holds_up_no_other_and_is_not_forgotten(world: World) -> None:
    replica = await world.replica(**LONG)
    world.ledger.fail_memos = DOWN
    world.executor.on(ODD, declined)
    payment = await replica.create(checkout(ODD, ODD, ODD))
    refused, *others = (operation_of(payment, position) for position in range(3))
    world.ledger.refuse_to_register[refused] = MeshError(Reason.VALIDATION_FAILED, "no")
    world.ledger.fail_memos = None
    await eventually(lambda: marked(world) == 1)
    assert set(others) <= world.ledger.register.keys()
    del world.ledger.refuse_to_register[refused]
    await told(world, refused, register_pb.REGISTER_STATE_DECLINED)


async def test_many_are_told_in_lists(world: World) -> None:
    replica = await world.replica(**LONG)
    world.executor.on(ODD, declined)
    await asyncio.gather(*(replica.create(checkout(*[ODD] * 100), 30) for _ in range(6)))
    await eventually(lambda: len(world.ledger.register) == 600)
    await eventually(lambda: not marked(world))
    assert max(len(keys) for keys in world.ledger.registered) <= 500
    assert len(world.ledger.registered) < 60
