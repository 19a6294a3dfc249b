"""`paymesh settle inspect`: a file's facts without a mesh."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ledger_svc.reconciliation import readers
from paymeshctl.main import app
from tests.support.settlement import OwnFile, camt, mt940, ntry, stmt


def inspect(path: Path, *options: str) -> Result:
    result = CliRunner().invoke(app, ["settle", "inspect", str(path), *options])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def written(folder: Path, content: str | bytes) -> Path:
    path = folder / "any.name"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_the_json_is_a_list_of_the_contract_s_facts(tmp_path: Path) -> None:
    result = inspect(written(tmp_path, OwnFile().open(7).line(500, 9).close().text()), "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == [
        {
            "format": "paymesh.settlement.v1",
            "account": "psp_stub",
            "currency_code": "EUR",
            "opening_minor": 7,
            "closing_minor": 498,
            "entries": 1,
            "credits_minor": 491,
            "debits_minor": 0,
            "ties": True,
            "problem": None,
        }
    ]


def test_what_does_not_tie_is_reported_with_exit_0(tmp_path: Path) -> None:
    result = inspect(written(tmp_path, mt940("61:260130C4,00NTRFA")), "--json")
    [facts] = json.loads(result.stdout)
    assert (result.exit_code, facts["ties"]) == (0, False)
    assert facts["problem"].startswith("DOES_NOT_TIE: ")


@pytest.mark.parametrize(
    ("content", "reason", "where"),
    [
        (camt(stmt(ntry("1,0"))), "BAD_AMOUNT", "/BkToCstmrStmt/Stmt[1]/Ntry[1]/Amt"),
        (mt940("61:x"), "BAD_FIELD", "line 5"),
        (b"", "EMPTY_FILE", "byte 0"),
        (b"\x1f\x8b\x08", "COMPRESSED_FILE", "byte 0"),
        ("01,A,B,210706,1249,1,,,2/\n", "UNSUPPORTED_FORMAT", "byte 0"),
        ("what?", "UNKNOWN_FORMAT", "byte 0"),
        (camt(stmt())[:-30], "FILE_CUT", "end of file"),
    ],
)
def test_a_file_that_can_not_be_read_exits_with_2_and_says_why(
    content: str | bytes, reason: str, where: str, tmp_path: Path
) -> None:
    path = written(tmp_path, content)
    result = inspect(path, "--json")
    assert result.exit_code == 2
    error = json.loads(result.stdout)["error"]
    assert error.keys() == {"reason", "where", "message"}
    assert (error["reason"], error["where"]) == (reason, where)
    assert error["message"]

    plain = inspect(path)
    assert (plain.exit_code, plain.stdout) == (2, "")
    assert plain.stderr.startswith(f"error: {reason}: ")
    assert where in plain.stderr


def test_a_file_that_is_not_there_or_no_file_exits_with_2(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing", tmp_path):
        result = inspect(path, "--json")
        assert result.exit_code == 2
        assert json.loads(result.stdout)["error"]["reason"] == "FILE_NOT_READABLE"
        assert inspect(path).stderr.startswith("error: FILE_NOT_READABLE: ")


def test_the_table_has_amounts_in_major_units(tmp_path: Path) -> None:
    several = camt(
        stmt(ntry("5.00"), closing="104.00"),
        stmt(opening=None, closing=None, account="<IBAN>NO BALANCE</IBAN>"),
        stmt(opening="-5", closing="-5", currency="JPY"),
    )
    result = inspect(written(tmp_path, several))
    assert result.exit_code == 0
    for text in (
        "camt.053.001.08",
        "DE00TEST",
        "100.00",
        "104.00",
        "yes",
        "no",
        "NO BALANCE",
        "-5",
    ):
        assert text in result.stdout
    assert "misses closing by -100 minor units" in result.stdout


def test_a_file_does_not_command_the_terminal(tmp_path: Path) -> None:
    named = mt940(head=":20:R\n:25:A\x1b]0;owned\x07[red]B[/red]\n:28C:1\n")
    result = inspect(written(tmp_path, named))
    assert result.exit_code == 0
    assert "\x1b" not in result.stdout
    assert "\x07" not in result.stdout
    assert "[red]B[/red]" in result.stdout


def test_the_verb_says_what_it_does() -> None:
    result = CliRunner().invoke(app, ["settle", "inspect", "--help"])
    assert result.exit_code == 0
    assert "Example: paymesh settle inspect" in " ".join(result.stdout.split())


def test_every_name_that_callers_need_is_at_the_front_of_the_package() -> None:
    assert set(readers.__all__) <= set(dir(readers))
