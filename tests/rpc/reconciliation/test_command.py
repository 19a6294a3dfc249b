"""`paymesh settle ingest` and `paymesh reconcile …` against a real ledger_svc."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from paymeshctl.ports import PORT_OFFSETS
from tests.support.reconciliation import DAY, DayFile, reference
from tests.support.reconciliation_world import World

_MAIN = "from paymeshctl.main import main; main()"


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    exit_code: int | None
    stdout: str
    stderr: str


Paymesh = Callable[..., Awaitable[Result]]


@pytest.fixture
def paymesh(address: str) -> Paymesh:
    """Runs the command as a process, on a mesh whose ledger_svc is the tests' own."""
    host, _, port = address.rpartition(":")
    environment = os.environ | {
        "PAYMESH_TARGET": f"{host}:{int(port) - PORT_OFFSETS['ledger']}",
        "COLUMNS": "300",
    }

    async def run(*arguments: str, to: int = asyncio.subprocess.PIPE) -> Result:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _MAIN, *arguments,
            env=environment, stdout=to, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        stdout, stderr = await process.communicate()
        return Result(process.returncode, (stdout or b"").decode(), stderr.decode())

    return run


async def test_from_the_file_to_the_breaks(paymesh: Paymesh, world: World, tmp_path: Path) -> None:
    mine = await world.capture(500, 5)
    strange = "=cmd|'/c calc'!A" + reference()
    file = tmp_path / "day.csv"
    file.write_bytes(DayFile().line(500, 5, **mine).line(100, psp_reference=strange).content())

    sent = await paymesh("settle", "ingest", str(file), "--source", world.source, "--json")
    assert sent.exit_code == 0, sent
    assert json.loads(sent.stdout)["file"]["file_name"] == "day.csv"
    again = await paymesh("settle", "ingest", str(file), "--source", world.source)
    assert again.exit_code == 0
    assert "INGESTED: paymesh.settlement.v1 2 lines" in again.stdout

    run = await paymesh("reconcile", "run", "--date", DAY, "--source", world.source)
    assert run.exit_code == 0, run
    assert "EXPLAINED: 2 lines, 1 matched, 1 breaks" in run.stdout
    assert "3 UNKNOWN_TO_US: 1" in run.stdout

    listed = await paymesh("reconcile", "breaks", "--source", world.source)
    assert "3 UNKNOWN_TO_US" in listed.stdout
    as_json = await paymesh(
        "reconcile", "breaks", "--source", world.source, "--class", "unknown-to-us", "--json"
    )
    [found] = json.loads(as_json.stdout)["breaks"]
    assert (found["psp_reference"], found["amount_minor"]) == (strange, 100)
    none = await paymesh(
        "reconcile", "breaks", "--source", world.source, "--state", "open", "--class", "3", "--json"
    )
    assert json.loads(none.stdout)["breaks"] == []

    table = await paymesh("reconcile", "breaks", "--source", world.source, "--csv")
    [row] = csv.DictReader(io.StringIO(table.stdout))
    assert row["psp_reference"] == f"'{strange}"
    assert (row["amount_minor"], row["class"]) == ("100", "BREAK_CLASS_UNKNOWN_TO_US")


async def test_csv_brings_all_pages(paymesh: Paymesh, world: World) -> None:
    file = DayFile()
    for _ in range(7):
        file.line(-100, 0, kind="REFUND", psp_reference=reference())
    await world.day(file)
    table = await paymesh(
        "reconcile", "breaks", "--source", world.source, "--csv", "--page-size", "2"
    )
    rows = list(csv.DictReader(io.StringIO(table.stdout)))
    assert len({row["break_id"] for row in rows}) == 7
    assert {row["amount_minor"] for row in rows} == {"-100"}


async def test_a_quarantined_file_is_not_done(
    paymesh: Paymesh, world: World, tmp_path: Path
) -> None:
    file = tmp_path / "bad.csv"
    file.write_bytes(b"nonsense")
    sent = await paymesh("settle", "ingest", str(file), "--source", world.source)
    assert sent.exit_code == 1
    assert "UNKNOWN_FORMAT" in sent.stdout


async def test_what_can_t_run_says_so(paymesh: Paymesh, world: World, tmp_path: Path) -> None:
    missing = await paymesh("reconcile", "run", "--source", world.source)
    assert missing.exit_code == 2
    assert "SETTLEMENT_FILE_MISSING" in missing.stderr
    nobody = await paymesh("reconcile", "run", "--source", "nobody", "--json")
    assert nobody.exit_code == 2
    assert json.loads(nobody.stdout)["error"]["reason"] == "SOURCE_NOT_FOUND"
    no_file = await paymesh("settle", "ingest", str(tmp_path / "none"), "--source", world.source)
    assert no_file.exit_code == 2
    no_class = await paymesh("reconcile", "breaks", "--class", "magic")
    assert no_class.exit_code == 2


@pytest.mark.parametrize("more", [(), ("--json",)])
async def test_a_result_that_can_t_be_written_is_no_result(
    paymesh: Paymesh, world: World, more: tuple[str, ...]
) -> None:
    await world.day(DayFile())
    verb = ("reconcile", "run", "--date", DAY, "--source", world.source, *more)
    assert (await paymesh(*verb)).exit_code == 0
    full = os.open("/dev/full", os.O_WRONLY)
    read, nobody_reads = os.pipe()
    os.close(read)
    for output in (full, nobody_reads):
        assert (await paymesh(*verb, to=output)).exit_code == 2
        os.close(output)


async def test_a_broken_chain_is_told_by_the_exit_code(paymesh: Paymesh, world: World) -> None:
    await world.day(DayFile())
    await world.day(DayFile(5, day="2026-02-01"), "2026-02-01")
    run = await paymesh("reconcile", "run", "--date", "2026-02-01", "--source", world.source)
    assert run.exit_code == 1
    assert "OPEN" in run.stdout


async def test_a_break_is_resolved_and_its_day_closed(paymesh: Paymesh, world: World) -> None:
    run = await world.day(
        DayFile(1000).line(-70, 0, kind="RESERVE_HOLD", psp_reference=reference())
    )
    [found] = await world.breaks(run)
    day = ("--date", DAY, "--source", world.source, "--actor", "ada")
    early = await paymesh("reconcile", "close", *day)
    assert early.exit_code == 1
    assert "WRONG_STATE" in early.stderr

    decide = ("reconcile", "resolve", found.break_id, "post", "--actor", "ada", "--note", "held")
    resolved = await paymesh(*decide, "--request-id", f"r-{found.break_id}", "--json")
    assert resolved.exit_code == 0, resolved
    facts = json.loads(resolved.stdout)["resolved_break"]
    # A reserve is in suspense until the PSP releases it.
    assert facts["state"] == "BREAK_STATE_POSTED"
    assert facts["booked_journal_id"]
    again = await paymesh(*decide, "--request-id", f"r-{found.break_id}", "--json")
    assert again == resolved
    closed = await paymesh("reconcile", "close", *day)
    assert closed.exit_code == 0, closed
    assert "EXPLAINED" in closed.stdout
    magic = await paymesh(
        "reconcile", "resolve", found.break_id, "magic", "--actor", "a", "--note", "b"
    )
    assert magic.exit_code == 2
