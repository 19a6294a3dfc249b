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

# ISO 4217's list of withdrawn codes gives no exponents; these are of what was in use.
_WITHDRAWN: dict[str, int] = {
    "ANG": 2, "ATS": 2, "BEF": 0, "BGL": 2, "BGN": 2, "BYR": 0, "CYP": 2, "DEM": 2, "EEK": 2,
    "ESP": 0, "FIM": 2, "FRF": 2, "GRD": 0, "HRK": 2, "IEP": 2, "ITL": 0, "LTL": 2, "LUF": 0,
    "LVL": 2, "MTL": 2, "NLG": 2, "PTE": 0, "ROL": 2, "SIT": 2, "SKK": 2, "TRL": 0,
}  # fmt: skip


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


def any_exponent(currency_code: str) -> int | None:
    """As `exponent`, and of withdrawn currencies: old files are read, payments are refused."""
    digits = exponent(currency_code)
    return _WITHDRAWN.get(currency_code) if digits is None else digits


def format_minor(amount_minor: int, currency_code: str) -> str:
    """`amount_minor` in major units, by integer arithmetic only."""
    digits = any_exponent(currency_code) or 0
    sign = "-" if amount_minor < 0 else ""
    whole, part = divmod(abs(amount_minor), 10**digits)
    return f"{sign}{whole}.{part:0{digits}d}" if digits else f"{sign}{whole}"
