"""From what a day truly holds, and what was ordered, to what its files tell. Pure.

Each fault takes lines of its own, in the order of the kinds and of the file, so the same day
gets the same ones.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from mesh.money import MAX_AMOUNT_MINOR, exponent
from mesh.settlement_file import Kind
from psp_stub.faults import Capture, Fault, FaultKind, Material
from psp_stub.settlement import (
    HOME_CURRENCY,
    Altered,
    BankLine,
    Carried,
    Deviation,
    Line,
    Statement,
    Sums,
    bank_lines,
    state,
    with_bank,
)

DISPUTE_FEE_MINOR = 1_500
"""In minor units of a currency with two decimals; 15 major units in the others too."""

UNKNOWN_ACCOUNT = "psp_stub_other_merchant"

_OTHER_CURRENCY = "USD"

_ORDER = {kind: number for number, kind in enumerate(FaultKind, start=1)}

# Lines that belong to no charge: what they are, and the sign of their gross.
_MADE_UP: Mapping[FaultKind, tuple[Kind, int]] = {
    FaultKind.FEE_LINE: (Kind.FEE, 0),
    FaultKind.RESERVE_HOLD: (Kind.RESERVE_HOLD, -1),
    FaultKind.RESERVE_RELEASE: (Kind.RESERVE_RELEASE, 1),
    FaultKind.BALANCE_TRANSFER: (Kind.BALANCE_TRANSFER, -1),
    FaultKind.INVOICE_DEDUCTION: (Kind.INVOICE_DEDUCTION, -1),
    FaultKind.CLOSING_DIFFERS: (Kind.ADJUSTMENT, 1),
}


class Told(NamedTuple):
    """What a day's files tell. applied: of each order, how often it was carried out."""

    statements: tuple[Statement, ...]
    altered: tuple[Altered, ...]
    bank_lines: tuple[BankLine, ...]
    is_missing: bool
    applied: Mapping[tuple[FaultKind, str], int]


def other_currency(currency_code: str) -> str:
    """The currency in which CURRENCY_DIFFERS tells a line."""
    return HOME_CURRENCY if currency_code == _OTHER_CURRENCY else _OTHER_CURRENCY


def tell(material: Material, faults: Sequence[Fault], *, delayed: bool) -> Told:
    """What the day's files tell if these faults are ordered. delayed: see settlement.state."""
    work = _Work(material)
    # Pairs are rare, so they choose first.
    first = FaultKind.AMBIGUOUS_LINES
    for fault in sorted(faults, key=lambda one: (one.kind is not first, _ORDER[one.kind])):
        work.carry_out(fault)
    currencies = {HOME_CURRENCY, *material.carried, *material.sums, *work.changed}
    currencies |= {one.currency_code for one in faults if one.ordered}
    statements = []
    lines: list[BankLine] = []
    for currency in sorted(currencies):
        statement = state(
            currency,
            material.carried.get(currency, Carried()),
            work.sums(currency),
            work.deviations.get(currency, Deviation()),
            delayed=delayed,
        )
        booked = bank_lines(statement)
        if currency in work.without_bank_line:
            booked = booked[1:]
        booked += work.bank_lines[currency]
        lines += booked
        statements.append(with_bank(statement, booked))
        work.count_transfer(statement)
    return Told(
        tuple(statements),
        tuple(work.altered),
        tuple(lines),
        work.is_missing,
        work.applied,
    )


