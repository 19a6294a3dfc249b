"""Ids are computed from what caused them, and are the primary keys of their rows.

The derivation is frozen by golden vectors (tests/unit/test_ids.py): another one
would give an accepted payment another PSP key, and charge it again.

An id is a UUIDv8 (RFC 9562): 48 leading bits, version 8, variant 10, and the first
74 bits of SHA-256 over a version, a kind tag and the length-prefixed fields. The
leading bits say nothing; they only keep rows that are written together close
together in the indexes: the time bits of the request_id where it is a canonical
lower-case UUIDv7, else the next 48 bits of the hash, and what is caused by an id
leads with that id's bits.
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from uuid import UUID

_DERIVATION = b"paymesh/1"

_UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")

_ID = re.compile(r"[0-9a-f]{32}")

_LEAD_BITS = 48
_HASH_BITS = 74
_LOW_BITS = 62  # of the 74, those after the variant

# Asked for twice within milliseconds: when an order is stored and when it is driven.
_RECENT = 1024


def payment_id(caller: str, request_id: str) -> UUID:
    """The payment that this caller's request makes, now or at any retry."""
    lead = None
    if _UUID7.fullmatch(request_id):
        lead = UUID(request_id).int >> (128 - _LEAD_BITS)
    return _derive("payment", lead, caller, request_id)


@lru_cache(maxsize=_RECENT)
def order_id(payment: UUID, position: int) -> UUID:
    """The order at this position (from 0) of a payment."""
    return _derive("order", _lead(payment), payment.hex, str(position))


@lru_cache(maxsize=_RECENT)
def first_charge_id(order: UUID) -> UUID:
    """The operation that charges an order for the first time."""
    return _derive("charge", _lead(order), order.hex)


def retry_id(payment: UUID, caller: str, request_id: str) -> UUID:
    """An operator's wish that a payment's parked orders are driven again."""
    return _derive("retry", _lead(payment), payment.hex, caller, request_id)


def psp_key(operation: UUID, revision: int = 0) -> UUID:
    """The idempotency key under which the PSP knows an operation."""
    return _derive("psp_key", _lead(operation), operation.hex, str(revision))


def movement_id(operation: UUID, revision: int = 0) -> UUID:
    """The wallet movement that an operation causes."""
    return _derive("movement", _lead(operation), operation.hex, str(revision))


def journal_id(kind: str, operation: UUID, revision: int = 0) -> UUID:
    """The journal of this kind (lower case, for example `capture`) of an operation."""
    return _derive("journal", _lead(operation), kind, operation.hex, str(revision))


def settlement_file_id(source: str, settlement_date: str, sha256: str) -> UUID:
    """A file of a source: its day as YYYY-MM-DD (empty if not known), its hash in hex."""
    return _derive("settlement_file", None, source, settlement_date, sha256)


def reconciliation_run_id(source: str, settlement_date: str, *inputs: str) -> UUID:
    """The reconciliation of a source's day from these inputs, the last of which is its version."""
    return _derive("reconciliation_run", None, source, settlement_date, *inputs)


def parse(text: str) -> UUID:
    """An id from its form on the wire, 32 lower-case hex digits; ValueError otherwise."""
    value = UUID(text)
    if value.hex != text:
        raise ValueError("an id is 32 lower-case hex digits")
    return value


def shown(text: str) -> str:
    """The text for a line in a log if it is an id; what is none may be anything, and is not."""
    return text if _ID.fullmatch(text) else ""


def _lead(parent: UUID) -> int:
    return parent.int >> (128 - _LEAD_BITS)


def _derive(kind: str, lead: int | None, *fields: str) -> UUID:
    digest = hashlib.sha256(_DERIVATION)
    for text in (kind, *fields):
        encoded = text.encode()
        digest.update(len(encoded).to_bytes(4, "big"))
        digest.update(encoded)
    bits = int.from_bytes(digest.digest(), "big")
    head = bits >> (256 - _HASH_BITS)
    if lead is None:
        lead = (bits >> (256 - _HASH_BITS - _LEAD_BITS)) & ((1 << _LEAD_BITS) - 1)
    high = head >> _LOW_BITS
    low = head & ((1 << _LOW_BITS) - 1)
    return UUID(int=(lead << 80) | (8 << 76) | (high << 64) | (2 << 62) | low)
