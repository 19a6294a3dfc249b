"""The facts of a source: what the document shows is taken, and which days have a file."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from ledger_svc.reconciliation.sources import Source, Sources

FORMATS_MD = Path(__file__).resolve().parents[2] / "docs" / "settlement-formats.md"


def test_the_sources_of_the_document_are_taken() -> None:
    [text] = re.findall(r"PAYMESH_LEDGER_SOURCES='(.*)'", FORMATS_MD.read_text())
    sources = TypeAdapter(Sources).validate_python(json.loads(text))
    assert set(sources) == {"psp_stub", "bank"}
    assert sources["psp_stub"].bank in sources


def test_a_source_is_written_the_same_in_every_process() -> None:
    """A run's id is computed from it."""
    accounts = [f"acct-{n}" for n in range(20)]
    program = (
        "import sys; from ledger_svc.reconciliation.sources import Source; "
        "print(Source(kind='psp', accounts=frozenset(sys.argv[1:])).model_dump_json())"
    )
    written = {
        subprocess.run(
            [sys.executable, "-c", program, *accounts],
            env=os.environ | {"PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    [one] = written
    assert json.loads(one)["accounts"] == sorted(accounts)


@pytest.mark.parametrize(
    ("file_days", "days"), [("daily", "MTWTFSS"), ("weekdays", "MTWTF"), ("any", "")]
)
def test_a_source_knows_the_days_that_have_a_file(file_days: str, days: str) -> None:
    source = Source.model_validate({"kind": "psp", "file_days": file_days})
    week = [date(2026, 3, 2 + n) for n in range(7)]
    assert "".join(day.strftime("%A")[0] for day in week if source.has_file(day)) == days
