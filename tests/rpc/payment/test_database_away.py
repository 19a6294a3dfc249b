"""A database that is away, or takes no writes: told at once, nothing lost, healed by itself."""

from __future__ import annotations

import asyncio
import time

from mesh.errors import Reason
from tests.support.eventually import eventually
from tests.support.payment_replica import State, states_of
from tests.support.payment_world import World, checkout
from tests.support.serving import error_of

SUCCEEDED = State.ORDER_STATE_SUCCEEDED
PROCESSING = State.ORDER_STATE_PROCESSING
SLOW = 777


async def test_an_accept_without_a_database_is_refused_and_heals(world: World) -> None:
    replica = await world.replica()
    request = checkout(1000)
    world.take_database_away()
    # Of the first one, on a connection that was there, it is not provable.
    error = await error_of(replica.stub.CreatePayment(request, timeout=10))
    assert error.reason in (Reason.DEPENDENCY_DOWN, Reason.OUTCOME_UNKNOWN)
    for _ in range(3):
        error = await error_of(replica.stub.CreatePayment(request, timeout=10))
        assert error.reason is Reason.DEPENDENCY_DOWN
    world.bring_database_back()
    assert world.rows("SELECT count(*) FROM payment") == [(0,)]
    payment = await replica.create(request)
    assert states_of(payment) == [SUCCEEDED]
    world.assert_booked(payment)
    await world.quiet()


async def test_what_is_under_way_outlives_the_database(world: World) -> None:
    """Also its caller is answered; and who comes meanwhile is refused at once."""
    replica = await world.replica()
    gate = asyncio.Event()
    world.executor.on(SLOW, gate=gate)
    request, refused = checkout(SLOW, SLOW), checkout(5)
    call = asyncio.create_task(replica.create(request, timeout_s=20))
    await eventually(lambda: world.executor.asked.total() == 2)
    world.take_database_away()
    gate.set()
    await eventually(lambda: len(world.ledger.rows) == 2)
    for _ in range(3):
        started = time.monotonic()
        error = await error_of(replica.stub.CreatePayment(refused, timeout=10))
        assert error.reason is Reason.DEPENDENCY_DOWN
        assert time.monotonic() - started < 3
    error = await error_of(replica.stub.CreatePayment(request, timeout=10))
    assert error.reason in (Reason.DEPENDENCY_DOWN, Reason.OUTCOME_UNKNOWN)
    assert not call.done()
    world.bring_database_back()
    payment = await call
    assert states_of(payment) == [SUCCEEDED, SUCCEEDED]
    world.assert_booked(payment)
    assert world.rows("SELECT count(*) FROM payment") == [(1,)]
    assert set(world.executor.asked.values()) == {1}
    await world.quiet()


async def test_who_comes_behind_much_that_must_be_written_is_refused_at_once(
    world: World,
) -> None:
    replica = await world.replica()
    replica.intake._writer._stage._max_items = 2
    gates = [asyncio.Event() for _ in range(4)]
    for number, gate in enumerate(gates):
        world.executor.on(700 + number, gate=gate)
    requests = [checkout(700 + number) for number in range(len(gates))]
    calls = [asyncio.create_task(replica.create(r, timeout_s=20)) for r in requests]
    await eventually(lambda: world.executor.asked.total() == len(gates))
    world.take_database_away()
    for number, gate in enumerate(gates):
        gate.set()
        await eventually(lambda n=number: len(world.ledger.rows) == n + 1)  # type: ignore[misc]
    started = time.monotonic()
    errors = await asyncio.gather(
        *(error_of(replica.stub.CreatePayment(checkout(5), timeout=10)) for _ in range(8))
    )
    assert {error.reason for error in errors} == {Reason.DEPENDENCY_DOWN}
    assert time.monotonic() - started < 4
    world.bring_database_back()
    for payment in await asyncio.gather(*calls):
        assert states_of(payment) == [SUCCEEDED]
        world.assert_booked(payment)
    assert world.rows("SELECT count(*) FROM payment") == [(len(gates),)]
    await world.quiet()


async def test_a_database_that_takes_no_writes_loses_nothing(world: World) -> None:
    """As after a fail-over, when the old address leads to a standby."""
    replica = await world.replica()
    gate = asyncio.Event()
    world.executor.on(SLOW, gate=gate)
    call = asyncio.create_task(replica.create(checkout(SLOW, SLOW), timeout_s=20))
    await eventually(lambda: world.executor.asked.total() == 2)
    world.execute("ALTER DATABASE {db} SET default_transaction_read_only = on")
    world.hang_up()
    gate.set()
    await eventually(lambda: len(world.ledger.rows) == 2)
    error = await error_of(replica.stub.CreatePayment(checkout(5), timeout=10))
    assert error.reason is Reason.DEPENDENCY_DOWN
    world.execute("ALTER DATABASE {db} RESET default_transaction_read_only")
    world.hang_up()
    payment = await call
    assert states_of(payment) == [SUCCEEDED, SUCCEEDED]
    world.assert_booked(payment)
    await world.quiet()


async def test_a_right_that_is_missing_for_a_while_loses_nothing(world: World) -> None:
    """An error of the statement is no error of any row: nothing is parked for it."""
    replica = await world.replica()
    gate = asyncio.Event()
    world.executor.on(SLOW, gate=gate)
    call = asyncio.create_task(replica.create(checkout(SLOW, SLOW), timeout_s=20))
    await eventually(lambda: world.executor.asked.total() == 2)
    role = "(SELECT rolname FROM pg_roles WHERE rolname LIKE '%app')"
    (grantee,) = world.rows(
        "SELECT grantee FROM information_schema.role_table_grants"
        " WHERE table_name = 'payment_order' AND privilege_type = 'UPDATE'"
        f" AND grantee IN {role}"
    )[0]
    world.inside(f'REVOKE UPDATE ON payment_order FROM "{grantee}"')
    gate.set()
    await eventually(lambda: len(world.ledger.rows) == 2)
    await asyncio.sleep(0.3)
    world.inside(f'GRANT UPDATE ON payment_order TO "{grantee}"')
    payment = await call
    assert states_of(payment) == [SUCCEEDED, SUCCEEDED]
    world.assert_booked(payment)
    await world.quiet()


async def test_sessions_that_are_cut_again_and_again_lose_nothing(world: World) -> None:
    replica = await world.replica()
    requests = [checkout(1000, 2000) for _ in range(30)]

    async def until_answered(number: int) -> None:
        while True:
            try:
                payment = await replica.create(requests[number])
            except Exception:  # noqa: BLE001 - a caller repeats whatever it was
                await asyncio.sleep(0.02)
                continue
            assert states_of(payment) == [SUCCEEDED, SUCCEEDED]
            return

    calls = [asyncio.create_task(until_answered(number)) for number in range(len(requests))]
    for _ in range(10):
        await asyncio.sleep(0.03)
        world.hang_up()
    await asyncio.gather(*calls)
    for request in requests:
        world.assert_booked(await replica.get(request.request_id))
    assert len(world.wallet.rows) == len(world.ledger.rows) == 60
    await world.quiet()
