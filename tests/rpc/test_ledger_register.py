"""The register of operations in no journal, through real gRPC on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from itertools import permutations
from typing import TYPE_CHECKING, Any

import grpc
import psycopg
import pytest
import pytest_asyncio
from paymesh.common.v1.money_pb2 import Money
from paymesh.ledger.v1 import operation_register_service_pb2 as pb
from paymesh.ledger.v1.operation_register_service_pb2_grpc import OperationRegisterServiceStub
from paymesh.payment.v1 import payment_pb2

from ledger_svc.config import Settings
from ledger_svc.main import wire
from mesh.errors import MeshError, Reason
from mesh.status import from_status
from tests.support.serving import error_of, serving

if TYPE_CHECKING:
    from paymesh.ledger.v1.operation_register_service_pb2_grpc import (
        OperationRegisterServiceAsyncStub,
    )

PENDING = pb.REGISTER_STATE_PENDING
UNKNOWN = pb.REGISTER_STATE_UNKNOWN
PARKED = pb.REGISTER_STATE_PARKED
DECLINED = pb.REGISTER_STATE_DECLINED
CAPTURED = pb.REGISTER_STATE_CAPTURED


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def channel(databases: dict[str, str]) -> AsyncIterator[grpc.aio.Channel]:
    settings = Settings(port=0, database_url=databases["ledger"], drain_s=0)
    async with serving(wire, settings) as channel:
        yield channel


@pytest.fixture
def register(channel: grpc.aio.Channel) -> OperationRegisterServiceAsyncStub:
    return OperationRegisterServiceStub(channel)


def operation(**change: Any) -> pb.RegisteredOperation:
    """An unknown operation that no other test knows."""
    fields: dict[str, Any] = {
        "operation_id": uuid.uuid4().hex,
        "order_id": uuid.uuid4().hex,
        "payment_id": uuid.uuid4().hex,
        "kind": payment_pb2.OPERATION_KIND_CHARGE,
        "amount": Money(amount_minor=1_000, currency_code="EUR"),
        "state": UNKNOWN,
        "version": 1,
    }
    return pb.RegisteredOperation(**{**fields, **change})


def later(known: pb.RegisteredOperation, **change: Any) -> pb.RegisteredOperation:
    """The same operation with something else to say."""
    told = pb.RegisteredOperation()
    told.CopyFrom(known)
    told.MergeFrom(pb.RegisteredOperation(**change))
    return told


async def tell(
    register: OperationRegisterServiceAsyncStub, *operations: pb.RegisteredOperation
) -> list[tuple[int, int] | MeshError]:
    """(state, version) that each has then, or why it is refused."""
    response = await register.RegisterOperations(
        pb.RegisterOperationsRequest(operations=operations)
    )
    return [
        from_status(result.error)
        if result.WhichOneof("result") == "error"
        else (result.registered.state, result.registered.version)
        for result in response.results
    ]


def row(databases: dict[str, str], told: pb.RegisteredOperation) -> tuple[Any, ...] | None:
    """What is stored."""
    with psycopg.connect(databases["ledger"]) as connection:
        return connection.execute(
            "SELECT state, version, reason, psp_reference, amount_minor, currency"
            " FROM operation_register WHERE operation_id = %s",
            (told.operation_id,),
        ).fetchone()


async def test_a_list_is_stored_and_told_again_it_is_a_replay(
    register: OperationRegisterServiceAsyncStub, databases: dict[str, str]
) -> None:
    first = operation(state=PARKED, reason="WRONG_AMOUNT", psp_reference="psp-1")
    second = operation(state=DECLINED)
    for _ in range(2):
        assert await tell(register, first, second) == [(PARKED, 1), (DECLINED, 1)]
    assert row(databases, first) == (PARKED, 1, "WRONG_AMOUNT", "psp-1", 1_000, "EUR")
    assert row(databases, second) == (DECLINED, 1, "", "", 1_000, "EUR")


@pytest.mark.parametrize("order", list(permutations(range(3))))
async def test_in_whatever_order_it_is_told_the_end_stays(
    register: OperationRegisterServiceAsyncStub, order: tuple[int, ...], databases: dict[str, str]
) -> None:
    known = operation()
    told = [
        known,
        later(known, state=PARKED, version=2, reason="OUTCOME_UNKNOWN", psp_reference="psp-1"),
        later(known, state=CAPTURED, version=3, psp_reference="psp-2"),
    ]
    for number in order:
        await tell(register, told[number])
    assert row(databases, known) == (CAPTURED, 3, "", "psp-2", 1_000, "EUR")


async def test_of_what_waits_the_higher_version_counts(
    register: OperationRegisterServiceAsyncStub, databases: dict[str, str]
) -> None:
    known = operation(state=PARKED, version=5, reason="OUTCOME_UNKNOWN", psp_reference="psp-1")
    assert await tell(register, known) == [(PARKED, 5)]
    older = later(known, state=UNKNOWN, version=4)
    assert await tell(register, older) == [(PARKED, 5)]
    assert (row(databases, known) or ())[:2] == (PARKED, 5)
    back = later(known, state=PENDING, version=6)
    back.reason = back.psp_reference = ""
    assert await tell(register, back) == [(PENDING, 6)]
    # What the PSP called it is not forgotten.
    assert (row(databases, known) or ())[2:4] == ("", "psp-1")


async def test_an_end_goes_before_what_waits_whatever_the_versions_say(
    register: OperationRegisterServiceAsyncStub,
) -> None:
    known = operation(version=50)
    await tell(register, known)
    ended = later(known, state=DECLINED)
    ended.version = 2
    assert await tell(register, ended) == [(DECLINED, 2)]
    assert await tell(register, known) == [(DECLINED, 2)]


async def test_within_one_list_the_same_rule_holds(
    register: OperationRegisterServiceAsyncStub,
) -> None:
    known = operation(version=3)
    answers = await tell(
        register, later(known, state=CAPTURED), known, later(known, state=PARKED, version=9)
    )
    assert answers == [(CAPTURED, 3)] * 3


async def test_what_contradicts_the_row_is_a_conflict_and_fails_no_neighbour(
    register: OperationRegisterServiceAsyncStub, databases: dict[str, str]
) -> None:
    known = operation(state=DECLINED)
    await tell(register, known)
    neighbour = operation()
    other = operation(operation_id=known.operation_id, version=9)
    captured = later(known, state=CAPTURED, version=9)
    amount, state, fine = await tell(register, other, captured, neighbour)
    assert isinstance(amount, MeshError)
    assert amount.reason is Reason.OPERATION_CONFLICT
    assert amount.metadata["fields"] == "order_id,payment_id"
    assert isinstance(state, MeshError)
    assert state.metadata["fields"] == "state"
    assert fine == (UNKNOWN, 1)
    assert (row(databases, known) or ())[:2] == (DECLINED, 1)


async def test_other_amounts_of_what_waits_are_a_conflict(
    register: OperationRegisterServiceAsyncStub, databases: dict[str, str]
) -> None:
    known = operation()
    await tell(register, known)
    other = later(known, version=2, amount=Money(amount_minor=1, currency_code="USD"))
    (error,) = await tell(register, other)
    assert isinstance(error, MeshError)
    assert error.metadata["fields"] == "amount.amount_minor,amount.currency_code"
    assert row(databases, known) == (UNKNOWN, 1, "", "", 1_000, "EUR")


async def test_many_that_tell_the_same_at_once_agree(
    register: OperationRegisterServiceAsyncStub,
) -> None:
    known = [operation() for _ in range(200)]
    ends = [later(one, state=DECLINED, version=2) for one in known]
    lists = [known, known[::-1], ends, ends[::-1]] * 4
    await asyncio.gather(*(tell(register, *told) for told in lists))
    assert await tell(register, *known) == [(DECLINED, 2)] * 200


def _without(field: str) -> Callable[[pb.RegisteredOperation], None]:
    return lambda told: told.ClearField(field)  # type: ignore[arg-type]


def _set(field: str, value: Any) -> Callable[[pb.RegisteredOperation], None]:
    return lambda told: setattr(told, field, value)


def _amount(**change: Any) -> Callable[[pb.RegisteredOperation], None]:
    return lambda told: told.amount.MergeFrom(Money(**change))


@pytest.mark.parametrize(
    ("spoil", "field", "reason"),
    [
        (_set("operation_id", "x"), "operation_id", Reason.VALIDATION_FAILED),
        (_set("operation_id", "A" * 32), "operation_id", Reason.VALIDATION_FAILED),
        (_without("order_id"), "order_id", Reason.VALIDATION_FAILED),
        (_without("payment_id"), "payment_id", Reason.VALIDATION_FAILED),
        (_without("kind"), "kind", Reason.VALIDATION_FAILED),
        (_set("kind", 99), "kind", Reason.VALIDATION_FAILED),
        (_without("amount"), "amount", Reason.VALIDATION_FAILED),
        (lambda told: told.amount.ClearField("amount_minor"), "amount", Reason.VALIDATION_FAILED),
        (_amount(amount_minor=-1), "amount.amount_minor", Reason.VALIDATION_FAILED),
        (_amount(currency_code="ZZZ"), "amount.currency_code", Reason.UNKNOWN_CURRENCY),
        (_without("state"), "state", Reason.VALIDATION_FAILED),
        (_set("state", 77), "state", Reason.VALIDATION_FAILED),
        (_without("version"), "version", Reason.VALIDATION_FAILED),
        (_set("version", -1), "version", Reason.VALIDATION_FAILED),
        (_set("reason", "why not"), "reason", Reason.VALIDATION_FAILED),
        (_set("reason", "X" * 64), "reason", Reason.VALIDATION_FAILED),
        (_set("psp_reference", "x" * 256), "psp_reference", Reason.VALIDATION_FAILED),
        (_set("psp_reference", "a\0b"), "psp_reference", Reason.VALIDATION_FAILED),
    ],
)
async def test_bad_input_is_refused_by_its_field_and_its_neighbour_is_stored(
    register: OperationRegisterServiceAsyncStub,
    databases: dict[str, str],
    spoil: Callable[[pb.RegisteredOperation], None],
    field: str,
    reason: Reason,
) -> None:
    bad, good = operation(), operation()
    spoil(bad)
    refused, stored = await tell(register, bad, good)
    assert isinstance(refused, MeshError)
    assert refused.reason is reason
    assert [violation.field for violation in refused.violations] == [field]
    assert stored == (UNKNOWN, 1)
    if field != "operation_id":
        assert row(databases, bad) is None


async def test_a_list_that_is_too_long_is_refused_whole(
    register: OperationRegisterServiceAsyncStub, databases: dict[str, str]
) -> None:
    told = [operation() for _ in range(1_001)]
    error = await error_of(
        register.RegisterOperations(pb.RegisterOperationsRequest(operations=told))
    )
    assert error.reason is Reason.VALIDATION_FAILED
    assert row(databases, told[0]) is None
    assert await tell(register) == []


def test_the_service_may_not_remove_or_rename_what_is_registered(
    databases: dict[str, str],
) -> None:
    for statement in (
        "DELETE FROM operation_register",
        "TRUNCATE operation_register",
        "UPDATE operation_register SET amount_minor = 1",
        "UPDATE operation_register SET create_time = now()",
    ):
        with (
            psycopg.connect(databases["ledger"]) as connection,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            connection.execute(statement.encode())
