"""The executor's rules: the table of states, and what an answer of the PSP means."""

from __future__ import annotations

import pickle
import uuid
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paymesh.executor.v1 import executor_read_service_pb2 as read_pb
from paymesh.payment.v1 import payment_pb2

from executor_svc import domain
from executor_svc.domain import (
    MOVES,
    RESENDABLE,
    RESTART_MOVES,
    RESTING,
    TRANSITIONS,
    Answer,
    Captured,
    DeclineCategory,
    Declined,
    Finding,
    ImpossibleTransitionError,
    Kind,
    NoAnswer,
    NotFound,
    Operation,
    Outcome,
    Pending,
    Refused,
    Source,
    State,
    Stored,
)
from mesh.money import MAX_AMOUNT_MINOR, Money
from tests.support.values import numbers, on_the_wire

# Every pair, written out a second time on purpose: one line a pair, as one would say it.
EXPECTED = """
SENT            CAPTURED      CAPTURED
SENT            DECLINED      DECLINED
SENT            PENDING       PENDING
SENT            UNKNOWN       UNKNOWN
SENT            OVERDUE       PARKED_UNKNOWN
SENT            FORGOTTEN     PARKED_UNKNOWN
SENT            WRONG_AMOUNT  PARKED
SENT            REFUSED       PARKED
UNKNOWN         CAPTURED      CAPTURED
UNKNOWN         DECLINED      DECLINED
UNKNOWN         PENDING       PENDING
UNKNOWN         UNKNOWN       UNKNOWN
UNKNOWN         OVERDUE       PARKED_UNKNOWN
UNKNOWN         FORGOTTEN     PARKED_UNKNOWN
UNKNOWN         WRONG_AMOUNT  PARKED
UNKNOWN         REFUSED       UNKNOWN
PENDING         CAPTURED      CAPTURED
PENDING         DECLINED      DECLINED
PENDING         PENDING       PENDING
PENDING         UNKNOWN       PENDING
PENDING         OVERDUE       PENDING
PENDING         FORGOTTEN     PARKED_UNKNOWN
PENDING         WRONG_AMOUNT  PARKED
PENDING         REFUSED       PENDING
PARKED_UNKNOWN  CAPTURED      CAPTURED
PARKED_UNKNOWN  DECLINED      DECLINED
PARKED_UNKNOWN  PENDING       PENDING
PARKED_UNKNOWN  UNKNOWN       PARKED_UNKNOWN
PARKED_UNKNOWN  OVERDUE       PARKED_UNKNOWN
PARKED_UNKNOWN  FORGOTTEN     PARKED_UNKNOWN
PARKED_UNKNOWN  WRONG_AMOUNT  PARKED
PARKED_UNKNOWN  REFUSED       PARKED_UNKNOWN
PARKED          CAPTURED      PARKED
PARKED          DECLINED      PARKED
PARKED          PENDING       PARKED
PARKED          UNKNOWN       PARKED
PARKED          OVERDUE       PARKED
PARKED          FORGOTTEN     PARKED
PARKED          WRONG_AMOUNT  PARKED
PARKED          REFUSED       PARKED
CAPTURED        CAPTURED      CAPTURED
CAPTURED        DECLINED      CAPTURED
CAPTURED        PENDING       CAPTURED
CAPTURED        UNKNOWN       CAPTURED
CAPTURED        OVERDUE       CAPTURED
CAPTURED        FORGOTTEN     CAPTURED
CAPTURED        WRONG_AMOUNT  CAPTURED
CAPTURED        REFUSED       CAPTURED
DECLINED        CAPTURED      DECLINED
DECLINED        DECLINED      DECLINED
DECLINED        PENDING       DECLINED
DECLINED        UNKNOWN       DECLINED
DECLINED        OVERDUE       DECLINED
DECLINED        FORGOTTEN     DECLINED
DECLINED        WRONG_AMOUNT  DECLINED
DECLINED        REFUSED       DECLINED
"""

PAIRS = [tuple(line.split()) for line in EXPECTED.split("\n") if line]

LACK_OF_EVIDENCE = (Outcome.UNKNOWN, Outcome.OVERDUE, Outcome.FORGOTTEN)

OPERATION = Operation(
    uuid.uuid4(), uuid.uuid4(), uuid.uuid4(), Kind.CHARGE, 10_000, "EUR", "tok_ok"
)

amounts = st.integers(min_value=1, max_value=MAX_AMOUNT_MINOR)
states = st.sampled_from(State)
outcomes = st.lists(st.sampled_from(Outcome))


def judge(answer: Answer, *, first_call: bool = True) -> Finding | None:
    return domain.judge(OPERATION, answer, Source.PSP_ANSWER, first_call=first_call)


# --- states ----------------------------------------------------------------------------


@pytest.mark.parametrize(("state", "outcome", "following"), PAIRS)
def test_each_pair_leads_where_it_is_written(state: str, outcome: str, following: str) -> None:
    assert domain.after(State[state], Outcome[outcome]) is State[following]


