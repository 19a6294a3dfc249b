"""The verb `reconcile report`: a reconciled day as a page for finance."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from paymesh.reconciliation.v1 import reconciliation_service_pb2 as pb

from paymeshctl import render
from paymeshctl.arguments import CallerOption, DayOption, TargetOption, TimeoutOption, parse_day
from paymeshctl.client import DEFAULT_CALLER, Client, parse_target
from paymeshctl.day_report import page
from paymeshctl.exits import CommandError, Exit, reporting
from paymeshctl.reconcile import SourceOption, all_breaks

HELP = (
    "Exit codes: 0 the page is made, whatever it says; 1 refused, or the day has no run; 2 bad "
    "arguments, or the file can't be written; 3 the mesh can't be reached."
)

_PAGE_SIZE = 1000


def report(
    *,
    source: SourceOption,
    day: DayOption = "yesterday",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="A file, or a folder that gets one; by default standard output.",
        ),
    ] = None,
    target: TargetOption = None,
    caller: CallerOption = DEFAULT_CALLER,
    timeout: TimeoutOption = None,
) -> None:
    """Make one page of HTML of a reconciled day: balances, a chart, and the breaks."""
    with (
        reporting(as_json=False),
        Client(parse_target(target), caller=caller, timeout_s=timeout) as client,
    ):
        if not source:
            raise CommandError(Exit.BAD_USAGE, "--source names no PSP or bank")
        run = _run_that_counts(client, source, parse_day(day))
        request = pb.ListBreaksRequest(run_id=run.run_id, page_size=_PAGE_SIZE)
        breaks = list(all_breaks(client, request, client.list_breaks(request)))
        text = page(run, breaks, datetime.now(UTC))
        if out is None:
            sys.stdout.write(text)
            return
        written = _write(text, out / _file_name(run) if out.is_dir() else out)
    state = render.state_name(pb.RunState, run.state)
    typer.echo(f"{written}: {run.settlement_date} {state}, {run.breaks} breaks")


def _run_that_counts(client: Client, source: str, day: str) -> pb.Run:
    """The highest version of the day. Raises CommandError where it has none."""
    request = pb.ListRunsRequest(source=source, settlement_date=day, page_size=_PAGE_SIZE)
    response = client.list_runs(request)
    runs = list(response.runs)
    while response.next_page_token:
        request.page_token = response.next_page_token
        response = client.list_runs(request)
        runs += response.runs
    if not runs:
        raise CommandError(
            Exit.NOT_DONE,
            f"{day} of {source!r} is not reconciled yet: paymesh reconcile run --date {day}",
            reason="RUN_NOT_FOUND",
        )
    return max(runs, key=lambda run: run.version)


def _file_name(run: pb.Run) -> str:
    # A source's name is anything printable, and must not choose the folder.
    source = re.sub(r"[^A-Za-z0-9_-]", "_", run.source)
    return f"reconciliation-{source}-{run.settlement_date}.html"


def _write(text: str, out: Path) -> Path:
    """The file, whole or not at all. Raises CommandError."""
    try:
        handle, name = tempfile.mkstemp(prefix=f".{out.name}.", dir=out.parent)
        part = Path(name)
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as stream:
                stream.write(text)
            part.replace(out)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise CommandError(
            Exit.BAD_USAGE,
            f"the page can't be written: {error.strerror or 'no file'}",
            reason="FILE_NOT_WRITABLE",
            where="--out",
        ) from None
    return out
