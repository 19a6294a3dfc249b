"""A ledger_svc alone, on an embedded PostgreSQL that is removed in the end."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import make_url

from bench.problem import BenchError
from bench.processor import processor_seconds
from mesh.embedded import EmbeddedConfig, EmbeddedPostgres, default_data_dir
from mesh.embedded.binaries import BINARIES_SETTING, find_binaries
from mesh.healthcheck import is_serving
from mesh.migrations import provision
from mesh.processes import spawn
from paymeshctl.ports import free_port_base

PSP = "psp_stub"
BANK = "bank"
SOURCES: Mapping[str, object] = {PSP: {"kind": "psp", "bank": BANK}, BANK: {"kind": "bank"}}

_START_S = 30.0
_STOP_S = 20.0
_PSQL_TIMEOUT_S = 1_800.0
_INHERITED = ("PATH", "LD_LIBRARY_PATH", "HOME", "LANG", "TMPDIR")


@dataclass
class Cost:
    """seconds: by the clock. processor_s: of the ledger, PostgreSQL and our own children."""

    seconds: float = 0.0
    processor_s: float = 0.0


@dataclass(frozen=True)
class LedgerRig:
    """Where things are. url: of the ledger's database, as the superuser."""

    folder: Path
    url: str
    target: str
    pid: int
    postgres_pid: int

    def connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        """The superuser's session in the ledger's database; each statement by itself."""
        return psycopg.connect(self.url, autocommit=True)

    @contextmanager
    def measured(self) -> Iterator[Cost]:
        """What is done within: its seconds, and those of processors. Raises BenchError."""
        cost = Cost()
        started, before = time.perf_counter(), self._processor_s()
        yield cost
        cost.seconds = time.perf_counter() - started
        cost.processor_s = self._processor_s() - before

    def _processor_s(self) -> float:
        pids = {"ledger": self.pid, "PostgreSQL": self.postgres_pid}
        children = resource.getrusage(resource.RUSAGE_CHILDREN)  # psql, and the bare iteration
        spent = sum(processor_seconds(pids).values())
        return spent + children.ru_utime + children.ru_stime

    def psql(self, script: str) -> None:
        """Runs a script in psql as the superuser. Raises BenchError."""
        setting = os.environ.get(BINARIES_SETTING)
        program = find_binaries(Path(setting) if setting else None).bin_dir / "psql"
        told = conninfo_to_dict(self.url)
        done = subprocess.run(
            [str(program), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-f", "-"],
            input=script,
            env={
                **_inherited(),
                "PGHOST": str(told["host"]),
                "PGPORT": str(told["port"]),
                "PGUSER": str(told["user"]),
                "PGPASSWORD": str(told["password"]),
                "PGDATABASE": str(told["dbname"]),
            },
            capture_output=True,
            text=True,
            timeout=_PSQL_TIMEOUT_S,
            check=False,
        )
        if done.returncode != 0:
            raise BenchError(f"psql failed: {done.stderr.strip()}")

    def peak_mib(self) -> float:
        """The most memory that the ledger's process has held since `forget_peak`, in MiB."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
        raise BenchError("the ledger's process is gone")

    def forget_peak(self) -> float:
        """Lets the peak begin anew; answers with what is held now, in MiB."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")
        return self.peak_mib()


@contextmanager
def ledger_rig(place: Path | None) -> Iterator[LedgerRig]:
    """A ledger that serves, in a new folder below `place`. Leaves nothing behind."""
    folder = Path(tempfile.mkdtemp(prefix="paymesh-bench-", dir=place))
    try:
        if os.geteuid() == 0:
            # PostgreSQL runs as somebody else and has to pass through.
            folder.chmod(0o711)
        data = default_data_dir(folder / "data").path
        base = free_port_base()
        with EmbeddedPostgres(EmbeddedConfig(data, base)) as server:
            app_url = provision(server.admin_url, services=("ledger",))["ledger"]
            url = make_url(server.admin_url).set(
                drivername="postgresql", database=make_url(app_url).database
            )
            with _ledger(folder, base + 1, app_url) as process:
                yield LedgerRig(
                    folder,
                    url.render_as_string(hide_password=False),
                    f"127.0.0.1:{base + 1}",
                    process.pid,
                    server.pid or 0,
                )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _ledger(folder: Path, port: int, url: str) -> Iterator[subprocess.Popen[bytes]]:
    log = folder / "ledger.log"
    with log.open("wb") as output:
        process = spawn(
            [sys.executable, "-m", "ledger_svc"],
            env={
                **_inherited(),
                "PAYMESH_LEDGER_PORT": str(port),
                "PAYMESH_LEDGER_DATABASE_URL": url,
                "PAYMESH_LEDGER_SOURCES": json.dumps(SOURCES),
                "PAYMESH_LEDGER_MAX_FILE_BYTES": str(4 << 30),
            },
            stdout=output,
            death_signal=signal.SIGTERM,
        )
    try:
        until = time.monotonic() + _START_S
        while not is_serving(f"127.0.0.1:{port}", 1.0):
            if process.poll() is not None or time.monotonic() > until:
                raise BenchError(f"the ledger did not start: {log.read_text()[-2000:]}")
            time.sleep(0.1)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _inherited() -> dict[str, str]:
    return {name: os.environ[name] for name in _INHERITED if name in os.environ}
