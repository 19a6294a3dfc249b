"""Hostile and broken files: refused with a type, in steady memory, and nothing is told."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from ledger_svc.reconciliation.readers import Limits, ReadError, ReadReason, read
from tests.support.hostile import ENTITY, KINDS, LAUGHS, complete
from tests.support.settlement import (
    XML,
    OwnFile,
    camt,
    mt940,
    ntry,
    read_all,
    reason,
    refusal,
    stmt,
    stripe,
    stripe_row,
    ties_as_complete,
)


@pytest.mark.parametrize(
    "declaration",
    [
        XML + "<!DOCTYPE Document>",
        XML + ENTITY.format(name="x", value="5.00"),
        XML + LAUGHS,
        XML + '<!DOCTYPE Document SYSTEM "http://localhost:1/x.dtd">',
        XML + "<!-- first --><?pi?>\n  <!DOCTYPE Document>",
        "<!DOCTYPE Document>",
        "<!ENTITY x 'y'>",
    ],
)
def test_a_doctype_is_refused_before_it_is_parsed(declaration: str) -> None:
    text = camt(stmt(ntry("&x;"), closing="105.00"), declaration=declaration)
    assert reason(text) is ReadReason.DTD_REFUSED
    assert reason(text.encode("utf-16")) is ReadReason.DTD_REFUSED


def test_a_doctype_after_a_long_prolog_is_refused_too() -> None:
    for length in (65_000, 65_530, 65_536, 66_000, 100_000):
        declaration = XML + "<!--" + "x" * length + "--><!DOCTYPE Document>"
        # Where the format stands past the first 64 KiB it is not even recognised.
        assert reason(camt(stmt(), declaration=declaration)) in {
            ReadReason.DTD_REFUSED,
            ReadReason.UNKNOWN_FORMAT,
        }


def test_an_external_file_is_never_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("5.00")
    declaration = f'{XML}<!DOCTYPE D [<!ENTITY x SYSTEM "{secret.as_uri()}">]>'
    refused = refusal(camt(stmt(ntry("&x;")), declaration=declaration))
    assert refused.reason is ReadReason.DTD_REFUSED
    include = (
        f'<xi:include xmlns:xi="http://www.w3.org/2001/XInclude" href="{secret.as_uri()}" '
        'parse="text"/>'
    )
    assert reason(camt(stmt(ntry(include)))) is ReadReason.MISSING_FIELD


@pytest.mark.parametrize("depth", [300, 100_000])
def test_nesting_without_end_is_refused(depth: int) -> None:
    deep = "<x>" * depth + "</x>" * depth
    assert reason(camt(stmt(ntry(details=deep)))) is ReadReason.XML_NOT_WELL_FORMED


@pytest.mark.parametrize(
    "content",
    [
        camt(stmt(ntry(details="<x>" + "y" * 3_000_000 + "</x>"))),
        camt(stmt(ntry(details="<x/>" * 700_000))),
        camt(stmt(*["<x/>" * 100_000] * 7)),
        camt(stmt(f'<x a="{"y" * 3_000_000}"/>')),
        mt940("61:260130C4,00NTRFA", "86:" + "x" * 3_000_000),
        mt940("61:260130C4,00NTRFA", "86:" + "x\n" * 1_500_000),
        mt940("61:260130C4,00NTRFA", *["86:" + "x" * 1000] * 3_000),
        mt940("61:260130C4,00NTRFA", *["86:"] * 600_000),
        stripe(stripe_row("1.00", description="x" * 3_000_000)),
        stripe(stripe_row("1.00", description="x\n" * 1_500_000)),
        OwnFile().open().line(5, description="x\n" * 1_500_000).close().text(),
    ],
    ids=lambda content: content[:20],
)
def test_a_record_without_end_is_refused(content: str) -> None:
    assert reason(content) in {
        ReadReason.RECORD_TOO_LONG,
        ReadReason.BAD_ROW,  # a cell beyond csv's own limit
        ReadReason.XML_NOT_WELL_FORMED,  # an attribute beyond libxml2's
    }


def test_messages_on_one_line_are_refused_however_many_they_are() -> None:
    for count in (2, 500, 10_000):
        refused = refusal("{4:" + "-}{4:" * count + "\n" + mt940())
        assert (refused.reason, refused.where) == (ReadReason.UNEXPECTED_FIELD, "line 1")


def many(kind: str, count: int) -> str:
    """A file of that many entries."""
    match kind:
        case "camt":
            return camt(stmt(*[ntry()] * count))
        case "mt940":
            return mt940(*["61:260130C4,00NTRFA"] * count)
        case "stripe":
            return stripe(*[stripe_row("1.00")] * count)
        case _:
            file = OwnFile().open()
            for _ in range(count):
                file.line(5)
            return file.close().text()


@pytest.mark.parametrize("kind", ["camt", "mt940", "stripe", "own"])
def test_limits_are_kept(kind: str) -> None:
    content = many(kind, 50)
    assert len(read_all(content, Limits(entries=50)).lines) == 50
    assert reason(content, Limits(entries=49)) is ReadReason.TOO_MANY_LINES
    assert reason(content, Limits(file_bytes=len(content) - 1)) is ReadReason.FILE_TOO_LARGE
    assert len(read_all(content, Limits(file_bytes=len(content))).lines) == 50


@pytest.mark.parametrize(
    "content",
    [
        camt(*[stmt()] * 5),
        mt940() * 5,
        stripe(*(stripe_row("1.00", automatic_payout_id=f"po_{n}") for n in range(5))),
        OwnFile().open().close().open().close().open().close().open().close().open().close().text(),
    ],
    ids=["camt", "mt940", "stripe", "own"],
)
def test_statements_are_limited_for_their_sums_are_in_memory(content: str) -> None:
    assert len(read_all(content, Limits(statements=5)).statements) == 5
    assert reason(content, Limits(statements=4)) is ReadReason.TOO_MANY_STATEMENTS


@pytest.mark.parametrize("kind", ["camt", "mt940", "stripe", "own"])
def test_a_nul_byte_is_refused_wherever_it_is(kind: str) -> None:
    content = many(kind, 4000).encode()
    assert len(content) > 1 << 16
    for at in (len(content) // 2, len(content) - 3):
        assert reason(content[:at] + b"\x00" + content[at:]) is ReadReason.NUL_BYTE


@pytest.mark.parametrize("kind", ["camt", "stripe", "own"])
def test_what_is_not_in_the_charset_is_refused(kind: str) -> None:
    content = many(kind, 3).encode().replace(b"txn_1", b"txn\xff").replace(b"psp-2", b"psp\xff")
    content = content.replace(b"BANK-1", b"BANK\xff")
    assert reason(content) is ReadReason.BAD_ENCODING


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        ("latin-1", "ISO-8859-1"),
        ("cp1252", "windows-1252"),
        ("utf-16", "UTF-16"),
        ("ascii", "ASCII"),
    ],
)
def test_the_charset_that_a_message_declares_is_used(charset: str, name: str) -> None:
    texts = "plain" if charset == "ascii" else "Grüße"
    details = f"<TxDtls><RmtInf><Ustrd>{texts}</Ustrd></RmtInf></TxDtls>"
    declaration = f'<?xml version="1.0" encoding="{name}"?>'
    text = camt(stmt(ntry("5.00", "CRDT", details), closing="105.00"), declaration=declaration)
    outcome = read_all(text.encode(charset))
    assert outcome.only.ties is True
    assert outcome.lines[0].texts == (texts,)


@pytest.mark.parametrize("name", ["UTF-7", "EBCDIC-CP-US", "no-such", "IBM037", "rot13", "idna"])
def test_other_charsets_are_refused(name: str) -> None:
    declaration = f'<?xml version="1.0" encoding="{name}"?>'
    assert reason(camt(stmt(), declaration=declaration)) is ReadReason.BAD_ENCODING


def test_nothing_of_the_file_is_in_a_refusal() -> None:
    secret = "SECRET4711"
    broken = [
        camt(stmt(ntry(secret))),
        camt(stmt(ntry(currency=secret))),
        camt(stmt(f"<{secret}>")),
        camt(stmt(ntry(status=f"<Sts>{secret}</Sts>"))),
        camt(stmt(ntry(details=f"&{secret};"))),
        camt(stmt(), declaration=f'<?xml version="1.0" encoding="{secret}"?>'),
        mt940(f"61:260130{secret}"),
        mt940(opening=f"60F:{secret}"),
        stripe(stripe_row(secret)),
        stripe(stripe_row("1.00", category=secret)),
        stripe(stripe_row("1.00", currency=secret)),
        OwnFile().open().line(1, kind=secret).close().text(),
        OwnFile().open().line(1, order_id=secret).close().text(),
        OwnFile().open().line(1, value_date=secret).close().text(),
        f"{secret},b\n1,2\n",
    ]
    for content in broken:
        refused = refusal(content)
        assert secret not in f"{refused.where} {refused.message} {refused!s}"
        assert refused.__cause__ is None


@pytest.mark.parametrize("kind", ["camt", "mt940", "stripe", "own"])
def test_a_stream_may_give_its_bytes_one_at_a_time(kind: str) -> None:
    class Slow(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(min(1, size if size is not None and size >= 0 else 1))

    content = many(kind, 3).encode()
    assert list(read(Slow(content)).items) == list(read(io.BytesIO(content)).items)


# --- cut files -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_cut_anywhere_never_ties_as_complete(kind: str) -> None:
    content, enough = complete(kind)
    assert ties_as_complete(content)
    for length in range(enough):
        assert not ties_as_complete(content[:length]), content[:length][-40:]


@pytest.mark.parametrize("kind", ["camt", "own"])
def test_a_file_that_says_its_end_is_refused_without_it(kind: str) -> None:
    content, _ = complete(kind)
    for length in range(content.index(b"S-1" if kind == "camt" else b"OPENING"), len(content) - 1):
        with pytest.raises(ReadError):
            read_all(content[:length])
