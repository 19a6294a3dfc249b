"""Stripe's payout reconciliation: rows sum to payouts, the payout's own row is none of them."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest

from ledger_svc.reconciliation.readers import Level, ReadReason
from mesh.settlement_file import Kind
from tests.support.settlement import (
    STRIPE_COLUMNS,
    csv_text,
    read_all,
    reason,
    refusal,
    stripe,
    stripe_row,
)

OPERATION, ORDER = "b" * 32, "c" * 32

CHARGE = stripe_row(
    "9.41",
    "10.00",
    "0.59",
    **{"payment_metadata[operation_id]": OPERATION, "payment_metadata[order_id]": ORDER},
)
REFUND = stripe_row("-4.00", category="refund", balance_transaction_id="txn_2")
PAYOUT = stripe_row("-5.41", category="payout", balance_transaction_id="txn_9", source_id="po_1")


def test_rows_are_net_and_carry_our_ids() -> None:
    outcome = read_all(stripe(CHARGE, REFUND))
    only = outcome.only
    assert only.format == "stripe.payout_reconciliation"
    assert (only.account, only.currency_code, only.date) == ("po_1", "EUR", date(2026, 2, 2))
    assert (only.opening_minor, only.closing_minor, only.ties, only.problem) == (
        None,
        None,
        None,
        None,
    )
    assert (only.entries, only.credits_minor, only.debits_minor) == (2, 941, 400)
    charge = outcome.lines[0]
    assert (charge.kind, charge.gross_minor, charge.fee_minor, charge.amount_minor) == (
        Kind.CHARGE,
        1000,
        59,
        941,
    )
    assert (charge.operation_id, charge.order_id, charge.batch_reference) == (
        OPERATION,
        ORDER,
        "po_1",
    )
    assert (charge.source_reference, charge.related_reference) == ("txn_1", "ch_1")
    assert charge.create_time == datetime(2026, 1, 30, 10, 11, 12, tzinfo=UTC)
    assert (charge.booking_date, charge.value_date) == (date(2026, 1, 30), date(2026, 2, 1))


def test_the_payout_is_no_entry_and_ties_when_its_rows_sum_to_it() -> None:
    outcome = read_all(stripe(CHARGE, PAYOUT, REFUND))
    assert (outcome.only.entries, outcome.only.ties) == (2, True)
    assert [line.level for line in outcome.lines] == [Level.ENTRY, Level.TOTAL, Level.ENTRY]
    assert outcome.lines[1].kind is Kind.TRANSFER


def test_a_payout_that_its_rows_do_not_make_does_not_tie() -> None:
    only = read_all(stripe(CHARGE, PAYOUT)).only
    assert only.ties is False
    assert only.problem == (
        "DOES_NOT_TIE: the payout differs by -400 minor units from what its rows sum to"
    )


def test_payouts_and_currencies_keep_apart() -> None:
    yen = stripe_row("500", currency="jpy")
    other = stripe_row("1.00", automatic_payout_id="po_2")
    waiting = stripe_row("2.00", automatic_payout_id="")
    assert [
        (one.account, one.currency_code, one.credits_minor)
        for one in read_all(stripe(CHARGE, yen, other, waiting, CHARGE)).statements
    ] == [("po_1", "EUR", 1882), ("po_1", "JPY", 500), ("po_2", "EUR", 100), (None, "EUR", 200)]


def test_columns_are_found_by_name() -> None:
    rows = [CHARGE, PAYOUT]
    needed = ("net", "currency", "fee", "reporting_category", "gross", "balance_transaction_id")
    few = [{name: row[name] for name in needed} for row in rows]
    outcome = read_all(csv_text(needed, few))
    assert [line.amount_minor for line in outcome.lines] == [941, -541]
    assert read_all(csv_text(reversed(STRIPE_COLUMNS), rows)) == read_all(stripe(*rows))


def test_a_refund_s_own_metadata_come_before_its_payment_s() -> None:
    row = REFUND | {
        "payment_metadata[operation_id]": OPERATION,
        "payment_metadata[order_id]": ORDER,
        "refund_metadata[operation_id]": "d" * 32,
    }
    [line] = read_all(stripe(row)).lines
    assert (line.operation_id, line.order_id) == ("d" * 32, ORDER)


def test_a_conversion_is_told() -> None:
    row = CHARGE | {"customer_facing_amount": "1500", "customer_facing_currency": "jpy"}
    [line] = read_all(stripe(row)).lines
    assert (line.original_amount_minor, line.original_currency_code) == (1500, "JPY")


def test_a_month_without_payouts_is_a_header_alone() -> None:
    assert read_all(stripe()).statements == []


def test_a_row_that_does_not_add_up_does_not_tie() -> None:
    only = read_all(stripe(stripe_row("9.41", "10.00", "0.58"), PAYOUT)).only
    assert only.ties is False
    assert "LINE_ARITHMETIC: net is not gross - fee in line 2" in str(only.problem)


@pytest.mark.parametrize(
    ("cells", "expected", "column"),
    [
        ({"reporting_category": "gift"}, ReadReason.UNKNOWN_RECORD_TYPE, "reporting_category"),
        ({"net": "9,41"}, ReadReason.BAD_AMOUNT, "net"),
        ({"net": "$9.41"}, ReadReason.BAD_AMOUNT, "net"),
        ({"gross": "1.001"}, ReadReason.TOO_MANY_DECIMALS, "gross"),
        ({"fee": ""}, ReadReason.MISSING_FIELD, "fee"),
        ({"currency": "xxx"}, ReadReason.UNKNOWN_CURRENCY, "gross"),
        ({"currency": ""}, ReadReason.MISSING_FIELD, "currency"),
        ({"balance_transaction_id": ""}, ReadReason.MISSING_FIELD, "balance_transaction_id"),
        ({"created_utc": "30/01/2026"}, ReadReason.BAD_DATE, "created_utc"),
        ({"available_on_utc": "2026-13-01"}, ReadReason.BAD_DATE, "available_on_utc"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(
    cells: dict[str, str], expected: ReadReason, column: str
) -> None:
    refused = refusal(stripe(REFUND, CHARGE | cells))
    assert (refused.reason, refused.where) == (expected, f"line 3, column {column}")


def test_a_row_cut_within_is_noticed() -> None:
    text = stripe(CHARGE, REFUND).rstrip()
    assert reason(text[: text.rindex(",refund,")]) is ReadReason.FILE_CUT
