"""The stub as a process on a PostgreSQL of its own, for a run without another adapter."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from mesh.embedded import EmbeddedPostgresError
from mesh.healthcheck import is_serving
from mesh.migrations import ProvisionError, provision
from mesh.processes import spawn
from tests.conformance.adapter import CannotRun
from tests.support.folders import open_folder
from tests.support.ports import free_port
from tests.support.postgres import started

KEY_MEMORY_S = 6.0
"""Short enough to wait for, and longer than any rule that needs a key to be remembered."""

_SETTINGS = {"PENDING_MS": "1500", "SLOW_MS": "1500"}
_PREFIX = "PAYMESH_PSP_STUB_"
_START_S = 20.0
_STOP_S = 5.0


@contextmanager
def own_stub(key_memory_s: float) -> Iterator[str]:
    """Runs the stub; yields its target. Raises CannotRun. Leaves nothing behind."""
    ours = {**_SETTINGS, "KEY_MEMORY_S": str(key_memory_s)}
    with open_folder(in_memory=True) as folder:
        try:
            server = started(folder / "data")
        except EmbeddedPostgresError as error:
            raise CannotRun(f"the embedded PostgreSQL does not start: {error}") from error
        try:
            urls = provision(server.admin_url, services=["psp_stub"])
            with stub_process(urls["psp_stub"], ours, folder / "psp_stub.log") as target:
                yield target
        except ProvisionError as error:
            raise CannotRun(f"the stub's database can't be made: {error}") from error
        finally:
            server.stop(immediate=True)


@contextmanager
def stub_process(database_url: str, settings: Mapping[str, str], log_file: Path) -> Iterator[str]:
    """Runs the stub on its database; yields its target. settings: without their prefix.

    Raises CannotRun.
    """
    port = free_port()
    target = f"127.0.0.1:{port}"
    ours = {"DATABASE_URL": database_url, "PORT": str(port), "HOST": "127.0.0.1", **settings}
    environment = {k: v for k, v in os.environ.items() if not k.startswith(_PREFIX)}
    environment |= {_PREFIX + name: value for name, value in ours.items()}
    with log_file.open("wb") as log:
        process = spawn(
            [sys.executable, "-m", "psp_stub"],
            stdout=log,
            env=environment,
            death_signal=signal.SIGKILL,
        )
    try:
        give_up = time.monotonic() + _START_S
        while not is_serving(target, 1.0):
            if process.poll() is not None or time.monotonic() > give_up:
                said = log_file.read_text(errors="replace").strip()[-500:]
                raise CannotRun(f"the stub does not start: {said or 'it says nothing'}")
            time.sleep(0.05)
        yield target
    finally:
        process.kill()
        process.wait(_STOP_S)
