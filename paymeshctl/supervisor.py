"""Runs a whole mesh on this machine: PostgreSQL, the five services, and an eye on them.

An instance is one process of a service: `payment` the first replica, `payment-1` the next.

No threads: the children are bound to the main thread, which dies with the process, and
whoever holds a `Mesh` calls `poll` now and then.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mesh.db import POOL_SIZE
from mesh.embedded import EmbeddedConfig, EmbeddedPostgres, EmbeddedPostgresError
from mesh.embedded import EmbeddedPostgresReason as Reason
from mesh.healthcheck import is_serving
from mesh.migrations import PACKAGES, ProvisionError, provision
from mesh.processes import spawn
from mesh.secret_files import names_a_database
from paymeshctl.ports import (
    HOST,
    METRICS_PORT_OFFSET,
    PORT_OFFSETS,
    POSTGRES_PORT_OFFSET,
    instance_name,
    instance_parts,
    is_free,
    listed_target,
    port_offset,
)

# A service before those who call it.
START_ORDER = ("psp_stub", "wallet", "ledger", "executor", "payment")
# Who makes work before those who do it; the rest has no callers left and stops at once.
DRAIN_ORDER = (("payment",), ("executor",), ("wallet", "ledger", "psp_stub"))
PEERS: Mapping[str, Mapping[str, str]] = {
    "payment": {
        "EXECUTOR_TARGET": "executor",
        "WALLET_TARGET": "wallet",
        "LEDGER_TARGET": "ledger",
    },
    "executor": {"PSP_TARGET": "psp_stub"},
    "ledger": {"PSP_TARGET": "psp_stub"},
}

_START_TIMEOUT_S = 30.0
# Longer than a service's own drain, which is 10 s unless it was set otherwise.
_DRAIN_TIMEOUT_S = 20.0
_POLL_INTERVAL_S = 0.05
_HEALTH_TIMEOUT_S = 0.5
_FIRST_BACKOFF_S = 0.2
_MAX_BACKOFF_S = 5.0
# Who lived this long did not die of its start: the backoff begins anew.
_STABLE_S = 20.0
_POSTGRES_CONNECTIONS = 200
# For people and programs beside the services, whose pools take what they may.
_SPARE_CONNECTIONS = 40
_KEEP_LOG_BYTES = 16 * 1024 * 1024
_LOG_TAIL_BYTES = 2_000

_BAD_SETTINGS = frozenset(
    {
        Reason.INVALID_SETTING,
        Reason.DATA_DIR_UNREACHABLE,
        Reason.DATA_DIR_NOT_OURS,
        Reason.DATA_DIR_IN_USE,
        Reason.OTHER_MAJOR_VERSION,
        Reason.PASSWORD_MISSING,
        Reason.PORT_IN_USE,
    }
)


class StartError(Exception):
    """The mesh could not be started, and nothing of it runs; the message is for people.

    bad_settings: whether something that the user chose is at fault (a port, a folder).
    """

    def __init__(self, message: str, *, bad_settings: bool = False) -> None:
        super().__init__(message)
        self.bad_settings = bad_settings


class StopRequested(Exception):
    """The start was given up because somebody asked to stop."""


@dataclass(frozen=True)
class MeshConfig:
    """What a mesh is started with.

    data_dir: for the embedded PostgreSQL and the logs. port_base: the services listen
    from port_base + 1 on, their metrics are read from port_base + 11 on, PostgreSQL listens
    on port_base + 6. admin_url: another PostgreSQL
    than the embedded one. database_urls: service → its URL on that one, where it is
    given. environment: what the services inherit. settings: defaults for variables that
    `environment` does not have. replicas: service → how many of it; one where it is not named,
    and none of it where it is 0.
    traces_dir: a folder, which is there, for a file of spans of each instance; None: nobody
    writes any.
    """

    data_dir: Path
    port_base: int
    environment: Mapping[str, str]
    admin_url: str | None = None
    database_urls: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    replicas: Mapping[str, int] = field(default_factory=dict)
    traces_dir: Path | None = None


@dataclass
class _Child:
    """An instance's process, or what is left of it. Times are monotonic seconds."""

    process: subprocess.Popen[bytes]
    started_at: float
    deaths: int = 0
    start_again_at: float | None = None
    serving: bool = False


