"""Amounts: integers of a currency's minor unit. Never a float."""

from __future__ import annotations

from dataclasses import dataclass

from iso4217 import Currency

MAX_AMOUNT_MINOR = 10**15 - 1
"""The cap of every amount, so that sums of thousands still fit 64 bits."""

# Those without an exponent are no money in use: metals, units of account, test codes.
_EXPONENTS: dict[str, int] = {
    currency.code: currency.exponent for currency in Currency if currency.exponent is not None
}


@dataclass(frozen=True, slots=True)
class Money:
    """`amount_minor` units of the currency's minor unit; `currency_code` is ISO 4217."""

    amount_minor: int
    currency_code: str

    def __str__(self) -> str:
        """In major units with the currency's own number of decimals: `12.50 EUR`."""
        return f"{format_minor(self.amount_minor, self.currency_code)} {self.currency_code}"


def exponent(currency_code: str) -> int | None:
    """The decimals of a currency by ISO 4217 (EUR 2, JPY 0, BHD 3, CLF 4).

    None for a code that is not money in use: unknown, a metal, a test code.
    """
    return _EXPONENTS.get(currency_code)


def format_minor(amount_minor: int, currency_code: str) -> str:
    """`amount_minor` in major units, by integer arithmetic only."""
    digits = exponent(currency_code) or 0
    sign = "-" if amount_minor < 0 else ""
    whole, part = divmod(abs(amount_minor), 10**digits)
    return f"{sign}{whole}.{part:0{digits}d}" if digits else f"{sign}{whole}"
