"""A day of the stub with faults, and the same day sent again without them."""

from __future__ import annotations

from typing import Any, NamedTuple

from paymesh.psp.v1 import psp_stub_control_service_pb2 as control_pb

from ledger_svc.reconciliation.readers import Line
from tests.support.stub_days import BANK, Read, Stub, facts, told_captures, true_captures

TRANSFERS = ("TRANSFER", "TRANSFER_RETURN")


class Sent(NamedTuple):
    """A day with faults (the files of revision 0) and without (of revision 1)."""

    day: control_pb.StubSettlementDay
    wrong: Read
    wrong_bank: Read
    right: Read
    right_bank: Read

    def applied(self, kind: str) -> int:
        """How often a kind of fault is in the files."""
        value = control_pb.StubFaultKind.Value(f"STUB_FAULT_KIND_{kind}")
        return sum(fault.applied for fault in self.day.faults if fault.kind == value)

    def changes(self, currency: str = "EUR") -> tuple[list[Line], list[Line]]:
        """The lines of a statement that are missing, and those that are too many."""
        wrong, right = (
            {key: _lines_of(file, currency, key) for key in _keys(file, currency)}
            for file in (self.wrong, self.right)
        )
        missing = [one for key in right for one in right[key][len(wrong.get(key, ())) :]]
        added = [one for key in wrong for one in wrong[key][len(right.get(key, ())) :]]
        return missing, added


def _keys(file: Read, currency: str) -> set[Any]:
    return {facts([line])[0] for line in file.of(currency) if line.kind not in TRANSFERS}


def _lines_of(file: Read, currency: str, key: Any) -> list[Line]:
    return [one for one in file.of(currency) if facts([one])[0] == key]


async def send(stub: Stub, day: str | None = None) -> Sent:
    """Closes a day and reads its files; then sends it again and reads them once more."""
    closed = (await stub.close(day)).day
    day = closed.settlement_date
    wrong, bank = await stub.read(day), await stub.read(day, BANK)
    again = await stub.control.ResendDay(control_pb.ResendDayRequest(settlement_date=day))
    assert again.day.revision == 1
    return Sent(closed, wrong, bank, await stub.read(day), await stub.read(day, BANK))


def check_right(sent: Sent, url: str) -> None:
    """Sent again, the day is as it truly was."""
    for file in (sent.right, sent.right_bank):
        assert all(one.ties and not one.problem for one in file.statements)
        assert file.header.revision == 1
    assert told_captures(sent.right) == true_captures(url)
    assert {one.kind for one in sent.right.lines} <= {"CHARGE", "TRANSFER"}


def check_consistent(sent: Sent) -> None:
    """Whatever the lines say: balances, the transfer and the bank agree with them."""
    for file in (sent.wrong, sent.wrong_bank):
        assert all(one.ties and not one.problem for one in file.statements), file.statements
    for statement in sent.wrong.statements:
        currency = str(statement.currency_code)
        lines = sent.wrong.of(currency)
        rows = [one.amount_minor or 0 for one in lines if one.kind not in TRANSFERS]
        paid = [-(one.amount_minor or 0) for one in lines if one.kind == "TRANSFER"]
        assert sum(paid) == max(sum(rows), 0)
        assert [one.amount_minor for one in sent.wrong_bank.of(currency)] == paid


def balances(file: Read, currency: str) -> tuple[int | None, ...]:
    """What a statement says in sums."""
    one = file.statement(currency)
    return one.opening_minor, one.closing_minor, one.credits_minor, one.debits_minor
