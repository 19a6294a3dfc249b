"""The derivation of ids is frozen: another one would charge accepted payments again.

The vectors below were computed by `derived`, which shares no code with mesh.ids: it spells
the bits out as text. A change that breaks one of them must not be made; it would have to
look up the old id too.
"""

from __future__ import annotations

import hashlib
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh import ids

REQUEST_ID = "0198f5a2-7b1c-7def-8abc-0123456789ab"
LEAD = "0198f5a27b1c"

PAYMENT = UUID("0198f5a27b1c88e893bf991149b14af6")
ORDER = UUID("0198f5a27b1c8b5db5bb824dccc04316")
CHARGE = UUID("0198f5a27b1c8e40b1e24fe07dab5e26")

GOLDEN = {
    "payment of a UUIDv7": (
        ids.payment_id("default", REQUEST_ID),
        "0198f5a27b1c88e893bf991149b14af6",
    ),
    "payment of any other text": (
        ids.payment_id("shop-1", "order 4711/ä€"),
        "c25657c46f198781bb7536a1ee38f573",
    ),
    "payment of an upper-case UUIDv7": (
        ids.payment_id("default", REQUEST_ID.upper()),
        "a185c01232f18a92862877943ccebe56",
    ),
    "first order": (ids.order_id(PAYMENT, 0), "0198f5a27b1c8b5db5bb824dccc04316"),
    "hundredth order": (ids.order_id(PAYMENT, 99), "0198f5a27b1c8682b534ca3ccf44c90e"),
    "first charge": (ids.first_charge_id(ORDER), "0198f5a27b1c8e40b1e24fe07dab5e26"),
    "PSP key": (ids.psp_key(CHARGE), "0198f5a27b1c862b85024dacc3ee5223"),
    "PSP key, revised": (ids.psp_key(CHARGE, 1), "0198f5a27b1c8a028fa4d3b5afe0ff6c"),
    "movement": (ids.movement_id(CHARGE), "0198f5a27b1c8cb3aebc5aa16b89e299"),
    "movement, revised": (ids.movement_id(CHARGE, 1), "0198f5a27b1c87faa97e58a3867ad3c9"),
    "journal of a capture": (
        ids.journal_id("capture", CHARGE),
        "0198f5a27b1c8a46ab791e7126b173da",
    ),
    "journal of a capture, revised": (
        ids.journal_id("capture", CHARGE, 1),
        "0198f5a27b1c893180801b026340e65b",
    ),
    "retry": (ids.retry_id(PAYMENT, "default", "r-1"), "0198f5a27b1c8d15a6f0d98feb46e712"),
    "settlement file": (
        ids.settlement_file_id("psp_stub", "2026-01-31", "ab" * 32),
        "73304da476198f16a16064c69aac3d51",
    ),
    "reconciliation run": (
        ids.reconciliation_run_id("psp_stub", "2026-01-31", "a,b", ""),
        "1618917f85358a7f9c59167732060299",
    ),
    "journal of a PSP fee": (ids.journal_id("psp_fee", CHARGE), "0198f5a27b1c82daa76169aa12e305d5"),
}


def derived(lead: str | None, kind: str, *fields: str) -> str:
    """The derivation once more: `lead` is 12 hex digits, or None for the hash's own bits."""
    hashed = b"paymesh/1"
    for text in (kind, *fields):
        hashed += len(text.encode()).to_bytes(4, "big") + text.encode()
    bits = "".join(f"{byte:08b}" for byte in hashlib.sha256(hashed).digest())
    first = bits[74:122] if lead is None else f"{int(lead, 16):048b}"
    return f"{int(first + '1000' + bits[:12] + '10' + bits[12:74], 2):032x}"


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_vectors(name: str) -> None:
    found, golden = GOLDEN[name]
    assert found.hex == golden


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
IDS = st.uuids()


@given(caller=TEXT, request_id=TEXT)
def test_a_payment_of_any_request_id(caller: str, request_id: str) -> None:
    expected = derived(None, "payment", caller, request_id)
    assert ids.payment_id(caller, request_id).hex == expected


