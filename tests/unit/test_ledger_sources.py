"""The facts of a source: what the document shows is taken, and which days have a file."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from pydantic import TypeAdapter

from ledger_svc.reconciliation.sources import Source, Sources
from psp_stub.settlement import Calendar

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


@pytest.mark.parametrize("day", [date(2026, 3, 1), date(2026, 3, 29), date(2026, 10, 25)])
@pytest.mark.parametrize(
    ("cut_off", "days", "minutes"),
    [("00:00", 1, 0), ("00:01", 0, 1), ("02:30", 0, 150), ("22:00", 0, 1320), ("23:59", 0, 1439)],
)
def test_a_day_ends_at_its_own_cut_off_and_at_midnight_after_it_if_there_is_none(
    day: date, cut_off: str, days: int, minutes: int
) -> None:
    """As the adapter's contract says it (GetCapabilities), and as the stub does it."""
    source = Source.model_validate({"kind": "psp", "zone": "Europe/Madrid", "cut_off": cut_off})
    end = source.day_end(day)
    wall = datetime.combine(day, time()) + timedelta(days=days, minutes=minutes)
    assert end.replace(tzinfo=None) == wall
    stub = Calendar(ZoneInfo("Europe/Madrid"), timedelta(minutes=minutes))
    assert end.astimezone(UTC) == stub.end(day)


@pytest.mark.parametrize(
    ("file_days", "days"), [("daily", "MTWTFSS"), ("weekdays", "MTWTF"), ("any", "")]
)
def test_a_source_knows_the_days_that_have_a_file(file_days: str, days: str) -> None:
    source = Source.model_validate({"kind": "psp", "file_days": file_days})
    week = [date(2026, 3, 2 + n) for n in range(7)]
    assert "".join(day.strftime("%A")[0] for day in week if source.has_file(day)) == days
