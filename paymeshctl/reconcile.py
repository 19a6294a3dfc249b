"""The verbs `reconcile …`, and `settle ingest`."""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from paymesh.reconciliation.v1 import reconciliation_service_pb2 as pb
from rich import box
from rich.markup import escape
from rich.table import Table

from mesh.money import format_minor
from paymeshctl import render
from paymeshctl.arguments import (
    AsJson,
    CallerOption,
    DayOption,
    PageSize,
    PageToken,
    TargetOption,
    TimeoutOption,
    parse_day,
    parse_enum,
)
from paymeshctl.client import DEFAULT_CALLER, Client, new_request_id, parse_target
from paymeshctl.day_report import age_band, class_name, printable
from paymeshctl.exits import HELP, CommandError, Exit, could_not_run, reporting

RUN_HELP = (
    "Exit codes: 0 balanced or explained; 1 the books miss each other, or a day before is "
    "missing; 2 it could not run."
)
INGEST_HELP = "Exit codes: 0 taken; 1 quarantined, waiting or refused; 2 bad arguments; 3 no mesh."

app = typer.Typer(no_args_is_help=True, help="Settlement against the ledger.")

SourceOption = Annotated[str, typer.Option("--source", help="The PSP or bank, by its name.")]

RequestId = Annotated[
    str | None,
    typer.Option("--request-id", help="The idempotency key; to repeat a command, give its own."),
]

_CHUNK_BYTES = 1 << 18
_GOOD = frozenset({pb.RUN_STATE_BALANCED, pb.RUN_STATE_EXPLAINED})
_BAD = frozenset({pb.RUN_STATE_BROKEN, pb.RUN_STATE_OPEN})
# What a spreadsheet takes for a formula, or drops before it looks for one. The wide forms of
# these characters count where East Asian ones are typed.
_FORMULA = (*"=+-@\t\r\n", *"\uff1d\uff0b\uff0d\uff20")
# Where a cell begins within a text, for a spreadsheet whose list separator is no comma. A tab is
# not printable.
_INNER_FORMULA = re.compile(rf'([;|])(?=["\s]*[{re.escape("".join(_FORMULA))}])')

_COLUMNS = (
    "break_id", "class", "state", "source", "settlement_date", "currency_code", "amount_minor",
    "age_days", "rule", "psp_reference", "operation_id", "order_id", "journal_id",
    "booked_journal_id", "file_id", "file_sha256", "place",
)  # fmt: skip


@app.callback()
def reconcile() -> None:
    """Settlement against the ledger."""


def ingest(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A settlement file, unpacked.")],
    *,
    source: SourceOption,
    format_: Annotated[
        str | None, typer.Option("--format", help="The format that it must have.")
    ] = None,
    day: Annotated[
        str | None,
        typer.Option("--date", metavar="YYYY-MM-DD", help="Its day, where it names none itself."),
    ] = None,
    target: TargetOption = None,
    caller: CallerOption = DEFAULT_CALLER,
    timeout: TimeoutOption = None,
    as_json: AsJson = False,
) -> None:
    """Send a settlement file to the mesh. The same file again changes nothing."""
    header = pb.SettlementFileHeader(
        source=source, file_name=file.name, format=format_, settlement_date=day
    )
    with (
        reporting(as_json=as_json),
        Client(parse_target(target), caller=caller, timeout_s=timeout) as client,
    ):
        response = client.ingest_settlement_file(_parts(header, file))
    found = response.file
    if as_json:
        render.print_json(response)
    else:
        state = render.state_name(pb.FileState, found.state)
        typer.echo(f"{found.file_id} {state}: {found.format} {found.lines} lines")
        if found.problem:
            typer.echo(printable(f"{found.problem} {found.problem_place}".rstrip()))
    if found.state not in {pb.FILE_STATE_INGESTED, pb.FILE_STATE_SUPERSEDED}:
        raise typer.Exit(Exit.NOT_DONE)


