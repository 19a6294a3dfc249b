"""Real files of banks: what they say, and what another library makes of them."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import mt940
import pytest
from typer.testing import CliRunner

from mesh.money import any_exponent
from paymeshctl.main import app
from tests.support.settlement import DATA, read_all

EXPECTED: dict[str, Any] = json.loads((DATA / "expected.json").read_text())
SAMPLES = sorted(str(path.relative_to(DATA)) for path in DATA.glob("*/*") if path.suffix != ".json")


def test_every_sample_has_its_facts() -> None:
    assert set(SAMPLES) == set(EXPECTED)


@pytest.mark.parametrize("sample", SAMPLES)
def test_inspect_says_of_a_sample_what_is_in_it(sample: str) -> None:
    expected = EXPECTED[sample]
    result = CliRunner().invoke(app, ["settle", "inspect", str(DATA / sample), "--json"])
    answer = json.loads(result.stdout)
    if isinstance(expected, list):
        assert (result.exit_code, answer) == (0, expected)
    else:
        assert result.exit_code == 2
        assert {"reason", "where", "message"} == answer["error"].keys()
        assert expected.items() <= answer["error"].items()


@pytest.mark.parametrize("sample", [name for name in SAMPLES if name.startswith("mt940/")])
def test_another_library_reads_the_same_lines(sample: str) -> None:
    text = Path(DATA / sample).read_text(encoding="utf-8")
    theirs = [
        (one.data["amount"].amount, one.data["date"], one.data["customer_reference"].strip())
        for statement in mt940.parse_statements(text, options=mt940.Options(reversal_sign=True))
        for one in statement
    ]
    ours = []
    for line in read_all((DATA / sample).read_bytes()).entries:
        assert line.amount_minor is not None
        digits = any_exponent(line.currency_code)
        assert digits is not None
        references = dict(line.references)
        ours.append(
            (
                Decimal(line.amount_minor).scaleb(-digits),
                line.value_date,
                references.get("customer", "NONREF"),
            )
        )
    assert ours == theirs


def test_references_of_a_bank_survive() -> None:
    lines = read_all((DATA / "camt053/genkgo_v2_multi_statement.xml").read_bytes()).lines
    assert [(line.statement, line.number, dict(line.references)) for line in lines] == [
        (0, 1, {"BkTxCd": "544", "EndToEndId": "000000001"}),
        (1, 1, {"BkTxCd": "544", "EndToEndId": "000000002"}),
    ]
    assert lines[0].texts == ("Transaction Description 1",)
    siauliu = read_all((DATA / "camt053/moov_siauliu_lt_v2.xml").read_bytes()).lines
    assert dict(siauliu[0].references) == {
        "BkTxCd": "PMNT/MDOP/FEES",
        "InstrId": "215431",
        "TxId": "514026627",
    }
    assert siauliu[0].texts[0].startswith("Mokestis už į kliento sąskaitą")


def test_two_identical_debits_of_one_day_are_two() -> None:
    lines = read_all((DATA / "camt053/bsp_duplicate_same_day.xml").read_bytes()).lines
    assert [(line.amount_minor, line.place) for line in lines] == [
        (-450, "/BkToCstmrStmt/Stmt[1]/Ntry[1]"),
        (-450, "/BkToCstmrStmt/Stmt[1]/Ntry[2]"),
    ]
