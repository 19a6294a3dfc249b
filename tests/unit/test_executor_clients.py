"""What the executor makes of the PSP's words."""

from __future__ import annotations

import sys
import unicodedata

import pytest
from paymesh.common.v1.money_pb2 import Money
from paymesh.ledger.v1.ledger_posting_service_pb2 import CaptureEvent
from paymesh.psp.v1 import psp_service_pb2 as pb
from structlog.testing import capture_logs

from executor_svc.clients import _answer
from executor_svc.domain import Captured, Declined, Pending
from executor_svc.texts import plain
from mesh import money
from mesh.validation import check

CONTROLS = [chr(n) for n in range(sys.maxunicode) if unicodedata.category(chr(n)) == "Cc"]


def captured(psp_reference: str) -> Captured:
    """A capture with this reference, as it is let through."""
    amount = Money(amount_minor=100, currency_code="EUR")
    told = pb.ChargeCaptured(amount=amount, psp_reference=psp_reference)
    answer = _answer(pb.ChargeOutcome(captured=told))
    assert isinstance(answer, Captured)
    return answer


@pytest.mark.parametrize("told", [pb.ChargeOutcome, pb.LookUpResult])
def test_a_fee_in_another_currency_than_the_captures_is_left_to_the_settlement_file(
    told: type[pb.ChargeOutcome | pb.LookUpResult],
) -> None:
    for currency, fee in (("EUR", money.Money(3, "EUR")), ("USD", None)):
        amount = Money(amount_minor=100, currency_code="EUR")
        with_fee = pb.ChargeCaptured(
            amount=amount, fee=Money(amount_minor=3, currency_code=currency)
        )
        with capture_logs() as lines:
            answer = _answer(told(captured=with_fee))
        assert answer == Captured(money.Money(100, "EUR"), "", fee)
        assert [line["event"] for line in lines] == ["psp_fee_left_out"] * (fee is None)


def event(psp_reference: str, source: str = "psp") -> CaptureEvent:
    return CaptureEvent(
        seller_id="seller",
        source=source,
        captured=Money(amount_minor=100, currency_code="EUR"),
        seller_pending_minor=100,
        psp_reference=psp_reference,
    )


def test_the_ledger_takes_every_reference_that_is_let_through() -> None:
    assert check(event("a\nb")) is not None
    for number in range(0x300):
        reference = captured(f"ch_{chr(number)}1").psp_reference
        assert check(event(reference)) is None, number
    # Separators and signs without a width are not printable either, and yet are no controls.
    for kept in ("a\u2028b", "a\u200db", "a\u00a0b", "\ue000", "\U0001f600", "x" * 255):
        assert captured(kept).psp_reference == kept
        assert check(event(kept)) is None
    assert check(event(captured("x\n" * 300).psp_reference)) is None


def test_of_a_text_only_the_control_characters_are_left_out() -> None:
    assert len(CONTROLS) == 65
    assert plain(f"a{''.join(CONTROLS)} b\u2028é") == "a b\u2028é"


@pytest.mark.parametrize("control", ["\0", "\n", "\x7f", "\x85"])
def test_no_text_of_the_psp_keeps_a_control_character(control: str) -> None:
    declined = pb.ChargeDeclined(code=f"5{control}1", psp_reference=f"r{control}1")
    answer = _answer(pb.ChargeOutcome(declined=declined))
    assert isinstance(answer, Declined)
    assert (answer.code, answer.psp_reference) == ("51", "r1")
    pending = pb.ChargePending(psp_reference=f"r{control}1")
    assert _answer(pb.LookUpResult(pending=pending)) == Pending("r1")
