"""MT940: signs, pages, references, and what banks do to it."""

from __future__ import annotations

from datetime import date

import pytest

from ledger_svc.reconciliation.readers import ProblemCode, ReadReason
from tests.support.settlement import mt940, read_all, reason, refusal


def the_amount(mark: str) -> int | None:
    closing = "104,00" if mark in {"C", "RD", "CR", "RDR"} else "96,00"
    outcome = read_all(mt940(f"61:2601300130{mark}4,00NTRFREF", closing=f"62F:C260131EUR{closing}"))
    assert outcome.only.ties is True
    return outcome.lines[0].amount_minor


@pytest.mark.parametrize(
    ("mark", "amount", "reversal"),
    [
        ("C", 400, False),
        ("D", -400, False),
        ("RC", -400, True),
        ("RD", 400, True),
        ("CR", 400, False),
        ("DR", -400, False),
        ("RCR", -400, True),
        ("RDR", 400, True),
    ],
)
def test_a_reversal_of_a_credit_is_a_debit(mark: str, amount: int, reversal: bool) -> None:
    assert the_amount(mark) == amount
    [line] = read_all(mt940(f"61:2601300130{mark}4,00NTRFREF")).lines
    assert line.reversal is reversal


@pytest.mark.parametrize(
    ("field", "customer", "bank", "texts"),
    [
        ("61:2601300130C4,00NTRFMINE//THEIRS", "MINE", "THEIRS", ()),
        ("61:2601300130C4,00NTRFNONREF//THEIRS", None, "THEIRS", ()),
        ("61:2601300130C4,00NTRFMINE", "MINE", "", ()),
        ("61:260130C4,00NTRFMINE\nmore of it", "MINE", "", ("more of it",)),
        ("61:260130    C4,00NTRFMINE//B", "MINE", "B", ()),
        (
            "61:260130C4,NOVBNL47INGB9999999999 and much more",
            "NL47INGB9999999999 and much more",
            "",
            (),
        ),
        ("61:2601300130C4,00 NTRFMINE//B", "MINE", "B", ()),
        ("61:2601300130C\n4,00NTRFMINE//B", "MINE", "B", ()),
        ("61:2601300130C4,00NCHGFees according//to advice", "Fees according", "to advice", ()),
        ("61:2601300130C4,00", None, "", ()),
        ("61:2601300130C4NTRFMINE", "MINE", "", ()),
        ("61:2601300130C0000000000004,00NTRFMINE", "MINE", "", ()),
    ],
)
def test_references_are_found_however_a_bank_writes_them(
    field: str, customer: str | None, bank: str, texts: tuple[str, ...]
) -> None:
    outcome = read_all(mt940(field, closing="62F:C260131EUR104,00"))
    [line] = outcome.lines
    assert outcome.only.ties is True
    assert dict(line.references).get("customer") == customer
    assert (line.source_reference, line.texts) == (bank, texts)


@pytest.mark.parametrize(
    "details",
    [
        f"86:166?00GUTSCHRIFT?20EREF+{'ab' * 8}\n?21{'ab' * 8} SVWZ+Invoice?32PAYER",
        f"86:166?00X?20SVWZ+first?21EREF+{'ab' * 16}",
        f"86:/EREF/{'ab' * 16}/REMI/Invoice",
        f"86:/TRTP/SEPA/EREF/{'ab' * 12}\n{'ab' * 4}/REMI/x",
        f"86:EREF+{'ab' * 16} MREF+M1",
    ],
)
def test_our_id_in_the_details_is_put_together(details: str) -> None:
    [line] = read_all(mt940("61:260130C4,00NTRFNONREF", details)).lines
    assert dict(line.references)["EREF"] == "ab" * 16


def test_several_details_belong_to_the_line_before() -> None:
    fields = ("61:260130C4,00NTRFA", "86:one", "86:two", "61:260130D4,00NTRFB", "86:three")
    outcome = read_all(mt940(*fields))
    assert [line.texts for line in outcome.lines] == [("one", "two"), ("three",)]
    assert [line.place for line in outcome.lines] == ["line 5", "line 8"]
    assert outcome.only.ties is True


def test_a_text_that_looks_like_a_field_is_text() -> None:
    fields = ("61:260130C4,00NTRFA", "86:at 2016-09-12T16\n:26:37 and\n-Nr. 1\n-\n:12:11")
    [line] = read_all(mt940(*fields, closing="62F:C260131EUR104,00")).lines
    assert line.texts == ("at 2016-09-12T16\n:26:37 and\n-Nr. 1\n-\n:12:11",)