def test_the_pairs_are_all_there() -> None:
    assert {(State[s], Outcome[o]) for s, o, _ in PAIRS} == set(TRANSITIONS)
    assert set(TRANSITIONS) == {(state, outcome) for state in State for outcome in Outcome}


def test_a_missing_pair_raises() -> None:
    with pytest.raises(ImpossibleTransitionError):
        domain.after("PAID", Outcome.CAPTURED)  # type: ignore[arg-type]


@given(st.sampled_from([State.CAPTURED, State.DECLINED]), outcomes)
def test_a_terminal_state_is_never_left(state: State, story: list[Outcome]) -> None:
    for outcome in story:
        assert domain.after(state, outcome) is state


@given(outcomes)
def test_the_first_state_that_rests_stays(story: list[Outcome]) -> None:
    state = State.SENT
    definite: State | None = None
    for outcome in story:
        state = domain.after(state, outcome)
        if definite is None and state in RESTING:
            definite = state
    assert definite is None or state is definite


@given(states, st.sampled_from(LACK_OF_EVIDENCE))
def test_the_lack_of_evidence_never_settles_anything(state: State, outcome: Outcome) -> None:
    following = domain.after(state, outcome)
    assert following is state or following in (State.UNKNOWN, State.PARKED_UNKNOWN)


def test_a_move_is_the_table_seen_from_its_outcome() -> None:
    for outcome, move in MOVES.items():
        for state in State:
            following = domain.after(state, outcome)
            assert following is (move.target if state in move.origins else state)


def test_what_rests_is_neither_resent_nor_moved() -> None:
    assert not RESTING & RESENDABLE
    assert all(not move.origins & RESTING for move in MOVES.values())


@pytest.mark.parametrize("outcome", Outcome)
def test_in_an_operators_round_evidence_moves_what_is_parked_and_its_lack_does_not(
    outcome: Outcome,
) -> None:
    move, restart = MOVES[outcome], RESTART_MOVES[outcome]
    evidence = {Outcome.CAPTURED, Outcome.DECLINED, Outcome.PENDING, Outcome.WRONG_AMOUNT}
    assert restart.target is move.target
    assert restart.origins - move.origins == ({State.PARKED} if outcome in evidence else set())
    assert move.origins <= restart.origins
    # Not even an operator moves what is settled.
    assert not restart.origins & {State.CAPTURED, State.DECLINED}


@pytest.mark.parametrize(
    ("ours", "wire", "prefix"),
    [
        (Kind, payment_pb2.OperationKind, "OPERATION_KIND_"),
        (DeclineCategory, payment_pb2.DeclineCategory, "DECLINE_CATEGORY_"),
        (Source, payment_pb2.EvidenceSource, "EVIDENCE_SOURCE_"),
        (State, read_pb.ExecutionState, "EXECUTION_STATE_"),
    ],
)
def test_the_numbers_are_those_of_the_wire(ours: Any, wire: Any, prefix: str) -> None:
    assert numbers(ours) == on_the_wire(wire, prefix)


def test_no_evidence_is_what_the_wire_leaves_out() -> None:
    assert int(Source.NONE) == payment_pb2.EVIDENCE_SOURCE_UNSPECIFIED


# --- answers of the PSP ----------------------------------------------------------------


def test_exactly_what_was_asked_is_captured() -> None:
    fee = Money(320, "EUR")
    assert judge(Captured(Money(10_000, "EUR"), "ref", fee)) == Finding(
        Outcome.CAPTURED, Source.PSP_ANSWER, "ref", Money(10_000, "EUR"), fee
    )


@given(amounts, st.sampled_from(["EUR", "USD", "JPY", "eur", ""]))
def test_another_amount_or_currency_is_parked_and_never_captured(
    amount_minor: int, currency: str
) -> None:
    finding = judge(Captured(Money(amount_minor, currency), "ref", None))
    assert finding is not None
    right = (amount_minor, currency) == (10_000, "EUR")
    assert finding.outcome is (Outcome.CAPTURED if right else Outcome.WRONG_AMOUNT)


@pytest.mark.parametrize(
    ("captured", "reason"),
    [
        (Money(10_100, "EUR"), "asked 100.00 EUR, the PSP captured 101.00 EUR"),
        (Money(10_000, "JPY"), "asked 100.00 EUR, the PSP captured 10000 JPY"),
        (Money(-1, "EUR"), "asked 100.00 EUR, the PSP captured -0.01 EUR"),
        (Money(0, ""), "asked 100.00 EUR, the PSP captured 0 "),
    ],
)
def test_the_reason_names_both_amounts(captured: Money, reason: str) -> None:
    finding = judge(Captured(captured, "ref", None))
    assert finding is not None
    assert finding.attention_reason == f"WRONG_AMOUNT: {reason}"
    assert finding.captured == captured


def test_a_decline_is_stored_with_its_reason() -> None:
    assert judge(Declined(DeclineCategory.FRAUD, "stolen", "ref")) == Finding(
        Outcome.DECLINED,
        Source.PSP_ANSWER,
        "ref",
        decline_category=DeclineCategory.FRAUD,
        decline_code="stolen",
    )


