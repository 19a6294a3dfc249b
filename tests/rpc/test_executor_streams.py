"""The executor's standing stream: lists, acknowledgements, joined runs, bad items, drain."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from paymesh.executor.v1 import executor_service_pb2 as pb

from executor_svc.domain import State
from executor_svc.servicer import ExecutorServicer
from mesh import ids
from mesh.errors import Code, Reason
from mesh.status import from_rpc_error
from tests.support.executor import (
    error_of,
    item,
    new_operation,
    new_operations,
    own_databases,
    row,
    serving,
)
from tests.support.fake_psp import FakePsp
from tests.support.postgres import PostgresServer
from tests.support.psp_stub import eventually


@pytest.fixture(scope="module")
def url(postgres_server: PostgresServer) -> str:
    """The executor's database, shared by these tests."""
    return own_databases(postgres_server)["executor"]


# --- acknowledgements ------------------------------------------------------------------


async def test_a_list_is_acknowledged_once_its_intents_are_committed(url: str) -> None:
    psp, operations = FakePsp(), new_operations(10)
    psp.open.clear()
    async with psp.serving() as target, serving(url, target) as client, client.stream() as stream:
        await stream.send(operations, 7)
        await stream.until(lambda s: s.acknowledged == [7])
        assert not stream.outcomes
        assert {(row(url, o) or {})["state"] for o in operations} == {State.SENT}
        psp.open.set()
        await stream.results(operations)
        assert stream.acknowledged == [7]


async def test_lists_are_acknowledged_each_by_its_number(url: str) -> None:
    async with (
        FakePsp().serving() as target,
        serving(url, target) as client,
        client.stream() as stream,
    ):
        for list_id in (2**64 - 1, 0, 5):
            await stream.send(new_operations(3), list_id)
        await stream.until(lambda s: len(s.acknowledged) == 3 and len(s.outcomes) == 9)
        assert sorted(stream.acknowledged) == [0, 5, 2**64 - 1]


async def test_an_empty_list_is_acknowledged(url: str) -> None:
    async with (
        FakePsp().serving() as target,
        serving(url, target) as client,
        client.stream() as stream,
    ):
        await stream.send([], 3)
        await stream.until(lambda s: s.acknowledged == [3])


async def test_a_list_of_bad_items_is_acknowledged(url: str) -> None:
    async with (
        FakePsp().serving() as target,
        serving(url, target) as client,
        client.stream() as stream,
    ):
        await stream.send_items([pb.OperationItem()], 3)
        await stream.until(lambda s: s.acknowledged == [3] and len(s.outcomes) == 1)


# --- joined runs -----------------------------------------------------------------------


async def test_an_operation_on_two_streams_is_charged_once_and_told_twice(url: str) -> None:
    psp, operation = FakePsp(), new_operation()
    psp.open.clear()
    async with (
        psp.serving() as target,
        serving(url, target) as client,
        client.stream() as one,
        client.stream() as other,
    ):
        await one.send([operation])
        await one.until(lambda s: s.acknowledged == [1])
        await other.send([operation])
        await other.until(lambda s: s.acknowledged == [1])
        psp.open.set()
        assert await one.results([operation]) == await other.results([operation])
    assert psp.charged == [ids.psp_key(operation.operation_id).hex]


async def test_an_operation_that_is_twice_in_a_list_is_told_twice(url: str) -> None:
    psp, operation = FakePsp(), new_operation()
    async with psp.serving() as target, serving(url, target) as client, client.stream() as stream:
        await stream.send([operation, operation])
        await stream.until(lambda s: len(s.outcomes) == 2)
        assert stream.outcomes[0] == stream.outcomes[1]
        assert stream.acknowledged == [1]
    assert len(psp.charged) == 1


async def test_whoever_joins_is_acknowledged_when_the_intent_is_committed(url: str) -> None:
    operations = new_operations(100)
    async with FakePsp().serving() as target, serving(url, target) as client:
        results = await asyncio.gather(*(client.execute(*operations) for _ in range(5)))
    assert all(result == results[0] for result in results)


async def test_a_caller_that_goes_away_stops_nothing(url: str) -> None:
    psp, operations = FakePsp(), new_operations(5)
    psp.open.clear()
    async with psp.serving() as target, serving(url, target) as client:
        async with client.stream() as stream:
            await stream.send(operations)
            await stream.until(lambda s: s.acknowledged == [1])
        psp.open.set()

        def captured() -> bool:
            return {(row(url, o) or {})["state"] for o in operations} == {State.CAPTURED}

        await eventually(captured)
        assert {name for name, _ in await client.execute(*operations)} == {"captured"}
    assert len(psp.charged) == 5


