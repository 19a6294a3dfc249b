"""What lines of settlement files prove about an operation that the PSP never told of. No I/O.

Only the simple case is evidence: the one line that names the operation says that it was
charged. Whatever else was said of it is for people; a wrong guess would move money.

| lines that name the operation, those of kind FEE left out | means |
|---|---|
| none | nothing yet |
| one CHARGE, in the operation's currency, that tells what was taken | the PSP took that |
| one CHARGE in another currency, or that tells only what was left after fees | unclear |
| one of any other kind, or of none | unclear |
| several | unclear: taken twice, or given back since |

Lines of files that are quarantined or incomplete, and of statements that a correction has
replaced, never come here: the ledger finds current statements alone.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from mesh.money import MAX_AMOUNT_MINOR, Money
from mesh.settlement_file import Kind
from payment_svc.domain import Settled

_MAX_REFERENCE_CHARACTERS = 255


@dataclass(frozen=True, slots=True)
class Line:
    """One line, as the ledger tells it. Amounts are signed minor units of its currency.

    amount_minor: what the PSP's balance moved by; gross_minor, fee_minor: None where the
    file does not carry them. file_id and sequence name the line.
    """

    file_id: str
    sequence: int
    source: str
    kind: str
    currency_code: str
    amount_minor: int
    gross_minor: int | None
    fee_minor: int | None
    psp_reference: str


@dataclass(frozen=True, slots=True)
class Unclear:
    """Something was settled, but it is not a simple capture; `why` is for people."""

    why: str


Proof: TypeAlias = Settled | Unclear | None


def judge(asked: Money, lines: Sequence[Line]) -> Proof:
    """What the lines that name an operation of this amount prove; None: nothing yet.

    Another amount in the same currency is proof, too: the executor parks it as such.
    """
    told = [line for line in lines if line.kind != Kind.FEE]
    if not told:
        return None
    if len(told) > 1:
        kinds = ", ".join(sorted(line.kind or "no kind" for line in told))
        return Unclear(f"{len(told)} lines name it: {kinds}")
    (line,) = told
    if line.kind != Kind.CHARGE:
        return Unclear(f"the line that names it is of kind {line.kind or 'none'}")
    if line.currency_code != asked.currency_code:
        return Unclear(f"it is settled in {line.currency_code}")
    taken_minor = _taken_minor(asked, line)
    if taken_minor is None:
        return Unclear("the line tells only what was left after fees")
    if not 1 <= taken_minor <= MAX_AMOUNT_MINOR:
        return Unclear("the line takes money away, or too much to be true")
    return Settled(
        Money(taken_minor, line.currency_code),
        _fee(line),
        _reference(line.psp_reference),
        line.source,
    )


def _taken_minor(asked: Money, line: Line) -> int | None:
    if line.gross_minor is not None:
        return line.gross_minor
    # Without a gross amount, what came may be what was left: only the whole proves itself.
    if line.fee_minor is None and line.amount_minor == asked.amount_minor:
        return line.amount_minor
    return None


def _fee(line: Line) -> Money | None:
    """The fee that is booked with the capture; a fee that was given back is booked later."""
    if line.fee_minor is None or not 1 <= line.fee_minor <= MAX_AMOUNT_MINOR:
        return None
    return Money(line.fee_minor, line.currency_code)


def _reference(text: str) -> str:
    """The PSP's reference, if it can be stored: what is proven must not fail for a name."""
    is_fit = len(text) <= _MAX_REFERENCE_CHARACTERS and not any(
        unicodedata.category(character) == "Cc" for character in text
    )
    return text if is_fit else ""
