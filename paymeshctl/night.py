"""The demo's night: the PSP's day is closed, reconciled, and one seeded difference explained."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from paymesh.ledger.v1 import ledger_service_pb2 as ledger_pb
from paymesh.psp.v1 import psp_stub_control_service_pb2 as stub_pb
from paymesh.reconciliation.v1 import reconciliation_service_pb2 as pb
from rich.markup import escape

from mesh.money import Money
from paymeshctl import render
from paymeshctl.client import Client

SOURCE = "psp_stub"
CURRENCY = "EUR"
SEEDED_MINOR = 1_234


@dataclass(frozen=True)
class Night:
    """What came of it. trial_balance: the ledger's, after what was posted for the breaks."""

    run: pb.Run
    breaks: Sequence[pb.Break]
    trial_balance: ledger_pb.GetTrialBalanceResponse


def spend(client: Client) -> Night:
    """Seeds a charge that nobody asked for, closes the PSP's day and reconciles it."""
    client.seed_fault(
        stub_pb.SeedFaultRequest(
            kind=stub_pb.STUB_FAULT_KIND_UNKNOWN_LINE,
            count=1,
            currency_code=CURRENCY,
            amount_minor=SEEDED_MINOR,
        )
    )
    day = client.close_stub_day(stub_pb.CloseDayRequest()).day.settlement_date
    run = client.reconcile(pb.ReconcileRequest(settlement_date=day, source=SOURCE)).run
    return Night(
        run=run,
        breaks=list(client.list_breaks(pb.ListBreaksRequest(run_id=run.run_id)).breaks),
        trial_balance=client.get_trial_balance(ledger_pb.GetTrialBalanceRequest()),
    )


def problems(night: Night) -> list[str]:
    """What is not as it must be, in words; nothing if all is well."""
    found = []
    run = night.run
    if run.state != pb.RUN_STATE_EXPLAINED:
        state = render.state_name(pb.RunState, run.state)
        found.append(f"the day {run.settlement_date} is {state}, not EXPLAINED")
    found += [
        f"the ledger misses the PSP's file by {Money(one.difference_minor, one.currency_code)}"
        for one in run.balances
        if one.difference_minor
    ]
    told = [getattr(one, "class") for one in night.breaks]
    if told != [pb.BREAK_CLASS_UNKNOWN_TO_US]:
        names = ", ".join(render.state_name(pb.BreakClass, each) for each in told) or "none"
        found.append(f"the differences are {names}, and not the one that was seeded")
    sums = render.trial_balance_sums(night.trial_balance.rows)
    found += [
        f"debits {Money(debit, code)} ≠ credits {Money(credit, code)}"
        for code, (debit, credit) in sorted(sums.items())
        if debit != credit
    ]
    return found


def lines(night: Night) -> Iterable[str]:
    """The night as a story, a sentence each."""
    run = night.run
    state = render.state_name(pb.RunState, run.state)
    yield (
        f"[bold]the night[/bold]: {run.source}'s day {run.settlement_date} is closed, fetched and "
        f"reconciled: {state}, {run.lines} lines, {run.matched} matched"
    )
    for one in night.breaks:
        kind = render.state_name(pb.BreakClass, getattr(one, "class"))
        amount = Money(one.amount_minor, one.currency_code)
        how = render.state_name(pb.BreakState, one.state).lower()
        yield (
            f"  {getattr(one, 'class')} {kind}: {amount} under {escape(one.psp_reference)} in the "
            f"PSP's file ({escape(one.place)}), which nobody here asked for; {how}:"
        )
        for entry in one.proposal:
            side = render.state_name(ledger_pb.Direction, entry.direction).lower()
            account = render.state_name(ledger_pb.AccountKind, entry.account.kind).lower()
            yield f"    {side} {account} {render.money(entry.amount)}"
    for balance in run.balances:
        code = balance.currency_code
        mark = "[red]✗[/red]" if balance.difference_minor else "[green]✓[/green]"
        yield (
            f"{mark} from {Money(balance.opening_minor, code)} to "
            f"{Money(balance.closing_minor, code)} at the PSP, and nothing left unexplained: "
            f"{Money(balance.difference_minor, code)}"
        )
