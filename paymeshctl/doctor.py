"""The verb `doctor`: asks every process how it is doing, and says what is wrong and what to do."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Annotated, Any

import typer
from google.protobuf.duration_pb2 import Duration
from paymesh.operations.v1 import status_service_pb2 as pb
from rich.markup import escape
from rich.table import Table

from mesh.clock import utc_now
from mesh.errors import Code, MeshError
from paymeshctl import render
from paymeshctl.arguments import (
    AsJson,
    CallerOption,
    TargetOption,
    TimeoutOption,
    parse_without,
)
from paymeshctl.client import DEFAULT_CALLER, Client, Target, parse_target
from paymeshctl.exits import CommandError, Exit, reporting
from paymeshctl.findings import Asked, Finding, findings_of, replica_counts, span
from paymeshctl.ports import MAX_REPLICAS, PORT_OFFSETS, instance_name

_STATES = {Code.UNAVAILABLE: "down", Code.DEADLINE_EXCEEDED: "silent"}
_MOST_AT_ONCE = MAX_REPLICAS * len(PORT_OFFSETS)


def doctor(
    *,
    older_than: Annotated[
        int,
        typer.Option(
            "--older-than",
            min=0,
            max=31_536_000,
            help="Tell of what is open for so many seconds; of what is parked, always.",
        ),
    ] = 300,
    without: Annotated[
        list[str] | None,
        typer.Option(
            "--without",
            metavar="SERVICE",
            help="Don't ask it, for it is not there: psp_stub, where your PSP's adapter is "
            "elsewhere; repeatable.",
        ),
    ] = None,
    target: TargetOption = None,
    caller: CallerOption = DEFAULT_CALLER,
    timeout: TimeoutOption = None,
    as_json: AsJson = False,
) -> None:
    """Look the mesh over: who is up, versions, migrations, clocks, leases, what waits for you.

    Every replica that `paymesh up` started is asked; of a mesh elsewhere, what is reachable
    by the name. Exits with 0 if all is well, 1 if there are findings, 3 if nobody answers.
    """
    with reporting(as_json=as_json):
        left_out = parse_without(without or ())
        if left_out == set(PORT_OFFSETS):
            raise CommandError(Exit.BAD_USAGE, "--without names all services, so nobody is asked")
        services = [service for service in PORT_OFFSETS if service not in left_out]
        request = pb.GetStatusRequest(attention_age=Duration(seconds=older_than))
        where = parse_target(target)
        with Client(where, caller=caller, timeout_s=timeout) as client:
            asked = _ask_all(client, where, services, request)
    found = findings_of(asked)
    if as_json:
        typer.echo(json.dumps(_facts(where, asked, found), ensure_ascii=False))
    else:
        _show(asked, found)
    if not any(one.answered for one in asked):
        raise typer.Exit(Exit.UNREACHABLE)
    raise typer.Exit(Exit.NOT_DONE if found else Exit.OK)


def _ask_all(
    client: Client, target: Target, services: Sequence[str], request: pb.GetStatusRequest
) -> list[Asked]:
    """The first replica of each, and then all others of which one of them knows."""

    def ask(instance: str) -> Asked:
        return _ask(client, target, instance, request)

    with ThreadPoolExecutor(_MOST_AT_ONCE) as pool:
        first = list(pool.map(ask, services))
        counts = replica_counts(first)
        others = [instance_name(name, n) for name in services for n in range(1, counts[name])]
        asked = {one.instance: one for one in (*first, *pool.map(ask, others))}
    return [asked[instance_name(name, n)] for name in services for n in range(counts[name])]


def _ask(client: Client, target: Target, instance: str, request: pb.GetStatusRequest) -> Asked:
    address = target.address(instance)
    sent = utc_now()
    try:
        status = client.get_status(instance, request)
    except MeshError as error:
        return Asked(instance, address, sent, utc_now(), error=error)
    return Asked(instance, address, sent, utc_now(), status=status)


def _facts(target: Target, asked: Iterable[Asked], found: Sequence[Finding]) -> dict[str, Any]:
    return {
        "target": f"{target.host}:{target.port_base}",
        "instances": [
            {
                "instance": one.instance,
                "address": one.address,
                "status": None if one.status is None else render.to_json(one.status),
                "error": None
                if one.error is None
                else {
                    "code": one.error.code.name,
                    "reason": one.error.reason.value,
                    "message": one.error.message,
                },
            }
            for one in asked
        ],
        "findings": [
            {
                "kind": finding.kind,
                "instance": finding.instance,
                "what": finding.what,
                "reason": finding.reason,
                "count": finding.count,
                "oldest_time": None
                if finding.oldest_time is None
                else finding.oldest_time.isoformat(),
                "payment_ids": list(finding.payment_ids),
                "advice": finding.advice,
            }
            for finding in found
        ],
    }


def _show(asked: Sequence[Asked], found: Sequence[Finding]) -> None:
    console = render.console()
    console.print(_instances_table(asked))
    if not found:
        console.print("all is well")
        return
    console.print(f"{len(found)} finding{'s' if len(found) > 1 else ''}")
    for finding in found:
        reason = f" {finding.reason}" if finding.reason else ""
        console.print(
            f"\n[red]{finding.kind}{escape(reason)}[/red] {escape(finding.instance)}: "
            f"{escape(finding.what)}"
        )
        for payment_id in finding.payment_ids:
            console.print(f"  payment {escape(payment_id)}")
        console.print(f"  {escape(finding.advice)}")


def _instances_table(asked: Iterable[Asked]) -> Table:
    table = render.new_table(
        *("service", "address", "state", "version", "up for"),
        *("PostgreSQL", "migration", "database's clock", "lease"),
    )
    for one in asked:
        row = [one.instance, one.address, _state(one)]
        if one.status is not None:
            row += [one.status.version, _up_for(one.status), *_of_database(one), _lease(one)]
        table.add_row(*(escape(cell) for cell in row))
    return table


def _state(one: Asked) -> str:
    if one.error is None:
        return "up"
    if one.answered:
        return "up, tells no status"
    return _STATES.get(one.error.code, one.error.code.name)


def _up_for(status: pb.GetStatusResponse) -> str:
    return span(status.process_time.ToDatetime() - status.start_time.ToDatetime())


def _of_database(one: Asked) -> list[str]:
    database = one.database
    if database is None:
        return ["away", "", ""]
    revision = database.revision or "none"
    if database.revision != database.expected_revision:
        revision += f", needs {database.expected_revision}"
    skew = one.skew or timedelta()
    agrees = abs(skew) < timedelta(milliseconds=1)
    return [
        # Without what its packager adds: "18.1 (Debian 18.1-1)".
        database.server_version.partition(" ")[0],
        revision,
        "agrees" if agrees else f"{skew.total_seconds():+.3f} s",
    ]


def _lease(one: Asked) -> str:
    """The lease of the process itself, if it is a replica of payment_svc."""
    if one.status is None or one.database is None:
        return ""
    for lease in one.status.leases:
        if lease.process == one.status.process and not lease.dead:
            left = lease.lease_until_time.ToDatetime() - one.database.time.ToDatetime()
            return f"epoch {lease.epoch}, {span(left)} left"
    return "none" if one.service == "payment" else ""
