"""The rules of executor_svc's transactions that are not SQL; tests/store has those that are."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from functools import partial
from uuid import UUID

import pytest

from executor_svc import operations
from executor_svc.domain import (
    ELSEWHERE,
    FORGOTTEN,
    OVERDUE,
    UNKNOWN,
    Finding,
    Kind,
    Operation,
    Outcome,
    Source,
    State,
    Stored,
)
from executor_svc.operations import MAY_SEND, Found, Intent, Resend, Unresolved, Write
from mesh.errors import MeshError, Reason
from tests.support.fake_database import FakeDatabase, Statements

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SAFE_S = 60.0

CAPTURED = Finding(Outcome.CAPTURED, Source.PSP_ANSWER, "psp_1")
DECLINED = Finding(Outcome.DECLINED, Source.PSP_ANSWER, "psp_1")
PENDING = Finding(Outcome.PENDING, Source.PSP_ANSWER, "psp_1")
REFUSED = Finding(Outcome.REFUSED, Source.PSP_ANSWER)


@pytest.fixture
def fake() -> FakeDatabase:
    return FakeDatabase()


def new_operation() -> Operation:
    return Operation(uuid.uuid4(), uuid.uuid4(), uuid.uuid4(), Kind.CHARGE, 100, "EUR", "tok_ok")


def row(operation: Operation, state: State) -> Stored:
    return Stored(
        operation, state, "psp", Source.NONE, "", None, None, None, "", "", change_time=NOW
    )


def intent(operation: Operation) -> Intent:
    return Intent(operation, uuid.uuid4(), "psp")


def play(
    monkeypatch: pytest.MonkeyPatch,
    *,
    may_send: Collection[Operation] = (),
    overdue: Collection[Operation] = (),
    moved: Collection[Stored] = (),
    stored: Collection[Stored] = (),
) -> Statements:
    """A database that lets these be sent, and in which findings make these rows.

    overdue: whose time for a resend is over. stored: rows that nothing moves.
    """
    may = {operation.operation_id for operation in may_send}
    too_late = {operation.operation_id for operation in overdue}
    made = {one.operation.operation_id: one for one in moved}
    known = {one.operation.operation_id: one for one in stored}

    def record(findings: Sequence[tuple[Operation, Finding, bool]]) -> dict[UUID, Stored]:
        asked = {operation.operation_id for operation, _, _ in findings}
        return {key: one for key, one in made.items() if key in asked}

    statements = Statements(
        insert=lambda intents: {operation.operation_id for operation, _, _ in intents} & may,
        mark_resent=lambda resends: {operation_id for operation_id, _, _, _ in resends} & may,
        read_overdue=lambda asked: {operation_id for operation_id, _ in asked} & too_late,
        record=record,
        read=lambda asked: {key: known[key] for key in asked if key in known},
    )
    monkeypatch.setattr(operations, "store", statements)
    return statements


def given(statements: Statements, name: str) -> object:
    ((parameters,),) = [parameters for called, parameters in statements.calls if called == name]
    return parameters


@pytest.mark.parametrize("make", [intent, partial(Resend, safe_s=SAFE_S, source="psp")])
async def test_what_is_stored_may_be_sent(
    monkeypatch: pytest.MonkeyPatch, fake: FakeDatabase, make: Callable[[Operation], Write]
) -> None:
    operation = new_operation()
    statements = play(monkeypatch, may_send=[operation])
    assert await operations.write(fake.database, [make(operation)]) == [MAY_SEND]
    # Nobody reads a row that there is nothing to tell of.
    assert given(statements, "read") == []


async def test_what_another_writer_stored_first_is_answered_and_not_sent(
    monkeypatch: pytest.MonkeyPatch, fake: FakeDatabase
) -> None:
    first, again, late = new_operation(), new_operation(), new_operation()
    rows = [row(again, State.SENT), row(late, State.CAPTURED)]
    play(monkeypatch, may_send=[first], stored=rows)
    writes: list[Write] = [intent(first), intent(again), Resend(late, SAFE_S, "psp")]
    assert await operations.write(fake.database, writes) == [MAY_SEND, *rows]


@pytest.mark.parametrize("make", [intent, partial(Resend, safe_s=SAFE_S, source="psp")])
async def test_what_the_same_list_has_evidence_of_is_not_sent(
    monkeypatch: pytest.MonkeyPatch, fake: FakeDatabase, make: Callable[[Operation], Write]
) -> None:
    proven, other = new_operation(), new_operation()
    captured = row(proven, State.CAPTURED)
    play(monkeypatch, may_send=[proven, other], moved=[captured])
    writes: list[Write] = [make(proven), make(proven), make(other), Found(proven, CAPTURED)]
    for given_writes in (writes, writes[::-1]):
        written = await operations.write(fake.database, given_writes)
        told = dict(zip(map(id, given_writes), written, strict=True))
        assert [told[id(write)] for write in writes] == [captured, captured, MAY_SEND, captured]


async def test_leave_to_send_is_for_what_is_sent_and_for_nothing_else(
    monkeypatch: pytest.MonkeyPatch, fake: FakeDatabase
) -> None:
    """The lack of evidence for what another item may send is answered by the row."""
    operation = new_operation()
    unknown = row(operation, State.UNKNOWN)
    play(monkeypatch, may_send=[operation], moved=[unknown])
    writes: list[Write] = [
        Resend(operation, SAFE_S, "psp"), Unresolved(operation, not_found=True, safe_s=SAFE_S),
    ]  # fmt: skip
    assert await operations.write(fake.database, writes) == [MAY_SEND, unknown]


@pytest.mark.parametrize("restart", [False, True])
async def test_an_operator_s_round_is_told_to_the_statement(
    monkeypatch: pytest.MonkeyPatch, fake: FakeDatabase, restart: bool
) -> None:
    sent, found = new_operation(), new_operation()
    statements = play(monkeypatch, may_send=[sent], moved=[row(found, State.CAPTURED)])
    writes: list[Write] = [
        Resend(sent, SAFE_S, "psp", restart), Found(found, CAPTURED, restart),
    ]  # fmt: skip
    await operations.write(fake.database, writes)
    assert given(statements, "mark_resent") == [(sent.operation_id, SAFE_S, "psp", restart)]
    assert given(statements, "record") == [(found, CAPTURED, restart)]


async def test_nobody_is_an_operator_who_does_not_say_so() -> None:
    operation = new_operation()
    assert Resend(operation, SAFE_S, "psp").restart is False
    assert Found(operation, CAPTURED).restart is False


@pytest.mark.parametrize(
    ("not_found", "too_late", "finding"),
    [
        (False, False, UNKNOWN),
        (True, False, UNKNOWN),  # a resend is safe, and follows
        (False, True, OVERDUE),
        (True, True, FORGOTTEN),
    ],
)
async def test_without_evidence_it_depends_on_the_time_what_is_recorded(
    monkeypatch: pytest.MonkeyPatch,
    fake: FakeDatabase,
    not_found: bool,
    too_late: bool,
    finding: Finding,
) -> None:
    operation = new_operation()
    left = row(operation, State.UNKNOWN)
    statements = play(monkeypatch, overdue=[operation] if too_late else [], moved=[left])
    writes = [Unresolved(operation, not_found=not_found, safe_s=SAFE_S)]
    assert await operations.write(fake.database, writes) == [left]
    assert given(statements, "read_overdue") == [(operation.operation_id, SAFE_S)]
    # Nobody's round: the lack of evidence never moves what is parked.
    assert given(statements, "record") == [(operation, finding, False)]


@pytest.mark.parametrize(("too_late", "finding"), [(False, UNKNOWN), (True, ELSEWHERE)])
async def test_what_another_psp_has_is_parked_in_time_with_that_reason(
    monkeypatch: pytest.MonkeyPatch, fake: FakeDatabase, too_late: bool, finding: Finding
) -> None:
    operation = new_operation()
    left = row(operation, State.UNKNOWN)
    statements = play(monkeypatch, overdue=[operation] if too_late else [], moved=[left])
    write = Unresolved(operation, not_found=False, safe_s=SAFE_S, elsewhere=True)
    assert await operations.write(fake.database, [write]) == [left]
    assert given(statements, "record") == [(operation, finding, False)]


@pytest.mark.parametrize("evidence_first", [False, True])
async def test_evidence_goes_before_its_lack_in_one_list(
    monkeypatch: pytest.MonkeyPatch, fake: FakeDatabase, evidence_first: bool
) -> None:
    operation = new_operation()
    statements = play(monkeypatch, moved=[row(operation, State.CAPTURED)])
    writes: list[Write] = [
        Found(operation, CAPTURED), Unresolved(operation, not_found=True, safe_s=SAFE_S),
    ]  # fmt: skip
    await operations.write(fake.database, writes if evidence_first else writes[::-1])
    assert given(statements, "record") == [(operation, CAPTURED, False)]


@pytest.mark.parametrize(
    ("findings", "kept"),
    [
        ([CAPTURED, PENDING], CAPTURED),
        ([PENDING, CAPTURED], CAPTURED),
        ([PENDING, DECLINED], DECLINED),
        ([REFUSED, PENDING], PENDING),
        ([REFUSED, DECLINED, PENDING], DECLINED),
        # Each by itself would have moved the row first: the second is a contradiction.
        ([CAPTURED, DECLINED], CAPTURED),
        ([DECLINED, CAPTURED], DECLINED),
        ([PENDING, PENDING._replace(psp_reference="psp_2")], PENDING),
    ],
)
async def test_of_several_findings_of_one_operation_the_strongest_is_stored(
    monkeypatch: pytest.MonkeyPatch, fake: FakeDatabase, findings: list[Finding], kept: Finding
) -> None:
    operation = new_operation()
    moved = row(operation, State.CAPTURED)
    statements = play(monkeypatch, moved=[moved])
    writes = [Found(operation, finding) for finding in findings]
    assert await operations.write(fake.database, writes) == [moved] * len(writes)
    assert given(statements, "record") == [(operation, kept, False)]


async def test_a_row_that_did_not_move_is_read_and_one_that_did_is_not(
    monkeypatch: pytest.MonkeyPatch, fake: FakeDatabase
) -> None:
    moving, resting = new_operation(), new_operation()
    moved, left = row(moving, State.CAPTURED), row(resting, State.DECLINED)
    statements = play(monkeypatch, moved=[moved], stored=[left])
    writes = [Found(moving, CAPTURED), Found(resting, CAPTURED)]
    assert await operations.write(fake.database, writes) == [moved, left]
    assert given(statements, "read") == [resting.operation_id]


async def test_a_row_that_is_gone_is_an_error_of_its_item_alone(
    monkeypatch: pytest.MonkeyPatch, fake: FakeDatabase
) -> None:
    gone, known = new_operation(), new_operation()
    moved = row(known, State.CAPTURED)
    play(monkeypatch, moved=[moved])
    missing, answer = await operations.write(
        fake.database, [Found(gone, CAPTURED), Found(known, CAPTURED)]
    )
    assert isinstance(missing, MeshError)
    assert missing.reason is Reason.INTERNAL
    assert answer == moved


SENT, LOST, PROVEN, LATE = (new_operation() for _ in range(4))


@pytest.mark.parametrize(
    ("writes", "one_write"),
    [
        ([intent(SENT)], True),
        ([Resend(LOST, SAFE_S, "psp")], True),
        ([Found(PROVEN, CAPTURED)], True),
        ([Unresolved(LATE, not_found=True, safe_s=SAFE_S)], False),
        # Findings and the lack of them are one statement, but it is read first which is overdue.
        ([Found(PROVEN, CAPTURED), Unresolved(LATE, not_found=True, safe_s=SAFE_S)], False),
        ([intent(SENT), intent(LOST)], True),
        ([intent(SENT), Resend(LOST, SAFE_S, "psp")], False),
        ([intent(SENT), Found(PROVEN, CAPTURED)], False),
        ([Resend(LOST, SAFE_S, "psp"), Unresolved(LATE, not_found=True, safe_s=SAFE_S)], False),
        ([intent(SENT), Resend(LOST, SAFE_S, "psp"), Found(PROVEN, CAPTURED)], False),
    ],
)
async def test_one_kind_of_write_is_one_statement_and_several_are_a_transaction(
    monkeypatch: pytest.MonkeyPatch, fake: FakeDatabase, writes: list[Write], one_write: bool
) -> None:
    everything = (SENT, LOST, PROVEN, LATE)
    play(monkeypatch, stored=[row(operation, State.SENT) for operation in everything])
    await operations.write(fake.database, writes)
    assert fake.commits == [("executor.write", one_write)]


async def test_resends_are_marked_in_the_order_of_their_keys(
    monkeypatch: pytest.MonkeyPatch, fake: FakeDatabase
) -> None:
    """Else two replicas with the same keys would wait for each other."""
    resends = sorted((new_operation() for _ in range(5)), reverse=True)
    statements = play(monkeypatch, may_send=resends)
    await operations.write(
        fake.database, [Resend(operation, SAFE_S, "psp") for operation in resends]
    )
    keys = [operation.operation_id for operation in resends]
    assert given(statements, "mark_resent") == [
        (key, SAFE_S, "psp", False) for key in reversed(keys)
    ]


async def test_what_is_found_is_what_is_stored(
    monkeypatch: pytest.MonkeyPatch, fake: FakeDatabase
) -> None:
    operation = new_operation()
    stored = row(operation, State.CAPTURED)
    play(monkeypatch, stored=[stored])
    found = await operations.find(fake.database, [operation.operation_id, uuid.uuid4()])
    assert found == {operation.operation_id: stored}
    assert fake.reads == ["executor.find"]
