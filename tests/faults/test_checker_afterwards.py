"""What the checker asks at the end: whether the night explains all, and what is left behind."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import date, timedelta
from typing import NamedTuple

import psycopg
import pytest
from paymesh.psp.v1 import psp_stub_control_service_pb2 as stub_pb
from paymesh.psp.v1.psp_stub_control_service_pb2_grpc import PspStubControlServiceStub
from paymesh.reconciliation.v1 import reconciliation_service_pb2 as pb
from paymesh.reconciliation.v1.reconciliation_service_pb2_grpc import ReconciliationServiceStub

from tests.faults.checker import Sessions, Urls, left_behind, opened, settlement
from tests.support.checkout import new_checkout, new_order
from tests.support.mesh import RunningMesh, started_on
from tests.support.postgres import PostgresServer

UNKNOWN_TO_US: dict[int, int] = {pb.BREAK_CLASS_UNKNOWN_TO_US: 2}


class Night(NamedTuple):
    """A mesh after two nights: the first was right, of the second two lines are nobody's."""

    mesh: RunningMesh
    right: str
    wrong: str


@pytest.fixture(scope="module")
def night(postgres_server: PostgresServer) -> Iterator[Night]:
    with started_on(postgres_server) as mesh:
        for token in ("tok_ok", "tok_ok", "tok_declined"):
            mesh.paid(new_checkout(token, new_order()))
        with mesh.new_channel("psp_stub") as channel:
            stub = PspStubControlServiceStub(channel)
            right = stub.CloseDay(stub_pb.CloseDayRequest(), timeout=20).day.settlement_date
            _reconcile(mesh, right)
            mesh.paid(new_checkout("tok_ok", new_order()))
            wrong = (date.fromisoformat(right) + timedelta(days=1)).isoformat()
            stub.SeedFault(
                stub_pb.SeedFaultRequest(kind=stub_pb.STUB_FAULT_KIND_UNKNOWN_LINE, count=2)
            )
            stub.CloseDay(stub_pb.CloseDayRequest(settlement_date=wrong), timeout=20)
            _reconcile(mesh, wrong)
        yield Night(mesh, right, wrong)


@pytest.fixture
def sessions(night: Night) -> Iterator[Sessions]:
    with opened(Urls.of(night.mesh.databases)) as found:
        yield found


def _reconcile(mesh: RunningMesh, day: str) -> None:
    with mesh.new_channel("ledger") as channel:
        ReconciliationServiceStub(channel).Reconcile(
            pb.ReconcileRequest(settlement_date=day, source="psp_stub"), timeout=60
        )


def test_a_right_night_has_no_difference(night: Night, sessions: Sessions) -> None:
    assert settlement(sessions, night.right) == []


def test_what_was_seeded_is_found_and_nothing_else(night: Night, sessions: Sessions) -> None:
    assert settlement(sessions, night.wrong, UNKNOWN_TO_US) == []


def test_the_books_agree_after_both(night: Night) -> None:
    assert night.mesh.violations() == []


@pytest.mark.parametrize(
    "seeded", [{}, {pb.BREAK_CLASS_UNKNOWN_TO_US: 1}, {**UNKNOWN_TO_US, pb.BREAK_CLASS_TIMING: 1}]
)
def test_other_differences_than_were_seeded_are_told(
    night: Night, sessions: Sessions, seeded: dict[int, int]
) -> None:
    found = settlement(sessions, night.wrong, seeded)

    assert {one.invariant for one in found} == {"I9"}


def test_a_night_that_never_was_is_told(night: Night, sessions: Sessions) -> None:
    (found,) = settlement(sessions, "2020-01-01")

    assert "nothing was reconciled" in found.text


LIES = {
    "a cent is missing": "UPDATE run_balance SET difference_minor = 1",
    "a capture met no line": "DELETE FROM settlement_match",
    "a line has another amount": "UPDATE settlement_line SET amount_minor = amount_minor + 1",
    "the day is not balanced": "UPDATE reconciliation_run SET state = 4",
    "an adjustment is posted twice": (
        "WITH twin AS (INSERT INTO journal SELECT (j).* FROM (SELECT jsonb_populate_record("
        "j, jsonb_build_object('journal_id', '00000000-0000-8000-8000-000000000001')) AS j"
        " FROM journal j WHERE kind = 4 LIMIT 1) AS made)"
        " INSERT INTO entry SELECT (e).* FROM (SELECT jsonb_populate_record("
        "e, jsonb_build_object('journal_id', '00000000-0000-8000-8000-000000000001')) AS e"
        " FROM entry e WHERE journal_id = (SELECT journal_id FROM journal WHERE kind = 4 LIMIT 1)"
        ") AS made"
    ),
}


@pytest.mark.parametrize("name", LIES)
def test_finds(night: Night, sessions: Sessions, name: str) -> None:
    with sessions.ledger.transaction(force_rollback=True):
        sessions.ledger.execute("SET LOCAL session_replication_role = replica")
        for table in ("journal", "entry"):
            sessions.ledger.execute(f"ALTER TABLE {table} DISABLE TRIGGER ALL".encode())
        sessions.ledger.execute(LIES[name].encode())

        assert settlement(sessions, night.right) != []


def test_a_mesh_at_work_leaves_nothing_behind(sessions: Sessions) -> None:
    assert left_behind(sessions, stopped=False) == []


def test_a_transaction_that_is_never_ended_is_told(night: Night, sessions: Sessions) -> None:
    with psycopg.connect(night.mesh.databases["wallet"]) as forgotten:
        forgotten.execute("LOCK TABLE balance")
        time.sleep(0.1)

        (found,) = left_behind(sessions, stopped=False, longer_than_s=0.05)

    assert found.invariant == "I10"
    assert found.text.startswith("wallet: ")


def test_an_operation_of_nobody_is_told(sessions: Sessions) -> None:
    with sessions.payment.transaction(force_rollback=True):
        sessions.payment.execute("UPDATE operation SET epoch = 999, next_attempt_time = NULL")

        found = left_behind(sessions, stopped=False)

    assert len(found) == 4
    assert {one.invariant for one in found} == {"I10"}


def test_what_is_there_while_it_runs_is_too_much_after_it_stopped(sessions: Sessions) -> None:
    found = left_behind(sessions, stopped=True)

    assert any("is connected" in one.text for one in found)
    assert any("still has its lease" in one.text for one in found)


def test_a_mesh_that_was_stopped_leaves_nothing_behind(postgres_server: PostgresServer) -> None:
    with started_on(postgres_server) as mesh:
        mesh.paid(new_checkout())
        mesh.supervisor.stop()

        assert left_behind(Urls.of(mesh.databases), stopped=True) == []
