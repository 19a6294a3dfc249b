"""Pages of one statement are one statement."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

from ledger_svc.reconciliation.readers.model import (
    Limits,
    ProblemCode,
    ReadError,
    ReadReason,
)
from ledger_svc.reconciliation.readers.tally import Tally


class Page(NamedTuple):
    """A page that is being read. statement: its statement's number in the file, from 0.

    number: the page's own. goes_on: it is not the first one that was read.
    """

    key: Hashable
    statement: int
    tally: Tally
    number: int | None
    goes_on: bool


class Pages:
    """The statements of a file, in the order in which they begin.

    A statement whose last page has not come is open: the next page under its key goes on with
    it. What is open at the end lacks its last page.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._tallies: list[Tally] = []
        self._open: dict[Hashable, Page] = {}

    def open(
        self,
        key: Hashable,
        make: Callable[[], Tally],
        where: str,
        *,
        first: bool,
        number: int | None = None,
    ) -> Page:
        """A page begins.

        key: what pages of one statement have in common. make: the tally of a statement that
        begins. first: it begins a statement. number: the page's own, None where the format
        does not count. Raises ReadError.
        """
        before = self._open.pop(key, None)
        if before and first:
            _lacks_last_page(before.tally)
            before = None
        if before:
            # Banks that count every page as the first one chain their balances all the same.
            if number is not None and before.number is not None and number > before.number + 1:
                before.tally.report(
                    ProblemCode.PAGES_MISSING,
                    f"a page is missing before {where}",
                    breaks=True,
                )
            return before._replace(number=number, goes_on=True)
        if len(self._tallies) >= self._limits.statements:
            raise ReadError(
                ReadReason.TOO_MANY_STATEMENTS,
                where,
                f"more than {self._limits.statements} statements",
            )
        tally = make()
        if not first:
            # Its equation may hold all the same: some banks count pages over statements.
            tally.report(ProblemCode.PAGES_MISSING, "the pages before this one are missing")
        self._tallies.append(tally)
        return Page(key, len(self._tallies) - 1, tally, number, goes_on=False)

    @staticmethod
    def opens_with(page: Page, opening_minor: int | None, where: str) -> None:
        """What a page opens with: the statement's opening, or what the page before closed with.

        To be told before `close`.
        """
        tally = page.tally
        if not page.goes_on:
            tally.opening_minor = opening_minor
        elif opening_minor != tally.closing_minor and None not in (
            opening_minor,
            tally.closing_minor,
        ):
            tally.report(
                ProblemCode.PAGES_BROKEN,
                f"the page at {where} does not open with what the page before closed with",
                breaks=True,
            )

    def close(self, page: Page, *, closing_minor: int | None, last: bool) -> None:
        """A page ends with this balance. last: its statement ends with it."""
        page.tally.closing_minor = closing_minor
        if not last:
            self._open[page.key] = page

    def finish(self) -> Sequence[Tally]:
        """All statements, once nothing more comes."""
        for page in self._open.values():
            _lacks_last_page(page.tally)
        self._open.clear()
        return self._tallies


def _lacks_last_page(tally: Tally) -> None:
    tally.report(ProblemCode.PAGES_MISSING, "the last page is missing", breaks=True)
