"""Settlement files come in once, whole, or not at all."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import grpc
import psycopg
import pytest
from paymesh.reconciliation.v1 import reconciliation_service_pb2 as pb

from mesh import ids
from mesh.errors import Code, Reason
from tests.rpc.reconciliation.conftest import MAX_FILE_BYTES
from tests.support.reconciliation import DAY, DayFile, ingest, parts, reference, stream
from tests.support.serving import error_of
from tests.support.settlement import camt, mt940, ntry, stmt, stripe, stripe_row

if TYPE_CHECKING:
    from paymesh.reconciliation.v1.reconciliation_service_pb2_grpc import (
        ReconciliationServiceAsyncStub,
    )

Sql = psycopg.Connection[tuple[Any, ...]]


def stored_lines(sql: Sql, file_id: str) -> int:
    row = sql.execute(
        "SELECT count(*) FROM settlement_line WHERE file_id = %s", [file_id]
    ).fetchone()
    assert row is not None
    return int(row[0])


async def statements(
    reconciliation: ReconciliationServiceAsyncStub, file_id: str
) -> list[pb.Statement]:
    response = await reconciliation.ListStatements(pb.ListStatementsRequest(file_id=file_id))
    return list(response.statements)


async def test_a_file_is_stored_with_its_statements_and_lines(
    reconciliation: ReconciliationServiceAsyncStub, psp: str, sql: Sql
) -> None:
    content = DayFile(1000).line(500, 5).line(-200, 0, kind="REFUND").content()
    file = await ingest(reconciliation, content, psp)

    sha256 = hashlib.sha256(content).hexdigest()
    assert file.state == pb.FILE_STATE_INGESTED
    assert file.problem == ""
    assert file.sha256 == sha256
    assert file.file_id == ids.settlement_file_id(psp, DAY, sha256).hex
    assert (file.format, file.lines, file.size_bytes) == ("paymesh.settlement.v1", 2, len(content))
    assert (file.source, file.settlement_date, file.file_name) == (psp, DAY, "day.csv")
    assert stored_lines(sql, file.file_id) == 2

    read = await reconciliation.GetFile(pb.GetFileRequest(file_id=file.file_id))
    assert read.file == file
    [statement] = await statements(reconciliation, file.file_id)
    assert statement == pb.Statement(
        account="acct-1",
        currency_code="EUR",
        opening_minor=1000,
        closing_minor=1295,
        entries=2,
        credits_minor=495,
        debits_minor=200,
        ties=True,
        identity=f"S-{DAY}",
        settlement_date=DAY,
        is_current=True,
    )


async def test_the_same_file_again_is_the_same_file(
    reconciliation: ReconciliationServiceAsyncStub, psp: str, sql: Sql
) -> None:
    content = DayFile().line(500, 5).content()
    first = await ingest(reconciliation, content, psp)
    assert await ingest(reconciliation, content, psp) == first
    assert stored_lines(sql, first.file_id) == 1


@pytest.mark.parametrize(("lines", "rounds"), [(300, 1), (1, 20)])
async def test_ten_that_send_one_file_at_once_store_it_once_and_nobody_is_refused(
    reconciliation: ReconciliationServiceAsyncStub, psp: str, sql: Sql, lines: int, rounds: int
) -> None:
    for _ in range(rounds):
        day = DayFile()
        for _ in range(lines):
            day.line(500, 5, psp_reference=reference())
        content = day.content()
        files = await asyncio.gather(*(ingest(reconciliation, content, psp) for _ in range(10)))
        assert all(file == files[0] for file in files)
        assert stored_lines(sql, files[0].file_id) == lines


async def test_texts_that_csv_quotes_are_stored_as_they_stand(
    reconciliation: ReconciliationServiceAsyncStub, psp: str, sql: Sql
) -> None:
    odds = ('"', '","', "\\N", "a\n\\.\nb", "é\x85\u2028b", ",", "'")
    texts = [f"{reference()}{odd}" for odd in odds]
    day = DayFile()
    for odd in texts:
        day.line(500, 5, psp_reference=odd, description=f"about {odd}")
    file = await ingest(reconciliation, day.content(), psp)
    assert file.state == pb.FILE_STATE_INGESTED, file.problem
    found = sql.execute(
        "SELECT source_reference, more -> 'texts' ->> 0, kind, related_reference, create_time"
        " FROM settlement_line WHERE file_id = %s ORDER BY sequence",
        [file.file_id],
    ).fetchall()
    assert found == [(odd, f"about {odd}", "CHARGE", "", None) for odd in texts]


async def test_lines_are_found_by_reference_and_by_operation(
    reconciliation: ReconciliationServiceAsyncStub, psp: str
) -> None:
    operation, order, mine = uuid.uuid4().hex, uuid.uuid4().hex, reference()
    content = (
        DayFile()
        .line(700, 7, psp_reference=mine, operation_id=operation, order_id=order)
        .line(100, psp_reference=reference())
        .content()
    )
    file = await ingest(reconciliation, content, psp)
    found = await reconciliation.FindSettlementLines(
        pb.FindSettlementLinesRequest(
            psp_references=[mine, "nobody's"], operation_ids=[operation, uuid.uuid4().hex]
        )
    )
    assert not found.has_more
    [line] = found.lines
    assert line == pb.SettlementLine(
        file_id=file.file_id,
        sequence=1,
        place="line 3",
        source=psp,
        settlement_date=DAY,
        kind="CHARGE",
        currency_code="EUR",
        amount_minor=693,
        gross_minor=700,
        fee_minor=7,
        psp_reference=mine,
        operation_id=operation,
        order_id=order,
    )


async def test_formats_of_banks_and_other_psps_are_taken(
    reconciliation: ReconciliationServiceAsyncStub, psp: str
) -> None:
    bank = psp.replace("psp", "bank")
    for content, name in (
        (camt(stmt(ntry(), closing="105.00")), "camt.053.001.08"),
        (mt940("61:260131C5,00NTRFNONREF//B-1", closing="62F:C260131EUR105,00"), "MT940"),
    ):
        file = await ingest(reconciliation, content.encode(), bank)
        assert (file.state, file.format, file.lines) == (pb.FILE_STATE_INGESTED, name, 1)


@pytest.mark.parametrize(
    "written",
    [
        "none of ours, \\N \t\x85",
        f"{'a' * 32},{'b' * 32}",
        f"{'a' * 16}\n{'a' * 15}",
        "a" * 31,
        "A" * 32,
    ],
)
async def test_what_anybody_may_write_where_our_id_should_be_is_no_id(
    reconciliation: ReconciliationServiceAsyncStub, psp: str, sql: Sql, written: str
) -> None:
    row = stripe_row("5.00", **{"payment_metadata[operation_id]": written})
    file = await ingest(reconciliation, stripe(row).encode(), psp.replace("psp", "bank"))
    assert file.state == pb.FILE_STATE_INGESTED, file.problem
    found = sql.execute(
        "SELECT operation_id, more::text FROM settlement_line WHERE file_id = %s", [file.file_id]
    ).fetchone()
    assert found is not None
    assert found[0] is None
    assert written[:8] in str(found[1])


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        ((b"END,", b"MORE,"), ("UNKNOWN_RECORD_TYPE", pb.BREAK_CLASS_UNSPECIFIED)),
        ((b"CHARGE", b"MAGIC"), ("UNKNOWN_RECORD_TYPE", pb.BREAK_CLASS_UNSPECIFIED)),
        ((b"acct-1", b"acct-9"), ("ACCOUNT_UNKNOWN", pb.BREAK_CLASS_UNKNOWN_ACCOUNT)),
        ((b",500,5,495,", b",500,5,494,"), ("LINE_ARITHMETIC", pb.BREAK_CLASS_ARITHMETIC_BROKEN)),
        ((b",792,792,", b",793,792,"), ("DOES_NOT_TIE", pb.BREAK_CLASS_ARITHMETIC_BROKEN)),
        ((b",EUR,", b",XXX,"), ("UNKNOWN_CURRENCY", pb.BREAK_CLASS_UNSPECIFIED)),
        ((b"CHARGE", b"CHAR\0GE"), ("NUL_BYTE", pb.BREAK_CLASS_UNSPECIFIED)),
        ((b"CHARGE", b"CHAR\xffGE"), ("BAD_ENCODING", pb.BREAK_CLASS_UNSPECIFIED)),
    ],
)
async def test_a_bad_file_is_quarantined_whole_and_the_service_goes_on(
    reconciliation: ReconciliationServiceAsyncStub,
    psp: str,
    sql: Sql,
    broken: tuple[bytes, bytes],
    expected: tuple[str, pb.BreakClass.ValueType],
) -> None:
    good = DayFile().line(300, 3).line(500, 5).content()
    bad = good.replace(*broken)
    assert bad != good
    file = await ingest(reconciliation, bad, psp)
    assert file.state == pb.FILE_STATE_QUARANTINED
    assert expected[0] in file.problem
    assert file.problem_class == expected[1]
    assert file.problem_place
    assert stored_lines(sql, file.file_id) == 0
    assert (await ingest(reconciliation, good, psp)).state == pb.FILE_STATE_INGESTED


@pytest.mark.parametrize("cut", [1, 10, 100, 300, -2, -3, -20])
async def test_a_file_that_is_cut_anywhere_is_never_used(
    reconciliation: ReconciliationServiceAsyncStub, psp: str, sql: Sql, cut: int
) -> None:
    file = await ingest(reconciliation, DayFile().line(500, 5).content()[:cut], psp)
    assert file.state == pb.FILE_STATE_QUARANTINED
    assert file.problem
    assert stored_lines(sql, file.file_id) == 0


async def test_a_quarantined_file_is_judged_again_when_it_comes_again(
    reconciliation: ReconciliationServiceAsyncStub, psp: str
) -> None:
    content = DayFile(account="acct-9").line(500, 5).content()
    refused = await ingest(reconciliation, content, psp)
    assert refused.state == pb.FILE_STATE_QUARANTINED
    [statement] = await statements(reconciliation, refused.file_id)
    assert not statement.is_current
    # The bank takes any account: the same bytes under another source are another file.
    taken = await ingest(reconciliation, content, psp.replace("psp", "bank"))
    assert taken.state == pb.FILE_STATE_INGESTED
    assert taken.file_id != refused.file_id
    again = await ingest(reconciliation, content, psp)
    assert again == refused


async def test_a_statement_whose_last_page_is_missing_waits(
    reconciliation: ReconciliationServiceAsyncStub, psp: str, sql: Sql
) -> None:
    first_page = DayFile(last=False).line(500, 5)
    waiting = await ingest(reconciliation, first_page.content(), psp)
    assert waiting.state == pb.FILE_STATE_WAITING
    assert waiting.problem_class == pb.BREAK_CLASS_PAGES_INCOMPLETE
    assert stored_lines(sql, waiting.file_id) == 0

    whole = DayFile(last=False).line(500, 5)
    whole.close()
    whole.open_day(495, page=2)
    whole.line(100)
    complete = await ingest(reconciliation, whole.content(), psp)
    assert (complete.state, complete.lines) == (pb.FILE_STATE_INGESTED, 2)


async def test_a_correction_supersedes_and_an_older_one_does_not(
    reconciliation: ReconciliationServiceAsyncStub, psp: str
) -> None:
    old = await ingest(reconciliation, DayFile().line(500, 5).content(), psp)
    newest = await ingest(reconciliation, DayFile(revision=2).line(600, 6).content(), psp)
    late = await ingest(reconciliation, DayFile(revision=1).line(550, 5).content(), psp)

    states = {
        name: (await reconciliation.GetFile(pb.GetFileRequest(file_id=file.file_id))).file.state
        for name, file in {"old": old, "newest": newest, "late": late}.items()
    }
    assert states == {
        "old": pb.FILE_STATE_SUPERSEDED,
        "newest": pb.FILE_STATE_INGESTED,
        "late": pb.FILE_STATE_SUPERSEDED,
    }
    assert [s.is_current for s in await statements(reconciliation, newest.file_id)] == [True]
    assert [s.is_current for s in await statements(reconciliation, old.file_id)] == [False]


async def test_several_accounts_and_currencies_of_one_file_stay_apart(
    reconciliation: ReconciliationServiceAsyncStub, psp: str
) -> None:
    day = DayFile().line(500, 5)
    day.close()
    day.open_day(10, account="acct-2", currency="JPY", statement="other")
    day.line(7)
    file = await ingest(reconciliation, day.content(), psp)
    found = await statements(reconciliation, file.file_id)
    assert [(s.account, s.currency_code, s.closing_minor) for s in found] == [
        ("acct-1", "EUR", 495),
        ("acct-2", "JPY", 17),
    ]
    first = await reconciliation.ListStatements(
        pb.ListStatementsRequest(file_id=file.file_id, page_size=1)
    )
    second = await reconciliation.ListStatements(
        pb.ListStatementsRequest(
            file_id=file.file_id, page_size=1, page_token=first.next_page_token
        )
    )
    assert [*first.statements, *second.statements] == found
    assert second.next_page_token == ""


async def test_what_value_dates_explain_is_not_broken(
    reconciliation: ReconciliationServiceAsyncStub, psp: str
) -> None:
    content = camt(stmt(ntry(value_day="2026-02-03"), opening="100.00", closing="100.00"))
    file = await ingest(reconciliation, content.encode(), psp.replace("psp", "bank"))
    assert file.state == pb.FILE_STATE_INGESTED
    assert "EXPLAINED_BY_VALUE_DATE" in file.problem


async def test_a_file_without_a_day_needs_to_be_told_one(
    reconciliation: ReconciliationServiceAsyncStub, psp: str
) -> None:
    bank = psp.replace("psp", "bank")
    nothing = stripe().encode()
    file = await ingest(reconciliation, nothing, bank)
    assert (file.state, file.settlement_date) == (pb.FILE_STATE_QUARANTINED, "")
    assert "DATE_MISSING" in file.problem
    # Two empty days may be the same bytes, and are two files.
    days = [
        await ingest(reconciliation, nothing, bank, settlement_date=day)
        for day in ("2026-01-30", "2026-01-31")
    ]
    assert [day.state for day in days] == [pb.FILE_STATE_INGESTED] * 2
    assert len({day.file_id for day in days}) == 2


async def test_a_file_of_another_day_than_told_is_quarantined(
    reconciliation: ReconciliationServiceAsyncStub, psp: str
) -> None:
    content = DayFile().line(500, 5).content()
    file = await ingest(reconciliation, content, psp, settlement_date="2026-02-01")
    assert file.state == pb.FILE_STATE_QUARANTINED
    assert "DATE_DIFFERS" in file.problem


async def test_a_file_of_another_format_than_told_is_quarantined(
    reconciliation: ReconciliationServiceAsyncStub, psp: str
) -> None:
    file = await ingest(reconciliation, DayFile().content(), psp, format="camt.053")
    assert file.state == pb.FILE_STATE_QUARANTINED
    assert "UNKNOWN_FORMAT" in file.problem


async def test_a_reference_that_no_index_could_hold_is_quarantined(
    reconciliation: ReconciliationServiceAsyncStub, psp: str
) -> None:
    file = await ingest(
        reconciliation, DayFile().line(500, psp_reference="x" * 10_000).content(), psp
    )
    assert file.state == pb.FILE_STATE_QUARANTINED
    assert (file.problem.split(":")[0], file.problem_place) == ("BAD_FIELD", "line 3")


async def test_an_oversized_stream_is_refused_and_leaves_nothing(
    reconciliation: ReconciliationServiceAsyncStub, psp: str, sql: Sql
) -> None:
    content = DayFile().content() + b"x" * MAX_FILE_BYTES
    error = await error_of(ingest(reconciliation, content, psp))
    assert (error.code, error.reason) == (Code.INVALID_ARGUMENT, Reason.FILE_TOO_LARGE)
    assert error.metadata["max_file_bytes"] == str(MAX_FILE_BYTES)
    row = sql.execute("SELECT count(*) FROM settlement_file WHERE source = %s", [psp]).fetchone()
    assert row == (0,)


async def test_a_stream_without_an_end_is_not_read_for_ever(
    reconciliation: ReconciliationServiceAsyncStub, psp: str
) -> None:
    sent = 0

    async def endless() -> AsyncIterator[pb.IngestSettlementFileRequest]:
        nonlocal sent
        yield parts(b"", psp)[0]
        while True:
            sent += 1 << 20
            yield pb.IngestSettlementFileRequest(chunk=b"x" * (1 << 20))

    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await reconciliation.IngestSettlementFile(endless(), timeout=20)
    assert ended.value.code() is not grpc.StatusCode.DEADLINE_EXCEEDED
    assert sent < 100 * MAX_FILE_BYTES


async def test_an_unknown_source_is_refused(
    reconciliation: ReconciliationServiceAsyncStub,
) -> None:
    error = await error_of(ingest(reconciliation, DayFile().content(), "nobody"))
    assert (error.code, error.reason) == (Code.NOT_FOUND, Reason.SOURCE_NOT_FOUND)


async def test_a_stream_out_of_order_is_refused(
    reconciliation: ReconciliationServiceAsyncStub, psp: str
) -> None:
    header, chunk = parts(b"x", psp)
    for messages, field in (
        ([], "header"),
        ([chunk, header], "header"),
        ([header, chunk, header], "header"),
        ([header, header], "header"),
        ([pb.IngestSettlementFileRequest()], "part"),
        ([header, pb.IngestSettlementFileRequest(chunk=b"")], "chunk"),
        ([header, pb.IngestSettlementFileRequest(chunk=b"x" * (1 << 20 | 1))], "chunk"),
        (parts(b"x", ""), "header.source"),
        (parts(b"x", psp, settlement_date="2026-13-01"), "header.settlement_date"),
        (parts(b"x", psp, settlement_date="yesterday"), "header.settlement_date"),
    ):
        error = await error_of(reconciliation.IngestSettlementFile(stream(messages)))
        assert error.reason is Reason.VALIDATION_FAILED, messages
        assert [violation.field for violation in error.violations] == [field]


async def test_a_file_of_no_bytes_is_quarantined(
    reconciliation: ReconciliationServiceAsyncStub, psp: str
) -> None:
    file = await ingest(reconciliation, b"", psp)
    assert file.state == pb.FILE_STATE_QUARANTINED
    assert file.problem.startswith("EMPTY_FILE")


async def test_a_caller_that_goes_away_leaves_nothing(
    reconciliation: ReconciliationServiceAsyncStub, psp: str, sql: Sql
) -> None:
    call = reconciliation.IngestSettlementFile(
        stream(parts(DayFile().content(), psp, chunk_bytes=10), pause_s=0.05), timeout=0.3
    )
    with pytest.raises(grpc.aio.AioRpcError):
        await call
    row = sql.execute("SELECT count(*) FROM settlement_file WHERE source = %s", [psp]).fetchone()
    assert row == (0,)


async def test_files_that_nobody_sent_are_not_found(
    reconciliation: ReconciliationServiceAsyncStub,
) -> None:
    nobody = uuid.uuid4().hex
    for call in (
        reconciliation.GetFile(pb.GetFileRequest(file_id=nobody)),
        reconciliation.ListStatements(pb.ListStatementsRequest(file_id=nobody)),
    ):
        error = await error_of(call)
        assert (error.code, error.reason) == (Code.NOT_FOUND, Reason.FILE_NOT_FOUND)
    bad = await error_of(reconciliation.GetFile(pb.GetFileRequest(file_id="x")))
    assert bad.reason is Reason.VALIDATION_FAILED
    empty = await error_of(reconciliation.FindSettlementLines(pb.FindSettlementLinesRequest()))
    assert empty.reason is Reason.VALIDATION_FAILED