def test_pending_is_evidence() -> None:
    assert judge(Pending("ref")) == Finding(Outcome.PENDING, Source.PSP_ANSWER, "ref")


def test_a_refused_first_call_waits_for_an_operator() -> None:
    finding = judge(Refused("VALIDATION_FAILED (amount)"))
    assert finding is not None
    assert finding.outcome is Outcome.REFUSED
    assert finding.attention_reason == "PSP_REFUSED_REQUEST: VALIDATION_FAILED (amount)"


def test_a_refused_resend_says_nothing_about_the_first_call() -> None:
    assert judge(Refused("VALIDATION_FAILED"), first_call=False) is None


@pytest.mark.parametrize("answer", [NotFound(), NoAnswer("DEADLINE_EXCEEDED")])
def test_no_answer_is_no_evidence(answer: Answer) -> None:
    assert judge(answer) is None
    assert domain.why_unknown(answer) in ("not found", "DEADLINE_EXCEEDED")


def test_evidence_has_no_reason_to_be_unknown() -> None:
    with pytest.raises(ValueError, match="evidence"):
        domain.why_unknown(Pending("ref"))


# --- comparing -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"payment_id": uuid.uuid4()}, "payment_id"),
        ({"order_id": uuid.uuid4()}, "order_id"),
        ({"amount_minor": 10_001}, "amount.amount_minor"),
        ({"currency_code": "USD"}, "amount.currency_code"),
        ({"payment_method": "tok_other"}, "payment_method"),
    ],
)
def test_a_differing_field_is_named(change: dict[str, Any], field: str) -> None:
    assert domain.differences(OPERATION._replace(**change), OPERATION) == (field,)


def test_what_is_definite_says_more_than_what_is_pending_and_that_more_than_the_rest() -> None:
    definite = {Outcome.CAPTURED, Outcome.DECLINED, Outcome.WRONG_AMOUNT}
    for outcome in Outcome:
        expected = 2 if outcome in definite else 1 if outcome is Outcome.PENDING else 0
        assert Finding(outcome).strength == expected


def test_the_same_operation_differs_in_nothing() -> None:
    assert domain.differences(OPERATION._replace(), OPERATION) == ()


def test_a_field_that_is_greater_or_smaller_differs_alike() -> None:
    small = OPERATION._replace(order_id=uuid.UUID(int=1), amount_minor=1, payment_method="a")
    great = OPERATION._replace(order_id=uuid.UUID(int=2), amount_minor=2, payment_method="z")
    for asked, stored in [(small, great), (great, small)]:
        named = ("order_id", "amount.amount_minor", "payment_method")
        assert domain.differences(asked, stored) == named


def test_equal_fields_of_two_reads_are_no_difference() -> None:
    """What comes from the wire is never the very object that comes from the database."""
    asked, stored = (
        pickle.loads(pickle.dumps(OPERATION._replace(payment_method=token)))
        for token in ("tok_ok", "tok_other")
    )
    assert domain.differences(asked, stored) == ("payment_method",)


def test_an_operations_ids_are_those_of_the_log() -> None:
    assert {name: uuid.UUID(value) for name, value in OPERATION.ids.items()} == {
        "payment_id": OPERATION.payment_id,
        "order_id": OPERATION.order_id,
        "operation_id": OPERATION.operation_id,
    }


def stored(state: State, psp_reference: str = "ref") -> Stored:
    return Stored(
        OPERATION,
        state,
        "psp",
        Source.PSP_ANSWER,
        psp_reference,
        captured=None,
        fee=None,
        decline_category=None,
        decline_code="",
        attention_reason="",
        change_time=datetime.now(UTC),
    )


@pytest.mark.parametrize(
    ("state", "outcome", "reference", "contradiction"),
    [
        (State.CAPTURED, Outcome.CAPTURED, "ref", False),
        (State.CAPTURED, Outcome.CAPTURED, "", False),
        (State.CAPTURED, Outcome.CAPTURED, "another charge", True),
        (State.CAPTURED, Outcome.DECLINED, "ref", True),
        (State.CAPTURED, Outcome.WRONG_AMOUNT, "ref", True),
        (State.CAPTURED, Outcome.UNKNOWN, "", False),
        (State.CAPTURED, Outcome.PENDING, "ref", False),
        (State.DECLINED, Outcome.CAPTURED, "ref", True),
        (State.DECLINED, Outcome.DECLINED, "ref", False),
        (State.PARKED, Outcome.WRONG_AMOUNT, "ref", False),
        (State.PARKED, Outcome.CAPTURED, "ref", True),
        (State.PENDING, Outcome.CAPTURED, "ref", False),
    ],
)
def test_a_psp_that_contradicts_itself_is_noticed(
    state: State, outcome: Outcome, reference: str, contradiction: bool
) -> None:
    finding = Finding(outcome, Source.PSP_LOOK_UP, reference)
    assert domain.contradicts(stored(state), finding) is contradiction
