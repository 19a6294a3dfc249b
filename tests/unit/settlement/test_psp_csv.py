"""The adapter's own file: everything that it carries, and everything that can be wrong with it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime

import pytest

from ledger_svc.reconciliation.readers import ProblemCode, ReadReason
from mesh.settlement_file import COLUMNS, RECORD, Kind
from tests.support.settlement import OwnFile, csv_text, read_all, reason, refusal

KEY, OPERATION, ORDER = "a" * 32, "b" * 32, "c" * 32


def a_day() -> OwnFile:
    return (
        OwnFile()
        .open(1_000)
        .line(2_500, 103, idempotency_key=KEY, operation_id=OPERATION, order_id=ORDER)
        .line(-500, 0, "REFUND", related_psp_reference="psp-1")
        .line(-2_897, 0, "TRANSFER", transfer_reference="tr-1")
        .close()
    )


def test_lines_that_are_looked_at_one_by_one_are_those_that_are_taken_together() -> None:
    def a_long_day(**last: str) -> OwnFile:
        day = OwnFile().open(0)
        for number in range(1_203):
            more = {"booking_date": "2026-01-30", "create_time": "2026-01-30T23:59:59.5+01:00"}
            day.line(
                7 - number, number % 3, ("CHARGE", "REFUND", "REFUND_REVERSAL")[number % 3],
                idempotency_key=KEY, order_id=ORDER, psp_reference=f" psp-{number} ",
                **(more if number % 2 else {"value_date": "2026-02-01"}), **last,
            )  # fmt: skip
        return day.close()

    together, one_by_one = (
        read_all(a_long_day().text()),
        read_all(a_long_day(exchange_rate=" ").text()),
    )
    assert together == one_by_one
    assert len(together.lines) == 1_203
    assert together.lines[1].create_time == datetime(2026, 1, 30, 22, 59, 59, 500_000, UTC)
    assert together.only.ties


@pytest.mark.parametrize("column", ["net_minor", "line_no", "idempotency_key", "order_id"])
def test_a_cell_that_holds_what_looks_like_another_line_is_refused(column: str) -> None:
    for hidden in ("1\n,,,2,1,0,1", "1,1", f"{KEY},{KEY}", f"\n{KEY},,,2,1,0,1"):
        day = OwnFile().open(0).line(1, 0, **{column: hidden}).line(1, 0).close()
        refused = refusal(day.text())
        assert refused.where == f"line 3, column {column}"


def test_a_day_is_read_with_all_that_it_carries() -> None:
    outcome = read_all(a_day().text())
    only = outcome.only
    assert outcome.format == only.format == "paymesh.settlement.v1"
    assert (only.account, only.currency_code, only.identity, only.date) == (
        "psp_stub",
        "EUR",
        "2026-01-31",
        date(2026, 1, 31),
    )
    assert (only.opening_minor, only.credits_minor, only.debits_minor, only.closing_minor) == (
        1_000,
        2_397,
        3_397,
        0,
    )
    assert (only.entries, only.ties, only.problem) == (3, True, None)
    charge, refund, transfer = outcome.lines
    assert (charge.kind, charge.gross_minor, charge.fee_minor, charge.amount_minor) == (
        Kind.CHARGE,
        2_500,
        103,
        2_397,
    )
    assert (charge.idempotency_key, charge.operation_id, charge.order_id) == (KEY, OPERATION, ORDER)
    assert (refund.kind, refund.source_reference, refund.related_reference) == (
        Kind.REFUND,
        "psp-2",
        "psp-1",
    )
    assert (transfer.kind, transfer.batch_reference, transfer.place) == (
        Kind.TRANSFER,
        "tr-1",
        "line 5",
    )


@pytest.mark.parametrize("kind", list(Kind))
def test_every_kind_is_read(kind: Kind) -> None:
    [line] = read_all(OwnFile().open().line(-700, 0, kind.value).close().text()).lines
    assert line.kind is kind
    assert line.reversal is kind.value.endswith(("_REVERSAL", "_RETURN"))


def test_times_dates_and_conversion_are_told() -> None:
    file = (
        OwnFile()
        .open()
        .line(
            900,
            create_time="2026-01-31T23:30:00+02:00",
            booking_date="2026-01-31",
            value_date="2026-02-02",
            original_amount_minor=1_000,
            original_currency_code="USD",
            exchange_rate="0.9",
            description='said "so", twice\nover two lines',
        )
        .close()
    )
    [line] = read_all(file.text()).lines
    assert line.create_time == datetime(2026, 1, 31, 21, 30, tzinfo=UTC)
    assert (line.booking_date, line.value_date) == (date(2026, 1, 31), date(2026, 2, 2))
    assert (line.original_amount_minor, line.original_currency_code, line.exchange_rate) == (
        1_000,
        "USD",
        "0.9",
    )
    assert line.texts == ('said "so", twice\nover two lines',)


def test_each_currency_is_a_statement_and_a_day_may_be_empty() -> None:
    file = OwnFile().open(5, currency="EUR").close().open(7, currency="JPY").line(3).close()
    assert [
        (one.currency_code, one.opening_minor, one.closing_minor, one.ties)
        for one in read_all(file.text()).statements
    ] == [("EUR", 5, 5, True), ("JPY", 7, 10, True)]


def test_a_file_without_a_statement_is_a_day_without_an_account() -> None:
    assert read_all(OwnFile().text()).statements == []


def test_pages_are_one_statement() -> None:
    file = (
        OwnFile().open(0, last=False).line(5).close().open(5, page=2).line(-2, 0, "REFUND").close()
    )
    only = read_all(file.text()).only
    assert (only.opening_minor, only.closing_minor, only.entries, only.ties) == (0, 3, 2, True)


def test_a_missing_last_page_is_told() -> None:
    only = read_all(OwnFile().open(0, last=False).line(5).close().text()).only
    assert (only.ties, only.problem) == (False, "PAGES_MISSING: the last page is missing")


def test_a_byte_order_mark_and_other_columns_change_nothing() -> None:
    text = a_day().text()
    plain = read_all(text)
    assert read_all(text.encode("utf-8-sig")) == plain
    more = csv_text(["of a later version", *reversed(COLUMNS)], a_day().rows)
    assert reason(more) is ReadReason.FILE_CUT  # its END is missing
    ended = [*a_day().rows, {RECORD: "END", "lines": len(a_day().rows)}]
    assert read_all(csv_text(["of a later version", *reversed(COLUMNS)], ended)) == plain


@pytest.mark.parametrize(
    ("cells", "code"),
    [
        ({"credits_minor": 2_398}, ProblemCode.CONTROL_TOTALS),
        ({"debits_minor": 3_396}, ProblemCode.CONTROL_TOTALS),
        ({"lines": 4}, ProblemCode.CONTROL_TOTALS),
        ({"balance_minor": 1}, ProblemCode.DOES_NOT_TIE),
    ],
)
def test_totals_that_are_not_what_the_lines_make_do_not_tie(
    cells: dict[str, object], code: ProblemCode
) -> None:
    file = a_day()
    file.rows[-1] |= cells
    only = read_all(file.text()).only
    assert only.ties is False
    assert [one.code for one in only.problems] == [code]


def test_net_that_is_not_gross_minus_fee_does_not_tie() -> None:
    only = read_all(OwnFile().open().line(100, 3, fee_minor=2).close().text()).only
    assert only.ties is False
    assert only.problem == "LINE_ARITHMETIC: net is not gross - fee in line 3"


def test_a_line_that_was_doubled_or_taken_out_is_noticed() -> None:
    doubled = a_day()
    doubled.rows.insert(2, dict(doubled.rows[1]))
    shorter = a_day()
    del shorter.rows[2]
    for file in (doubled, shorter):
        only = read_all(file.text()).only
        assert only.ties is False
        assert ProblemCode.CONTROL_TOTALS in {one.code for one in only.problems}


def changed(row: int, **cells: object) -> Callable[[], str]:
    def make() -> str:
        file = a_day()
        file.rows[row] |= cells
        return file.text()

    return make


@pytest.mark.parametrize(
    ("make", "expected", "where"),
    [
        (changed(1, net_minor="24.00"), ReadReason.BAD_AMOUNT, "line 3, column net_minor"),
        (changed(1, net_minor="\uff11\uff12"), ReadReason.BAD_AMOUNT, "line 3, column net_minor"),
        (changed(1, gross_minor="1_000"), ReadReason.BAD_AMOUNT, "line 3, column gross_minor"),
        (changed(1, fee_minor=""), ReadReason.MISSING_FIELD, "line 3, column fee_minor"),
        (changed(1, net_minor=10**15), ReadReason.AMOUNT_TOO_LARGE, "line 3, column net_minor"),
        (changed(1, kind="GIFT"), ReadReason.UNKNOWN_RECORD_TYPE, "line 3, column kind"),
        (changed(1, psp_reference=" "), ReadReason.MISSING_FIELD, "line 3, column psp_reference"),
        (changed(1, order_id="C" * 32), ReadReason.BAD_FIELD, "line 3, column order_id"),
        (changed(1, operation_id="x"), ReadReason.BAD_FIELD, "line 3, column operation_id"),
        (changed(1, currency_code="USD"), ReadReason.BAD_FIELD, "line 3, column currency_code"),
        (changed(1, account="other"), ReadReason.BAD_FIELD, "line 3, column account"),
        (changed(1, value_date="2026-02-30"), ReadReason.BAD_DATE, "line 3, column value_date"),
        (changed(1, create_time="yesterday"), ReadReason.BAD_DATE, "line 3, column create_time"),
        (
            changed(0, currency_code="EUX"),
            ReadReason.UNKNOWN_CURRENCY,
            "line 2, column currency_code",
        ),
        (changed(0, last_page="yes"), ReadReason.BAD_FIELD, "line 2, column last_page"),
        (changed(0, balance_minor=""), ReadReason.MISSING_FIELD, "line 2, column balance_minor"),
        (
            changed(0, **{RECORD: "HEADER"}),
            ReadReason.UNKNOWN_RECORD_TYPE,
            f"line 2, column {RECORD}",
        ),
        (changed(0, **{RECORD: "LINE"}), ReadReason.MISSING_FIELD, "line 2"),
        (changed(2, **{RECORD: "OPENING"}), ReadReason.MISSING_FIELD, "line 4"),
        (changed(4, **{RECORD: "END", "lines": 4}), ReadReason.MISSING_FIELD, "line 6"),
        (lambda: a_day().text(lines=6), ReadReason.FILE_CUT, "line 7, column lines"),
        (lambda: a_day().text() + a_day().text(), ReadReason.UNEXPECTED_FIELD, "line 8"),
        (lambda: a_day().text().rstrip(), ReadReason.FILE_CUT, "end of file"),
        (lambda: a_day().text().replace(",kind,", ",sort,"), ReadReason.MISSING_FIELD, "line 1"),
        (lambda: a_day().text().replace(",kind,", ",account,"), ReadReason.BAD_ROW, "line 1"),
        (lambda: a_day().text().replace("psp-2,", ""), ReadReason.BAD_ROW, "line 4"),
        (lambda: a_day().text().replace("psp-2,", '"p"sp-2,'), ReadReason.BAD_ROW, "line 4"),
        (lambda: a_day().text().replace("psp-2,", '"psp-2,'), ReadReason.FILE_CUT, "line 4"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(
    make: Callable[[], str], expected: ReadReason, where: str
) -> None:
    refused = refusal(make())
    assert (refused.reason, refused.where) == (expected, where)
