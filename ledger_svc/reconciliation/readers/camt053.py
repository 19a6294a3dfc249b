"""ISO 20022 camt.053.001.02 to .13: the bank's statement.

A batch entry's transactions come before it as DETAIL lines; a single transaction is told with
its entry. Amount and sign are always the entry's own (docs/settlement-formats.md).
"""

from __future__ import annotations

from collections.abc import Iterator

from ledger_svc.reconciliation.readers.camt_entry import (
    Head,
    Transaction,
    balance,
    head,
    transaction,
)
from ledger_svc.reconciliation.readers.camt_statement import CamtStatement, MessagePage
from ledger_svc.reconciliation.readers.camt_xml import child, flag, needed, number, text
from ledger_svc.reconciliation.readers.model import (
    Level,
    Line,
    ReadError,
    ReadReason,
    Statement,
)
from ledger_svc.reconciliation.readers.pages import Pages
from ledger_svc.reconciliation.readers.source import Source
from ledger_svc.reconciliation.readers.xml_stream import (
    Element,
    XmlStream,
    local_name,
    namespace,
    split_tag,
)

_MESSAGE = "BkToCstmrStmt"

# By name: the parent that makes it the message's own. The same names also occur deeper.
_PARENTS = {
    "GrpHdr": _MESSAGE,
    "Stmt": _MESSAGE,
    "Acct": "Stmt",
    "Bal": "Stmt",
    "TxsSummry": "Stmt",
    "Ntry": "Stmt",
    "TxDtls": "NtryDtls",
}
# Those whose beginning counts; of the others only the end.
_BEGUN = frozenset({_MESSAGE, "Stmt", "Ntry"})


def read(source: Source, format_name: str) -> Iterator[Line | Statement]:
    """The lines of the file as they come, then its statements. Raises ReadError."""
    reader = _Reader(source, format_name)
    yield from reader.lines()
    yield from reader.statements()