class Mesh:
    """All processes of a mesh, which die with this one however it dies.

    Not to be shared between threads; only for the main thread.
    """

    def __init__(
        self,
        config: MeshConfig,
        *,
        say: Callable[[str], None] = lambda _: None,
        stop_requested: Callable[[], bool] = lambda: False,
    ) -> None:
        """`say` is told what happens; `stop_requested` is asked while the start waits."""
        self._config = config
        self._say = say
        self._stop_requested = stop_requested
        self._children: dict[str, _Child] = {}
        self._postgres: EmbeddedPostgres | None = None
        self._postgres_deaths = 0
        self._postgres_again_at: float | None = None
        self._said = ""
        self.database_urls: dict[str, str] = {}
        """Service → the URL of its own database, as its own role; known after `start`."""

    @property
    def admin_url(self) -> str:
        """The administrative URL of the PostgreSQL; of the embedded one only after `start`."""
        if self._config.admin_url is not None:
            return self._config.admin_url
        if self._postgres is None:
            raise StartError("the mesh has not been started")
        return self._postgres.admin_url

    @property
    def postgres_pid(self) -> int | None:
        """The embedded PostgreSQL's process, if there is one."""
        return None if self._postgres is None else self._postgres.pid

    def instances(self, *services: str) -> list[str]:
        """The names of all replicas of the services."""
        count = self._config.replicas
        return [instance_name(name, n) for name in services for n in range(count.get(name, 1))]

    def port(self, instance: str) -> int:
        """The port that an instance listens on."""
        return self._config.port_base + port_offset(*instance_parts(instance))

    def target(self, instance: str) -> str:
        """`host:port` of an instance."""
        return f"{self._host(instance_parts(instance)[0])}:{self.port(instance)}"

    def metrics_port(self, instance: str) -> int:
        """The port where an instance's metrics are read by HTTP."""
        return self.port(instance) + METRICS_PORT_OFFSET

    def metrics_url(self, instance: str) -> str:
        """Where an instance's metrics are read."""
        host, _, _ = self.target(instance).rpartition(":")
        return f"http://{host}:{self.metrics_port(instance)}/metrics"

    def targets(self, service: str) -> str:
        """What its callers connect to: all replicas of a service. Raises StartError."""
        host = self._host(service)
        try:
            # Of a service that is left out its port, where it may come up by itself.
            names = self.instances(service) or [service]
            return listed_target(host, [self.port(name) for name in names])
        except ValueError:
            raise StartError(
                f"{_prefix(service)}HOST is {host!r}; several replicas need an IP address there",
                bad_settings=True,
            ) from None

    def pid(self, instance: str) -> int:
        """The process of an instance, also of one that has just died."""
        return self._children[instance].process.pid

    def log_path(self, instance: str) -> Path:
        """The file that an instance logs to."""
        return self._config.data_dir / "logs" / f"{instance}.log"

    def start(self) -> None:
        """Starts everything and waits until it serves. Raises StartError, StopRequested."""
        self._refuse_ports_in_use()
        try:
            if self._config.admin_url is None:
                self._start_postgres()
            self._check_stop()
            self.database_urls = provision(self.admin_url, urls=self._config.database_urls)
            for instance in self.instances(*START_ORDER):
                self._spawn(instance)
            for instance in self.instances(*START_ORDER):
                self._wait_until_serving(instance)
        except EmbeddedPostgresError as error:
            self.stop(immediate=True)
            raise StartError(str(error), bad_settings=error.reason in _BAD_SETTINGS) from error
        except ProvisionError as error:
            self.stop(immediate=True)
            raise StartError(str(error), bad_settings=not error.unreachable) from error
        except BaseException:
            self.stop(immediate=True)
            raise

    def poll(self) -> None:
        """Starts what died again, after a backoff. To be called a few times a second."""
        self._poll_postgres()
        now = time.monotonic()
        for instance, child in self._children.items():
            code = child.process.poll()
            if code is None:
                self._notice_serving(instance, child)
            elif child.start_again_at is None:
                child.deaths = 1 if now - child.started_at > _STABLE_S else child.deaths + 1
                wait_s = _backoff_s(child.deaths)
                child.start_again_at = now + wait_s
                child.serving = False
                self._say(
                    f"{instance} died ({_how(code)}); it is started again in {wait_s:.1f} s, "
                    f"its log is {self.log_path(instance)}"
                )
            elif now >= child.start_again_at:
                self._spawn(instance)

    def kill(self, instance: str) -> None:
        """Kills an instance with SIGKILL and waits until it is gone; `poll` starts it again."""
        process = self._children[instance].process
        process.kill()
        process.wait()

    def restart(self, instance: str) -> None:
        """Starts an instance again, killing it first if it lives, and waits until it serves."""
        self.kill(instance)
        self._spawn(instance)
        self._wait_until_serving(instance)

    def stop(self, *, immediate: bool = False) -> None:
        """Ends everything: drains from the top down, then PostgreSQL. Does no harm twice."""
        for services in DRAIN_ORDER:
            processes = [
                (instance, self._children[instance].process)
                for instance in self.instances(*services)
                if instance in self._children
            ]
            for _, process in processes:
                process.send_signal(signal.SIGKILL if immediate else signal.SIGTERM)
            for instance, process in processes:
                self._wait_for_end(instance, process)
        self._children.clear()
        if self._postgres is not None:
            self._postgres.stop(immediate=immediate)

    def _start_postgres(self) -> None:
        port = self._config.port_base + POSTGRES_PORT_OFFSET
        # A ledger has as many again for its reconciliation (ledger_svc/main.py).
        databases = len(self.instances(*PORT_OFFSETS, "ledger"))
        connections = max(_POSTGRES_CONNECTIONS, 2 * POOL_SIZE * databases + _SPARE_CONNECTIONS)
        settings = {"max_connections": str(connections)}
        self._postgres = EmbeddedPostgres(EmbeddedConfig(self._config.data_dir, port, settings))
        self._postgres.start()

    def _poll_postgres(self) -> None:
        if self._postgres is None:
            return
        try:
            code = self._postgres.poll()
        except OSError as error:
            # It runs all the same; its log is seen to at the next look.
            self._say_once(f"PostgreSQL's log is not kept small: {error.strerror}")
            return
        if code is None:
            return
        now = time.monotonic()
        if self._postgres_again_at is None:
            self._postgres_deaths += 1
            wait_s = _backoff_s(self._postgres_deaths)
            self._postgres_again_at = now + wait_s
            self._say(f"PostgreSQL died ({_how(code)}); it is started again in {wait_s:.1f} s")
        elif now >= self._postgres_again_at:
            self._postgres_again_at = None
            try:
                self._postgres.start()
            except EmbeddedPostgresError as error:
                self._say(str(error))
                return
            except OSError as error:
                self._say(f"PostgreSQL can't be started: {error.strerror}")
                return
            self._say("PostgreSQL serves again")

    def _say_once(self, text: str) -> None:
        if text != self._said:
            self._say(text)
        self._said = text

    def _refuse_ports_in_use(self) -> None:
        instances = self.instances(*PORT_OFFSETS)
        ports = {name: self.port(name) for name in instances}
        ports |= {f"the metrics of {name}": self.metrics_port(name) for name in instances}
        if self._config.admin_url is None:
            ports["PostgreSQL"] = self._config.port_base + POSTGRES_PORT_OFFSET
        for name, port in ports.items():
            if not is_free(port):
                raise StartError(
                    f"port {port} on {HOST}, which {name} needs, is in use: stop the other "
                    "program, or choose other ports with --port-base",
                    bad_settings=True,
                )

    def _spawn(self, instance: str) -> None:
        before = self._children.get(instance)
        path = self.log_path(instance)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size > _KEEP_LOG_BYTES:
            path.replace(path.with_suffix(".log.1"))
        with path.open("ab") as log:
            process = spawn(
                # -P: a folder of the user's own named like a module must not stand before it.
                [sys.executable, "-P", "-m", PACKAGES[instance_parts(instance)[0]]],
                env=self._environment(instance),
                stdout=log,
                death_signal=signal.SIGKILL,
            )
        deaths = 0 if before is None else before.deaths
        self._children[instance] = _Child(process, time.monotonic(), deaths)

    def _environment(self, instance: str) -> dict[str, str]:
        """Its settings: ours where they wire the mesh, else the user's, else defaults."""
        service, _ = instance_parts(instance)
        prefix = _prefix(service)
        # No service sees the administrator's password, nor its neighbours'.
        inherited = {
            name: value
            for name, value in self._config.environment.items()
            if not names_a_database(name)
        }
        targets = {
            prefix + name: self.targets(peer) for name, peer in PEERS.get(service, {}).items()
        }
        counts = ((name, len(self.instances(name))) for name in PORT_OFFSETS)
        folder = self._config.traces_dir
        traces = (
            {} if folder is None else {f"{prefix}TRACES_FILE": str(folder / f"{instance}.jsonl")}
        )
        return {
            **self._config.settings,
            **targets,
            **traces,
            **inherited,
            f"{prefix}PORT": str(self.port(instance)),
            f"{prefix}METRICS_PORT": str(self.metrics_port(instance)),
            f"{prefix}REPLICAS": ",".join(f"{name}={count}" for name, count in counts if count),
            f"{prefix}DATABASE_URL": self.database_urls[service],
        }

    def _wait_until_serving(self, instance: str) -> None:
        child = self._children[instance]
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not is_serving(self.target(instance), _HEALTH_TIMEOUT_S):
            self._check_stop()
            code = child.process.poll()
            if code is not None:
                raise StartError(f"{instance} did not start ({_how(code)}): {self._tail(instance)}")
            if time.monotonic() > deadline:
                raise StartError(
                    f"{instance} does not serve after {_START_TIMEOUT_S:.0f} s; its log is "
                    f"{self.log_path(instance)}"
                )
            time.sleep(_POLL_INTERVAL_S)
        child.serving = True

    def _notice_serving(self, instance: str, child: _Child) -> None:
        if not child.serving and is_serving(self.target(instance), _POLL_INTERVAL_S):
            child.serving = True
            self._say(f"{instance} serves again (pid {child.process.pid})")

    def _wait_for_end(self, instance: str, process: subprocess.Popen[bytes]) -> None:
        try:
            process.wait(_DRAIN_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._say(f"{instance} did not end within {_DRAIN_TIMEOUT_S:.0f} s; it is killed")
            process.kill()
            process.wait()

    def _check_stop(self) -> None:
        if self._stop_requested():
            raise StopRequested

    def _host(self, service: str) -> str:
        """Where a service's callers find it, if they are on this machine."""
        host = self._config.environment.get(f"{_prefix(service)}HOST", HOST)
        if host in ("0.0.0.0", "::"):  # noqa: S104
            return HOST
        return f"[{host}]" if ":" in host and not host.startswith("[") else host

    def _tail(self, instance: str) -> str:
        """The end of an instance's log, for the message of a start that failed."""
        text = self.log_path(instance).read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace")
        return f"{text.strip()}\nthe whole log is {self.log_path(instance)}"


def _prefix(service: str) -> str:
    return f"PAYMESH_{service.upper()}_"


def _backoff_s(deaths: int) -> float:
    return min(_FIRST_BACKOFF_S * 2.0 ** (deaths - 1), _MAX_BACKOFF_S)


def _how(code: int) -> str:
    """How a process ended, from its exit code."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