async def test_a_caller_that_comes_back_is_told_by_the_run_that_it_left(url: str) -> None:
    psp, operation = FakePsp(), new_operation()
    psp.open.clear()
    async with psp.serving() as target, serving(url, target) as client:
        async with client.stream() as stream:
            await stream.send([operation])
            await stream.until(lambda s: s.acknowledged == [1])
        async with client.stream() as stream:
            await stream.send([operation])
            await stream.until(lambda s: s.acknowledged == [1])
            psp.open.set()
            assert (await stream.results([operation]))[0][0] == "captured"
    assert len(psp.calls) == 1


# --- conflicts -------------------------------------------------------------------------


@pytest.mark.parametrize("is_under_way", [True, False])
async def test_an_id_with_other_fields_is_refused_and_named(url: str, is_under_way: bool) -> None:
    psp, operation = FakePsp(), new_operation()
    other = operation._replace(amount_minor=1, payment_method="tok_other", order_id=uuid.uuid4())
    if is_under_way:
        psp.open.clear()
    async with psp.serving() as target, serving(url, target) as client, client.stream() as stream:
        await stream.send([operation])
        await stream.until(lambda s: s.acknowledged and (is_under_way or s.outcomes))
        error = error_of(await client.execute_one(other))
        psp.open.set()
        assert (await stream.results([operation]))[0][0] == "captured"
    assert error.reason is Reason.OPERATION_CONFLICT
    assert error.code is Code.ALREADY_EXISTS
    assert error.metadata["fields"] == "order_id,amount.amount_minor,payment_method"
    assert psp.charged == [ids.psp_key(operation.operation_id).hex]


# --- bad items -------------------------------------------------------------------------


def broken(**change: Any) -> pb.OperationItem:
    """An item with some fields changed."""
    message = item(new_operation())
    for name, value in change.items():
        if name in ("amount_minor", "currency_code"):
            setattr(message.amount, name, value)
        elif value is None:
            message.ClearField(name)  # type: ignore[arg-type]
        else:
            setattr(message, name, value)
    return message


BAD_ITEMS: list[tuple[dict[str, Any], str, Reason]] = [
    ({"operation_id": ""}, "operation_id", Reason.VALIDATION_FAILED),
    ({"operation_id": "A" * 32}, "operation_id", Reason.VALIDATION_FAILED),
    ({"operation_id": "a" * 300}, "operation_id", Reason.VALIDATION_FAILED),
    ({"order_id": "nothing"}, "order_id", Reason.VALIDATION_FAILED),
    ({"payment_id": "0" * 31}, "payment_id", Reason.VALIDATION_FAILED),
    ({"kind": 0}, "kind", Reason.VALIDATION_FAILED),
    ({"kind": 99}, "kind", Reason.VALIDATION_FAILED),
    ({"amount": None}, "amount", Reason.VALIDATION_FAILED),
    ({"amount_minor": 0}, "amount.amount_minor", Reason.VALIDATION_FAILED),
    ({"amount_minor": -1}, "amount.amount_minor", Reason.VALIDATION_FAILED),
    ({"amount_minor": 10**15}, "amount.amount_minor", Reason.VALIDATION_FAILED),
    ({"currency_code": "eur"}, "amount.currency_code", Reason.VALIDATION_FAILED),
    ({"currency_code": "ZZZ"}, "amount.currency_code", Reason.UNKNOWN_CURRENCY),
    ({"payment_method": ""}, "payment_method", Reason.VALIDATION_FAILED),
    ({"payment_method": "t" * 256}, "payment_method", Reason.VALIDATION_FAILED),
    ({"payment_method": "tok\0"}, "payment_method", Reason.VALIDATION_FAILED),
    ({"payment_method": "4111 1111 1111 1111"}, "payment_method", Reason.CARD_NUMBER_REFUSED),
]


async def test_what_was_accepted_in_a_currency_that_is_withdrawn_since_goes_its_way(
    url: str,
) -> None:
    psp, accepted = FakePsp(), broken(currency_code="DEM")
    async with psp.serving() as target, serving(url, target) as client, client.stream() as stream:
        await stream.send_items([accepted])
        await stream.until(lambda s: len(s.outcomes) == 1)
        (outcome,) = stream.outcomes
    assert outcome.captured.amount == accepted.amount


