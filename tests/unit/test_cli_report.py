"""`paymesh reconcile report` and the CSV of breaks, against a mesh that the test plays."""

from __future__ import annotations

import csv
import io
import json
import re
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from lxml import html
from paymesh.common.v1.money_pb2 import Money
from paymesh.ledger.v1 import ledger_service_pb2 as ledger_pb
from paymesh.reconciliation.v1 import reconciliation_service_pb2 as pb
from typer.testing import Result

from mesh.errors import MeshError, Reason, dependency_down, outcome_unknown
from tests.support.fake_channel import FakeMesh

LEDGER = "127.0.0.1:50054"
RPC = pb.DESCRIPTOR.services_by_name["ReconciliationService"].methods_by_name
DAY = "2026-03-01"
REPORT = ("reconcile", "report", "--date", DAY, "--source", "psp_stub")
RUN_ID, FILE_ID = "a" * 32, "f" * 32
EVIL = "</td><script>alert('1')</script><img src=http://evil.example/x.png>"


def balance(currency: str = "EUR", **more: int) -> pb.RunBalance:
    facts = {"opening_minor": 1000, "closing_minor": 4050, "lines_minor": 3050}
    facts |= {"ledger_minor": 3200, "breaks_minor": -150}
    return pb.RunBalance(currency_code=currency, **(facts | more))


def a_run(*balances: pb.RunBalance, **more: Any) -> pb.Run:
    facts: dict[str, Any] = {
        "run_id": RUN_ID,
        "version": 2,
        "state": pb.RUN_STATE_EXPLAINED,
        "counts": [pb.ClassCount(**{"class": pb.BREAK_CLASS_FEE_DIFFERS}, breaks=2)],
        "balances": balances or [balance()],
        "matched": 7,
        "breaks": 2,
        "source": "psp_stub",
        "settlement_date": DAY,
        "lines": 9,
    }
    return pb.Run(**(facts | more))


def entry(direction: ledger_pb.Direction.ValueType, kind: Any, minor: int) -> ledger_pb.Entry:
    return ledger_pb.Entry(
        account=ledger_pb.Account(kind=kind, source="psp_stub"),
        direction=direction,
        amount=Money(amount_minor=minor, currency_code="EUR"),
    )


def a_break(number: int, **more: Any) -> pb.Break:
    facts: dict[str, Any] = {
        "break_id": f"{number:032x}",
        "class": pb.BREAK_CLASS_FEE_DIFFERS,
        "state": pb.BREAK_STATE_OPEN,
        "source": "psp_stub",
        "settlement_date": DAY,
        "currency_code": "EUR",
        "amount_minor": -150,
        "file_id": FILE_ID,
        "place": "line 4",
        "age_days": 5,
    }
    return pb.Break(**(facts | more))


FEE = a_break(1)
UNKNOWN = a_break(
    2,
    **{"class": pb.BREAK_CLASS_UNKNOWN_TO_US},
    state=pb.BREAK_STATE_POSTED,
    amount_minor=200,
    booked_journal_id="b" * 32,
    proposal=[
        entry(ledger_pb.DIRECTION_DEBIT, ledger_pb.ACCOUNT_KIND_PSP_RECEIVABLE, 200),
        entry(ledger_pb.DIRECTION_CREDIT, ledger_pb.ACCOUNT_KIND_SUSPENSE, 200),
    ],
)


def told(mesh: FakeMesh, run: pb.Run, *breaks: pb.Break, more: tuple[str, ...] = ()) -> Result:
    """The command, where the mesh has this run and these breaks."""
    command = mesh.run(*REPORT, *more)
    mesh.take(command, LEDGER, RPC["ListRuns"]).answer(pb.ListRunsResponse(runs=[run]))
    mesh.take(command, LEDGER, RPC["ListBreaks"]).answer(pb.ListBreaksResponse(breaks=breaks))
    return command.result(10)


