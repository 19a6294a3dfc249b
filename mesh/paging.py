"""Pages of lists that are newest first by (create_time, id): sizes and tokens.

A token names the last item of its page and carries a digest of list and filters, so
that a token from another list is refused instead of giving wrong pages.
"""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeVar
from uuid import UUID

from google.protobuf.message import Message

from mesh.errors import Violation, validation_failed

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 1000
MAX_PAGE_BYTES = 2 * 1024 * 1024

M = TypeVar("M", bound=Message)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAYOUT = struct.Struct(">8sq16s")  # digest of list and filters, microseconds, id


@dataclass(frozen=True, slots=True)
class Position:
    """Where a page ended: the next one starts after this item."""

    create_time: datetime
    id: UUID


def page_size(asked: int) -> int:
    """How many items a page has at most: 0 means 50, above 1000 is taken as 1000."""
    return min(asked, MAX_PAGE_SIZE) if asked > 0 else DEFAULT_PAGE_SIZE


def encode_token(request: Message, last: Position) -> str:
    """The token of the page after `last`, for the same list and filters as `request`."""
    micros = (last.create_time - _EPOCH) // timedelta(microseconds=1)
    packed = _LAYOUT.pack(_digest(request), micros, last.id.bytes)
    return base64.urlsafe_b64encode(packed).decode()


def decode_token(request: Message) -> Position | None:
    """Where the page that `request` asks for starts; None for the first page.

    Errors: VALIDATION_FAILED for a token that is garbled, or from another list or other
    filters.
    """
    token: str = getattr(request, "page_token")  # noqa: B009 - Message has no such field
    if not token:
        return None
    try:
        # Strictly: the lenient decoder skips what it does not know, so that many texts
        # would be one token.
        packed = base64.b64decode(token.encode(), altchars=b"-_", validate=True)
        digest, micros, raw = _LAYOUT.unpack(packed)
        position = Position(_EPOCH + timedelta(microseconds=micros), UUID(bytes=raw))
    except (ValueError, struct.error, OverflowError) as error:
        raise validation_failed(Violation("page_token", "is not a page token")) from error
    if digest != _digest(request):
        raise validation_failed(
            Violation("page_token", "is from another list or from other filters")
        )
    return position


def fitting(items: Iterable[M]) -> Iterator[M]:
    """The items up to 2 MiB together; always at least one."""
    total = 0
    for item in items:
        total += item.ByteSize()
        if total > MAX_PAGE_BYTES and total != item.ByteSize():
            return
        yield item


def _digest(request: Message) -> bytes:
    filters = type(request)()
    filters.CopyFrom(request)
    filters.ClearField("page_size")
    filters.ClearField("page_token")
    text = request.DESCRIPTOR.full_name.encode() + b"\0"
    return hashlib.sha256(text + filters.SerializeToString(deterministic=True)).digest()[:8]
