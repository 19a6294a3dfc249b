"""What banks hide in `:86:`."""

from __future__ import annotations

import re

_GERMAN = re.compile(r"\d{3}\?")
_SUBFIELD = re.compile(r"\?(\d\d)")
_PLUS = re.compile(r"EREF\+(.{1,70}?)(?= *(?:[A-Z]{4}\+|$))")
_SLASHES = re.compile(r"/EREF/([^/]{1,70})")


def end_to_end_reference(text: str) -> str:
    """The EREF of a `:86:`, with the line breaks and subfields taken out; empty if none.

    `EREF+…` is the German way, `/EREF/…/` the Dutch one.
    """
    joined = text.replace("\n", "")
    if _GERMAN.match(joined):
        # 20 to 29 and 60 to 63 are one text that was cut into pieces of 27.
        parts = _SUBFIELD.split(joined)
        joined = "".join(
            piece
            for code, piece in zip(parts[1::2], parts[2::2], strict=True)
            if "20" <= code <= "29" or "60" <= code <= "63"
        )
    match = _PLUS.search(joined) or _SLASHES.search(joined)
    found = match[1].strip() if match else ""
    return "" if found == "NOTPROVIDED" else found