def page(mesh: FakeMesh, run: pb.Run, *breaks: pb.Break) -> Any:
    result = told(mesh, run, *breaks)
    assert result.exit_code == 0, result.output
    return html.document_fromstring(result.stdout)


def rows(document: Any, table: str) -> list[list[str]]:
    """The texts of a table's body, cell by cell."""
    return [
        [" ".join(cell.text_content().split()) for cell in row]
        for row in document.xpath(f"//table[@class='{table}']/tbody/tr")
    ]


def bars(document: Any, chart: int = 1) -> list[tuple[str, str]]:
    """The chart's labels and amounts, from top to bottom."""
    texts = document.xpath(f"(//svg)[{chart}]/text/text()")
    return list(zip(texts[::2], texts[1::2], strict=True))


# --- the page --------------------------------------------------------------------------


def test_the_header_names_the_day_its_run_and_its_state(mesh: FakeMesh) -> None:
    document = page(mesh, a_run())
    header = " ".join(document.xpath("//header")[0].text_content().split())
    assert header.startswith(f"Reconciliation of psp_stub, {DAY}: EXPLAINED")
    for fact in (f"run{RUN_ID}", "version2", "lines9", "matched7", "breaks2"):
        assert fact in header.replace(" ", "")


def test_each_currency_has_its_equation_in_its_own_decimals(mesh: FakeMesh) -> None:
    dinar = balance("BHD", breaks_minor=0, ledger_minor=3049, difference_minor=1)
    yen = pb.RunBalance(currency_code="JPY", lines_minor=-7, ledger_minor=-7)
    document = page(mesh, a_run(balance(), dinar, yen), FEE)
    assert rows(document, "balances") == [
        ["EUR", "10.00", "40.50", "30.50", "32.00", "-1.50", "0.00"],
        ["BHD", "1.000", "4.050", "3.050", "3.049", "0.000", "0.001"],
        ["JPY", "not in the file", "not in the file", "-7", "-7", "0", "0"],
    ]
    assert bars(document, 2)[-2:] == [("difference", "+0.001"), ("closing balance", "4.050")]
    assert bars(document, 3) == [
        ("no opening in the file: from 0", "0"),
        ("matched or booked by rule", "-7"),
        ("after the day's lines", "-7"),
    ]


def test_the_chart_goes_from_opening_to_closing_by_class(mesh: FakeMesh) -> None:
    document = page(mesh, a_run(), UNKNOWN, FEE)
    assert bars(document) == [
        ("opening balance", "10.00"),
        ("matched or booked by rule", "+30.00"),
        ("posted: UNKNOWN_TO_US", "+2.00"),
        ("break: FEE_DIFFERS", "-1.50"),
        ("closing balance", "40.50"),
    ]
    looks = [bar.get("class") for bar in document.xpath("//svg/rect")]
    assert looks == ["balance", "up", "up", "down", "balance"]


def test_each_bar_begins_where_the_one_before_ended(mesh: FakeMesh) -> None:
    drawn = [
        (int(bar.get("x")), int(bar.get("x")) + int(bar.get("width")))
        for bar in page(mesh, a_run(), UNKNOWN, FEE).xpath("//svg/rect")
    ]
    opening, matched, posted, fee, closing = drawn
    assert (matched[0], posted[0]) == (opening[1], matched[1])
    assert (fee[1], fee[0]) == (posted[1], closing[1])
    assert opening[0] == closing[0]
    # 30.50 of 42.00 at the highest, and nothing outside of the picture.
    assert (closing[1] - closing[0]) / (posted[1] - opening[0]) == pytest.approx(
        40.5 / 42, abs=0.01
    )
    assert min(left for left, _ in drawn) >= 0
    assert max(right for _, right in drawn) <= 720


