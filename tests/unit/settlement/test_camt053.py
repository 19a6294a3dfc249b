"""camt.053: what counts, in which sign, and of which statement."""

from __future__ import annotations

from datetime import date

import pytest

from ledger_svc.reconciliation.readers import Level, ProblemCode, ReadReason
from tests.support.settlement import bal, camt, ntry, read_all, reason, refusal, stmt


@pytest.mark.parametrize("version", [f"{number:02}" for number in range(2, 14)])
def test_every_version_from_02_to_13_is_read(version: str) -> None:
    outcome = read_all(camt(stmt(ntry("5.00"), closing="105.00"), version=version))
    assert outcome.format == outcome.only.format == f"camt.053.001.{version}"
    assert outcome.only.ties is True


@pytest.mark.parametrize("version", ["01", "14", "99"])
def test_another_version_is_not_built(version: str) -> None:
    assert reason(camt(stmt(), version=version)) is ReadReason.UNSUPPORTED_FORMAT


def test_a_prefix_for_the_namespace_changes_nothing() -> None:
    plain = camt(stmt(ntry("5.00", "DBIT"), closing="95.00"))
    prefixed = (
        plain.replace("</", "</x:")
        .replace("<", "<x:")
        .replace("<x:/x:", "</x:")
        .replace("<x:?xml", "<?xml")
        .replace("xmlns=", "xmlns:x=")
    )
    assert read_all(prefixed).statements == read_all(plain).statements
    assert read_all(prefixed).only.ties is True


def test_the_old_and_the_new_way_to_say_booked_are_the_same() -> None:
    old = ntry("5.00", status="<Sts>BOOK</Sts>")
    new = ntry("7.00", status="<Sts><Cd>BOOK</Cd></Sts>")
    outcome = read_all(camt(stmt(old, new, closing="112.00")))
    assert (outcome.only.entries, outcome.only.credits_minor) == (2, 1200)
    assert outcome.only.ties is True


@pytest.mark.parametrize("state", ["PDNG", "INFO", "FUTR"])
def test_what_is_not_booked_does_not_count(state: str) -> None:
    details = "<TxDtls><Refs><EndToEndId>A</EndToEndId></Refs></TxDtls>" * 2
    waiting = ntry("50.00", "DBIT", details, status=f"<Sts>{state}</Sts>")
    outcome = read_all(camt(stmt(waiting, ntry("5.00"), closing="105.00")))
    assert (outcome.only.entries, outcome.only.debits_minor, len(outcome.lines)) == (1, 0, 1)
    assert outcome.only.ties is True


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("", ReadReason.MISSING_FIELD),
        ("<Sts>DONE</Sts>", ReadReason.BAD_FIELD),
        ("<Sts><Prtry>BOOK</Prtry></Sts>", ReadReason.BAD_FIELD),
    ],
)
def test_a_state_that_does_not_say_whether_money_moved_is_refused(
    status: str, expected: ReadReason
) -> None:
    refused = refusal(camt(stmt(ntry(status=status))))
    assert (refused.reason, refused.where) == (expected, "/BkToCstmrStmt/Stmt[1]/Ntry[1]/Sts")


def test_a_reversal_keeps_the_sign_that_the_entry_tells() -> None:
    back = ntry("5.00", "DBIT", reversal="<RvslInd>true</RvslInd>")
    outcome = read_all(camt(stmt(back, closing="95.00")))
    assert outcome.only.ties is True
    assert (outcome.lines[0].amount_minor, outcome.lines[0].reversal) == (-500, True)


def test_a_bank_that_flips_reversals_is_told_by_the_balance() -> None:
    back = ntry("5.00", "DBIT", reversal="<RvslInd>true</RvslInd>")
    only = read_all(camt(stmt(back, closing="105.00"))).only
    assert only.ties is False
    assert "would tie if entries marked as reversals had the other sign" in str(only.problem)


