"""A `paymesh up` in a process of its own, and `paymesh` verbs against it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from tests.support.embedded import children, is_running
from tests.support.ports import free_port_base

PAYMESH = [sys.executable, "-c", "from paymeshctl.main import main; main()"]
_RUN_TIMEOUT_S = 50


class UpProcess:
    """`paymesh up`; as a context, killed in the end at the latest."""

    def __init__(
        self,
        data_dir: Path,
        *,
        port_base: int | None = None,
        environment: Mapping[str, str] | None = None,
        as_json: bool = True,
        replicas: Mapping[str, int] | None = None,
        without: Sequence[str] = (),
    ) -> None:
        self.port_base = free_port_base(40 if replicas else 9) if port_base is None else port_base
        self.lines: list[str] = []
        """What it has said so far, as far as somebody asked."""
        self.process = subprocess.Popen(
            [
                *PAYMESH,
                *("up", "--data-dir", str(data_dir), "--port-base", str(self.port_base)),
                *(f"--replicas={service}={count}" for service, count in (replicas or {}).items()),
                *(f"--without={service}" for service in without),
                *(("--json",) if as_json else ()),
            ],
            env=clean_environment() | dict(environment or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait_until_ready(self) -> dict[str, Any]:
        """The facts of its `ready`."""
        return self.wait_for(lambda event: event["event"] == "ready")

    def wait_for_text(self, text: str) -> None:
        """Waits until it says something with `text` in it."""
        self.wait_for(lambda event: text in event.get("text", ""))

    def wait_for(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Its next event for which `wanted` holds; fails if it ends before."""
        while True:
            event: dict[str, Any] = json.loads(self._read_line())
            if wanted(event):
                return event

    def read_until(self, start: str) -> list[str]:
        """All lines up to the one that starts so; fails if it ends before."""
        while not self._read_line().startswith(start):
            pass
        return self.lines

    def _read_line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"it ended ({self.process.wait()}): {self.lines}"
        self.lines.append(line)
        return line

    def family(self) -> list[int]:
        """All processes below it, such as the services and PostgreSQL's sessions."""
        found = children(self.process.pid)
        for pid in found:
            found.extend(children(pid))
        return found

    def service_pid(self, package: str, port: int | None = None) -> int:
        """The process of the service with this package; port: of the one that listens there."""
        for pid in children(self.process.pid):
            if package in Path(f"/proc/{pid}/cmdline").read_text().split("\0"):
                environment = Path(f"/proc/{pid}/environ").read_text().split("\0")
                if port is None or f"PAYMESH_{_service(package)}_PORT={port}" in environment:
                    return pid
        raise AssertionError(f"{package} does not run")

    def postgres_pid(self) -> int:
        """The process of its PostgreSQL, which has all others of it as children."""
        for pid in children(self.process.pid):
            if Path(f"/proc/{pid}/comm").read_text().strip() == "postgres":
                return pid
        raise AssertionError("PostgreSQL does not run")

    def send(self, number: signal.Signals) -> None:
        """Sends it a signal."""
        self.process.send_signal(number)

    def end(self) -> tuple[int, str]:
        """Waits for its end: its exit code, and the rest of what it said."""
        rest, _ = self.process.communicate(timeout=_RUN_TIMEOUT_S)
        return self.process.returncode, rest

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A verb against this mesh."""
        return run(*arguments, "--target", f"127.0.0.1:{self.port_base}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if is_running(self.process.pid):
            self.process.kill()
        self.process.communicate()


def _service(package: str) -> str:
    return package.removesuffix("_svc").upper()


def run(
    *arguments: str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs `paymesh …` to its end."""
    return subprocess.run(
        [*PAYMESH, *arguments],
        env=clean_environment() | dict(environment or {}),
        capture_output=True,
        text=True,
        timeout=_RUN_TIMEOUT_S,
        check=False,
    )


def clean_environment() -> dict[str, str]:
    """Ours, without what would change the mesh; where PostgreSQL's programs are stays."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("PAYMESH_") or name == "PAYMESH_POSTGRES_BIN"
    }
