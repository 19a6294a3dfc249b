"""A reconciled day as one page of HTML for finance: what is on it, and in which words.

The page carries its style and its chart in itself: no scripts, nothing from outside. All
that a settlement file says is text of others; the template escapes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from paymesh.ledger.v1 import ledger_service_pb2 as ledger_pb
from paymesh.reconciliation.v1 import reconciliation_service_pb2 as pb

from mesh.money import format_minor
from paymeshctl import render
from paymeshctl.waterfall import Chart, draw, receivable_steps

_STATES = {
    pb.RUN_STATE_OPEN: "A day before it is missing, or does not lead up to it.",
    pb.RUN_STATE_BALANCED: "Every line is matched or booked by rule.",
    pb.RUN_STATE_EXPLAINED: "The ledger's side and the breaks make the file's side.",
    pb.RUN_STATE_BROKEN: "The books miss each other by more than the breaks.",
}
_TEMPLATES = Environment(
    loader=PackageLoader("paymeshctl"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


@dataclass(frozen=True, slots=True)
class BalanceRow:
    """The equation of one currency, in major units; empty for what the file does not carry."""

    currency: str
    opening: str
    closing: str
    lines: str
    ledger: str
    breaks: str
    difference: str
    chart: Chart


@dataclass(frozen=True, slots=True)
class BreakRow:
    """One break. ids: what it is called → the id; journal: its entries, a line each."""

    class_: str
    state: str
    day: str
    age: str
    amount: str
    ids: tuple[tuple[str, str], ...]
    evidence: tuple[tuple[str, str], ...]
    journal_title: str
    journal_id: str
    journal: tuple[str, ...]


def page(run: pb.Run, breaks: Sequence[pb.Break], made_time: datetime) -> str:
    """The page. breaks: those that the run found, as they stand at made_time (UTC)."""
    return _TEMPLATES.get_template("day_report.html.j2").render(
        run=run,
        state=render.state_name(pb.RunState, run.state),
        state_text=_STATES.get(run.state, ""),
        source=printable(run.source),
        cut_off_time=render.time_text(run.cut_off_time) if run.HasField("cut_off_time") else "",
        run_time=render.time_text(run.create_time),
        made_time=made_time.strftime("%Y-%m-%d %H:%M:%S"),
        counts=[(class_name(one), one.breaks) for one in run.counts],
        balances=[_balance_row(one, breaks) for one in run.balances],
        breaks=[_break_row(one) for one in breaks],
        files=sorted({(one.file_id, one.file_sha256) for one in breaks if one.file_id}),
    )


def class_name(message: Any) -> str:
    """The class of a break or a count, as `3 UNKNOWN_TO_US`."""
    number = getattr(message, "class")
    return f"{number} {render.state_name(pb.BreakClass, number)}"


def age_band(days: int) -> str:
    """The band of an age in days that reports group by."""
    for most, band in ((1, "0-1"), (3, "2-3"), (7, "4-7"), (30, "8-30")):
        if days <= most:
            return band
    return ">30"


def printable(text: str) -> str:
    """A file must command neither the terminal nor the order in which letters are read."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def _balance_row(one: pb.RunBalance, breaks: Sequence[pb.Break]) -> BalanceRow:
    currency = one.currency_code
    return BalanceRow(
        currency=currency,
        opening=format_minor(one.opening_minor, currency) if one.HasField("opening_minor") else "",
        closing=format_minor(one.closing_minor, currency) if one.HasField("closing_minor") else "",
        lines=format_minor(one.lines_minor, currency),
        ledger=format_minor(one.ledger_minor, currency),
        breaks=format_minor(one.breaks_minor, currency),
        difference=format_minor(one.difference_minor, currency),
        chart=draw(receivable_steps(one, breaks), currency),
    )


def _break_row(one: pb.Break) -> BreakRow:
    ids = (
        ("break", one.break_id),
        ("PSP reference", printable(one.psp_reference)),
        ("order", one.order_id),
        ("operation", one.operation_id),
        ("capture's journal", one.journal_id),
    )
    evidence = (
        ("place", printable(one.place)),
        ("sequence", str(one.sequence) if one.sequence else ""),
        ("file", one.file_id),
        ("rule", printable(one.rule)),
    )
    title = "proposed" if one.proposal else "nothing to post"
    return BreakRow(
        class_=class_name(one),
        state=render.state_name(pb.BreakState, one.state),
        day=one.settlement_date,
        age=age_band(one.age_days),
        amount=_amount(one.amount_minor, one.currency_code),
        ids=tuple((name, value) for name, value in ids if value),
        evidence=tuple((name, value) for name, value in evidence if value),
        journal_title="posted" if one.booked_journal_id else title,
        journal_id=one.booked_journal_id,
        journal=tuple(_entry(entry) for entry in one.proposal),
    )


def _entry(entry: ledger_pb.Entry) -> str:
    """An entry as `debit psp_receivable psp_stub 1.00 EUR`."""
    account = entry.account
    parts = (
        render.state_name(ledger_pb.Direction, entry.direction).lower(),
        render.state_name(ledger_pb.AccountKind, account.kind).lower(),
        printable(account.owner_id),
        printable(account.source),
        render.money(entry.amount),
    )
    return " ".join(part for part in parts if part)


def _amount(amount_minor: int, currency_code: str) -> str:
    return f"{format_minor(amount_minor, currency_code)} {currency_code}".rstrip()