def test_the_sign_of_details_is_not_the_entry_s() -> None:
    odd = (
        '<TxDtls><Amt Ccy="EUR">9.00</Amt><CdtDbtInd>CRDT</CdtDbtInd></TxDtls>'
        '<TxDtls><Amt Ccy="EUR">3.00</Amt><CdtDbtInd>DBIT</CdtDbtInd></TxDtls>'
    )
    outcome = read_all(camt(stmt(ntry("12.00", "DBIT", odd), closing="88.00")))
    assert outcome.only.ties is True
    assert [line.amount_minor for line in outcome.lines] == [-900, -300, -1200]


def test_a_batch_is_one_entry_and_its_parts_are_told_before_it() -> None:
    parts = "".join(
        f"<TxDtls><Refs><AcctSvcrRef>R{n}</AcctSvcrRef><EndToEndId>E{n}</EndToEndId></Refs>"
        f'<Amt Ccy="{currency}">{n}.00</Amt></TxDtls>'
        for n, currency in ((1, "EUR"), (2, "EUR"), (3, "USD"))
    )
    # The details sum to less than the entry: charges.
    outcome = read_all(camt(stmt(ntry("9.00", "CRDT", parts), ntry("1.00"), closing="110.00")))
    assert (outcome.only.entries, outcome.only.credits_minor) == (2, 1000)
    assert [
        (line.level, line.number, line.amount_minor, line.source_reference)
        for line in outcome.lines
    ] == [
        (Level.DETAIL, 1, 100, "R1"),
        (Level.DETAIL, 1, 200, "R2"),
        (Level.DETAIL, 1, None, "R3"),
        (Level.ENTRY, 1, 900, "BANK-1"),
        (Level.ENTRY, 2, 100, "BANK-1"),
    ]
    assert {line.batch_reference for line in outcome.lines[:3]} == {"BANK-1"}
    third = outcome.lines[2]
    assert (third.original_amount_minor, third.original_currency_code) == (300, "USD")
    assert third.place == "/BkToCstmrStmt/Stmt[1]/Ntry[1]/TxDtls[3]"


def test_a_single_transaction_is_told_with_its_entry() -> None:
    one = (
        "<TxDtls><Refs><EndToEndId>" + "ab" * 16 + "</EndToEndId><UETR>u-1</UETR>"
        "<Prtry><Tp>OWN</Tp><Ref>77</Ref></Prtry></Refs>"
        "<RmtInf><Ustrd>first</Ustrd><Ustrd>second</Ustrd>"
        "<Strd><CdtrRefInf><Ref>RF18</Ref></CdtrRefInf></Strd></RmtInf></TxDtls>"
    )
    [line] = read_all(camt(stmt(ntry("5.00", "CRDT", one), closing="105.00"))).lines
    assert dict(line.references) == {
        "EndToEndId": "ab" * 16,
        "UETR": "u-1",
        "OWN": "77",
        "CdtrRefInf": "RF18",
    }
    assert line.texts == ("first", "second")
    assert (line.booking_date, line.value_date) == (date(2026, 1, 30), date(2026, 1, 30))


def test_what_is_not_provided_is_no_reference() -> None:
    one = "<TxDtls><Refs><EndToEndId>NOTPROVIDED</EndToEndId></Refs></TxDtls>"
    [line] = read_all(camt(stmt(ntry("5.00", "CRDT", one), closing="105.00"))).lines
    assert line.references == ()


def test_balances_are_found_by_code_and_the_previous_closing_stands_in() -> None:
    told = bal("CLAV", "1.00") + bal("ITBD", "2.00") + bal("PRCD", "100.00") + bal("XPCD", "3.00")
    only = read_all(camt(stmt(ntry("5.00"), opening=None, closing="105.00", balances=told))).only
    assert (only.opening_minor, only.closing_minor, only.ties) == (10000, 10500, True)