def _parts(header: pb.SettlementFileHeader, file: Path) -> Iterator[pb.IngestSettlementFileRequest]:
    # Opened here and now: gRPC would take an error inside the stream for one of the mesh.
    try:
        stream = file.open("rb")
    except OSError as error:
        raise CommandError(
            Exit.BAD_USAGE,
            f"the file can't be read: {error.strerror or 'no file'}",
            reason="FILE_NOT_READABLE",
            where="file",
        ) from None

    def parts() -> Iterator[pb.IngestSettlementFileRequest]:
        with stream:
            yield pb.IngestSettlementFileRequest(header=header)
            while chunk := stream.read(_CHUNK_BYTES):
                yield pb.IngestSettlementFileRequest(chunk=chunk)

    return parts()


@app.command(
    epilog=f"Example: paymesh reconcile run --date yesterday --source psp_stub. {RUN_HELP}"
)
def run(
    *,
    source: SourceOption,
    day: DayOption = "yesterday",
    target: TargetOption = None,
    caller: CallerOption = DEFAULT_CALLER,
    timeout: TimeoutOption = None,
    as_json: AsJson = False,
) -> None:
    """Reconcile a day of a source; with unchanged inputs it is the same run again."""
    with could_not_run(), reporting(as_json=as_json):
        with Client(parse_target(target), caller=caller, timeout_s=timeout) as client:
            request = pb.ReconcileRequest(settlement_date=parse_day(day), source=source)
            response = client.reconcile(request)
        if response.run.state not in _GOOD | _BAD:
            raise CommandError(Exit.BAD_USAGE, "the mesh tells a state that is not known here")
        if as_json:
            render.print_json(response)
        else:
            _print_run(response.run)
    if response.run.state in _BAD:
        raise typer.Exit(Exit.NOT_DONE)


@app.command(epilog="Example: paymesh reconcile breaks --source psp_stub --state posted --csv.")
def breaks(
    *,
    source: Annotated[str, typer.Option("--source", help="Only of this PSP or bank.")] = "",
    run_id: Annotated[str, typer.Option("--run", help="Only those that this run found.")] = "",
    class_: Annotated[
        str, typer.Option("--class", help="Only of this class, by name or number.")
    ] = "",
    state: Annotated[str, typer.Option("--state", help="Only in this state.")] = "",
    as_csv: Annotated[
        bool, typer.Option("--csv", help="Print all pages as CSV, safe for spreadsheets.")
    ] = False,
    page_size: PageSize = 0,
    page_token: PageToken = "",
    target: TargetOption = None,
    caller: CallerOption = DEFAULT_CALLER,
    timeout: TimeoutOption = None,
    as_json: AsJson = False,
) -> None:
    """List differences between settlement and ledger as they stand, newest first."""
    with (
        reporting(as_json=as_json),
        Client(parse_target(target), caller=caller, timeout_s=timeout) as client,
    ):
        request = pb.ListBreaksRequest(
            run_id=run_id,
            source=source,
            state=_enum(pb.BreakState, state, "state"),
            page_size=page_size,
            page_token=page_token,
            **{"class": _enum(pb.BreakClass, class_, "class")},
        )
        response = client.list_breaks(request)
        if as_csv:
            _print_csv(all_breaks(client, request, response))
            return
    if as_json:
        render.print_json(response)
        return
    render.console().print(_table(response.breaks))
    if response.next_page_token:
        typer.echo(f"more: --page-token {response.next_page_token}")


@app.command(
    epilog="Example: paymesh reconcile resolve BREAK_ID accept --actor ada --note 'refunded'. "
    f"{HELP}"
)
def resolve(
    break_id: Annotated[str, typer.Argument(metavar="BREAK_ID", help="The break.")],
    resolution: Annotated[
        str,
        typer.Argument(help="accept: settled as it stands; post: its proposal is posted."),
    ],
    *,
    actor: Annotated[str, typer.Option("--actor", help="Who decides.")],
    note: Annotated[str, typer.Option("--note", help="Why.")],
    request_id: RequestId = None,
    target: TargetOption = None,
    caller: CallerOption = DEFAULT_CALLER,
    timeout: TimeoutOption = None,
    as_json: AsJson = False,
) -> None:
    """Resolve a break."""
    request_id = request_id or new_request_id()
    with (
        reporting(as_json=as_json, request_id=request_id),
        Client(parse_target(target), caller=caller, timeout_s=timeout) as client,
    ):
        response = client.resolve_break(
            pb.ResolveBreakRequest(
                request_id=request_id,
                break_id=break_id,
                resolution=_enum(pb.Resolution, resolution, "resolution"),
                actor=actor,
                note=note,
            )
        )
    if as_json:
        render.print_json(response)
    else:
        render.console().print(_table([response.resolved_break]))


