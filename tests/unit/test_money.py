"""Amounts in minor units, by ISO 4217 and by integers only."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from iso4217 import raw_table

from mesh.money import MAX_AMOUNT_MINOR, Money, exponent, format_minor

# By ISO 4217 (List One), apart from the table that mesh.money reads.
EXPONENTS = {
    0: ["JPY", "KRW", "VND", "CLP", "UGX", "ISK", "XAF", "XOF", "XPF", "PYG", "RWF", "UYI"],
    2: ["EUR", "USD", "GBP", "CHF", "SEK", "BRL", "INR", "CNY", "MXN", "HUF", "MRU"],
    3: ["BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"],
    4: ["CLF", "UYW"],
}
IN_USE = [code for code in raw_table if code and exponent(code) is not None]


@pytest.mark.parametrize(
    ("code", "digits"), [(code, digits) for digits, codes in EXPONENTS.items() for code in codes]
)
def test_exponents(code: str, digits: int) -> None:
    assert exponent(code) == digits


NO_MONEY = ["XAU", "XAG", "XPT", "XPD", "XXX", "XTS", "XDR", "XBA", "XSU", "XUA"]
NO_CODES = ["", "AAA", "ZZZ", "DEM", "eur", "Eur", "EU", "EURO", " EUR", "EUR\n", "\uff25UR", "978"]


@pytest.mark.parametrize("code", [*NO_MONEY, *NO_CODES])
def test_what_is_no_money_in_use(code: str) -> None:
    assert exponent(code) is None


def test_sums_of_thousands_of_the_greatest_amount_fit_64_bits() -> None:
    assert MAX_AMOUNT_MINOR == 999_999_999_999_999
    assert 9_000 * MAX_AMOUNT_MINOR < 2**63


@pytest.mark.parametrize(
    ("money", "shown"),
    [
        (Money(1250, "EUR"), "12.50 EUR"),
        (Money(0, "EUR"), "0.00 EUR"),
        (Money(5, "EUR"), "0.05 EUR"),
        (Money(-5, "EUR"), "-0.05 EUR"),
        (Money(-100, "EUR"), "-1.00 EUR"),
        (Money(1250, "JPY"), "1250 JPY"),
        (Money(-1, "JPY"), "-1 JPY"),
        (Money(1250, "BHD"), "1.250 BHD"),
        (Money(1, "CLF"), "0.0001 CLF"),
        (Money(MAX_AMOUNT_MINOR, "EUR"), "9999999999999.99 EUR"),
        (Money(7, "???"), "7 ???"),
    ],
)
def test_in_major_units(money: Money, shown: str) -> None:
    assert str(money) == shown


@given(
    amount=st.integers(-MAX_AMOUNT_MINOR, MAX_AMOUNT_MINOR),
    code=st.sampled_from(IN_USE),
)
def test_what_is_shown_is_the_amount(amount: int, code: str) -> None:
    digits = exponent(code)
    assert digits is not None
    shown = format_minor(amount, code)
    assert Decimal(shown).scaleb(digits) == amount
    assert len(shown.partition(".")[2]) == digits
    assert shown.lstrip("-")[0].isdigit()