def test_a_debit_balance_is_negative() -> None:
    only = read_all(camt(stmt(ntry("5.00"), opening="-3.00", closing="2.00"))).only
    assert (only.opening_minor, only.closing_minor, only.ties) == (-300, 200, True)


def test_two_different_closing_balances_are_not_chosen_from() -> None:
    only = read_all(camt(stmt(balances=bal("CLBD", "99.00")))).only
    assert (only.closing_minor, only.ties) == (None, False)
    assert only.problems[0].code is ProblemCode.BALANCE_AMBIGUOUS


def test_a_statement_without_entries_is_valid() -> None:
    assert read_all(camt(stmt())).only.ties is True


def test_what_is_valued_after_the_closing_day_explains_the_difference() -> None:
    late = ntry("7.00", value_day="2026-02-02")
    only = read_all(camt(stmt(ntry("5.00"), late, closing="105.00"))).only
    assert only.ties is False
    assert [one.code for one in only.problems] == [ProblemCode.EXPLAINED_BY_VALUE_DATE]


def test_a_value_date_in_the_future_alone_breaks_nothing() -> None:
    only = read_all(camt(stmt(ntry("7.00", value_day="2026-02-02"), closing="107.00"))).only
    assert (only.ties, only.problem) == (True, None)


def test_several_accounts_and_currencies_keep_apart() -> None:
    outcome = read_all(
        camt(
            stmt(ntry("1.00"), closing="101.00", account="<IBAN>A</IBAN>"),
            stmt(
                ntry("500", currency="JPY"),
                opening="0",
                closing="500",
                account="<Othr><Id>B</Id></Othr>",
                currency="JPY",
            ),
        )
    )
    assert [
        (one.account, one.currency_code, one.closing_minor, one.ties) for one in outcome.statements
    ] == [("A", "EUR", 10100, True), ("B", "JPY", 500, True)]
    assert [line.statement for line in outcome.lines] == [0, 1]


def test_a_statement_in_two_currencies_is_two() -> None:
    dollars = bal("OPBD", "1.00", "USD") + bal("CLBD", "4.00", "USD")
    outcome = read_all(
        camt(stmt(ntry("5.00"), ntry("3.00", currency="USD"), closing="105.00", balances=dollars))
    )
    assert {one.currency_code: one.ties for one in outcome.statements} == {
        "EUR": True,
        "USD": True,
    }


def test_an_old_file_in_a_withdrawn_currency_is_read() -> None:
    only = read_all(camt(stmt(ntry("5.00", currency="DEM"), closing="105.00", currency="DEM"))).only
    assert (only.currency_code, only.credits_minor, only.ties) == ("DEM", 500, True)


# --- pages -----------------------------------------------------------------------------

PAGE = "<StmtPgntn><PgNb>{}</PgNb><LastPgInd>{}</LastPgInd></StmtPgntn>"


def test_pages_of_one_statement_are_one_statement() -> None:
    first = stmt(
        ntry("5.00"),
        closing=None,
        balances=bal("CLBD", "105.00", sub="INTM"),
        pages=PAGE.format(1, "false"),
    )
    second = stmt(
        ntry("7.00", "DBIT"),
        opening=None,
        closing="98.00",
        balances=bal("OPBD", "105.00", sub="INTM"),
        pages=PAGE.format(2, "true"),
    )
    outcome = read_all(camt(first, second))
    assert (outcome.only.opening_minor, outcome.only.closing_minor) == (10000, 9800)
    assert (outcome.only.entries, outcome.only.ties, outcome.only.problem) == (2, True, None)
    assert [(line.statement, line.number) for line in outcome.lines] == [(0, 1), (0, 2)]


def test_a_file_without_the_last_page_says_so_and_does_not_tie() -> None:
    only = read_all(camt(stmt(pages=PAGE.format(1, "false")))).only
    assert only.ties is False
    assert only.problem == "PAGES_MISSING: the last page is missing"