class _Reader:
    def __init__(self, source: Source, format_name: str) -> None:
        self._stream = XmlStream(source, [_MESSAGE, *_PARENTS])
        self._limits = source.limits
        self._format = format_name
        self._pages = Pages(source.limits)
        self._namespace: str | None = None
        self._message_page = MessagePage(number=1, last=True)
        self._statement: CamtStatement | None = None
        self._statements = 0
        self._lines = 0
        self._entries = 0
        self._head: Head | None = None
        self._held: Transaction | None = None
        self._details = 0
        self._where = f"/{_MESSAGE}"

    def lines(self) -> Iterator[Line]:
        """Every line, in the order of the file."""
        for event, element in self._stream.events():
            space, name = split_tag(element.tag)
            if event == "start" and name not in _BEGUN:
                continue
            if name == _MESSAGE:
                if event == "start":
                    self._begin(element)
                continue
            if space != self._namespace:
                continue  # what a bank added of its own (SplmtryData)
            parent = element.getparent()
            if parent is None or local_name(parent) != _PARENTS[name]:
                self._misplaced(name)
            elif event == "start":
                self._start(name)
            else:
                yield from self._end(name, element)

    def statements(self) -> Iterator[Statement]:
        """The statements, once nothing more comes."""
        if not self._statements:
            raise ReadError(ReadReason.MISSING_FIELD, f"/{_MESSAGE}", "there is no statement")
        for at, tally in enumerate(self._pages.finish()):
            yield tally.statement(at, self._format)

    def _begin(self, element: Element) -> None:
        if self._namespace is not None:
            raise ReadError(ReadReason.UNEXPECTED_FIELD, f"/{_MESSAGE}", "a second message")
        self._namespace = namespace(element)

    def _misplaced(self, name: str) -> None:
        # An entry that is not counted would be money that is lost.
        if name in {"Ntry", "Stmt"}:
            raise ReadError(ReadReason.UNEXPECTED_FIELD, self._where, f"{name} is not its place")

    def _start(self, name: str) -> None:
        if name == "Stmt":
            self._statements += 1
            self._entries = 0
            self._where = f"/{_MESSAGE}/Stmt[{self._statements}]"
            self._statement = CamtStatement(self._pages, self._message_page)
        elif name == "Ntry":
            self._entries += 1
            self._where = f"/{_MESSAGE}/Stmt[{self._statements}]/Ntry[{self._entries}]"
            self._head = self._held = None
            self._details = 0

    def _end(self, name: str, element: Element) -> Iterator[Line]:
        match name:
            case "GrpHdr":
                self._message_page = _page(child(element, "MsgPgntn"), self._where)
            case "Acct":
                self._take_account(element)
            case "Bal":
                self._current().take_balance(balance(element, f"{self._where}/Bal"))
                self._let_go(element)
            case "TxsSummry":
                self._current().take_summary(element, f"{self._where}/TxsSummry")
            case "TxDtls":
                yield from self._take_transaction(element)
            case "Ntry":
                yield from self._take_entry(element)
                self._let_go(element)
            case _:
                self._current().end(self._where)
                self._statement = None
                self._stream.release(element)

    def _current(self) -> CamtStatement:
        if self._statement is None:
            raise ReadError(ReadReason.UNEXPECTED_FIELD, self._where, "outside of a statement")
        return self._statement

    def _let_go(self, element: Element) -> None:
        if self._current().has_account:
            self._stream.release(element)

    def _take_account(self, element: Element) -> None:
        statement = element.getparent()
        pagination = child(statement, "StmtPgntn")
        self._current().take_account(
            account=_account_id(child(element, "Id")),
            currency_code=text(element, "Ccy"),
            identity=text(statement, "Id"),
            page=_page(pagination, self._where) if pagination is not None else None,
        )

    def _take_transaction(self, element: Element) -> Iterator[Line]:
        details = element.getparent()
        entry = details.getparent() if details is not None else None
        if details is None or entry is None or local_name(entry) != "Ntry":
            return
        if self._head is None:
            self._head = head(entry, self._where)
        self._details += 1
        where = f"{self._where}/TxDtls[{self._details}]"
        told = transaction(element, where)
        # One alone is told with its entry; only the second shows that the entry is a batch.
        if self._details == 1:
            self._held = told
        else:
            if self._held is not None:
                yield from self._detail(self._held)
                self._held = None
            yield from self._detail(told)
        self._stream.release(element)
        self._stream.release_elder(details)

    def _detail(self, told: Transaction) -> Iterator[Line]:
        """A part of a batch, in the entry's currency where it tells an amount in it."""
        known = self._head
        if known is None or not known.is_booked:
            return
        amount = told.amount_minor if told.currency_code == known.currency_code else None
        statement, entries = self._current().place(known.currency_code, self._where)
        yield self._counted(
            Line(
                statement=statement,
                number=entries + 1,
                place=told.where,
                level=Level.DETAIL,
                kind=None,
                amount_minor=None if amount is None else known.sign * amount,
                currency_code=known.currency_code,
                booking_date=known.booking_date,
                value_date=known.value_date,
                source_reference=told.source_reference,
                batch_reference=known.source_reference,
                references=told.references,
                texts=told.texts,
                reversal=known.reversal,
                original_amount_minor=told.amount_minor if amount is None else None,
                original_currency_code=told.currency_code if amount is None else "",
            )
        )

    def _take_entry(self, element: Element) -> Iterator[Line]:
        known = self._head or head(element, self._where)
        if not known.is_booked:
            self._current().pass_over(known)
            return
        told, added = self._held, text(element, "AddtlNtryInf")
        entry = self._current().add(known, self._where)
        statement, _ = self._current().place(known.currency_code, self._where)
        yield self._counted(
            Line(
                statement=statement,
                number=entry,
                place=self._where,
                level=Level.ENTRY,
                kind=None,
                amount_minor=known.sign * known.amount_minor,
                currency_code=known.currency_code,
                booking_date=known.booking_date,
                value_date=known.value_date,
                source_reference=known.source_reference or (told.source_reference if told else ""),
                references=known.references + (told.references if told else ()),
                texts=(told.texts if told else ()) + ((added,) if added else ()),
                reversal=known.reversal,
            )
        )

    def _counted(self, line: Line) -> Line:
        self._lines += 1
        if self._lines > self._limits.entries:
            raise ReadError(
                ReadReason.TOO_MANY_LINES, line.place, f"more than {self._limits.entries} lines"
            )
        return line


def _page(pagination: Element | None, where: str) -> MessagePage:
    if pagination is None:
        return MessagePage(number=1, last=True)
    return MessagePage(
        number=number(needed(pagination, "PgNb", where), f"{where}/PgNb"),
        last=flag(needed(pagination, "LastPgInd", where), f"{where}/LastPgInd"),
    )


def _account_id(element: Element | None) -> str | None:
    if element is None:
        return None
    other = child(element, "Othr")
    return text(element, "IBAN") or (text(other, "Id") if other is not None else "") or None
