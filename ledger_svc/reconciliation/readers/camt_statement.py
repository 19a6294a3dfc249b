"""One Stmt of a camt message: its header, balances and sums, by currency."""

from __future__ import annotations

from typing import NamedTuple

from ledger_svc.reconciliation.readers.amounts import decimals_of, to_minor
from ledger_svc.reconciliation.readers.camt_entry import Balance, Head
from ledger_svc.reconciliation.readers.camt_xml import child, number, text
from ledger_svc.reconciliation.readers.model import ProblemCode, ReadError, ReadReason
from ledger_svc.reconciliation.readers.pages import Page, Pages
from ledger_svc.reconciliation.readers.tally import Tally
from ledger_svc.reconciliation.readers.xml_stream import Element

# Available and forward balances say nothing of what is booked, and may be in other currencies.
_BOOKED = frozenset({"OPBD", "PRCD", "CLBD", "ITBD"})


class MessagePage(NamedTuple):
    """A page of the message or of the statement. number: from 1."""

    number: int
    last: bool


class _Sums(NamedTuple):
    """A control total. Empty where it is not told."""

    entries: str
    amount: str
    where: str


class _Currency:
    """What a statement says in one currency."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self._balances: dict[tuple[str, bool], set[int]] = {}

    def add(self, told: Balance) -> None:
        """A balance. Of one code and kind two are kept: more are no less ambiguous."""
        amounts = self._balances.setdefault((told.code, told.interim), set())
        if len(amounts) < 2:
            amounts.add(told.amount_minor)

    def amounts(self, code: str, *, interim: bool) -> set[int]:
        """Those of the code that differ: of a page's own kind, or else of the other."""
        return self._balances.get((code, interim)) or self._balances.get((code, not interim), set())


