"""Texts of the PSP, as the services behind us take them."""

from __future__ import annotations

import unicodedata


def plain(text: str) -> str:
    """The text without control characters.

    PostgreSQL takes no NUL, and the ledger none of them: a capture that holds one could
    never be booked, and it is known only after the money was taken.
    """
    if text.isprintable():
        return text
    return "".join(one for one in text if unicodedata.category(one) != "Cc")