def test_the_last_page_of_the_message_can_be_missing_too() -> None:
    header = PAGE.format(1, "false").replace("StmtPgntn", "MsgPgntn")
    only = read_all(camt(stmt(), header=header)).only
    assert (only.ties, only.problem) == (False, "PAGES_MISSING: the last page is missing")


def test_a_page_left_out_in_the_middle_is_noticed() -> None:
    first = stmt(pages=PAGE.format(1, "false"))
    third = stmt(pages=PAGE.format(3, "true"))
    only = read_all(camt(first, third)).only
    assert only.ties is False
    assert "a page is missing" in str(only.problem)


def test_a_page_that_does_not_go_on_with_the_balance_is_noticed() -> None:
    first = stmt(closing="100.00", pages=PAGE.format(1, "false"))
    second = stmt(opening="90.00", closing="100.00", pages=PAGE.format(2, "true"))
    only = read_all(camt(first, second)).only
    assert only.ties is False
    assert ProblemCode.PAGES_BROKEN in {one.code for one in only.problems}


def test_a_lone_last_page_says_what_is_missing() -> None:
    only = read_all(camt(stmt(pages=PAGE.format(2, "true")))).only
    assert only.problem == "PAGES_MISSING: the pages before this one are missing"


# --- control totals --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("summary", "is_right"),
    [
        ("<TtlNtries><NbOfNtries>3</NbOfNtries></TtlNtries>", True),
        ("<TtlNtries><NbOfNtries>2</NbOfNtries></TtlNtries>", True),
        ("<TtlNtries><NbOfNtries>4</NbOfNtries></TtlNtries>", False),
        ("<TtlCdtNtries><Sum>5.00</Sum></TtlCdtNtries>", True),
        ("<TtlCdtNtries><Sum>14.0</Sum></TtlCdtNtries>", True),
        ("<TtlCdtNtries><Sum>5.01</Sum></TtlCdtNtries>", False),
        ("<TtlDbtNtries><NbOfNtries>1</NbOfNtries><Sum>2</Sum></TtlDbtNtries>", True),
        ("<TtlDbtNtries><NbOfNtries>2</NbOfNtries></TtlDbtNtries>", False),
    ],
)
def test_control_totals_count_what_is_booked_or_everything(summary: str, is_right: bool) -> None:
    entries = (ntry("5.00"), ntry("2.00", "DBIT"), ntry("9.00", status="<Sts>PDNG</Sts>"))
    only = read_all(
        camt(stmt(*entries, closing="103.00", summary=f"<TxsSummry>{summary}</TxsSummry>"))
    ).only
    assert only.ties is is_right
    assert (only.problem is None) is is_right


# --- what can't be read ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("amount", "expected"),
    [
        ("12..34", ReadReason.BAD_AMOUNT),
        ("1,00", ReadReason.BAD_AMOUNT),
        ("1 000.00", ReadReason.BAD_AMOUNT),
        ("-1.00", ReadReason.BAD_AMOUNT),
        ("1e3", ReadReason.BAD_AMOUNT),
        ("NaN", ReadReason.BAD_AMOUNT),
        ("INF", ReadReason.BAD_AMOUNT),
        ("0x10", ReadReason.BAD_AMOUNT),
        ("\u0661\u0662", ReadReason.BAD_AMOUNT),
        ("1.00<X/>", ReadReason.BAD_AMOUNT),
        ("9" * 100, ReadReason.BAD_AMOUNT),
        ("", ReadReason.MISSING_FIELD),
        ("   ", ReadReason.MISSING_FIELD),
        ("1.001", ReadReason.TOO_MANY_DECIMALS),
        ("0.00000000000000001", ReadReason.TOO_MANY_DECIMALS),
        ("10000000000000.00", ReadReason.AMOUNT_TOO_LARGE),
    ],
)
def test_an_amount_is_read_exactly_or_not_at_all(amount: str, expected: ReadReason) -> None:
    refused = refusal(camt(stmt(ntry(amount))))
    assert (refused.reason, refused.where) == (expected, "/BkToCstmrStmt/Stmt[1]/Ntry[1]/Amt")
    assert not amount.strip() or amount not in refused.message


