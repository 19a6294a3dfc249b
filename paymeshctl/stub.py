"""The verbs `stub …`: what tests and demos tell the PSP stub. A real adapter has none of them."""

from __future__ import annotations

from typing import Annotated

import typer
from paymesh.psp.v1 import psp_stub_control_service_pb2 as pb
from rich import box
from rich.table import Table

from mesh.money import format_minor
from paymeshctl import render
from paymeshctl.arguments import AsJson, CallerOption, TargetOption, TimeoutOption, parse_enum
from paymeshctl.client import DEFAULT_CALLER, Client, parse_target
from paymeshctl.exits import HELP, reporting

app = typer.Typer(no_args_is_help=True, help="For tests and demos: what the PSP stub is to do.")

_KINDS = [
    value.name.removeprefix("STUB_FAULT_KIND_").lower().replace("_", "-")
    for value in pb.StubFaultKind.DESCRIPTOR.values
    if value.number
]

Day = Annotated[
    str | None, typer.Option("--date", metavar="YYYY-MM-DD", help="The settlement day.")
]


@app.callback()
def stub() -> None:
    """For tests and demos: what the PSP stub is to do."""


@app.command(epilog=f"Example: paymesh stub close-day. {HELP}")
def close_day(
    *,
    day: Day = None,
    as_json: AsJson = False,
    target: TargetOption = None,
    caller: CallerOption = DEFAULT_CALLER,
    timeout: TimeoutOption = None,
) -> None:
    """Close a settlement day now (by default today's), so that its file can be fetched.

    What is captured from then on is in the next day's file.
    """
    with (
        reporting(as_json=as_json),
        Client(parse_target(target), caller=caller, timeout_s=timeout) as client,
    ):
        closed = client.close_stub_day(pb.CloseDayRequest(settlement_date=day))
        _show(closed, closed.day, as_json=as_json)


@app.command(epilog=f"Example: paymesh stub resend-day --date 2026-03-01. {HELP}")
def resend_day(
    *,
    day: Annotated[
        str, typer.Option("--date", metavar="YYYY-MM-DD", help="The last closed settlement day.")
    ],
    as_json: AsJson = False,
    target: TargetOption = None,
    caller: CallerOption = DEFAULT_CALLER,
    timeout: TimeoutOption = None,
) -> None:
    """Send the files of the last closed day again, without their faults (revision 1)."""
    with (
        reporting(as_json=as_json),
        Client(parse_target(target), caller=caller, timeout_s=timeout) as client,
    ):
        sent = client.resend_day(pb.ResendDayRequest(settlement_date=day))
        _show(sent, sent.day, as_json=as_json)


@app.command(epilog=f"Example: paymesh stub seed missing-line --count 2. {HELP}")
def seed(
    kind: Annotated[
        str, typer.Argument(metavar="KIND", help=f"What is to be wrong: {', '.join(_KINDS)}.")
    ],
    *,
    count: Annotated[int, typer.Option(help="How often; 0 takes the order back.")] = 1,
    day: Day = None,
    currency: Annotated[str, typer.Option(help="The statement to falsify; EUR if empty.")] = "",
    amount_minor: Annotated[
        int | None, typer.Option("--by", help="By how much, in minor units; 100 if absent.")
    ] = None,
    as_json: AsJson = False,
    target: TargetOption = None,
    caller: CallerOption = DEFAULT_CALLER,
    timeout: TimeoutOption = None,
) -> None:
    """Order a fault in the files of a day that is not closed (by default the next one)."""
    with (
        reporting(as_json=as_json),
        Client(parse_target(target), caller=caller, timeout_s=timeout) as client,
    ):
        request = pb.SeedFaultRequest(
            kind=pb.StubFaultKind.ValueType(parse_enum(pb.StubFaultKind, kind, "kind of fault")),
            count=count,
            settlement_date=day,
            currency_code=currency,
            amount_minor=amount_minor,
        )
        response = client.seed_fault(request)
        if as_json:
            render.print_json(response)
            return
        fault = response.fault
        typer.echo(
            f"{fault.settlement_date}: {_name(fault.kind)} {fault.count} times "
            f"in {fault.currency_code}"
        )


def _show(
    response: pb.CloseDayResponse | pb.ResendDayResponse,
    day: pb.StubSettlementDay,
    *,
    as_json: bool,
) -> None:
    if as_json:
        render.print_json(response)
        return
    table = Table(title=f"{day.settlement_date}, revision {day.revision}", box=box.SIMPLE)
    table.add_column("currency")
    for name in ("captures", "opening", "gross", "fees", "transfer", "closing"):
        table.add_column(name, justify="right")
    table.add_column("transfer reference")
    for one in day.statements:
        amounts = (
            one.opening_minor,
            one.gross_minor,
            one.fee_minor,
            one.transfer_minor,
            one.closing_minor,
        )
        table.add_row(
            one.currency_code,
            str(one.captures),
            *(format_minor(amount, one.currency_code) for amount in amounts),
            one.transfer_reference,
        )
    render.console().print(table)
    for fault in day.faults:
        typer.echo(
            f"fault: {_name(fault.kind)} in {fault.currency_code}, ordered {fault.count} times, "
            f"applied {fault.applied} times"
        )


def _name(kind: pb.StubFaultKind.ValueType) -> str:
    name = pb.StubFaultKind.Name(kind).removeprefix("STUB_FAULT_KIND_")
    return name.lower().replace("_", "-")
