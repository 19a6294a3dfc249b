"""The verb `check`: whether the books of all services say the same of each order."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Annotated

import typer
from paymesh.payment.v1 import check_mesh_pb2 as pb
from rich.markup import escape
from rich.table import Table

from mesh.errors import MeshError
from paymeshctl import render
from paymeshctl.arguments import AsJson, CallerOption, TargetOption, parse_time
from paymeshctl.client import DEFAULT_CALLER, Client, parse_target
from paymeshctl.exits import Exit, reporting

PROGRESS_S = 1.0
"""How often it is told how far the check is, at most."""


def check(
    *,
    made_from: Annotated[
        str | None,
        typer.Option("--from", metavar="TIME", help="Only made at or after this; else 24 h."),
    ] = None,
    made_to: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="TIME",
            help="Only made before this; else now. The last 5 s are left out in any case.",
        ),
    ] = None,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Drive missing steps again, under their keys: credit, book, and orders that "
            "nobody drives. Contradictions are only reported.",
        ),
    ] = False,
    look_up: Annotated[
        bool, typer.Option("--look-up", help="Ask the PSP, too; it changes nothing there.")
    ] = False,
    target: TargetOption = None,
    caller: CallerOption = DEFAULT_CALLER,
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", min=0.1, help="Seconds it may take; for ever if not given."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare orders, executor, wallet and ledger, and with --look-up the PSP.

    Beside a mesh at work. Exits with 0 if the books agree, 1 if not (also where it was
    repaired: check once more). What is unknown or parked is told apart, and is no reason.
    Times are ISO 8601, UTC where they name no zone.
    """
    with reporting(as_json=as_json):
        request = pb.CheckMeshRequest(
            create_time_from=parse_time(made_from),
            create_time_to=parse_time(made_to),
            repair=repair,
            look_up=look_up,
        )
        told = pb.CheckMeshResponse()
        with Client(parse_target(target), caller=caller, timeout_s=timeout) as client:
            try:
                for response in _with_progress(client.check_mesh(request)):
                    told = _together(told, response)
            except MeshError:
                # What was found until then, and may be repaired, is not kept back.
                if told.findings and not as_json:
                    _show(told)
                raise
    if as_json:
        render.print_json(told)
    else:
        _show(told)
    bad = any(finding.finding_class != pb.FINDING_CLASS_APART for finding in told.findings)
    raise typer.Exit(Exit.NOT_DONE if bad else Exit.OK)


def _with_progress(responses: Iterable[pb.CheckMeshResponse]) -> Iterator[pb.CheckMeshResponse]:
    """The same, telling on standard error how far it is."""
    told_at = time.monotonic()
    for response in responses:
        if time.monotonic() - told_at >= PROGRESS_S:
            told_at = time.monotonic()
            back_to = render.time_text(response.checked_from_time)
            sys.stderr.write(f"{response.orders} orders checked, back to {back_to}\n")
            sys.stderr.flush()
        yield response


def _together(told: pb.CheckMeshResponse, new: pb.CheckMeshResponse) -> pb.CheckMeshResponse:
    """Both as one: every finding, and the newer counts."""
    together = pb.CheckMeshResponse()
    together.CopyFrom(new)
    del together.findings[:]
    together.findings.extend([*told.findings, *new.findings])
    return together


def _show(told: pb.CheckMeshResponse) -> None:
    apart = [f for f in told.findings if f.finding_class == pb.FINDING_CLASS_APART]
    rest = [f for f in told.findings if f.finding_class != pb.FINDING_CLASS_APART]
    out = render.console()
    if rest:
        out.print(_table("findings", rest))
    if apart:
        out.print(_table("apart: unknown or parked", apart))
    out.print(
        f"{told.payments} payments, {told.orders} orders from "
        f"{render.time_text(told.checked_from_time)} to {render.time_text(told.checked_to_time)};"
        f" under way {told.orders_under_way}; findings {len(rest)},"
        f" repaired {sum(f.repaired for f in rest)}; apart {len(apart)}",
        soft_wrap=True,
    )
    if told.look_ups_unanswered:
        out.print(f"the PSP said nothing of {told.look_ups_unanswered} operations")


def _table(title: str, findings: Iterable[pb.MeshFinding]) -> Table:
    table = render.new_table("finding", "payment, order, operation", "what", "do", title=title)
    for finding in findings:
        kind = render.state_name(pb.FindingKind, finding.kind)
        how_bad = render.state_name(pb.FindingClass, finding.finding_class)
        ids = (finding.payment_id, finding.order_id, finding.operation_id)
        what = f"found {escape(finding.found)}"
        if finding.expected:
            what = f"expected {escape(finding.expected)}\n{what}"
        table.add_row(
            f"{kind}\n{how_bad.lower().replace('_', ' ')}",
            "\n".join(one for one in ids if one),
            what,
            "[green]repaired[/green]" if finding.repaired else escape(finding.advice),
        )
        table.add_section()
    return table
