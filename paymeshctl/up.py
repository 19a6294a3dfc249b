"""The verb `up`: a whole mesh in the foreground, until it is told to stop."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from mesh.embedded import EmbeddedPostgresError, default_data_dir
from paymeshctl.arguments import parse_replicas, parse_without
from paymeshctl.databases import DatabaseSettings
from paymeshctl.exits import CommandError, Exit, reporting
from paymeshctl.ports import (
    DEFAULT_PORT_BASE,
    HOST,
    MAX_PORT_BASE,
    MAX_REPLICAS,
    PORT_OFFSETS,
    REPLICA_STRIDE,
    max_port_base,
)
from paymeshctl.supervisor import Mesh, MeshConfig, StartError, StopRequested

DEFAULT_DATA_DIR = Path(".paymesh")
TRACES_DIR_SETTING = "PAYMESH_TRACES_DIR"

STUB_SETTINGS: Mapping[str, str] = {
    # Above the 2 s that tok_slow takes.
    "PAYMESH_EXECUTOR_PSP_DEADLINE_MS": "3000",
    "PAYMESH_EXECUTOR_LOOK_UP_DEADLINE_MS": "1000",
    "PAYMESH_PAYMENT_UNKNOWN_FIRST_MS": "500",
    "PAYMESH_PAYMENT_UNKNOWN_MOST_MS": "10000",
    "PAYMESH_PAYMENT_PENDING_FIRST_MS": "500",
    "PAYMESH_PAYMENT_PENDING_MOST_MS": "10000",
    "PAYMESH_PAYMENT_PARKED_POLL_MS": "60000",
    "PAYMESH_PAYMENT_EVIDENCE_POLL_MS": "2000",
}
"""Waits that suit the stub, which answers at once or never; what the user sets goes before."""

_POLL_INTERVAL_S = 0.1


def up(
    *,
    data_dir: Annotated[
        Path | None,
        typer.Option("--data-dir", help=f"For data and logs; by default ./{DEFAULT_DATA_DIR}."),
    ] = None,
    port_base: Annotated[
        int,
        typer.Option(
            "--port-base", min=1, max=MAX_PORT_BASE, help="The payment service listens on it + 1."
        ),
    ] = DEFAULT_PORT_BASE,
    replicas: Annotated[
        list[str] | None,
        typer.Option(
            "--replicas",
            metavar="SERVICE=COUNT,…",
            help=f"How many processes of a service share its work and its database, 1 to "
            f"{MAX_REPLICAS}; repeatable. Number n, from 0, listens on its port + "
            f"{REPLICA_STRIDE} * n.",
        ),
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(
            "--without",
            metavar="SERVICE",
            help="Don't start it; its database is made and migrated all the same; repeatable.",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print each event as a JSON object in a line.")
    ] = False,
) -> None:
    """Start a whole mesh on this machine and keep it running; Ctrl-C drains and stops it.

    Brings its own PostgreSQL, unless PAYMESH_DATABASE_URL names another. Ports: port base + 1
    payment, + 2 executor, + 3 wallet, + 4 ledger, + 5 PSP stub, + 6 PostgreSQL; further
    replicas each 20 higher; an instance's metrics are 10 above it, + 11 to + 15. The services
    inherit every PAYMESH_* variable that is set. With PAYMESH_TRACES_DIR each instance writes
    its spans to a file there.
    """
    voice = _Voice(as_json=as_json)
    signals = _StopSignals()
    with reporting(as_json=as_json):
        counts = parse_replicas(replicas or ())
        left_out = parse_without(without or ())
        if both := sorted(left_out & set(counts)):
            raise CommandError(Exit.BAD_USAGE, f"{both[0]} is named by --replicas and --without")
        if port_base > max_port_base(counts):
            raise CommandError(
                Exit.BAD_USAGE,
                f"--port-base {port_base} is too high for these replicas, whose ports end above "
                f"65535; at most {max_port_base(counts)}",
            )
        databases = DatabaseSettings.read(os.environ)
        config = MeshConfig(
            data_dir=_data_dir(data_dir, voice, embedded=databases.admin_url is None),
            port_base=port_base,
            environment=dict(os.environ),
            admin_url=databases.admin_url,
            database_urls=databases.urls,
            settings=STUB_SETTINGS,
            replicas=counts | dict.fromkeys(left_out, 0),
            traces_dir=_traces_dir(os.environ),
        )
        mesh = Mesh(config, say=voice.say, stop_requested=signals.received)
        try:
            mesh.start()
        except StopRequested:
            voice.say("stopped before it was ready")
            return
        except StartError as error:
            raise start_failed(error) from error
        try:
            voice.ready(mesh, config)
            while not signals.received():
                mesh.poll()
                time.sleep(_POLL_INTERVAL_S)
            voice.say("draining")
        finally:
            mesh.stop()
        voice.say("stopped")


def start_failed(error: StartError) -> CommandError:
    """The error of a mesh that did not start, with its exit code."""
    return CommandError(Exit.BAD_USAGE if error.bad_settings else Exit.UNREACHABLE, str(error))


class _Voice:
    """Tells what happens, in lines for people or for programs."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json

    def say(self, text: str) -> None:
        """Tells one event."""
        self._write(json.dumps({"event": "message", "text": text}) if self._as_json else text)

    def ready(self, mesh: Mesh, config: MeshConfig) -> None:
        """Tells where everything is."""
        instances = mesh.instances(*PORT_OFFSETS)
        endpoints = {name: mesh.target(name) for name in instances}
        metrics = {name: mesh.metrics_url(name) for name in instances}
        logs = str(mesh.log_path("payment").parent)
        if self._as_json:
            facts = {"event": "ready", "endpoints": endpoints, "metrics": metrics, "logs": logs}
            self._write(json.dumps(facts))
            return
        for name, endpoint in endpoints.items():
            self._write(f"  {name:<10} {endpoint:<21} {metrics[name]}")
        self._write(f"  {'logs':<10} {logs}")
        self._write(f"ready: --target {HOST}:{config.port_base} (Ctrl-C stops)")

    def _write(self, line: str) -> None:
        # Whoever reads us may be gone; the payments go on.
        with suppress(OSError):
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()


class _StopSignals:
    """Counts SIGINT, SIGTERM and SIGHUP: the first asks to stop, the second does it at once."""

    def __init__(self) -> None:
        self._count = 0
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # Whoever started us with nohup wants us to stay when the terminal goes.
            if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._receive)

    def received(self) -> bool:
        """Whether we are to stop."""
        return self._count > 0

    def _receive(self, _number: int, _frame: FrameType | None) -> None:
        self._count += 1
        if self._count > 1:
            # All children die with us, and everything they acknowledged is committed.
            os._exit(Exit.NOT_DONE)


def _traces_dir(environment: Mapping[str, str]) -> Path | None:
    given = environment.get(TRACES_DIR_SETTING)
    if not given:
        return None
    folder = Path(given).absolute()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(
            Exit.BAD_USAGE, f"{TRACES_DIR_SETTING}: {folder} can't be made: {error.strerror}"
        ) from error
    return folder


def _data_dir(given: Path | None, voice: _Voice, *, embedded: bool) -> Path:
    if given is not None or not embedded:
        return (given or DEFAULT_DATA_DIR).absolute()
    try:
        choice = default_data_dir(DEFAULT_DATA_DIR)
    except EmbeddedPostgresError as error:
        raise CommandError(Exit.BAD_USAGE, str(error)) from error
    if choice.notice is not None:
        voice.say(choice.notice)
    return choice.path