@app.command(
    epilog="Example: paymesh reconcile close --date 2026-03-01 --source psp_stub --actor ada. "
    f"{HELP}"
)
def close(
    *,
    source: SourceOption,
    day: DayOption,
    actor: Annotated[str, typer.Option("--actor", help="Who closes it.")],
    request_id: RequestId = None,
    target: TargetOption = None,
    caller: CallerOption = DEFAULT_CALLER,
    timeout: TimeoutOption = None,
    as_json: AsJson = False,
) -> None:
    """Close a day that is balanced or explained. A later version of it opens it again."""
    request_id = request_id or new_request_id()
    with (
        reporting(as_json=as_json, request_id=request_id),
        Client(parse_target(target), caller=caller, timeout_s=timeout) as client,
    ):
        response = client.close_reconciled_day(
            pb.CloseDayRequest(
                request_id=request_id,
                settlement_date=parse_day(day),
                source=source,
                actor=actor,
            )
        )
    if as_json:
        render.print_json(response)
    else:
        _print_run(response.run)


def _enum(enum: Any, text: str, what: str) -> Any:
    if not text:
        return 0
    return int(text) if text.isascii() and text.isdecimal() else parse_enum(enum, text, what)


def all_breaks(
    client: Client, request: pb.ListBreaksRequest, response: pb.ListBreaksResponse
) -> Iterator[pb.Break]:
    """The breaks of all pages; response: the first one. Changes the request's page_token."""
    yield from response.breaks
    while response.next_page_token:
        request.page_token = response.next_page_token
        response = client.list_breaks(request)
        yield from response.breaks


def _print_csv(breaks_: Iterable[pb.Break]) -> None:
    # By RFC 4180: lines end with CR LF, also on a terminal that would do with less.
    writer = csv.writer(sys.stdout, lineterminator="\r\n")
    writer.writerow(_COLUMNS)
    for one in breaks_:
        facts = render.to_json(one)
        writer.writerow(_cell(facts[name]) for name in _COLUMNS)


def _cell(value: Any) -> Any:
    """A text that a spreadsheet would run is marked as text; a number is one."""
    if isinstance(value, str):
        text = _INNER_FORMULA.sub(r"\1'", printable(value))
        return f"'{text}" if value.lstrip(" ").startswith(_FORMULA) else text
    return value


def _print_run(found: pb.Run) -> None:
    state = render.state_name(pb.RunState, found.state)
    typer.echo(
        f"{found.source} {found.settlement_date} {state}: {found.lines} lines, "
        f"{found.matched} matched, {found.breaks} breaks (run {found.run_id}, "
        f"version {found.version})"
    )
    for count in found.counts:
        typer.echo(f"  {class_name(count)}: {count.breaks}")
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("currency")
    for name in ("opening", "closing", "lines", "ledger", "breaks", "difference"):
        table.add_column(name, justify="right")
    for one in found.balances:
        currency = one.currency_code
        table.add_row(
            currency,
            format_minor(one.opening_minor, currency) if one.HasField("opening_minor") else "",
            format_minor(one.closing_minor, currency) if one.HasField("closing_minor") else "",
            format_minor(one.lines_minor, currency),
            format_minor(one.ledger_minor, currency),
            format_minor(one.breaks_minor, currency),
            format_minor(one.difference_minor, currency),
        )
    render.console().print(table)


def _table(breaks_: Sequence[pb.Break]) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False)
    for name in (
        "break",
        "class",
        "rule",
        "state",
        "day",
        "age",
        "PSP reference",
        "order",
        "place",
    ):
        table.add_column(name, overflow="fold")
    table.add_column("amount", justify="right")
    for one in breaks_:
        table.add_row(
            one.break_id,
            class_name(one),
            escape(printable(one.rule)),
            render.state_name(pb.BreakState, one.state),
            one.settlement_date,
            age_band(one.age_days),
            escape(printable(one.psp_reference)),
            one.order_id,
            escape(printable(one.place)),
            f"{format_minor(one.amount_minor, one.currency_code)} {one.currency_code}",
        )
    return table