class _Work:
    """What was carried out so far."""

    def __init__(self, material: Material) -> None:
        self._material = material
        self.altered: list[Altered] = []
        self.bank_lines: defaultdict[str, list[BankLine]] = defaultdict(list)
        self.deviations: dict[str, Deviation] = {}
        self.without_bank_line: set[str] = set()
        self.is_missing = False
        self.applied: dict[tuple[FaultKind, str], int] = {}
        self.changed: dict[str, tuple[int, int]] = {}
        self._free = {currency: list(lines) for currency, lines in material.captures.items()}
        self._added: defaultdict[str, int] = defaultdict(int)

    def sums(self, currency: str) -> Sums:
        """Of what the file says, but of the captures their true number."""
        true = self._material.sums.get(currency, Sums())
        gross, fee = self.changed.get(currency, (0, 0))
        return Sums(true.captures, true.gross_minor + gross, true.fee_minor + fee)

    def count_transfer(self, statement: Statement) -> None:
        """Takes back what was counted for a transfer that the day does not have."""
        if statement.transfer_batch is None:
            for kind in (
                FaultKind.TRANSFER_DIFFERS,
                FaultKind.TRANSFER_RETURN,
                FaultKind.BANK_LINE_MISSING,
            ):
                self.applied.pop((kind, statement.currency_code), None)

    def carry_out(self, fault: Fault) -> None:
        """Does what was ordered, as often as the day's lines allow."""
        done = self._to_statement(fault)
        if done is None:
            done = sum(1 for _ in zip(range(fault.ordered), self._one_by_one(fault), strict=False))
        self.applied[fault.kind, fault.currency_code] = done

    def _to_statement(self, fault: Fault) -> int | None:
        """Does it if it is a fault of a whole file or statement; None: it is one of lines."""
        currency, amount = fault.currency_code, fault.amount_minor
        known = self.deviations.get(currency, Deviation())
        match fault.kind:
            case FaultKind.LATE_LINE:
                return fault.applied or 0  # done when the day took its captures
            case FaultKind.FILE_MISSING:
                self.is_missing = True
            case FaultKind.BANK_LINE_MISSING:
                self.without_bank_line.add(currency)
            case FaultKind.TRANSFER_DIFFERS:
                known = known._replace(transfer_minor=amount)
            case FaultKind.TRANSFER_RETURN:
                known = known._replace(is_returned=True)
            case FaultKind.ARITHMETIC_BROKEN:
                known = known._replace(closing_error_minor=amount)
            case FaultKind.CHAIN_BROKEN:
                known = known._replace(opening_minor=amount)
            case FaultKind.PAGES_INCOMPLETE:
                known = known._replace(lacks_last_page=True)
            case FaultKind.UNKNOWN_ACCOUNT:
                known = known._replace(account=UNKNOWN_ACCOUNT)
            case _:
                return None
        self.deviations[currency] = known
        return 1

    def _one_by_one(self, fault: Fault) -> Iterator[None]:
        """Carries the fault out once more at each step, until there are no lines left."""
        currency = fault.currency_code
        if fault.kind in _MADE_UP:
            kind, sign = _MADE_UP[fault.kind]
            yield from self._add(fault, lambda name: self._made_up(fault, kind, sign, name))
        elif fault.kind is FaultKind.UNKNOWN_LINE:
            yield from self._add(fault, lambda name: self._unknown(fault, name))
        elif fault.kind is FaultKind.UNKNOWN_BANK_LINE:
            yield from self._unknown_bank_line(fault)
        elif fault.kind is FaultKind.DECLINED_SETTLED:
            yield from self._given(currency, self._material.declined.get(currency, ()))
        elif fault.kind is FaultKind.CHARGEBACK_REVERSAL:
            disputes = iter(self._material.disputes.get(currency, ()))
            yield from self._add(fault, lambda name: _won(next(disputes, None), self._like(name)))
        elif fault.kind is FaultKind.OFFSETTING_ERRORS:
            yield from self._offset(fault)
        elif fault.kind is FaultKind.AMBIGUOUS_LINES:
            yield from self._ambiguous(fault)
        else:
            yield from self._falsify(fault)

    def _falsify(self, fault: Fault) -> Iterator[None]:
        """One line a step."""
        currency, amount = fault.currency_code, fault.amount_minor
        while capture := self._take(currency):
            line = capture.line
            like = self._like(self._name(fault))
            match fault.kind:
                case FaultKind.MISSING_LINE:
                    self._say(currency, capture)
                case FaultKind.AMOUNT_DIFFERS:
                    higher = line.gross_minor + amount
                    if higher > MAX_AMOUNT_MINOR:
                        higher = line.gross_minor - amount
                    self._say(currency, capture, line._replace(gross_minor=higher))
                case FaultKind.FEE_DIFFERS:
                    self._say(currency, capture, line._replace(fee_minor=line.fee_minor + amount))
                case FaultKind.CURRENCY_DIFFERS:
                    self._say(currency, capture)
                    self._say_more(other_currency(currency), line)
                case FaultKind.DUPLICATE_LINE:
                    self._say(currency, capture, line, line)
                case FaultKind.UNKNOWN_REFUND:
                    self._say(currency, capture, line, _refund(line, like))
                case FaultKind.CHARGEBACK:
                    self._say(currency, capture, line, _dispute(line, like, currency))
                case FaultKind.CHARGE_REVERSAL:
                    self._say(currency, capture, line, _reversal(line, like))
                case FaultKind.FX_DIFFERENCE:
                    self._say(currency, capture, line, _loss(line, like, currency, amount))
                case _:
                    raise AssertionError(f"{fault.kind} falsifies no line")
            yield

    def _offset(self, fault: Fault) -> Iterator[None]:
        currency = fault.currency_code
        while (first := self._take(currency)) and (second := self._take(currency)):
            by = min(
                fault.amount_minor,
                second.line.gross_minor - 1,
                MAX_AMOUNT_MINOR - first.line.gross_minor,
            )
            if by < 1:
                continue
            for capture, change in ((first, by), (second, -by)):
                line = capture.line
                self._say(currency, capture, line._replace(gross_minor=line.gross_minor + change))
            yield

    def _ambiguous(self, fault: Fault) -> Iterator[None]:
        currency = fault.currency_code
        seen: dict[int, Capture] = {}
        for capture in list(self._free.get(currency, ())):
            other = seen.pop(capture.line.gross_minor, None)
            if other is None:
                seen[capture.line.gross_minor] = capture
                continue
            for one in (other, capture):
                self._free[currency].remove(one)
                like = self._like(self._name(fault))
                bare = like(one.line.kind, one.line.gross_minor, one.line.fee_minor)
                self._say(currency, one, bare._replace(create_time=one.line.create_time))
            yield

    def _unknown_bank_line(self, fault: Fault) -> Iterator[None]:
        while True:
            name = self._name(fault)
            self.bank_lines[fault.currency_code].append(
                BankLine(
                    fault.currency_code,
                    fault.amount_minor,
                    name,
                    "",
                    is_reversal=False,
                    description="PAYMENT RECEIVED",
                )
            )
            yield

    def _given(self, currency: str, lines: Sequence[Line]) -> Iterator[None]:
        for line in lines:
            self._say_more(currency, line)
            yield

    def _add(self, fault: Fault, make: Callable[[str], Line | None]) -> Iterator[None]:
        while line := make(self._name(fault)):
            self._say_more(fault.currency_code, line)
            yield

    def _made_up(self, fault: Fault, kind: Kind, sign: int, name: str) -> Line:
        fee = 0 if sign else fault.amount_minor
        line = self._like(name)(kind, sign * fault.amount_minor, fee)
        return line._replace(description=kind.replace("_", " ").lower())

    def _unknown(self, fault: Fault, name: str) -> Line:
        line = self._like(name)(Kind.CHARGE, fault.amount_minor, 0)
        key, operation_id, order_id = (_made_up_id(name, part) for part in ("key", "op", "order"))
        return line._replace(idempotency_key=key, operation_id=operation_id, order_id=order_id)

    def _take(self, currency: str) -> Capture | None:
        free = self._free.get(currency)
        return free.pop(0) if free else None

    def _say(self, currency: str, capture: Capture, *lines: Line) -> None:
        """Says these lines in the place of a true one."""
        if not lines:
            self.altered.append(Altered(currency, capture.line_no, 0, None))
        for part, line in enumerate(lines):
            self.altered.append(Altered(currency, capture.line_no, part, line))
            self._change(currency, line, 1)
        self._change(currency, capture.line, -1)

    def _say_more(self, currency: str, line: Line) -> None:
        """Says a line after all true ones."""
        self._added[currency] += 1
        after = self._material.sums.get(currency, Sums()).captures
        self.altered.append(Altered(currency, after + self._added[currency], 0, line))
        self._change(currency, line, 1)

    def _change(self, currency: str, line: Line, sign: int) -> None:
        gross, fee = self.changed.get(currency, (0, 0))
        self.changed[currency] = (gross + sign * line.gross_minor, fee + sign * line.fee_minor)

    def _name(self, fault: Fault) -> str:
        """A reference that no true line has."""
        key = f"{fault.kind}{fault.currency_code}"
        self._added[key] += 1
        day = self._material.settlement_date.strftime("%Y%m%d")
        return f"stub_x{_ORDER[fault.kind]:02}_{day}_{fault.currency_code}_{self._added[key]:04}"

    def _like(self, name: str) -> Callable[[Kind, int, int], Line]:
        return lambda kind, gross, fee: Line(kind, name, self._material.moment, gross, fee)