def test_what_is_not_of_the_files_lines_is_in_the_table_and_not_in_the_chart(
    mesh: FakeMesh,
) -> None:
    timing = a_break(3, **{"class": pb.BREAK_CLASS_TIMING}, file_id="", amount_minor=-999)
    chain = a_break(4, **{"class": pb.BREAK_CLASS_CHAIN_BROKEN}, amount_minor=555)
    document = page(mesh, a_run(), FEE, timing, chain)
    assert [label for label, _ in bars(document)] == [
        *("opening balance", "matched or booked by rule", "break: FEE_DIFFERS"),
        "closing balance",
    ]
    assert [row[0] for row in rows(document, "breaks")] == [
        *("5 FEE_DIFFERS", "1 TIMING", "17 CHAIN_BROKEN"),
    ]


def test_breaks_that_moved_on_since_the_run_are_not_guessed_by_class(mesh: FakeMesh) -> None:
    moved_on = a_break(1, state=pb.BREAK_STATE_CLEARED)
    assert bars(page(mesh, a_run(), moved_on)) == [
        ("opening balance", "10.00"),
        ("the ledger's side", "+32.00"),
        ("breaks of the run", "-1.50"),
        ("closing balance", "40.50"),
    ]


def test_what_no_line_explains_is_a_bar_of_its_own(mesh: FakeMesh) -> None:
    document = page(mesh, a_run(balance(closing_minor=4049)), FEE)
    assert bars(document)[-2:] == [
        ("not in the day's lines", "-0.01"),
        ("closing balance", "40.49"),
    ]


def test_a_break_is_told_with_its_evidence_and_its_journal(mesh: FakeMesh) -> None:
    full = pb.Break()
    full.CopyFrom(UNKNOWN)
    full.psp_reference, full.order_id, full.operation_id = "psp-77", "c" * 32, "d" * 32
    full.sequence, full.file_sha256, full.rule = 3, "e" * 64, "LEFT_OVER"
    proposed = a_break(5, proposal=list(UNKNOWN.proposal), age_days=31)
    document = page(mesh, a_run(), full, proposed)
    first, second = rows(document, "breaks")
    assert first[:4] == ["3 UNKNOWN_TO_US", "POSTED", f"{DAY}, 4-7", "2.00 EUR"]
    assert first[4] == (
        f"break {UNKNOWN.break_id}PSP reference psp-77order {'c' * 32}operation {'d' * 32}"
    )
    assert first[5] == f"place line 4sequence 3file {FILE_ID}rule LEFT_OVER"
    hashes = [one.text_content() for one in document.xpath("//p[@class='file']")]
    assert f"file {FILE_ID} has the SHA-256 {'e' * 64}" in hashes
    entries = "debit psp_receivable psp_stub 2.00 EURcredit suspense psp_stub 2.00 EUR"
    assert first[6] == f"posted {'b' * 32}{entries}"
    assert second[2].endswith(", >30")
    assert second[6] == f"proposed{entries}"


def test_a_break_that_moves_nothing_says_so(mesh: FakeMesh) -> None:
    [row] = rows(page(mesh, a_run(), FEE), "breaks")
    assert row[6] == "nothing to post"


@pytest.mark.parametrize("field", ["psp_reference", "place", "rule", "order_id", "source"])
def test_what_a_file_says_stays_text(mesh: FakeMesh, field: str) -> None:
    more = {field: EVIL}
    if field == "source":
        owner = ledger_pb.Account(kind=ledger_pb.ACCOUNT_KIND_SUSPENSE, source=EVIL, owner_id=EVIL)
        more = {"proposal": [ledger_pb.Entry(account=owner)]}  # type: ignore[dict-item]
    document = page(mesh, a_run(source=EVIL), a_break(1, **more))
    assert not document.xpath("//script | //img")
    assert EVIL in document.xpath("//table[@class='breaks']")[0].text_content()
    assert EVIL in document.xpath("//h1")[0].text


def test_letters_that_turn_or_end_a_line_are_replaced(mesh: FakeMesh) -> None:
    result = told(mesh, a_run(), a_break(1, psp_reference="a\u202eb\x00c\x1b[2J"))
    assert "a\ufffdb\ufffdc\ufffd[2J" in result.stdout
    assert not set(result.stdout) & {"\u202e", "\x00", "\x1b"}


