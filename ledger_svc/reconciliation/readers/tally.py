"""The running sums of one statement, and what they say at its end."""

from __future__ import annotations

from datetime import date

from ledger_svc.reconciliation.readers.model import (
    Problem,
    ProblemCode,
    ReadError,
    ReadReason,
    Statement,
)

_INT64 = (1 << 63) - 1


class Tally:
    """One statement while it is read: a few integers, however many lines it has.

    Amounts are in minor units of currency_code, balances signed. May be changed until
    `statement` is called.
    """

    def __init__(self, account: str | None, currency_code: str | None, identity: str = "") -> None:
        self.account = account
        self.currency_code = currency_code
        self.identity = identity
        self.revision = 0
        self.opening_minor: int | None = None
        self.closing_minor: int | None = None
        self.closing_date: date | None = None
        self.entries = 0
        self.credits_minor = 0
        self.debits_minor = 0
        self.is_broken = False
        """It can't tie, whatever the balances say."""
        self._valued_later_minor = 0
        self._reversals_minor = 0
        self._problems: dict[ProblemCode, str] = {}

    def add(
        self,
        amount_minor: int,
        where: str,
        *,
        value_date: date | None = None,
        reversal: bool = False,
    ) -> int:
        """Counts one entry; returns its number, from 1. Raises ReadError if sums overflow."""
        self.add_all(1, max(amount_minor, 0), max(-amount_minor, 0), where)
        if value_date and self.closing_date and value_date > self.closing_date:
            self._valued_later_minor += amount_minor
        if reversal:
            self._reversals_minor += amount_minor
        return self.entries

    def add_all(self, entries: int, credits_minor: int, debits_minor: int, where: str) -> None:
        """Counts so many entries by their sums. Raises ReadError if sums overflow."""
        self.entries += entries
        self.credits_minor += credits_minor
        self.debits_minor += debits_minor
        if self.credits_minor > _INT64 or self.debits_minor > _INT64:
            raise ReadError(ReadReason.AMOUNT_TOO_LARGE, where, "the sum does not fit 64 bits")

    def report(self, code: ProblemCode, text: str, *, breaks: bool = False) -> None:
        """Notes a problem, the first of its code. breaks: so the statement can't tie."""
        self._problems.setdefault(code, text)
        self.is_broken = self.is_broken or breaks

    def statement(self, number: int, format_name: str, *, ties: bool | None = None) -> Statement:
        """The facts. ties: the answer of a format that has something else than balances."""
        if self.opening_minor is not None and self.closing_minor is not None:
            missing = (
                self.closing_minor - self.opening_minor - self.credits_minor + self.debits_minor
            )
            ties = missing == 0
            if missing:
                self._explain(missing)
        if self.is_broken:
            ties = False
        return Statement(
            number=number,
            format=format_name,
            account=self.account,
            currency_code=self.currency_code,
            opening_minor=self.opening_minor,
            closing_minor=self.closing_minor,
            entries=self.entries,
            credits_minor=self.credits_minor,
            debits_minor=self.debits_minor,
            ties=ties,
            problems=tuple(Problem(code, text) for code, text in self._problems.items()),
            identity=self.identity,
            revision=self.revision,
            date=self.closing_date,
        )

    def _explain(self, missing: int) -> None:
        text = f"opening + entries misses closing by {missing} minor units"
        if self._valued_later_minor and missing == -self._valued_later_minor:
            self.report(
                ProblemCode.EXPLAINED_BY_VALUE_DATE,
                f"{text}, which is what is valued after the closing balance's date",
            )
            return
        if self._reversals_minor and missing == -2 * self._reversals_minor:
            text += "; it would tie if entries marked as reversals had the other sign"
        self.report(ProblemCode.DOES_NOT_TIE, text)
