"""Pages: sizes, tokens, and what fits into one."""

from __future__ import annotations

import base64
import uuid
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paymesh.payment.v1 import payment_pb2, payment_service_pb2
from paymesh.wallet.v1 import wallet_service_pb2

from mesh.errors import MeshError, Reason
from mesh.paging import (
    MAX_PAGE_BYTES,
    Position,
    decode_token,
    encode_token,
    fitting,
    page_size,
)

LAST = Position(datetime(2026, 2, 3, 4, 5, 6, 789_012, tzinfo=UTC), uuid.UUID(int=2**127 + 5))


def request(
    token: str = "", *, buyer_id: str = "buyer", size: int = 0, state: int = 0
) -> payment_service_pb2.ListPaymentsRequest:
    return payment_service_pb2.ListPaymentsRequest(
        buyer_id=buyer_id,
        page_size=size,
        page_token=token,
        state=payment_pb2.PaymentState.ValueType(state),
    )


def refused(asked: payment_service_pb2.ListPaymentsRequest) -> MeshError:
    with pytest.raises(MeshError) as caught:
        decode_token(asked)
    assert caught.value.reason is Reason.VALIDATION_FAILED
    assert [violation.field for violation in caught.value.violations] == ["page_token"]
    return caught.value


@pytest.mark.parametrize(
    ("asked", "size"), [(0, 50), (1, 1), (50, 50), (1000, 1000), (1001, 1000), (2**31 - 1, 1000)]
)
def test_sizes(asked: int, size: int) -> None:
    assert page_size(asked) == size


def test_a_negative_size_never_reaches_a_statement() -> None:
    assert page_size(-1) == 50


def test_the_first_page_has_no_token() -> None:
    assert decode_token(request()) is None


@given(
    st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31)).map(  # noqa: DTZ001
        lambda time: time.replace(tzinfo=UTC)
    ),
    st.uuids(),
)
def test_a_token_leads_back(time: datetime, value: uuid.UUID) -> None:
    position = Position(time, value)
    token = encode_token(request(size=7), position)
    assert len(token) < 100
    assert decode_token(request(token, size=7)) == position


def test_the_size_may_change_between_pages() -> None:
    assert decode_token(request(encode_token(request(size=7), LAST), size=9)) == LAST


def test_a_token_goes_with_its_filters() -> None:
    token = encode_token(request(), LAST)
    for other in (
        request(token, buyer_id="other"),
        request(token, buyer_id=""),
        request(token, state=1),
    ):
        assert "filters" in refused(other).violations[0].description


def test_a_token_goes_with_its_list() -> None:
    """Also where the other list's request has the same bytes."""
    movements = wallet_service_pb2.ListMovementsRequest(seller_id="buyer")
    assert movements.SerializeToString() == request().SerializeToString()
    refused(request(encode_token(movements, LAST)))


def changed(token: str, at: int) -> str:
    return token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :]


def garbled() -> list[str]:
    token = encode_token(request(), LAST)
    packed = base64.urlsafe_b64decode(token)
    return [
        "1",
        "x" * 2048,
        "\u0660" * 44,
        "\x00",
        token[:-1],
        token[:-4],
        token + "AAAA",
        token + "=",
        token + "!",
        token[:8] + "\n" + token[8:],
        changed(token, 0),
        base64.urlsafe_b64encode(packed[:-1]).decode(),
        base64.urlsafe_b64encode(packed + b"x").decode(),
        # A time that no calendar has, before and after all others.
        base64.urlsafe_b64encode(packed[:8] + b"\x7f" + b"\xff" * 7 + packed[16:]).decode(),
        base64.urlsafe_b64encode(packed[:8] + b"\x80" + b"\x00" * 7 + packed[16:]).decode(),
    ]


@pytest.mark.parametrize("token", garbled())
def test_a_garbled_token(token: str) -> None:
    assert token not in str(refused(request(token)))


@given(st.text(min_size=1, max_size=60))
def test_any_text_is_refused_or_no_token(token: str) -> None:
    refused(request(token))


def payment(size: int) -> payment_pb2.Payment:
    made = payment_pb2.Payment(buyer_id="x" * (size - 4))
    made.buyer_id = "x" * (size - (made.ByteSize() - len(made.buyer_id)))
    assert made.ByteSize() == size
    return made


def test_a_page_ends_before_its_bytes() -> None:
    half = payment(MAX_PAGE_BYTES // 2)
    assert len(list(fitting([half, half, payment(100)]))) == 2
    assert len(list(fitting([half, payment(MAX_PAGE_BYTES // 2 + 1)]))) == 1
    assert len(list(fitting([payment(1_000)] * 500))) == 500


def test_a_page_has_at_least_one_item() -> None:
    huge = payment(MAX_PAGE_BYTES + 1)
    assert list(fitting([huge, huge])) == [huge]
    assert list(fitting([])) == []