@pytest.mark.parametrize(
    ("field", "valued", "booked"),
    [
        ("160230", date(2016, 2, 29), None),
        ("150230", date(2015, 2, 28), None),
        ("1602300301", date(2016, 2, 29), date(2016, 3, 1)),
        ("2512310102", date(2025, 12, 31), date(2026, 1, 2)),
        ("2601021231", date(2026, 1, 2), date(2025, 12, 31)),
        ("990701", date(1999, 7, 1), None),
        ("2601300000", date(2026, 1, 30), None),
    ],
)
def test_dates_of_banks(field: str, valued: date, booked: date | None) -> None:
    [line] = read_all(mt940(f"61:{field}C4,00NTRFA")).lines
    assert (line.value_date, line.booking_date) == (valued, booked)


def test_line_ends_of_every_kind_are_the_same() -> None:
    text = mt940("61:260130C4,00NTRFA", "86:text", closing="62F:C260131EUR104,00")
    unix = read_all(text)
    assert unix.only.ties is True
    for end in ("\r\n", "\r"):
        assert read_all(text.replace("\n", end)) == unix
    assert read_all("\r\n \r\nsome words first\r\n" + text + "\x1a").only.ties is True


def test_blocks_and_framing_bytes_are_passed_over() -> None:
    block = (
        "\x01{1:F01BANKXXX}{2:I940XXXXN}{3:{108:1}}{4:\n"
        + mt940().removesuffix("-\n")
        + "-}{5:{MAC:0}}\x03"
    )
    assert read_all(block).only.ties is True
    assert [one.ties for one in read_all(block + block).statements] == [True, True]


def test_a_block_without_its_end_was_cut() -> None:
    block = "{1:F01BANKXXX}{2:O940XXXXN}{4:\n" + mt940().removesuffix("-\n")
    assert reason(block) is ReadReason.FILE_CUT


def test_another_message_amid_the_file_is_refused() -> None:
    block = "{1:F01BANKXXX}{2:O940XXXXN}{4:\n" + mt940().removesuffix("-\n") + "-}\n"
    assert reason(block + block.replace("O940", "O942")) is ReadReason.UNSUPPORTED_FORMAT


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "utf-8-sig", "utf-16"])
def test_text_in_any_charset_of_banks(encoding: str) -> None:
    text = mt940("61:260130C4,00NTRFA", "86:Gebühr", closing="62F:C260131EUR104,00")
    outcome = read_all(text.encode(encoding))
    assert outcome.only.ties is True
    assert outcome.lines[0].texts == ("Gebühr",)


def test_currencies_have_their_own_decimals() -> None:
    only = read_all(
        mt940("61:260130C400,NTRFA", opening="60F:C260130JPY100,", closing="62F:C260131JPY500,00")
    ).only
    assert (only.opening_minor, only.closing_minor, only.ties) == (100, 500, True)


def test_a_closing_balance_without_currency_has_that_of_the_statement() -> None:
    only = read_all(mt940(opening="60F:C020315DEM0,00", closing="62F:C0203150,00")).only
    assert (only.currency_code, only.ties) == ("DEM", True)


# --- pages and statements --------------------------------------------------------------


def page(number: int, opening: str, closing: str, *fields: str, account: str = "ACCOUNT") -> str:
    head = f":20:REF{number}\n:25:{account}\n:28C:7/{number}\n"
    return mt940(*fields, opening=opening, closing=closing, head=head)


def test_pages_of_one_statement_are_one() -> None:
    outcome = read_all(
        page(1, "60F:C260130EUR100,00", "62M:C260130EUR104,00", "61:260130C4,00NTRFA")
        + page(2, "60M:C260130EUR104,00", "62M:C260130EUR108,00", "61:260130C4,00NTRFB")
        + page(3, "60M:C260130EUR108,00", "62F:C260131EUR107,00", "61:260130D1,00NTRFC")
    )
    assert (outcome.only.opening_minor, outcome.only.closing_minor) == (10000, 10700)
    assert (outcome.only.entries, outcome.only.ties, outcome.only.problem) == (3, True, None)
    assert [(line.statement, line.number) for line in outcome.lines] == [(0, 1), (0, 2), (0, 3)]


def test_a_file_without_the_last_page_says_so_and_does_not_tie() -> None:
    only = read_all(page(1, "60F:C260130EUR100,00", "62M:C260130EUR100,00")).only
    assert (only.ties, only.problem) == (False, "PAGES_MISSING: the last page is missing")


def test_a_new_statement_does_not_go_on_with_the_open_one() -> None:
    outcome = read_all(
        page(1, "60F:C260130EUR100,00", "62M:C260130EUR100,00")
        + page(1, "60F:C260131EUR100,00", "62F:C260131EUR100,00")
    )
    assert [one.ties for one in outcome.statements] == [False, True]