_Like = Callable[[Kind, int, int], Line]


def _refund(line: Line, like: _Like) -> Line:
    refund = like(Kind.REFUND, -line.gross_minor, 0)
    return refund._replace(
        related_psp_reference=line.psp_reference,
        idempotency_key=_made_up_id(refund.psp_reference, "key"),
        operation_id=_made_up_id(refund.psp_reference, "op"),
        order_id=line.order_id,
    )


def _dispute(line: Line, like: _Like, currency: str) -> Line:
    fee = DISPUTE_FEE_MINOR * 10 ** (exponent(currency) or 0) // 100
    return like(Kind.DISPUTE, -line.gross_minor, fee)._replace(
        related_psp_reference=line.psp_reference, order_id=line.order_id
    )


def _won(dispute: Line | None, like: _Like) -> Line | None:
    """What was disputed comes back; the fee does not."""
    if dispute is None:
        return None
    return like(Kind.DISPUTE_REVERSAL, -dispute.gross_minor, 0)._replace(
        related_psp_reference=dispute.psp_reference, order_id=dispute.order_id
    )


def _reversal(line: Line, like: _Like) -> Line:
    return like(Kind.CHARGE_REVERSAL, -line.gross_minor, -line.fee_minor)._replace(
        related_psp_reference=line.psp_reference, order_id=line.order_id
    )


def _loss(line: Line, like: _Like, currency: str, amount: int) -> Line:
    return like(Kind.FX, -amount, 0)._replace(
        related_psp_reference=line.psp_reference,
        order_id=line.order_id,
        original_amount_minor=line.gross_minor,
        original_currency_code=other_currency(currency),
        exchange_rate="1.0000",
    )


def _made_up_id(name: str, part: str) -> str:
    return hashlib.sha256(f"{name}/{part}".encode()).hexdigest()[:32]
