"""The verbs `settle …`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from paymesh.psp.v1.psp_service_pb2 import GetSettlementFileRequest
from rich import box
from rich.markup import escape
from rich.table import Table

from ledger_svc.reconciliation import readers
from mesh.money import format_minor
from paymeshctl import render
from paymeshctl.arguments import (
    CallerOption,
    DayOption,
    TargetOption,
    TimeoutOption,
    parse_day,
)
from paymeshctl.client import DEFAULT_CALLER, Client, parse_target
from paymeshctl.exits import HELP, CommandError, Exit, reporting
from paymeshctl.fetching import fetch_into

app = typer.Typer(no_args_is_help=True, help="Settlement files.")

ADAPTERS = ("psp_stub",)
"""The adapters of a mesh, by their names in settlement."""

AsJson = Annotated[bool, typer.Option("--json", help="Print a JSON list, one object a statement.")]


@app.callback()
def settle() -> None:
    """Settlement files."""


@app.command(epilog=f"Example: paymesh settle inspect statement.xml --json. {HELP}")
def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A settlement file, unpacked.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Show what a settlement file says, without a mesh: its statements, and what does not tie.

    The format is told from the content. Exit 2 if it can't be read without guessing.
    """
    with reporting(as_json=as_json):
        statements = _statements(file)
    if as_json:
        typer.echo(json.dumps([_facts(one) for one in statements], ensure_ascii=False))
        return
    render.console().print(_table(statements))


@app.command(
    epilog="Example: paymesh settle fetch --date 2026-03-01 --source psp_stub --out day.csv. "
    f"{HELP}"
)
def fetch(
    day: DayOption,
    *,
    source: Annotated[str, typer.Option(help="The PSP adapter.")] = "psp_stub",
    format_name: Annotated[
        str, typer.Option("--format", help="Its name; by default the adapter's own.")
    ] = "",
    revision: Annotated[
        int | None, typer.Option(min=0, help="Which one of the day's files; the newest if absent.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Where to put it, whole or not at all; in a folder, by its own name. "
            "By default on standard output.",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what was fetched as JSON; needs --out.")
    ] = False,
    target: TargetOption = None,
    caller: CallerOption = DEFAULT_CALLER,
    timeout: TimeoutOption = None,
) -> None:
    """Fetch a day's settlement file from a PSP adapter."""
    with reporting(as_json=as_json):
        if source not in ADAPTERS:
            raise CommandError(
                Exit.BAD_USAGE,
                f"there is no adapter {source!r}; there are {', '.join(ADAPTERS)}",
                reason="UNKNOWN_SOURCE",
            )
        if as_json and out is None:
            raise CommandError(Exit.BAD_USAGE, "--json needs --out")
        request = GetSettlementFileRequest(
            settlement_date=parse_day(day), format=format_name, revision=revision
        )
        with Client(parse_target(target), caller=caller, timeout_s=timeout) as client:
            parts = client.get_settlement_file(source, request)
            facts = fetch_into(parts, out)
    if as_json:
        typer.echo(json.dumps(facts, ensure_ascii=False))
    elif out is not None:
        typer.echo(f"{facts['file']}: {facts['bytes']} bytes, revision {facts['revision']}")


def _statements(file: Path) -> Sequence[readers.Statement]:
    """All statements of the file; its lines are read, checked and let go of."""
    try:
        with file.open("rb") as stream:
            items = readers.read(stream).items
            return [item for item in items if isinstance(item, readers.Statement)]
    except readers.ReadError as error:
        raise CommandError(
            Exit.BAD_USAGE, error.message, reason=error.reason, where=error.where
        ) from None
    except OSError as error:
        raise CommandError(
            Exit.BAD_USAGE,
            f"the file can't be read: {error.strerror or 'no file'}",
            reason="FILE_NOT_READABLE",
            where="file",
        ) from None


def _facts(statement: readers.Statement) -> dict[str, Any]:
    return {
        "format": statement.format,
        "account": statement.account,
        "currency_code": statement.currency_code,
        "opening_minor": statement.opening_minor,
        "closing_minor": statement.closing_minor,
        "entries": statement.entries,
        "credits_minor": statement.credits_minor,
        "debits_minor": statement.debits_minor,
        "ties": statement.ties,
        "problem": statement.problem,
    }


def _table(statements: Sequence[readers.Statement]) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False)
    for name in ("format", "account", "currency"):
        table.add_column(name)
    for name in ("opening", "credits", "debits", "closing", "entries"):
        table.add_column(name, justify="right")
    table.add_column("ties")
    table.add_column("problem")
    for one in statements:
        table.add_row(
            one.format,
            escape(_printable(one.account or "")),
            one.currency_code or "",
            *(
                _amount(minor, one.currency_code)
                for minor in (
                    one.opening_minor,
                    one.credits_minor,
                    one.debits_minor,
                    one.closing_minor,
                )
            ),
            str(one.entries),
            {True: "[green]yes[/]", False: "[red]no[/]", None: ""}[one.ties],
            escape(_printable(one.problem or "")),
        )
    return table


def _amount(minor: int | None, currency_code: str | None) -> str:
    if minor is None or currency_code is None:
        return ""
    return format_minor(minor, currency_code)


def _printable(text: str) -> str:
    """A file must not command the terminal."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
