"""What lines of settlement files prove about an operation, and what they leave to people."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.money import MAX_AMOUNT_MINOR, Money
from mesh.settlement_file import Kind
from payment_svc.domain import (
    Settled,
)
from payment_svc.settlement import Line, Unclear, judge

ASKED = Money(10_000, "EUR")
CHARGE = Line("f" * 32, 1, "psp", "CHARGE", "EUR", 9_680, 10_000, 320, "psp-1")


def line(**change: object) -> Line:
    return replace(CHARGE, **change)  # type: ignore[arg-type]


def test_one_charge_proves_what_was_taken_and_brings_its_fee() -> None:
    assert judge(ASKED, [CHARGE]) == Settled(ASKED, Money(320, "EUR"), "psp-1", "psp")


def test_no_line_proves_nothing() -> None:
    assert judge(ASKED, []) is None


def test_a_line_of_a_fee_says_nothing_of_the_capture() -> None:
    fee = line(kind="FEE", gross_minor=-20, fee_minor=0, amount_minor=-20)
    assert judge(ASKED, [fee]) is None
    assert judge(ASKED, [fee, CHARGE, fee]) == judge(ASKED, [CHARGE])


def test_another_amount_is_proof_of_that_amount() -> None:
    assert judge(ASKED, [line(gross_minor=10_001)]) == Settled(
        Money(10_001, "EUR"), Money(320, "EUR"), "psp-1", "psp"
    )


def test_a_line_without_a_gross_amount_proves_the_whole_amount_only() -> None:
    whole = line(gross_minor=None, fee_minor=None, amount_minor=10_000)
    proof = judge(ASKED, [whole])
    assert isinstance(proof, Settled)
    assert (proof.amount, proof.fee) == (ASKED, None)
    for unsure in (replace(whole, amount_minor=9_680), replace(whole, fee_minor=0)):
        assert isinstance(judge(ASKED, [unsure]), Unclear)


@pytest.mark.parametrize("fee_minor", [None, 0, -5, MAX_AMOUNT_MINOR + 1])
def test_a_fee_that_is_none_comes_not_with_the_capture(fee_minor: int | None) -> None:
    proof = judge(ASKED, [line(fee_minor=fee_minor)])
    assert isinstance(proof, Settled)
    assert proof.fee is None


@pytest.mark.parametrize("reference", ["x" * 256, "a\0b", "a\nb", "\x7f"])
def test_a_reference_that_can_t_be_stored_does_not_hinder_the_proof(reference: str) -> None:
    proof = judge(ASKED, [line(psp_reference=reference)])
    assert isinstance(proof, Settled)
    assert proof.psp_reference == ""


@pytest.mark.parametrize(
    "lines",
    [
        [CHARGE, CHARGE],
        [CHARGE, replace(CHARGE, sequence=2, psp_reference="psp-2")],
        *([CHARGE, replace(CHARGE, kind=kind)] for kind in Kind if kind is not Kind.FEE),
        *([replace(CHARGE, kind=kind)] for kind in Kind if kind not in (Kind.CHARGE, Kind.FEE)),
        [line(kind="")],
        [line(kind="charge")],
        [line(kind="SOMETHING_NEW")],
        [line(currency_code="USD")],
        [line(currency_code="")],
        [line(gross_minor=0)],
        [line(gross_minor=-10_000)],
        [line(gross_minor=MAX_AMOUNT_MINOR + 1)],
    ],
)
def test_what_is_no_simple_capture_is_left_to_people_with_a_reason(lines: list[Line]) -> None:
    proof = judge(ASKED, lines)
    assert isinstance(proof, Unclear)
    assert proof.why


amounts = st.integers(-(10**16), 10**16)
any_line = st.builds(
    Line,
    st.just("f" * 32),
    st.integers(1, 9),
    st.sampled_from(["psp", "bank"]),
    st.sampled_from([*Kind, "", "X"]),
    st.sampled_from(["EUR", "USD", ""]),
    amounts,
    st.none() | amounts,
    st.none() | amounts,
    st.text(max_size=300),
)


@given(st.lists(any_line, max_size=4))
def test_only_one_charge_in_the_right_currency_ever_moves_money(lines: list[Line]) -> None:
    proof = judge(ASKED, lines)
    if isinstance(proof, Settled):
        (charge,) = (one for one in lines if one.kind != "FEE")
        assert (charge.kind, charge.currency_code) == ("CHARGE", "EUR")
        assert 1 <= proof.amount.amount_minor <= MAX_AMOUNT_MINOR
        assert proof.fee is None or 1 <= proof.fee.amount_minor <= MAX_AMOUNT_MINOR
        assert proof.amount.amount_minor in (charge.gross_minor, charge.amount_minor)