@given(caller=TEXT, time=st.integers(0, 2**48 - 1), rest=st.integers(0, 2**74 - 1))
def test_the_time_of_a_uuid7_leads(caller: str, time: int, rest: int) -> None:
    request_id = str(UUID(int=time << 80 | 7 << 76 | (rest >> 62) << 64 | 2 << 62 | rest % 2**62))
    found = ids.payment_id(caller, request_id)
    assert found.hex[:12] == f"{time:012x}"
    assert found.hex == derived(f"{time:012x}", "payment", caller, request_id)


@pytest.mark.parametrize(
    "request_id",
    [
        REQUEST_ID.upper(),
        REQUEST_ID.replace("-", ""),
        "{" + REQUEST_ID + "}",
        "urn:uuid:" + REQUEST_ID,
        REQUEST_ID + "\n",
        " " + REQUEST_ID,
        REQUEST_ID.replace("-7", "-4"),  # another version
        REQUEST_ID.replace("-8", "-c"),  # another variant
        REQUEST_ID.replace("0198", "\u0660198"),
    ],
)
def test_what_is_no_canonical_uuid7_is_hashed_whole(request_id: str) -> None:
    found = ids.payment_id("default", request_id)
    assert found.hex == derived(None, "payment", "default", request_id)
    assert not found.hex.startswith(LEAD)


@given(parent=IDS, position=st.integers(0, 99), revision=st.integers(0, 2**31 - 1))
def test_what_an_id_causes_leads_with_its_bits(parent: UUID, position: int, revision: int) -> None:
    lead = parent.hex[:12]
    assert ids.order_id(parent, position).hex == derived(lead, "order", parent.hex, str(position))
    assert ids.first_charge_id(parent).hex == derived(lead, "charge", parent.hex)
    assert ids.psp_key(parent, revision).hex == derived(lead, "psp_key", parent.hex, str(revision))
    assert ids.movement_id(parent, revision).hex == derived(
        lead, "movement", parent.hex, str(revision)
    )
    assert ids.journal_id("capture", parent, revision).hex == derived(
        lead, "journal", "capture", parent.hex, str(revision)
    )


@given(caller=TEXT, request_id=TEXT, parent=IDS)
def test_all_are_uuid8(caller: str, request_id: str, parent: UUID) -> None:
    for found in (
        ids.payment_id(caller, request_id),
        ids.order_id(parent, 0),
        ids.first_charge_id(parent),
        ids.psp_key(parent),
        ids.movement_id(parent),
        ids.journal_id("capture", parent),
    ):
        assert found.version == 8
        assert found.variant == "specified in RFC 4122"


@given(parent=IDS)
def test_different_kinds_of_one_operation_differ(parent: UUID) -> None:
    found = {
        ids.order_id(parent, 0),
        ids.first_charge_id(parent),
        ids.psp_key(parent),
        ids.psp_key(parent, 1),
        ids.movement_id(parent),
        ids.movement_id(parent, 1),
        ids.journal_id("capture", parent),
        ids.journal_id("capture", parent, 1),
        ids.journal_id("psp_fee", parent),
    }
    assert len(found) == 9


def test_fields_never_run_into_each_other() -> None:
    assert ids.payment_id("ab", "c") != ids.payment_id("a", "bc")
    assert ids.journal_id("a", CHARGE, 11) != ids.journal_id("a", CHARGE, 1)
    assert ids.order_id(PAYMENT, 1) != ids.order_id(PAYMENT, 10)


@given(st.sets(st.tuples(TEXT, TEXT), min_size=2, max_size=20))
def test_different_requests_make_different_payments(requests: set[tuple[str, str]]) -> None:
    assert len({ids.payment_id(*request) for request in requests}) == len(requests)


@given(IDS)
def test_an_id_on_the_wire_is_read_back(value: UUID) -> None:
    assert ids.parse(value.hex) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        str(PAYMENT),
        PAYMENT.hex.upper(),
        PAYMENT.hex[:-1],
        PAYMENT.hex + "0",
        PAYMENT.hex + "\n",
        "{" + PAYMENT.hex + "}",
        "urn:uuid:" + PAYMENT.hex,
        "0x" + PAYMENT.hex[2:],
        PAYMENT.hex[:-2] + "_1",
        "\u0661" * 32,
    ],
)
def test_anything_else_is_no_id(text: str) -> None:
    with pytest.raises(ValueError, match=r"hex|UUID"):
        ids.parse(text)