@pytest.mark.parametrize("amount", ["5", "5.", "5.000000", "0005.00", "+5.00"])
def test_zeros_at_the_end_are_no_decimals(amount: str) -> None:
    assert read_all(camt(stmt(ntry(amount), closing="105.00"))).only.ties is True


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("<CdtDbtInd>DBIT</CdtDbtInd>", "", ReadReason.MISSING_FIELD),
        ("DBIT", "D", ReadReason.BAD_FIELD),
        ('<Amt Ccy="EUR">6.00</Amt>', "<Amt>6.00</Amt>", ReadReason.MISSING_FIELD),
        ('<Amt Ccy="EUR">6.00</Amt>', '<Amt Ccy="EUX">6.00</Amt>', ReadReason.UNKNOWN_CURRENCY),
        ('<Amt Ccy="EUR">6.00</Amt>', '<Amt Ccy="XAU">6.00</Amt>', ReadReason.UNKNOWN_CURRENCY),
        ('<Amt Ccy="EUR">6.00</Amt>', "", ReadReason.MISSING_FIELD),
        ("<Dt>2026-01-30</Dt></ValDt>", "<Dt>2026-02-30</Dt></ValDt>", ReadReason.BAD_DATE),
        ("<Dt>2026-01-30</Dt></ValDt>", "<Dt>30.01.2026</Dt></ValDt>", ReadReason.BAD_DATE),
        ("<Acct>", "<Acco>", ReadReason.XML_NOT_WELL_FORMED),
        ("<Acct><Id><IBAN>DE00TEST</IBAN></Id></Acct>", "", ReadReason.MISSING_FIELD),
        ("<RvslInd>false</RvslInd>", "<RvslInd>maybe</RvslInd>", ReadReason.BAD_FIELD),
        ("&amp;", "&undeclared;", ReadReason.XML_NOT_WELL_FORMED),
    ],
)
def test_what_is_missing_or_wrong_is_named(old: str, new: str, expected: ReadReason) -> None:
    details = "<TxDtls><RmtInf><Ustrd>a &amp; b</Ustrd></RmtInf></TxDtls>"
    entry = ntry("6.00", "DBIT", details, reversal="<RvslInd>false</RvslInd>")
    whole = camt(stmt(entry, closing="94.00"))
    assert read_all(whole).only.ties is True
    assert whole.count(old) >= 1
    assert reason(whole.replace(old, new, 1)) is expected


def test_an_account_that_is_not_named_is_a_problem() -> None:
    only = read_all(camt(stmt(account=""))).only
    assert only.account is None
    assert only.problem == "ACCOUNT_MISSING: no account (Acct/Id)"


def test_a_message_without_a_statement_is_refused() -> None:
    assert reason(camt()) is ReadReason.MISSING_FIELD


@pytest.mark.parametrize("place", ["before", "within"])
def test_an_entry_out_of_its_place_is_refused_not_lost(place: str) -> None:
    stray = ntry("5.00")
    whole = camt(stray, stmt()) if place == "before" else camt(stmt(f"<Ntry>{stray}</Ntry>"))
    assert reason(whole) in {ReadReason.UNEXPECTED_FIELD, ReadReason.MISSING_FIELD}


def test_an_entry_of_a_banks_own_namespace_is_none_of_ours() -> None:
    own = '<SplmtryData><Envlp><Ntry xmlns="urn:bank"><Amt>1</Amt></Ntry></Envlp></SplmtryData>'
    only = read_all(camt(stmt(ntry("5.00"), own, closing="105.00"))).only
    assert (only.entries, only.ties) == (1, True)