async def test_a_bad_item_is_refused_by_field_and_fails_no_neighbour(url: str) -> None:
    psp, good = FakePsp(), new_operations(3)
    bad = [broken(**change) for change, _, _ in BAD_ITEMS]
    async with psp.serving() as target, serving(url, target) as client, client.stream() as stream:
        await stream.send_items([item(good[0]), *bad, item(good[1]), item(good[2])])
        await stream.until(lambda s: len(s.outcomes) == len(bad) + 3)
        refused = [o for o in stream.outcomes if o.HasField("error")]
        assert {name for name, _ in await stream.results(good)} == {"captured"}
    assert len(psp.charged) == 3
    for outcome, message, (_, field, reason) in zip(refused, bad, BAD_ITEMS, strict=True):
        assert outcome.operation_id == message.operation_id[:64]
        error = error_of(("error", outcome.error))
        assert error.reason is reason, field
        assert [violation.field for violation in error.violations] == [field]
        assert "4111" not in str(outcome)


async def test_too_long_a_list_ends_the_stream_with_a_reason(url: str) -> None:
    psp = FakePsp()
    async with psp.serving() as target, serving(url, target) as client, client.stream() as stream:
        await stream.send(new_operations(1001))
        await stream.until(lambda s: s.ended)
        assert stream.error is not None
        error = from_rpc_error(stream.error)
    assert error.reason is Reason.VALIDATION_FAILED
    assert [violation.field for violation in error.violations] == ["operations"]
    assert psp.calls == []


async def test_the_longest_list_travels_in_calls_of_500(url: str) -> None:
    psp, operations = FakePsp(), new_operations(1000)
    async with psp.serving() as target, serving(url, target) as client:
        results = await client.execute(*operations)
    assert {name for name, _ in results} == {"captured"}
    assert [len(keys) for _, keys in psp.calls] == [500, 500]


async def test_thousands_wait_for_the_psp_at_once_and_hold_no_transaction(url: str) -> None:
    psp, operations = FakePsp(), new_operations(3_000)
    psp.open.clear()
    async with (
        psp.serving() as target,
        serving(url, target) as client,
        client.stream() as stream,
    ):
        for list_id in range(6):
            await stream.send(operations[500 * list_id : 500 * (list_id + 1)], list_id)
        await eventually(lambda: len(psp.charged) == 3_000)
        assert not stream.outcomes
        with psycopg.connect(url) as connection:
            states = connection.execute(
                "SELECT DISTINCT state FROM pg_stat_activity"
                " WHERE application_name = 'test' AND datname = current_database()"
            ).fetchall()
        assert states == [("idle",)]
        psp.open.set()
        results = await stream.results(operations, timeout_s=40)
        assert {name for name, _ in results} == {"captured"}
        # What is committed together is told together.
        assert sum(len(message.outcomes) > 0 for message in stream.messages) <= 6
    assert len(psp.calls) == 6


async def test_the_largest_amount_is_charged(url: str) -> None:
    operation = new_operation(amount_minor=10**15 - 1, currency="BHD")
    async with FakePsp().serving() as target, serving(url, target) as client:
        name, captured = await client.execute_one(operation)
    assert name == "captured"
    assert captured.amount.amount_minor == 10**15 - 1


# --- the end of a stream ---------------------------------------------------------------


async def test_a_stream_ends_when_the_caller_has_no_more_and_all_is_told(url: str) -> None:
    psp, operations = FakePsp(), new_operations(3)
    psp.open.clear()
    async with psp.serving() as target, serving(url, target) as client, client.stream() as stream:
        await stream.send(operations)
        await stream.call.done_writing()
        await stream.until(lambda s: s.acknowledged == [1])
        assert not stream.ended
        psp.open.set()
        await stream.until(lambda s: s.ended)
        assert stream.error is None
        assert len(stream.outcomes) == 3


async def test_a_stream_that_begins_while_the_executor_stops_ends_at_once() -> None:
    async def requests() -> AsyncIterator[pb.ExecuteRequest]:
        await asyncio.Event().wait()
        yield pb.ExecuteRequest()

    unused: Any = None
    servicer = ExecutorServicer(unused)
    servicer.drain()
    async with asyncio.timeout(5):
        assert [r async for r in servicer.Execute(requests(), unused)] == []


async def test_one_line_is_logged_for_each_operation_and_no_free_text(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    operation = new_operation("tok_private_token")
    async with FakePsp().serving() as target, serving(url, target) as client:
        await client.execute_one(operation)
    logged = capsys.readouterr().out
    assert logged.count(operation.operation_id.hex) == 1
    assert operation.payment_id.hex in logged
    assert "private" not in logged