def test_a_page_in_the_middle_that_is_missing_breaks_the_chain() -> None:
    only = read_all(
        page(1, "60F:C260130EUR100,00", "62M:C260130EUR104,00", "61:260130C4,00NTRFA")
        + page(3, "60M:C260130EUR108,00", "62F:C260131EUR108,00")
    ).only
    assert only.ties is False
    assert {ProblemCode.PAGES_MISSING, ProblemCode.PAGES_BROKEN} <= {
        one.code for one in only.problems
    }


def test_pages_of_two_accounts_may_alternate() -> None:
    outcome = read_all(
        page(1, "60F:C260130EUR1,00", "62M:C260130EUR1,00", account="A")
        + page(1, "60F:C260130EUR2,00", "62M:C260130EUR2,00", account="B")
        + page(2, "60M:C260130EUR1,00", "62F:C260131EUR1,00", account="A")
        + page(2, "60M:C260130EUR2,00", "62F:C260131EUR2,00", account="B")
    )
    assert [(one.account, one.closing_minor, one.ties) for one in outcome.statements] == [
        ("A", 100, True),
        ("B", 200, True),
    ]


def test_a_statement_without_an_account_says_so() -> None:
    only = read_all(mt940(head=":20:R\n:28C:1\n")).only
    assert (only.account, only.problem) == (None, "ACCOUNT_MISSING: no account (:25:)")


@pytest.mark.parametrize(
    ("line", "missing"),
    [(":60F:C260130EUR100,00\n", "opening"), (":62F:C260131EUR100,00\n", "closing")],
)
def test_a_balance_that_is_not_there_does_not_tie(line: str, missing: str) -> None:
    only = read_all(mt940().replace(line, "")).only
    assert only.ties is False
    assert f"no {missing} balance" in str(only.problem)


def test_what_does_not_tie_is_reported_not_refused() -> None:
    only = read_all(mt940("61:260130C4,00NTRFA")).only
    assert only.ties is False
    assert only.problem == "DOES_NOT_TIE: opening + entries misses closing by -400 minor units"


# --- what can't be read ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("61:260130C4.00NTRFA", ReadReason.BAD_FIELD),
        ("61:260130C4,0,0NTRFA", ReadReason.BAD_FIELD),
        ("61:260130C,NTRFA", ReadReason.BAD_FIELD),
        ("61:260130X4,00NTRFA", ReadReason.BAD_FIELD),
        ("61:260130ED4,00NTRFA", ReadReason.BAD_FIELD),
        ("61:260130c4,00NTRFA", ReadReason.BAD_FIELD),
        ("61:260130C-4,00NTRFA", ReadReason.BAD_FIELD),
        ("61:\u0662\u0666\u0660\u0661\u0663\u0660C4,00NTRFA", ReadReason.BAD_FIELD),
        ("61:", ReadReason.BAD_FIELD),
        ("61:260130C4,001NTRFA", ReadReason.TOO_MANY_DECIMALS),
        ("61:260130C99999999999999,00NTRFA", ReadReason.AMOUNT_TOO_LARGE),
        ("61:261330C4,00NTRFA", ReadReason.BAD_DATE),
        ("61:260431C4,00NTRFA", ReadReason.BAD_DATE),
        ("61:260230C4,00NTRFA\n:25:OTHER", ReadReason.UNEXPECTED_FIELD),
        ("62M:C260130EUR100,00", ReadReason.UNEXPECTED_FIELD),
    ],
)
def test_a_field_is_read_exactly_or_not_at_all(field: str, expected: ReadReason) -> None:
    refused = refusal(mt940(field))
    assert refused.reason is expected
    assert refused.where in {"line 5", "line 6"}


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("60F:C260130EUR100,00", "60F:C260130EUX100,00", ReadReason.UNKNOWN_CURRENCY),
        ("60F:C260130EUR100,00", "60F:C260130100,00", ReadReason.BAD_FIELD),
        ("60F:C260130EUR100,00", "60F:X260130EUR100,00", ReadReason.BAD_FIELD),
        ("62F:C260131EUR100,00", "62F:C260131USD100,00", ReadReason.BAD_FIELD),
        ("62F:C260131EUR100,00", "62F:C2601", ReadReason.BAD_FIELD),
        (
            "62F:C260131EUR100,00\n-",
            "62F:C260131EUR100,00\n-\n:61:260130C4,00N",
            ReadReason.UNEXPECTED_FIELD,
        ),
    ],
)
def test_balances_are_read_exactly_or_not_at_all(old: str, new: str, expected: ReadReason) -> None:
    assert reason(mt940().replace(old, new)) is expected


def test_two_balances_at_the_end_are_refused() -> None:
    assert reason(mt940(closing="62F:C260131EUR100,00\n:62F:C260131EUR100,00")) is (
        ReadReason.UNEXPECTED_FIELD
    )
