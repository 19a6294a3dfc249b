"""A whole mesh as processes: five services, started by the supervisor, and clients of them."""

from __future__ import annotations

import os
import secrets
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
import psycopg
import pytest
from paymesh.ledger.v1.ledger_service_pb2_grpc import LedgerServiceStub
from paymesh.payment.v1 import payment_pb2
from paymesh.payment.v1 import payment_service_pb2 as pb
from paymesh.payment.v1.payment_service_pb2_grpc import PaymentServiceStub
from paymesh.wallet.v1.wallet_service_pb2_grpc import WalletServiceStub
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from paymeshctl.ports import REPLICA_STRIDE
from paymeshctl.supervisor import Mesh, MeshConfig, StartError
from tests.faults.checker import Told, Urls, Violation, check, unsettled
from tests.support.folders import open_folder
from tests.support.ports import free_port_base
from tests.support.postgres import PostgresServer

SERVICES = ("payment", "executor", "wallet", "ledger", "psp_stub")

SETTINGS: Mapping[str, object] = {
    # Above the 2 s of tok_slow.
    "executor_psp_deadline_ms": 2_600,
    "executor_look_up_deadline_ms": 1_000,
    "executor_ladder_backoff_ms": 20,
    "psp_stub_pending_ms": 1_000,
    "payment_lease_ms": 1_500,
    "payment_poll_ms": 50,
    "payment_pending_first_ms": 200,
    "payment_pending_most_ms": 1_000,
    "payment_unknown_first_ms": 200,
    "payment_unknown_most_ms": 1_000,
    "payment_delayed_first_ms": 100,
    "payment_delayed_most_ms": 500,
    "payment_parked_poll_ms": 500,
    "payment_evidence_poll_ms": 200,
}
"""Short waits, so that tests need not wait long. `x_y` is the variable PAYMESH_X_Y."""

CHANNEL_OPTIONS: Sequence[tuple[str, int]] = (
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 200),
    ("grpc.use_local_subchannel_pool", 1),
    # Tests send what is too large.
    ("grpc.max_send_message_length", -1),
)

ONE_OF_EACH: Mapping[str, int] = {}

RESTS_WITHIN_S = 30.0
"""Far more than anything takes, on a machine that is busy with other things."""

_START_ATTEMPTS = 3
_POLL_S = 0.02


class RunningMesh:
    """The processes, clients of them, and where their databases are."""

    def __init__(self, supervisor: Mesh) -> None:
        self.supervisor = supervisor
        self.databases = {
            service: _as_superuser(supervisor.admin_url, url)
            for service, url in supervisor.database_urls.items()
        }
        """Service → the superuser's URL of its database; "admin" → that of the server."""
        self.databases["admin"] = supervisor.admin_url
        self._channels = {service: self.new_channel(service) for service in SERVICES}
        self.payments = PaymentServiceStub(self._channels["payment"])
        self.wallets = WalletServiceStub(self._channels["wallet"])
        self.ledger = LedgerServiceStub(self._channels["ledger"])

    def new_channel(self, service: str) -> grpc.Channel:
        """A connection to a service; see open_channel."""
        return open_channel(self.supervisor.target(service))

    def close(self) -> None:
        """Closes the clients; the processes stay."""
        for channel in self._channels.values():
            channel.close()

    def pids(self) -> dict[str, int]:
        """The services' processes."""
        return {service: self.supervisor.pid(service) for service in SERVICES}

    def pay(
        self, request: pb.CreatePaymentRequest, *, caller: str = "", timeout_s: float = 30
    ) -> payment_pb2.Payment:
        """CreatePayment. `caller`: of the metadata, where it is not left out."""
        metadata = (("paymesh-caller", caller),) if caller else ()
        return self.payments.CreatePayment(request, timeout=timeout_s, metadata=metadata).payment

    def get(self, payment_id: str) -> payment_pb2.Payment:
        """GetPayment by payment_id."""
        return self.payments.GetPayment(
            pb.GetPaymentRequest(payment_id=payment_id), timeout=10
        ).payment

    def paid(self, request: pb.CreatePaymentRequest) -> payment_pb2.Payment:
        """The payment as it rests, however long that takes."""
        return self.rested(self.pay(request).payment_id)

    def rested(self, payment_id: str, timeout_s: float = RESTS_WITHIN_S) -> payment_pb2.Payment:
        """The payment as soon as it is not PROCESSING any more."""
        found = self.get(payment_id)

        def rests() -> bool:
            nonlocal found
            found = self.get(payment_id)
            return found.state != payment_pb2.PAYMENT_STATE_PROCESSING

        eventually(rests, timeout_s)
        return found

    def captures(self, payment: payment_pb2.Payment) -> list[list[int]]:
        """For each order, the amounts that the stub really captured, by its own truth."""
        rows = self.ask(
            "psp_stub",
            "SELECT replace(order_id::text, '-', ''), amount_minor FROM truth"
            " WHERE state = 'CAPTURED' AND order_id = ANY (%s::uuid[])",
            [order.order_id for order in payment.orders],
        )
        return [
            [int(str(amount)) for order_id, amount in rows if order_id == order.order_id]
            for order in payment.orders
        ]

    def ask(self, service: str, question: str, *values: object) -> list[tuple[object, ...]]:
        """The rows of a query to a service's database, as the superuser."""
        with psycopg.connect(self.databases[service]) as connection:
            return connection.execute(question.encode(), values).fetchall()

    def count(self, service: str, question: str, *values: object) -> int:
        """The number that a query answers."""
        ((number,),) = self.ask(service, question, *values)
        return int(str(number))

    def violations(self, answers: Iterable[Told] = (), *, at_rest: bool = True) -> list[Violation]:
        """What breaks the invariants while nothing is under way; see checker.check."""
        return check(Urls.of(self.databases), answers, at_rest=at_rest)

    def unsettled(self) -> list[Violation]:
        """What is neither terminal nor parked with a reason."""
        return unsettled(Urls.of(self.databases))

    def log(self, service: str) -> str:
        """All that a service has logged."""
        return self.supervisor.log_path(service).read_text(errors="replace")


