"""What the stub decides, without a database or a clock."""

from __future__ import annotations

import pickle
from decimal import ROUND_HALF_UP, Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import Code, Reason
from mesh.money import MAX_AMOUNT_MINOR, exponent
from psp_stub.domain import (
    SCRIPTS,
    Ask,
    Charge,
    DeclineCategory,
    FeeSchedule,
    Reply,
    Script,
    State,
    as_new,
    conflict,
    decide,
    failed,
    script_of,
    unavailable,
)
from tests.support.values import assert_value

FEES = FeeSchedule(bps=290, fixed_minor=30)

ASK = Ask("key", "1" * 32, "2" * 32, "tok_ok", 10_000, "EUR")

amounts = st.integers(min_value=1, max_value=MAX_AMOUNT_MINOR)
schedules = st.builds(
    FeeSchedule,
    bps=st.integers(min_value=0, max_value=10_000),
    fixed_minor=st.integers(min_value=0, max_value=1_000_000),
)
currencies = st.sampled_from(["EUR", "JPY", "BHD", "CLF", "USD", "KRW"])


@pytest.mark.parametrize(
    ("amount_minor", "currency_code", "fee_minor"),
    [
        (10_000, "EUR", 320),
        (100, "EUR", 33),  # 2.9 is 3, and 30
        (50, "EUR", 31),  # 1.45 is 1, and 30
        (1, "EUR", 1),  # never more than the amount
        (30, "EUR", 30),
        (1_000, "JPY", 29),  # 0.30 yen is none
        (10_000, "BHD", 590),  # 290, and 0.30 of three decimals
        (10_000, "CLF", 3_290),
        (MAX_AMOUNT_MINOR, "EUR", 29_000_000_000_030),
    ],
)
def test_fees(amount_minor: int, currency_code: str, fee_minor: int) -> None:
    assert FEES.fee_minor(amount_minor, currency_code) == fee_minor


def test_halves_round_up() -> None:
    assert FeeSchedule(bps=50, fixed_minor=0).fee_minor(100, "EUR") == 1
    assert FeeSchedule(bps=49, fixed_minor=0).fee_minor(100, "EUR") == 0
    assert FeeSchedule(bps=0, fixed_minor=50).fee_minor(100, "JPY") == 1


@given(schedules, amounts, currencies)
def test_a_fee_is_exact_and_within_the_amount(
    fees: FeeSchedule, amount_minor: int, currency_code: str
) -> None:
    digits = exponent(currency_code)
    assert digits is not None
    share = Decimal(amount_minor) * fees.bps / 10_000
    fixed = Decimal(fees.fixed_minor).scaleb(digits - 2)
    exact = share.quantize(Decimal(1), ROUND_HALF_UP) + fixed.quantize(Decimal(1), ROUND_HALF_UP)
    fee_minor = fees.fee_minor(amount_minor, currency_code)
    assert fee_minor == min(int(exact), amount_minor)


@given(schedules, amounts, amounts, currencies)
def test_a_larger_amount_never_costs_less(
    fees: FeeSchedule, one: int, other: int, currency_code: str
) -> None:
    smaller, larger = sorted((one, other))
    assert fees.fee_minor(smaller, currency_code) <= fees.fee_minor(larger, currency_code)


@given(amounts, currencies)
def test_no_schedule_no_fee(amount_minor: int, currency_code: str) -> None:
    assert FeeSchedule(bps=0, fixed_minor=0).fee_minor(amount_minor, currency_code) == 0


@given(st.sampled_from(sorted(SCRIPTS)), amounts, currencies)
def test_a_decision_takes_the_money_or_says_why_not(
    token: str, amount_minor: int, currency_code: str
) -> None:
    ask = ASK._replace(payment_method=token, amount_minor=amount_minor, currency_code=currency_code)
    decision = decide(ask, FEES)
    if decision.decline is None:
        assert 1 <= decision.captured_minor <= MAX_AMOUNT_MINOR
        assert (decision.captured_minor != amount_minor) == (token == "tok_wrong_amount")
        assert 0 <= decision.fee_minor <= decision.captured_minor
    else:
        assert (decision.captured_minor, decision.fee_minor) == (0, 0)


@pytest.mark.parametrize(
    ("asked", "captured"), [(1, 2), (100, 101), (MAX_AMOUNT_MINOR, MAX_AMOUNT_MINOR - 1)]
)
def test_a_wrong_amount_is_off_by_one(asked: int, captured: int) -> None:
    # From the wire comes an equal number, and never the very object of a constant.
    ask = ASK._replace(payment_method="tok_wrong_amount", amount_minor=int(str(asked)))
    assert decide(ask, FEES).captured_minor == captured


@pytest.mark.parametrize("token", ["tok_dispute", "TOK_OK", "tok_ok ", " tok_ok", "", "x" * 255])
def test_other_tokens_are_declined(token: str) -> None:
    decline = decide(ASK._replace(payment_method=token), FEES).decline
    assert decline == (DeclineCategory.INVALID_PAYMENT_METHOD, "invalid_token")