def test_nothing_comes_from_outside_and_nothing_runs(mesh: FakeMesh) -> None:
    result = told(mesh, a_run(), FEE, UNKNOWN)
    document: Any = html.document_fromstring(result.stdout)
    assert not document.xpath("//script | //link | //iframe | //img | //object | //embed | //form")
    attributes = {name for element in document.iter() for name in element.attrib}
    assert not [name for name in attributes if name.startswith("on")]
    assert not attributes & {"src", "href", "xlink:href", "srcset", "style"}
    [style] = document.xpath("//style/text()")
    assert not re.search(r"url\(|@import|https?:", style)
    [policy] = document.xpath("//meta[@http-equiv='Content-Security-Policy']/@content")
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"


def test_the_page_is_readable_without_eyes_and_on_paper(mesh: FakeMesh) -> None:
    document = page(mesh, a_run(balance(), balance("SEK")), FEE)
    assert document.get("lang") == "en"
    for table in document.xpath("//table"):
        assert table.xpath("./caption")[0].text_content()
        assert all(head.get("scope") for head in table.xpath(".//th"))
    charts = document.xpath("//svg")
    assert len(charts) == 2
    for chart in charts:
        title, text = (
            document.get_element_by_id(one) for one in chart.get("aria-labelledby").split()
        )
        assert (chart.get("role"), title.tag, text.tag) == ("img", "title", "desc")
        assert "opening balance 10.00; " in text.text
    [style] = document.xpath("//style/text()")
    for rule in ("prefers-color-scheme: dark", "@media print", "size: A4"):
        assert rule in style


def test_a_day_without_amounts_or_breaks_is_a_page_too(mesh: FakeMesh) -> None:
    empty = pb.Run(run_id=RUN_ID, version=1, source="psp_stub", settlement_date=DAY)
    document = page(mesh, empty)
    assert not document.xpath("//table | //svg")
    assert "No statement of the day has an amount." in document.text_content()
    assert "There are none." in document.text_content()


# --- the command -----------------------------------------------------------------------


def test_the_highest_version_counts_and_all_pages_are_read(mesh: FakeMesh) -> None:
    command = mesh.run(*REPORT)
    call = mesh.take(command, LEDGER, RPC["ListRuns"])
    assert call.request == pb.ListRunsRequest(
        source="psp_stub", settlement_date=DAY, page_size=1000
    )
    call.answer(pb.ListRunsResponse(runs=[a_run()], next_page_token="more"))
    call = mesh.take(command, LEDGER, RPC["ListRuns"])
    assert call.request.page_token == "more"
    newest = a_run(run_id="9" * 32, version=3)
    call.answer(pb.ListRunsResponse(runs=[newest, a_run(version=1)]))
    call = mesh.take(command, LEDGER, RPC["ListBreaks"])
    assert call.request == pb.ListBreaksRequest(run_id="9" * 32, page_size=1000)
    call.answer(pb.ListBreaksResponse(breaks=[FEE], next_page_token="on"))
    call = mesh.take(command, LEDGER, RPC["ListBreaks"])
    assert (call.request.run_id, call.request.page_token) == ("9" * 32, "on")
    call.answer(pb.ListBreaksResponse(breaks=[UNKNOWN]))
    document = html.document_fromstring(command.result(10).stdout)
    assert len(rows(document, "breaks")) == 2


def test_by_default_it_is_about_yesterday(mesh: FakeMesh) -> None:
    before = datetime.now(UTC).date()
    command = mesh.run("reconcile", "report", "--source", "psp_stub")
    call = mesh.take(command, LEDGER, RPC["ListRuns"])
    days = {(day - timedelta(days=1)).isoformat() for day in (before, datetime.now(UTC).date())}
    assert call.request.settlement_date in days
    call.answer(pb.ListRunsResponse())
    assert command.result(10).exit_code == 1