@contextmanager
def started(
    data_dir: Path,
    replicas: Mapping[str, int] = ONE_OF_EACH,
    /,
    *,
    postgres: PostgresServer | None,
    **settings: object,
) -> Iterator[RunningMesh]:
    """A mesh with SETTINGS and these; its databases are dropped at the end.

    postgres: on which it has databases of its own; None: it brings its own server.
    replicas: service → how many of it; one where it is not named.
    """
    supervisor = _start(data_dir, postgres, settings, replicas)
    running = RunningMesh(supervisor)
    try:
        yield running
    finally:
        running.close()
        supervisor.stop(immediate=True)
        if postgres is not None:
            _drop(postgres, supervisor.database_urls)


@contextmanager
def started_on(
    postgres: PostgresServer, replicas: Mapping[str, int] = ONE_OF_EACH, /, **settings: object
) -> Iterator[RunningMesh]:
    """The same in a temporary folder."""
    with (
        open_folder(in_memory=True) as folder,
        started(folder / "mesh", replicas, postgres=postgres, **settings) as running,
    ):
        yield running


@pytest.fixture(scope="session")
def mesh(postgres_server: PostgresServer) -> Iterator[RunningMesh]:
    """The mesh that the flow tests share: they keep apart by fresh ids."""
    with started_on(postgres_server) as running:
        yield running


def open_channel(target: str) -> grpc.Channel:
    """A channel that retries nothing by itself and comes back soon after a restart."""
    return grpc.insecure_channel(target, CHANNEL_OPTIONS)


def environment(**settings: object) -> dict[str, str]:
    """The settings as variables: `x_y` is PAYMESH_X_Y."""
    return {f"PAYMESH_{name.upper()}": str(value) for name, value in settings.items()}


def clean_environment() -> dict[str, str]:
    """Our environment without anything that would change a service."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PAYMESH_")}


def fresh(kind: str) -> str:
    """An id that nobody used: `buyer-1b9d…`."""
    return f"{kind}-{uuid.uuid4().hex}"


def eventually(
    condition: Callable[[], bool], timeout_s: float = RESTS_WITHIN_S, *, poll_s: float = _POLL_S
) -> None:
    """Asks every `poll_s` until the condition holds; fails after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s"
        time.sleep(poll_s)


def _start(
    data_dir: Path,
    postgres: PostgresServer | None,
    settings: Mapping[str, object],
    replicas: Mapping[str, int],
) -> Mesh:
    ports = REPLICA_STRIDE * max(replicas.values(), default=1)
    for attempt in range(1, _START_ATTEMPTS + 1):
        supervisor = Mesh(
            MeshConfig(
                data_dir=data_dir,
                port_base=free_port_base(ports),
                environment=clean_environment(),
                admin_url=None if postgres is None else postgres.admin_url,
                database_urls={} if postgres is None else _own_urls(postgres),
                settings=environment(**{**SETTINGS, **settings}),
                replicas=replicas,
            )
        )
        try:
            supervisor.start()
        except StartError:
            # Another test session on this machine may have been faster to take a port.
            if attempt == _START_ATTEMPTS:
                raise
        else:
            return supervisor
    raise AssertionError("unreachable")


def _own_urls(postgres: PostgresServer) -> dict[str, str]:
    prefix = f"mesh_{uuid.uuid4().hex[:12]}"
    return {
        service: f"postgresql://{prefix}_{service}_app:{secrets.token_hex(8)}"
        f"@127.0.0.1:{postgres.port}/{prefix}_{service}"
        for service in SERVICES
    }


def _as_superuser(admin_url: str, url: str) -> str:
    return f"{admin_url.rpartition('/')[0]}/{conninfo_to_dict(url)['dbname']}"


def _drop(postgres: PostgresServer, urls: Mapping[str, str]) -> None:
    with psycopg.connect(postgres.admin_url, autocommit=True) as connection:
        for url in urls.values():
            told = conninfo_to_dict(url)
            database, app = str(told["dbname"]), str(told["user"])
            connection.execute(
                sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(database))
            )
            for role in (app, f"{database}_owner"):
                with suppress(psycopg.Error):
                    connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))
