"""SWIFT MT940, as banks really write it (docs/decisions/0010).

A statement is what is between `:60F:` and `:62F:`; `:62M:` and `:60M:` are pages of it. What
stands before the first message is passed over; so is `:64:` and what follows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import date

from ledger_svc.reconciliation.readers.amounts import to_minor
from ledger_svc.reconciliation.readers.model import (
    Level,
    Limits,
    Line,
    ProblemCode,
    ReadError,
    ReadReason,
    Statement,
)
from ledger_svc.reconciliation.readers.mt_dates import entry_date, value_date
from ledger_svc.reconciliation.readers.mt_fields import END, Field, fields
from ledger_svc.reconciliation.readers.mt_texts import end_to_end_reference
from ledger_svc.reconciliation.readers.pages import Page, Pages
from ledger_svc.reconciliation.readers.source import Source, record_too_long
from ledger_svc.reconciliation.readers.tally import Tally

FORMAT = "MT940"

_BALANCE = re.compile(r"([CD])(\d{6})([A-Z]{3})?(\d+(?:,\d*)?)\s*", re.ASCII)
_LINE = re.compile(
    r"(?P<date>\d{6})(?P<entry>\d{4}| {4})?(?P<mark>R?[CD])[A-Z]?[ \n]?"
    r"(?P<amount>\d+(?:,\d*)?)(?![.,\d]) ?(?P<code>[A-Z][A-Z0-9 ]{3})?(?P<rest>.*)",
    re.ASCII | re.DOTALL,
)
_NUMBER = re.compile(r"(\d{1,5})(?:/(\d{1,5}))?", re.ASCII)

# RC takes a credit back, so it is a debit; RD gives a debit back.
_SIGNS: Mapping[str, int] = {"C": 1, "D": -1, "RC": -1, "RD": 1}

_NOTHING = frozenset({"", "NONREF"})


def read(source: Source, format_name: str = FORMAT) -> Iterator[Line | Statement]:
    """The lines of the file as they come, then its statements. Raises ReadError."""
    reader = _Reader(source, format_name)
    for field in fields(source):
        if line := reader.take(field):
            yield line
    if line := reader.end_message("end of file", cut=True):
        yield line
    yield from reader.statements()


class _Entry:
    """A `:61:` that waits for its `:86:`, which may come several times."""

    def __init__(self, field: Field, number: int, amount_minor: int, match: re.Match[str]) -> None:
        self.field = field
        self.number = number
        self.amount_minor = amount_minor
        self.match = match
        self.texts: list[str] = []
        self._bytes = len(field.text)

    def add(self, field: Field, limits: Limits) -> None:
        """A `:86:`. Raises ReadError: together they are one record, which is kept until its end."""
        self._bytes += len(f":{field.tag}:{field.text}\n")
        if self._bytes > limits.record_bytes:
            raise record_too_long(self.field.where, limits)
        self.texts.append(field.text)


class _Reader:
    """What is known of the message that is open."""

    def __init__(self, source: Source, format_name: str) -> None:
        self._limits = source.limits
        self._format = format_name
        self._pages = Pages(source.limits)
        self._entries = 0
        self._in_message = False
        self._account: str | None = None
        self._identity = ""
        self._page: Page | None = None
        self._currency = ""
        self._entry: _Entry | None = None
        self._closed = False

    def take(self, field: Field) -> Line | None:
        """One field; the line that is complete with it, if one is."""
        if field.tag == END:
            return self.end_message(field.where)
        if field.tag == "20":
            line = self.end_message(field.where)
            self._begin()
            return line
        if self._closed and field.tag in {"25", "25P"}:
            # The next account of a bank that writes `:20:` once a file.
            line = self.end_message(field.where)
            self._begin()
            self._take_inside(field)
            return line
        if not self._in_message:
            raise ReadError(
                ReadReason.UNEXPECTED_FIELD, field.where, "a field outside of a message"
            )
        return self._take_inside(field)

    def _take_inside(self, field: Field) -> Line | None:
        match field.tag:
            case "25" | "25P":
                self._head(field)
                self._account = field.text.partition("\n")[0].strip() or None
            case "28" | "28C":
                self._head(field)
                self._identity = field.text.strip()
            case "60" | "60F" | "60M":
                self._open(field)
            case "61":
                return self._line(field)
            case "86" | "NS":
                if self._entry:
                    self._entry.add(field, self._limits)
            case "62" | "62F" | "62M":
                return self._close(field)
            case _:
                pass  # :21:, :64:, :65: and the like say nothing that is reconciled
        return None

    def end_message(self, where: str, *, cut: bool = False) -> Line | None:
        """The message ends; a line may have waited for more. cut: because the file does."""
        line = self._flush()
        if self._in_message and not self._closed:
            if self._page is None:
                raise ReadError(
                    ReadReason.FILE_CUT if cut else ReadReason.MISSING_FIELD,
                    where,
                    "the statement has no balances (:60F:, :62F:)",
                )
            self._page.tally.report(
                ProblemCode.BALANCE_MISSING, "no closing balance (:62F:)", breaks=True
            )
        self._in_message = False
        return line

    def statements(self) -> Iterator[Statement]:
        """The statements, once nothing more comes."""
        tallies = self._pages.finish()
        if not tallies:
            raise ReadError(ReadReason.FILE_CUT, "end of file", "there is no statement")
        for number, tally in enumerate(tallies):
            yield tally.statement(number, self._format)

    def _begin(self) -> None:
        self._in_message = True
        self._account = self._page = self._entry = None
        self._identity = self._currency = ""
        self._closed = False

    def _head(self, field: Field) -> None:
        if self._page is not None or self._closed:
            raise ReadError(
                ReadReason.UNEXPECTED_FIELD, field.where, f":{field.tag}: amid a statement"
            )

    def _open(self, field: Field) -> None:
        self._head(field)
        opening, currency, _ = _balance(field, "")
        self._currency = currency
        number, sequence = self._numbers()
        self._page = self._pages.open(
            (self._account, currency),
            lambda: self._tally(number),
            field.where,
            first=field.tag != "60M",
            number=sequence,
        )
        self._pages.opens_with(self._page, opening, field.where)

    def _tally(self, identity: str) -> Tally:
        tally = Tally(self._account, self._currency, identity)
        if self._account is None:
            tally.report(ProblemCode.ACCOUNT_MISSING, "no account (:25:)")
        return tally

    def _numbers(self) -> tuple[str, int | None]:
        """The statement's number, and its page's where it is told."""
        match = _NUMBER.fullmatch(self._identity)
        if match and match[2]:
            return match[1], int(match[2])
        return self._identity, None

    def _line(self, field: Field) -> Line | None:
        if self._page is None or self._closed:
            raise ReadError(
                ReadReason.UNEXPECTED_FIELD, field.where, ":61: is not between :60F: and :62F:"
            )
        before = self._flush()
        self._entries += 1
        if self._entries > self._limits.entries:
            raise ReadError(
                ReadReason.TOO_MANY_LINES, field.where, f"more than {self._limits.entries} lines"
            )
        match = _LINE.fullmatch(field.text)
        if match is None:
            raise ReadError(
                ReadReason.BAD_FIELD, field.where, ":61: is not date, mark, amount, reference"
            )
        amount = _SIGNS[match["mark"]] * _amount(match["amount"], self._currency, field.where)
        number = self._page.tally.add(amount, field.where, reversal=match["mark"][0] == "R")
        self._entry = _Entry(field, number, amount, match)
        return before

    def _flush(self) -> Line | None:
        entry, page = self._entry, self._page
        self._entry = None
        if entry is None or page is None:
            return None
        match, where = entry.match, entry.field.where
        valued = value_date(match["date"], where)
        first, _, more = match["rest"].partition("\n")
        ours, _, theirs = (part.strip() for part in first.partition("//"))
        references = [("type", match["code"] or ""), ("customer", ours)]
        references.append(("EREF", end_to_end_reference("\n".join(entry.texts))))
        return Line(
            statement=page.statement,
            number=entry.number,
            place=where,
            level=Level.ENTRY,
            kind=None,
            amount_minor=entry.amount_minor,
            currency_code=self._currency,
            booking_date=entry_date(match["entry"] or "", valued, where),
            value_date=valued,
            source_reference="" if theirs in _NOTHING else theirs,
            references=tuple(pair for pair in references if pair[1] not in _NOTHING),
            texts=tuple(text for text in (more, *entry.texts) if text),
            reversal=match["mark"][0] == "R",
        )

    def _close(self, field: Field) -> Line | None:
        line = self._flush()
        if self._closed:
            raise ReadError(ReadReason.UNEXPECTED_FIELD, field.where, "a second :62:")
        closing, currency, day = _balance(field, self._currency)
        if self._page is None:
            self._currency = currency
            number, sequence = self._numbers()
            self._page = self._pages.open(
                (self._account, currency),
                lambda: self._tally(number),
                field.where,
                first=True,
                number=sequence,
            )
            self._page.tally.report(
                ProblemCode.BALANCE_MISSING, "no opening balance (:60F:)", breaks=True
            )
        if currency != self._currency:
            raise ReadError(
                ReadReason.BAD_FIELD, field.where, "opening and closing differ in currency"
            )
        self._page.tally.closing_date = day
        self._pages.close(self._page, closing_minor=closing, last=field.tag != "62M")
        self._closed = True
        return line


def _balance(field: Field, known_currency: str) -> tuple[int, str, date | None]:
    """known_currency: of the statement; some banks leave it out of the closing balance."""
    match = _BALANCE.fullmatch(field.text.partition("\n")[0])
    if match is None or not (currency := match[3] or known_currency):
        raise ReadError(
            ReadReason.BAD_FIELD, field.where, f":{field.tag}: is not mark, date, currency, amount"
        )
    signed = _SIGNS[match[1]] * _amount(match[4], currency, field.where)
    # A first statement of some banks opens on 000000.
    return signed, currency, value_date(match[2], field.where) if match[2] != "000000" else None


def _amount(text: str, currency: str, where: str) -> int:
    return to_minor(text.replace(",", "."), currency, where)