def test_a_day_without_a_run_says_what_to_do(mesh: FakeMesh, tmp_path: Path) -> None:
    command = mesh.run(*REPORT, "--out", str(tmp_path / "day.html"))
    mesh.take(command, LEDGER, RPC["ListRuns"]).answer(pb.ListRunsResponse())
    result = command.result(10)
    assert result.exit_code == 1
    assert f"RUN_NOT_FOUND: {DAY} of 'psp_stub'" in result.stderr
    assert f"paymesh reconcile run --date {DAY}" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_written_and_told(mesh: FakeMesh, tmp_path: Path) -> None:
    out = tmp_path / "day.html"
    out.write_text("an older one")
    result = told(mesh, a_run(), FEE, more=("--out", str(out)))
    assert (result.exit_code, result.stdout) == (0, f"{out}: {DAY} EXPLAINED, 2 breaks\n")
    assert out.read_text().startswith("<!DOCTYPE html>")
    assert list(tmp_path.iterdir()) == [out]


def test_in_a_folder_it_has_a_name_that_stays_there(mesh: FakeMesh, tmp_path: Path) -> None:
    result = told(mesh, a_run(source="../../psp"), FEE, more=("--out", str(tmp_path)))
    assert result.exit_code == 0
    [out] = tmp_path.iterdir()
    assert out.name == f"reconciliation-______psp-{DAY}.html"


def test_a_place_that_can_not_be_written(mesh: FakeMesh, tmp_path: Path) -> None:
    result = told(mesh, a_run(), more=("--out", str(tmp_path / "no folder" / "day.html")))
    assert result.exit_code == 2
    assert "FILE_NOT_WRITABLE" in result.stderr


def test_a_mesh_that_is_away_leaves_no_file(mesh: FakeMesh, tmp_path: Path) -> None:
    command = mesh.run(*REPORT, "--out", str(tmp_path / "day.html"))
    mesh.take(command, LEDGER, RPC["ListRuns"]).answer(pb.ListRunsResponse(runs=[a_run()]))
    call = mesh.take(command, LEDGER, RPC["ListBreaks"])
    call.refuse(dependency_down("the database is away"), grpc.StatusCode.UNAVAILABLE)
    assert command.result(10).exit_code == 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--date", "2026-02-30", "--source", "psp_stub"), "is not a day"),
        (("--date", "", "--source", "psp_stub"), "is not a day"),
        (("--date", "tomorrow", "--source", "psp_stub"), "is not a day"),
        (("--source", ""), "--source"),
        ((), "--source"),
        (("--source", "psp_stub", "--target", "nowhere"), "HOST:PORT_BASE"),
    ],
)
def test_bad_arguments_ask_nobody(mesh: FakeMesh, arguments: tuple[str, ...], said: str) -> None:
    result = mesh.run("reconcile", "report", *arguments).result(10)
    assert result.exit_code == 2
    assert said in result.output
    assert mesh.addresses == []


# --- reconcile run, for cron -----------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "exit_code"),
    [
        (pb.RUN_STATE_BALANCED, 0),
        (pb.RUN_STATE_EXPLAINED, 0),
        (pb.RUN_STATE_BROKEN, 1),
        (pb.RUN_STATE_OPEN, 1),
    ],
)
@pytest.mark.parametrize("more", [(), ("--json",)])
def test_a_days_state_is_the_exit_code(
    mesh: FakeMesh, state: pb.RunState.ValueType, exit_code: int, more: tuple[str, ...]
) -> None:
    command = mesh.run("reconcile", "run", "--date", DAY, "--source", "psp_stub", *more)
    call = mesh.take(command, LEDGER, RPC["Reconcile"])
    assert call.request == pb.ReconcileRequest(settlement_date=DAY, source="psp_stub")
    call.answer(pb.ReconcileResponse(run=a_run(state=state)))
    assert command.result(10).exit_code == exit_code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (
            MeshError(Reason.SETTLEMENT_FILE_MISSING, "ask again later"),
            grpc.StatusCode.FAILED_PRECONDITION,
        ),
        (dependency_down("the database is away"), grpc.StatusCode.UNAVAILABLE),
        (outcome_unknown("the commit"), grpc.StatusCode.ABORTED),
    ],
)
def test_a_run_that_could_not_is_2_whatever_the_reason(
    mesh: FakeMesh, error: MeshError, code: grpc.StatusCode
) -> None:
    command = mesh.run("reconcile", "run", "--date", DAY, "--source", "psp_stub")
    mesh.take(command, LEDGER, RPC["Reconcile"]).refuse(error, code)
    result = command.result(10)
    assert result.exit_code == 2
    assert error.reason in result.stderr


