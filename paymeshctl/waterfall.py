"""The way from a day's opening to its closing balance, as steps, and as bars to draw.

Only what a run and its breaks say. Where the breaks have moved on since the run, so that
they no longer add up to what it counted, they are one step and not a guess by class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from paymesh.ledger.v1 import ledger_service_pb2 as ledger_pb
from paymesh.reconciliation.v1 import reconciliation_service_pb2 as pb

from mesh.money import format_minor
from paymeshctl import render

WIDTH = 720
"""Of a chart, in units of its view box."""
_BARS_LEFT, _BARS_RIGHT = 230, 590
_ROW, _BAR = 20, 13

# They say that something is odd with a statement; no line of theirs moves the balance.
_BESIDE = frozenset({pb.BREAK_CLASS_CHAIN_BROKEN, pb.BREAK_CLASS_PAYOUT_DIFFERS})


@dataclass(frozen=True, slots=True)
class Step:
    """One bar, in signed minor units: a balance stands on 0, a move goes on from the one before."""

    label: str
    from_minor: int
    to_minor: int
    is_balance: bool = False

    @property
    def amount_minor(self) -> int:
        """What is written beside the bar."""
        return self.to_minor - self.from_minor


@dataclass(frozen=True, slots=True)
class Bar:
    """A step as it is drawn. look: `balance`, `up` or `down`; link_x: where the next one begins."""

    label: str
    amount: str
    look: str
    x: int
    y: int
    width: int
    text_y: int
    link_x: int


@dataclass(frozen=True, slots=True)
class Chart:
    """All bars of a currency. zero_x: where 0 is; text: the same in words."""

    bars: tuple[Bar, ...]
    zero_x: int
    height: int
    bar_height: int
    row_height: int
    width: int
    text: str


def receivable_steps(balance: pb.RunBalance, breaks: Sequence[pb.Break]) -> tuple[Step, ...]:
    """From the opening to the closing balance at the source; from 0 if the file has no opening."""
    has_opening = balance.HasField("opening_minor")
    at = balance.opening_minor if has_opening else 0
    opening = "opening balance" if has_opening else "no opening in the file: from 0"
    steps = [Step(opening, 0, at, is_balance=True)]
    for label, amount_minor in _moves(balance, breaks):
        steps.append(Step(label, at, at + amount_minor))
        at += amount_minor
    has_closing = balance.HasField("closing_minor")
    end = (
        balance.closing_minor
        if has_closing
        else (balance.opening_minor if has_opening else 0) + balance.lines_minor
    )
    if at != end:
        steps.append(Step("not in the day's lines", at, end))
    closing = "closing balance" if has_closing else "after the day's lines"
    return (*steps, Step(closing, 0, end, is_balance=True))


def _moves(balance: pb.RunBalance, breaks: Sequence[pb.Break]) -> Iterable[tuple[str, int]]:
    mine = [one for one in breaks if one.currency_code == balance.currency_code]
    waiting = _by_class((one for one in mine if _moves_balance(one)), lambda one: one.amount_minor)
    if sum(waiting.values()) == balance.breaks_minor:
        posted = _by_class((one for one in mine if _is_posted(one)), _booked_minor)
        yield "matched or booked by rule", balance.ledger_minor - sum(posted.values())
        for name, amount_minor in posted.items():
            yield f"posted: {name}", amount_minor
        for name, amount_minor in waiting.items():
            yield f"break: {name}", amount_minor
    else:
        yield "the ledger's side", balance.ledger_minor
        yield "breaks of the run", balance.breaks_minor
    if balance.difference_minor:
        yield "difference", balance.difference_minor


def _moves_balance(one: pb.Break) -> bool:
    """Whether it is of a line of the file that is neither matched nor posted."""
    return (
        bool(one.file_id)
        and not one.booked_journal_id
        and one.state != pb.BREAK_STATE_CLEARED
        and getattr(one, "class") not in _BESIDE
    )


def _is_posted(one: pb.Break) -> bool:
    """Whether its journal is on the ledger's side of the day: of a line, or of the rest."""
    of_the_day = bool(one.file_id) or getattr(one, "class") == pb.BREAK_CLASS_CLOSING_DIFFERS
    return of_the_day and bool(one.booked_journal_id)


def _booked_minor(one: pb.Break) -> int:
    """What its journal moved the source's account by: debits less credits."""
    return sum(
        entry.amount.amount_minor * (1 if entry.direction == ledger_pb.DIRECTION_DEBIT else -1)
        for entry in one.proposal
        if entry.account.kind == ledger_pb.ACCOUNT_KIND_PSP_RECEIVABLE
        and entry.account.source == one.source
    )


def _by_class(breaks: Iterable[pb.Break], amount: Callable[[pb.Break], int]) -> dict[str, int]:
    """Class → the sum in minor units, in the order of the catalogue."""
    sums: dict[int, int] = {}
    for one in breaks:
        number = getattr(one, "class")
        sums[number] = sums.get(number, 0) + amount(one)
    return {render.state_name(pb.BreakClass, number): sums[number] for number in sorted(sums)}


def draw(steps: Sequence[Step], currency_code: str) -> Chart:
    """The bars, one below the other, on one scale that has 0 in it."""
    ends = [0, *(end for step in steps for end in (step.from_minor, step.to_minor))]
    low = min(ends)
    span = max(max(ends) - low, 1)

    def across(minor: int) -> int:
        return _BARS_LEFT + (minor - low) * (_BARS_RIGHT - _BARS_LEFT) // span

    bars = []
    for number, step in enumerate(steps):
        left = across(min(step.from_minor, step.to_minor))
        right = across(max(step.from_minor, step.to_minor))
        bars.append(
            Bar(
                label=step.label,
                amount=_amount(step, currency_code),
                look=_look(step),
                x=left,
                y=number * _ROW + (_ROW - _BAR) // 2,
                # Even nothing is a line that can be seen.
                width=max(right - left, 1),
                text_y=number * _ROW + _ROW - 6,
                link_x=across(step.to_minor),
            )
        )
    text = "; ".join(f"{step.label} {_amount(step, currency_code)}" for step in steps)
    return Chart(
        tuple(bars), across(0), len(steps) * _ROW, _BAR, _ROW, WIDTH, f"In {currency_code}: {text}."
    )


def _look(step: Step) -> str:
    if step.is_balance:
        return "balance"
    return "down" if step.amount_minor < 0 else "up"


def _amount(step: Step, currency_code: str) -> str:
    """In major units; a move has its sign, so that it does not hang on the colour."""
    sign = "+" if step.amount_minor > 0 and not step.is_balance else ""
    return sign + format_minor(step.amount_minor, currency_code)