class CamtStatement:
    """A Stmt while it is read. One that tells several currencies is a statement in each."""

    def __init__(self, pages: Pages, message_page: MessagePage) -> None:
        self._pages = pages
        # Pages of the message count where the statement has none of its own.
        self._page = message_page
        self._account: str | None = None
        self._identity = ""
        self._own_currency = ""
        self._currencies: dict[str, _Currency] = {}
        self._summary: dict[int, _Sums] = {}
        self._counts = {0: 0, 1: 0, -1: 0}
        self._all = {1: 0, -1: 0}
        self._booked = {1: 0, -1: 0}
        self._all_counts = {0: 0, 1: 0, -1: 0}
        self.has_account = False

    def take_account(
        self,
        *,
        account: str | None,
        currency_code: str,
        identity: str,
        page: MessagePage | None,
    ) -> None:
        """Acct, and what stands before it."""
        self.has_account = True
        self._account, self._own_currency, self._identity = account, currency_code, identity
        self._page = page or self._page

    def take_balance(self, told: Balance) -> None:
        """Bal; only those that a statement begins and ends with. Raises ReadError."""
        if told.code not in _BOOKED:
            return
        known = self._currency(told.currency_code, told.where)
        known.add(told)
        if told.code == "CLBD" and told.day:
            known.page.tally.closing_date = told.day

    def take_summary(self, element: Element, where: str) -> None:
        """TxsSummry: control totals, of all entries, credits and debits."""
        for sign, name in ((0, "TtlNtries"), (1, "TtlCdtNtries"), (-1, "TtlDbtNtries")):
            told = child(element, name)
            total = text(told, "Sum") if sign else ""
            self._summary[sign] = _Sums(text(told, "NbOfNtries"), total, f"{where}/{name}")

    def place(self, currency_code: str, where: str) -> tuple[int, int]:
        """The number of the currency's statement in the file, and its entries so far."""
        page = self._currency(currency_code, where).page
        return page.statement, page.tally.entries

    def add(self, entry: Head, where: str) -> int:
        """A booked entry. Returns its number, from 1. Raises ReadError."""
        self._count(entry, booked=True)
        return self._currency(entry.currency_code, where).page.tally.add(
            entry.sign * entry.amount_minor,
            where,
            value_date=entry.value_date,
            reversal=entry.reversal,
        )

    def pass_over(self, entry: Head) -> None:
        """An entry that is not booked moves nothing; control totals may count it."""
        self._count(entry, booked=False)

    def end(self, where: str) -> None:
        """The Stmt ends. Raises ReadError."""
        if not self.has_account:
            raise ReadError(ReadReason.MISSING_FIELD, f"{where}/Acct", "the account is missing")
        if not self._currencies:
            # No balance and no entry; the page is a statement all the same. Its currency stands
            # by no amount, with which it would have been checked.
            if self._own_currency:
                decimals_of(self._own_currency, f"{where}/Acct/Ccy")
            self._currencies[self._own_currency] = _Currency(self._open(self._own_currency, where))
        for known in self._currencies.values():
            self._balance(known, where)
        self._check_summary()

    def _currency(self, currency_code: str, where: str) -> _Currency:
        if not self.has_account:
            raise ReadError(
                ReadReason.MISSING_FIELD, f"{where}/../Acct", "the account must come before"
            )
        known = self._currencies.get(currency_code)
        if known is None:
            known = self._currencies[currency_code] = _Currency(self._open(currency_code, where))
        return known

    def _open(self, currency_code: str, where: str) -> Page:
        return self._pages.open(
            (self._account, currency_code),
            lambda: self._tally(currency_code),
            where,
            first=self._page.number == 1,
            number=self._page.number,
        )

    def _tally(self, currency_code: str) -> Tally:
        tally = Tally(self._account, currency_code or None, self._identity)
        if self._account is None:
            tally.report(ProblemCode.ACCOUNT_MISSING, "no account (Acct/Id)")
        return tally

    def _balance(self, known: _Currency, where: str) -> None:
        is_first, is_last = self._page.number == 1, self._page.last
        opening = _choose(known, ("OPBD", "PRCD"), interim=not is_first)
        closing = _choose(known, ("CLBD",) if is_last else ("CLBD", "ITBD"), interim=not is_last)
        self._pages.opens_with(known.page, opening, where)
        self._pages.close(known.page, closing_minor=closing, last=is_last)

    def _count(self, entry: Head, *, booked: bool) -> None:
        for sign in (0, entry.sign):
            self._all_counts[sign] += 1
            self._counts[sign] += booked
        self._all[entry.sign] += entry.amount_minor
        self._booked[entry.sign] += entry.amount_minor if booked else 0

    def _check_summary(self) -> None:
        """Banks count booked entries or all; either is right. Sums have no currency."""
        only = next(iter(self._currencies)) if len(self._currencies) == 1 else ""
        for sign, told in self._summary.items():
            if told.entries and number(told.entries, told.where) not in {
                self._counts[sign],
                self._all_counts[sign],
            }:
                self._differs(told.where, "NbOfNtries")
            if (
                sign
                and told.amount
                and only
                and to_minor(told.amount, only, told.where)
                not in {self._booked[sign], self._all[sign]}
            ):
                self._differs(told.where, "Sum")

    def _differs(self, where: str, name: str) -> None:
        for known in self._currencies.values():
            known.page.tally.report(
                ProblemCode.CONTROL_TOTALS,
                f"{where}/{name} is not what the entries make",
                breaks=True,
            )


def _choose(known: _Currency, codes: tuple[str, ...], *, interim: bool) -> int | None:
    """The balance of the first code that is told; of a page's own kind before the other."""
    for code in codes:
        amounts = known.amounts(code, interim=interim)
        if len(amounts) > 1:
            known.page.tally.report(
                ProblemCode.BALANCE_AMBIGUOUS, f"several balances are {code}", breaks=True
            )
            return None
        if amounts:
            return next(iter(amounts))
    return None
