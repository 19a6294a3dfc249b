"""What a reconciliation should find in the stub's files, by what is known of the books.

It looks at the file's rows and at what was charged and booked, and shares no code with the
ledger. Each fault leaves a mark of its own: a made-up name with its kind's number, or an amount
that only it changes a line by.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from paymesh.reconciliation.v1 import reconciliation_service_pb2 as pb

from psp_stub.faults import FaultKind
from tests.support.mixture_load import Charge

HIGHER_BY = 137
FEE_HIGHER_BY = 7
OFFSET_BY = 211

_MADE_UP = re.compile(r"stub_x([0-9]{2})_")
_KINDS = dict(enumerate(FaultKind, start=1))

# Of lines that no charge of ours is.
_CLASSES: Mapping[FaultKind, int] = {
    FaultKind.UNKNOWN_LINE: pb.BREAK_CLASS_UNKNOWN_TO_US,
    FaultKind.UNKNOWN_REFUND: pb.BREAK_CLASS_REFUND_DIFFERS,
    FaultKind.CHARGEBACK: pb.BREAK_CLASS_CHARGEBACK,
    FaultKind.CHARGEBACK_REVERSAL: pb.BREAK_CLASS_CHARGEBACK,
    FaultKind.CHARGE_REVERSAL: pb.BREAK_CLASS_REVERSAL_OR_RETURN,
    FaultKind.FX_DIFFERENCE: pb.BREAK_CLASS_FX_DIFFERENCE,
    FaultKind.RESERVE_HOLD: pb.BREAK_CLASS_RESERVE_OR_TRANSFER,
    FaultKind.RESERVE_RELEASE: pb.BREAK_CLASS_RESERVE_OR_TRANSFER,
    FaultKind.BALANCE_TRANSFER: pb.BREAK_CLASS_RESERVE_OR_TRANSFER,
    FaultKind.INVOICE_DEDUCTION: pb.BREAK_CLASS_RESERVE_OR_TRANSFER,
    FaultKind.AMBIGUOUS_LINES: pb.BREAK_CLASS_AMBIGUOUS,
    FaultKind.CLOSING_DIFFERS: pb.BREAK_CLASS_CLOSING_DIFFERS,
}


class Finding(NamedTuple):
    """A difference. name: the PSP's reference, or the transfer's. amount: signed, minor units."""

    class_: int
    name: str
    currency: str
    amount: int


def finding(one: pb.Break) -> Finding:
    """A break that the ledger found, to be compared."""
    return Finding(
        int(getattr(one, "class")), one.psp_reference, one.currency_code, one.amount_minor
    )


@dataclass
class Truth:
    """What is charged and booked, and what the files told so far; charges by PSP reference."""

    booked: dict[str, Charge] = field(default_factory=dict)
    not_booked: dict[str, Charge] = field(default_factory=dict)
    """The stub has them, and the ledger has no journal of them."""
    twice: dict[str, Charge] = field(default_factory=dict)
    """Further captures in the ledger of orders that are settled."""
    told: set[str] = field(default_factory=set)
    _batches: Counter[tuple[str, str]] = field(default_factory=Counter)

    def of_file(self, content: bytes) -> tuple[Counter[Finding], Counter[FaultKind]]:
        """What should be found in a PSP's file, and the faults that it has, one by one."""
        found: Counter[Finding] = Counter()
        seeded: Counter[FaultKind] = Counter()
        paid: set[tuple[str, str]] = set()
        for row in csv.DictReader(io.StringIO(content.decode())):
            if row["line_no"] == "":
                continue
            batch = row["transfer_reference"], row["currency_code"]
            self._batches[batch] += int(row["net_minor"])
            if row["kind"] == "TRANSFER":
                paid.add(batch)
                continue
            if row["kind"] == "TRANSFER_RETURN":
                seeded[FaultKind.TRANSFER_RETURN] += 1
                continue
            made_up = _MADE_UP.match(row["psp_reference"])
            if made_up:
                kind = _KINDS[int(made_up[1])]
                self._made_up(row, kind, found)
                seeded[kind] += 1
            elif falsified := self._charge(row, found):
                seeded[falsified] += 1
        for name, currency in paid:
            if self._batches[name, currency]:
                amount = self._batches[name, currency]
                found[Finding(pb.BREAK_CLASS_PAYOUT_DIFFERS, name, currency, amount)] += 1
                seeded[FaultKind.TRANSFER_DIFFERS] += 1
        return found, seeded

    def missing(self, class_: int) -> Counter[Finding]:
        """The captures of the ledger that no file told so far, as of this class."""
        found = Counter(
            Finding(class_, name, one.currency, -one.net)
            for name, one in self.booked.items()
            if name not in self.told
        )
        found.update(
            Finding(pb.BREAK_CLASS_DUPLICATE_IN_LEDGER, name, one.currency, -one.net)
            for name, one in self.twice.items()
        )
        return found

    def _made_up(self, row: Mapping[str, str], kind: FaultKind, found: Counter[Finding]) -> None:
        if kind is FaultKind.FEE_LINE:
            return  # booked by rule: nothing that anybody would have to explain
        amount = int(row["net_minor"])
        if kind is FaultKind.CHARGEBACK:
            amount = int(row["gross_minor"])  # its fee is booked by rule
        found[Finding(_CLASSES[kind], row["psp_reference"], row["currency_code"], amount)] += 1

    def _charge(self, row: Mapping[str, str], found: Counter[Finding]) -> FaultKind | None:
        assert row["kind"] == "CHARGE", row
        name, currency = row["psp_reference"], row["currency_code"]
        gross, fee, net = (int(row[f"{one}_minor"]) for one in ("gross", "fee", "net"))
        twice, booked = name in self.told, self.booked.get(name)
        self.told.add(name)
        if twice:
            found[Finding(pb.BREAK_CLASS_DUPLICATE_IN_FILE, name, currency, net)] += 1
            return FaultKind.DUPLICATE_LINE
        if booked is None:
            assert name in self.not_booked, row
            found[Finding(pb.BREAK_CLASS_STATUS_DIFFERS, name, currency, net)] += 1
            return FaultKind.DECLINED_SETTLED
        if currency != booked.currency:
            found[Finding(pb.BREAK_CLASS_CURRENCY_DIFFERS, name, currency, net)] += 1
            return FaultKind.CURRENCY_DIFFERS
        if fee != booked.fee:
            assert fee == booked.fee + FEE_HIGHER_BY, row
            found[Finding(pb.BREAK_CLASS_FEE_DIFFERS, name, currency, booked.fee - fee)] += 1
            return FaultKind.FEE_DIFFERS
        if gross != booked.amount:
            more = gross - booked.amount
            assert more in {HIGHER_BY, OFFSET_BY, -OFFSET_BY}, row
            found[Finding(pb.BREAK_CLASS_AMOUNT_DIFFERS, name, currency, more)] += 1
            return FaultKind.AMOUNT_DIFFERS if more == HIGHER_BY else FaultKind.OFFSETTING_ERRORS
        return None


def not_at_the_bank(content: bytes) -> dict[str, Finding]:
    """By currency, what should be found if the bank lacks the transfer of a PSP's file."""
    return {
        row["currency_code"]: Finding(
            pb.BREAK_CLASS_PAYOUT_WITHOUT_BANK_LINE,
            row["transfer_reference"],
            row["currency_code"],
            int(row["net_minor"]),
        )
        for row in csv.DictReader(io.StringIO(content.decode()))
        if row["kind"] == "TRANSFER"
    }


def made_up_name(kind: FaultKind, day: str, currency: str, number: int) -> str:
    """What the stub calls the so-manieth line that it made up for a fault."""
    (position,) = (at for at, one in _KINDS.items() if one is kind)
    return f"stub_x{position:02}_{day.replace('-', '')}_{currency}_{number:04}"


def differences(
    expected: Counter[Finding], found: Iterable[Finding]
) -> tuple[Counter[Finding], Counter[Finding]]:
    """What was not found, and what was found falsely."""
    have = Counter(found)
    return expected - have, have - expected
