"""What settlement is, beside the ledger: its numbers, and which differences can be posted."""

from __future__ import annotations

import uuid
from datetime import UTC, date, datetime
from typing import Any

import pytest
from paymesh.reconciliation.v1 import reconciliation_service_pb2 as pb

from ledger_svc.reconciliation.domain import (
    Break,
    BreakClass,
    BreakFilter,
    BreakState,
    FileState,
    Resolution,
    RunState,
    Verdict,
)
from mesh.money import MAX_AMOUNT_MINOR
from tests.support.values import numbers, on_the_wire

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("ours", "wire", "prefix"),
    [
        (FileState, pb.FileState, "FILE_STATE_"),
        (BreakClass, pb.BreakClass, "BREAK_CLASS_"),
        (BreakState, pb.BreakState, "BREAK_STATE_"),
        (RunState, pb.RunState, "RUN_STATE_"),
        (Resolution, pb.Resolution, "RESOLUTION_"),
    ],
)
def test_the_numbers_are_those_of_the_wire(ours: Any, wire: Any, prefix: str) -> None:
    assert numbers(ours) == on_the_wire(wire, prefix)


def test_a_file_without_a_problem_has_no_class_of_one() -> None:
    verdict = Verdict(FileState.INGESTED, "csv", date(2026, 3, 1), lines=5)
    assert verdict.problem_class is BreakClass.NONE
    assert int(BreakClass.NONE) == pb.BREAK_CLASS_UNSPECIFIED


def test_a_filter_that_nobody_set_leaves_out_nothing() -> None:
    """0 is what the wire says for a class and a state that are not set."""
    everything = BreakFilter()
    assert (everything.class_, everything.state) == (0, 0)


def a_break(class_: BreakClass, amount_minor: int) -> Break:
    return Break(
        break_id=uuid.uuid4(),
        source="psp",
        settlement_date=date(2026, 3, 1),
        class_=class_,
        state=BreakState.OPEN,
        last_run_id=uuid.uuid4(),
        create_time=NOW,
        update_time=NOW,
        age_days=0,
        base_kind=1,
        counter_kind=14,
        counter_source="psp",
        amount_minor=amount_minor,
        currency="EUR",
        file_id=None,
        sequence=None,
        sha256=None,
        place="",
        journal_id=None,
        operation_id=None,
        order_id=None,
        psp_reference="",
        rule="",
        booked_id=None,
    )


@pytest.mark.parametrize("class_", BreakClass)
@pytest.mark.parametrize("amount_minor", [-5, -1, 1, 5])
def test_what_only_tells_of_others_amounts_is_never_posted_and_all_else_is(
    class_: BreakClass, amount_minor: int
) -> None:
    """A broken chain and a differing payout repeat what single lines move already."""
    tells_only = class_ in (BreakClass.CHAIN_BROKEN, BreakClass.PAYOUT_DIFFERS)
    assert a_break(class_, amount_minor).is_postable is not tells_only


@pytest.mark.parametrize("class_", [BreakClass.AMOUNT_DIFFERS, BreakClass.FEE_DIFFERS])
def test_a_difference_beyond_what_an_entry_holds_is_never_posted(class_: BreakClass) -> None:
    for sign in (1, -1):
        assert a_break(class_, sign * MAX_AMOUNT_MINOR).is_postable is True
        assert a_break(class_, sign * (MAX_AMOUNT_MINOR + 1)).is_postable is False


@pytest.mark.parametrize("class_", BreakClass)
def test_a_difference_of_nothing_is_never_posted(class_: BreakClass) -> None:
    assert a_break(class_, 0).is_postable is False
