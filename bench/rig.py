"""A mesh to measure: on a new embedded PostgreSQL, in a folder that is removed in the end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.plan import LoadPlan, LoadResult
from bench.problem import BenchError
from bench.processor import processor_seconds, resident_kib
from bench.server import Server
from mesh.embedded import EmbeddedPostgresError, default_data_dir
from mesh.processes import spawn
from paymeshctl.ports import PORT_OFFSETS, free_port_base
from paymeshctl.supervisor import Mesh, MeshConfig, StartError
from paymeshctl.up import STUB_SETTINGS

POSTGRES = "PostgreSQL"
SLOW_CARD_S = 5

_SETTINGS: Mapping[str, str] = {
    **STUB_SETTINGS,
    "PAYMESH_PSP_STUB_SLOW_MS": str(SLOW_CARD_S * 1000),
    # A slow card is answered, not given up and looked up.
    "PAYMESH_EXECUTOR_PSP_DEADLINE_MS": str(2 * SLOW_CARD_S * 1000),
}
_REPOSITORY = Path(__file__).resolve().parents[1]
# pgbench's 750 MB at scale 50, and WAL up to max_wal_size.
_FREE_BYTES = 6 * 1024**3
# For the start of a generator, and for what is under way at its end.
_GRACE_S = 45.0


@dataclass(frozen=True)
class Round:
    """A load and what it cost; everything but the load itself is for each payment.

    processor_ms: by process. commits: transactions that wrote, by service; empty if they
    could not be counted.
    """

    load: LoadResult
    processor_ms: Mapping[str, float]
    generator_ms: float
    wal_bytes: float
    commits: Mapping[str, float]

    @property
    def mesh_ms(self) -> float:
        """Processor time over all services and PostgreSQL."""
        return sum(self.processor_ms.values())


class Rig:
    """A running mesh and its server."""

    def __init__(self, mesh: Mesh, server: Server, folder: Path) -> None:
        self.server = server
        self.target = mesh.target("payment")
        self.ledger_target = mesh.target("ledger")
        self.succeeded = 0
        """Payments that callers were told to have succeeded, so far."""
        self.errors: dict[str, int] = {}
        """What callers were told instead, so far."""
        if mesh.postgres_pid is None:
            raise BenchError("PostgreSQL died")
        self._pids = {service: mesh.pid(service) for service in PORT_OFFSETS}
        self._pids[POSTGRES] = mesh.postgres_pid
        self._folder = folder

    def measure(self, plan: LoadPlan) -> Round:
        """Runs a load after a checkpoint and tells what it cost."""
        self.server.checkpoint()
        written = self.server.position()
        processor_s = processor_seconds(self._pids)
        load = self._generate(plan)
        processor_after_s = processor_seconds(self._pids)
        written_after = self.server.position()
        self._count(load)
        if not load.payments:
            raise BenchError(f"no payment was answered: {load.errors}")
        return Round(
            load=load,
            processor_ms={
                name: (processor_after_s[name] - before) * 1000 / load.payments
                for name, before in processor_s.items()
            },
            generator_ms=load.processor_s * 1000 / load.payments,
            wal_bytes=(written_after.at - written.at) / load.payments,
            commits={
                service: count / load.payments
                for service, count in self.server.writers(written, written_after).items()
            },
        )

    def memory_kib(self) -> dict[str, int]:
        """What each service holds in memory of its own and shared (resident), in KiB."""
        return {
            service: resident_kib(pid) for service, pid in self._pids.items() if service != POSTGRES
        }

    def _count(self, load: LoadResult) -> None:
        self.succeeded += load.succeeded
        others = {state: n for state, n in load.answered.items() if state != "SUCCEEDED"}
        for what, count in {**others, **load.errors}.items():
            self.errors[what] = self.errors.get(what, 0) + count

    def _generate(self, plan: LoadPlan) -> LoadResult:
        """Runs a load in a process of its own, which dies with us."""
        result, output = self._folder / "load.json", self._folder / "load.log"
        result.unlink(missing_ok=True)
        with output.open("wb") as log:
            process = spawn(
                [sys.executable, "-m", "bench.load", plan.to_json(), str(result)],
                stdout=log,
                death_signal=signal.SIGKILL,
                cwd=_REPOSITORY,
            )
        try:
            code = process.wait(plan.seconds + _GRACE_S)
        except subprocess.TimeoutExpired as error:
            raise BenchError("the load did not end in time") from error
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        if code != 0:
            raise BenchError(f"the load generator failed: {output.read_text()[-2000:]}")
        return LoadResult(**json.loads(result.read_text()))


@contextmanager
def rig(place: Path | None, **settings: str) -> Iterator[Rig]:
    """A mesh in a new folder below `place`, by default in the system's temporary storage.

    settings: variables of the services, by name. Raises BenchError; leaves nothing behind.
    """
    base = Path(tempfile.mkdtemp(prefix="paymesh-bench-", dir=place))
    folder = base
    try:
        folder = _data_dir(base)
        config = MeshConfig(
            folder, free_port_base(), _environment(), settings={**_SETTINGS, **settings}
        )
        mesh = Mesh(config)
        try:
            mesh.start()
        except StartError as error:
            raise BenchError(str(error)) from error
        try:
            with Server(mesh.admin_url, mesh.database_urls) as server:
                yield Rig(mesh, server, base)
        finally:
            mesh.stop()
    finally:
        for done in (folder, base):
            shutil.rmtree(done, ignore_errors=True)


def _data_dir(base: Path) -> Path:
    free = shutil.disk_usage(base).free
    if free < _FREE_BYTES:
        raise BenchError(
            f"{base.parent} has {free / 1024**3:.1f} GB left and the benchmark needs "
            f"{_FREE_BYTES / 1024**3:.0f}; name another folder with --place"
        )
    if os.geteuid() == 0:
        # PostgreSQL runs as somebody else and has to pass through.
        base.chmod(0o711)
    try:
        return default_data_dir(base / "data").path
    except EmbeddedPostgresError as error:
        raise BenchError(str(error)) from error


def _environment() -> dict[str, str]:
    """Ours, but for what would lead the mesh elsewhere or end slow cards early."""
    return {
        name: value
        for name, value in os.environ.items()
        if name not in _SETTINGS
        and not (name.startswith("PAYMESH_") and name.endswith(("DATABASE_URL", "_TARGET")))
    }
