"""Which format a file is: by its content, never by its name."""

from __future__ import annotations

import gzip
import io
import zipfile
from collections.abc import Sequence

import pytest

from ledger_svc.reconciliation.readers import FORMATS, ReadError, ReadReason, read, registry
from tests.support.settlement import (
    OwnFile,
    camt,
    csv_text,
    mt940,
    ntry,
    read_all,
    reason,
    stmt,
    stripe,
    stripe_row,
)

READ = {
    "paymesh.settlement.v1": OwnFile().open().line(5).close().text(),
    "stripe.payout_reconciliation": stripe(stripe_row("1.00")),
    "camt.053.001.08": camt(stmt()),
    "MT940": mt940(),
}

UNSUPPORTED = {
    "camt.052.001.02": camt()
    .replace("camt.053.001.08", "camt.052.001.02")
    .replace("BkToCstmrStmt", "BkToCstmrAcctRpt"),
    "camt.052.001.01": camt()
    .replace("camt.053.001.08", "camt.052.001.01")
    .replace("BkToCstmrStmt", "BkToCstmrAcctRptV01"),
    "camt.054.001.08": camt()
    .replace("camt.053.001.08", "camt.054.001.08")
    .replace("BkToCstmrStmt", "BkToCstmrDbtCdtNtfctn"),
    "camt.053.001.14": camt(stmt(), version="14"),
    "MT942": ":20:R\n:25:A\n:28C:1\n:34F:EURD0,00\n:13D:1610301730+0000\n-\n",
    "MT941": "{1:F01X}{2:I941XN}{4:\n:20:R\n:25:A\n:62F:C260130EUR1,00\n-}",
    "MT950": "{1:F01X}{2:O950XN}{4:\n:20:R\n:25:A\n:60F:C260130EUR1,00\n-}",
    "BAI2": "01,122099999,123456789,040621,0200,1,65,,2/\n02,031001234,122099999,1,040620,,,2/\n",
    "stripe.summary": "reporting_category,currency,count,gross,fee,net\ncharge,eur,1,1,0,1\n",
    "adyen.settlement_detail": csv_text(
        ["Company Account", "Psp Reference", "Type", "Gross Currency", "Net Currency"], []
    ),
    "paypal.stl": '"RH",2026/01/31 05:00:00 +0000,"X","ACC",011,\n"FH",1\n',
}


@pytest.mark.parametrize("name", READ)
def test_a_format_is_known_by_its_content(name: str) -> None:
    assert read_all(READ[name]).format == name


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_a_format_that_is_not_built_is_named(name: str) -> None:
    with pytest.raises(ReadError) as refused:
        read(io.BytesIO(UNSUPPORTED[name].encode()))
    assert refused.value.reason is ReadReason.UNSUPPORTED_FORMAT
    assert refused.value.message == f"{name} is not built yet"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", ReadReason.EMPTY_FILE),
        (b" \r\n\t\n", ReadReason.EMPTY_FILE),
        (b"\xef\xbb\xbf", ReadReason.EMPTY_FILE),
        (b"hello", ReadReason.UNKNOWN_FORMAT),
        (b"a,b,c\n1,2,3\n", ReadReason.UNKNOWN_FORMAT),
        (b"<html><body>503</body></html>", ReadReason.UNKNOWN_FORMAT),
        (b"<Document/>", ReadReason.UNKNOWN_FORMAT),
        (b"%PDF-1.7 ...", ReadReason.UNKNOWN_FORMAT),
        (b'{"error": "no file today"}', ReadReason.UNKNOWN_FORMAT),
        (b"\x00" * 100, ReadReason.NUL_BYTE),
        (b"\x89PNG\r\n\x1a\n\x00\x00", ReadReason.NUL_BYTE),
        (mt940().encode("cp037"), ReadReason.UNKNOWN_FORMAT),
        (mt940().encode("utf-16-le"), ReadReason.NUL_BYTE),
        (gzip.compress(b"<" * 10_000_000), ReadReason.COMPRESSED_FILE),
        (b"BZh91AY&SY", ReadReason.COMPRESSED_FILE),
        (b"(\xb5/\xfd$", ReadReason.COMPRESSED_FILE),
    ],
)
def test_anything_else_is_refused(content: bytes, expected: ReadReason) -> None:
    assert reason(content) is expected


def test_an_archive_is_not_opened() -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as writer:
        writer.writestr("statement.xml", camt(stmt()))
    assert reason(archive.getvalue()) is ReadReason.COMPRESSED_FILE


def test_a_caller_who_was_told_another_format_is_answered() -> None:
    content = READ["camt.053.001.08"].encode()
    for expected in ("camt.053", "camt.053.001.08", ""):
        assert read(io.BytesIO(content), expected=expected).format == "camt.053.001.08"
    with pytest.raises(ReadError) as refused:
        read(io.BytesIO(content), expected="MT940")
    assert refused.value.reason is ReadReason.UNKNOWN_FORMAT


def test_a_message_may_stand_in_an_envelope() -> None:
    declaration = '<?xml version="1.0"?><e:Envelope xmlns:e="urn:e"><e:Body>'
    whole = camt(stmt(ntry("5.00"), closing="105.00"), declaration=declaration)
    assert read_all(whole + "</e:Body></e:Envelope>").only.ties is True


def test_two_messages_in_one_file_are_refused() -> None:
    body = camt(stmt()).partition("?>")[2]
    assert reason(f"<all>{body}{body}</all>") is ReadReason.UNEXPECTED_FIELD


def test_a_later_format_joins_without_touching_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    def recognise(head: registry.Head) -> str | None:
        return "bank.lines" if head.text.startswith("#lines") else None

    joined: Sequence[registry.Format] = (
        registry.Format("bank.lines", recognise, lambda _source, _name: iter(())),
        *FORMATS,
    )
    monkeypatch.setattr(registry, "FORMATS", joined)
    assert read_all("#lines\n").format == "bank.lines"
    assert read_all(READ["MT940"]).format == "MT940"