@pytest.mark.parametrize(
    ("token", "heard"),
    [
        ("tok_ok", [Reply.OUTCOME, Reply.OUTCOME]),
        ("tok_slow", [Reply.OUTCOME, Reply.OUTCOME]),
        ("tok_declined", [Reply.OUTCOME, Reply.OUTCOME]),
        ("tok_pending_success", [Reply.OUTCOME, Reply.OUTCOME]),
        ("tok_timeout_captured", [Reply.SILENCE, Reply.OUTCOME, Reply.OUTCOME]),
        ("tok_timeout_nothing", [Reply.SILENCE, Reply.OUTCOME, Reply.OUTCOME]),
        ("tok_error_captured", [Reply.INTERNAL, Reply.OUTCOME, Reply.OUTCOME]),
        (
            "tok_unavailable_twice",
            [Reply.UNAVAILABLE, Reply.UNAVAILABLE, Reply.OUTCOME, Reply.OUTCOME],
        ),
        ("tok_silent", [Reply.SILENCE, Reply.SILENCE, Reply.SILENCE]),
    ],
)
def test_what_calls_hear(token: str, heard: list[Reply]) -> None:
    script = script_of(token)
    assert [script.reply(call) for call in range(1, len(heard) + 1)] == heard


def test_a_script_is_followed_however_late_it_processes() -> None:
    script = Script(processed_at_call=1_000, before=Reply.SILENCE, at=Reply.INTERNAL)
    heard = [script.reply(call) for call in range(1, 1_002)]
    assert heard == [Reply.SILENCE] * 999 + [Reply.INTERNAL, Reply.OUTCOME]


def test_an_outcome_is_told_only_where_there_is_one() -> None:
    for script in SCRIPTS.values():
        for call in range(1, script.processed_at_call):
            assert script.reply(call) is not Reply.OUTCOME


def test_which_tokens_take_their_time() -> None:
    assert [token for token, script in SCRIPTS.items() if script.slow] == ["tok_slow"]
    pending = ["tok_pending_success", "tok_pending_failure"]
    assert [token for token, script in SCRIPTS.items() if script.pending] == pending
    told_later = [t for t in SCRIPTS if decide(ASK._replace(payment_method=t), FEES).pending]
    assert told_later == pending
    assert not script_of("tok_of_nobody").slow
    assert not script_of("tok_of_nobody").pending


def test_only_silent_charges_are_hidden_from_look_up() -> None:
    assert [token for token, script in SCRIPTS.items() if not script.found] == ["tok_silent"]


def test_tokens_are_those_of_the_contract() -> None:
    assert set(SCRIPTS) == {
        "tok_ok",
        "tok_declined",
        "tok_insufficient_funds",
        "tok_slow",
        "tok_timeout_captured",
        "tok_timeout_nothing",
        "tok_error_captured",
        "tok_unavailable_twice",
        "tok_pending_success",
        "tok_pending_failure",
        "tok_wrong_amount",
        "tok_silent",
    }


@pytest.mark.parametrize(
    ("changed", "fields"),
    [
        ({"operation_id": "9" * 32}, "operation_id"),
        ({"order_id": "9" * 32}, "order_id"),
        ({"payment_method": "tok_slow"}, "payment_method"),
        ({"amount_minor": 1}, "amount.amount_minor"),
        ({"currency_code": "USD"}, "amount.currency_code"),
        (
            {"amount_minor": 1, "currency_code": "USD"},
            "amount.amount_minor,amount.currency_code",
        ),
    ],
)
def test_a_conflict_names_the_fields(changed: dict[str, object], fields: str) -> None:
    # What is stored is read back: equal, and never the very objects of the call.
    stored = pickle.loads(pickle.dumps(ASK))
    asked = ASK._replace(**changed)  # type: ignore[arg-type]
    for error in (conflict(stored, asked), conflict(asked, stored)):
        assert error.reason is Reason.OPERATION_CONFLICT
        assert error.metadata == {"fields": fields}


@pytest.mark.parametrize(
    ("token", "state"),
    [
        ("tok_ok", State.CAPTURED),
        ("tok_wrong_amount", State.CAPTURED),
        ("tok_declined", State.DECLINED),
        ("tok_insufficient_funds", State.DECLINED),
    ],
)
def test_a_new_charge_stands_as_it_was_decided(token: str, state: State) -> None:
    ask = ASK._replace(payment_method=token, currency_code="JPY")
    decision = decide(ask, FEES)
    charge = as_new(ask, decision, "psp_1")
    assert charge == Charge(
        state, decision.captured_minor, "JPY", decision.fee_minor, decision.decline, "psp_1"
    )


def test_the_psp_gives_no_reasons() -> None:
    assert (unavailable().reason, unavailable().code) == (Reason.UNSPECIFIED, Code.UNAVAILABLE)
    assert (failed().reason, failed().code) == (Reason.UNSPECIFIED, Code.INTERNAL)
    assert not unavailable().is_permanent
    assert not failed().is_permanent


@pytest.mark.parametrize("value", [FEES, SCRIPTS["tok_ok"]], ids=lambda v: type(v).__name__)
def test_scripts_and_fees_are_never_changed(value: object) -> None:
    assert_value(value)