@pytest.mark.parametrize("day", ["2026-02-30", "", "tomorrow"])
def test_a_day_that_is_none_runs_nothing(mesh: FakeMesh, day: str) -> None:
    result = mesh.run("reconcile", "run", "--date", day, "--source", "psp_stub").result(10)
    assert result.exit_code == 2
    assert "is not a day" in result.stderr
    assert mesh.addresses == []


# --- reconcile breaks ------------------------------------------------------------------


def listed(mesh: FakeMesh, *breaks: pb.Break, more: tuple[str, ...]) -> Result:
    command: Future[Result] = mesh.run("reconcile", "breaks", *more)
    mesh.take(command, LEDGER, RPC["ListBreaks"]).answer(pb.ListBreaksResponse(breaks=breaks))
    return command.result(10)


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("-2+3", "'-2+3"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\ufffd=1"),
        ("\r=1", "'\ufffd=1"),
        ("\n=1", "'\ufffd=1"),
        ("  =1", "'  =1"),
        ("\uff1d1", "'\uff1d1"),
        ("x;=cmd|'/C calc'!A0;y", "x;'=cmd|'/C calc'!A0;y"),
        ('a; "+1"|-2;\uff1d3', "a;' \"+1\"|'-2;'\uff1d3"),
        ("a;b|c - d", "a;b|c - d"),
        ("a=1", "a=1"),
        ('say "a, b"', 'say "a, b"'),
    ],
)
def test_a_cell_is_never_a_formula(mesh: FakeMesh, text: str, cell: str) -> None:
    result = listed(mesh, a_break(1, psp_reference=text, place=text), more=("--csv",))
    [row] = csv.DictReader(io.StringIO(result.stdout, newline=""), strict=True)
    assert (row["psp_reference"], row["place"]) == (cell, cell)
    # A number is none, whatever its sign.
    assert (row["amount_minor"], row["age_days"]) == ("-150", "5")


def test_the_lines_end_as_rfc_4180_has_it(mesh: FakeMesh) -> None:
    result = listed(mesh, a_break(1, place='a,"b'), UNKNOWN, more=("--csv",))
    lines = result.stdout_bytes.split(b"\r\n")
    assert (len(lines), lines[-1]) == (4, b"")
    assert b"\n" not in b"".join(lines)
    assert b',"a,""b"' in lines[1]
    assert len({len(row) for row in csv.reader(io.StringIO(result.stdout, newline=""))}) == 1


def test_each_break_tells_the_rule_that_found_it(mesh: FakeMesh) -> None:
    result = listed(mesh, a_break(1, rule="REGISTER_DECLINED"), a_break(2), more=())
    head, found, other = (line.split() for line in result.stdout.splitlines() if "e" in line)
    assert head[:4] == ["break", "class", "rule", "state"]
    assert found[1:4] == ["5", "FEE_DIFFERS", "REGISTER_DECLINED"]
    assert other[1:4] == ["5", "FEE_DIFFERS", "OPEN"]


def test_as_json_each_break_is_an_object(mesh: FakeMesh) -> None:
    result = listed(mesh, FEE, UNKNOWN, more=("--json",))
    first, second = json.loads(result.stdout)["breaks"]
    assert (first["break_id"], first["amount_minor"]) == (FEE.break_id, -150)
    assert second["class"] == "BREAK_CLASS_UNKNOWN_TO_US"
    assert second["proposal"][0]["amount"] == {"amount_minor": 200, "currency_code": "EUR"}
