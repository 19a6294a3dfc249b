"""What the supervisor tells PostgreSQL and the services, without starting them."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ledger_svc.main import RECONCILIATION_CONNECTIONS
from mesh.db import POOL_SIZE
from mesh.embedded import EmbeddedConfig
from paymeshctl import supervisor
from paymeshctl.ports import MAX_REPLICAS, PORT_OFFSETS
from paymeshctl.supervisor import Mesh, MeshConfig, StartError


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> list[EmbeddedConfig]:
    """With what an embedded PostgreSQL would have been started."""
    started: list[EmbeddedConfig] = []

    class Embedded:
        def __init__(self, config: EmbeddedConfig) -> None:
            started.append(config)

        def start(self) -> None: ...

    monkeypatch.setattr(supervisor, "EmbeddedPostgres", Embedded)
    return started


def mesh_of(replicas: Mapping[str, int], **environment: str) -> Mesh:
    mesh = Mesh(MeshConfig(Path("/nowhere"), 50050, environment, replicas=replicas))
    mesh.database_urls = dict.fromkeys(PORT_OFFSETS, "postgresql://role@host/database")
    return mesh


@pytest.mark.parametrize(
    ("replicas", "processes", "ledgers"),
    [
        ({}, 5, 1),
        ({"payment": 2}, 6, 1),
        ({"payment": 0, "ledger": 0}, 3, 0),
        ({"ledger": MAX_REPLICAS}, 4 + MAX_REPLICAS, MAX_REPLICAS),
        (dict.fromkeys(PORT_OFFSETS, MAX_REPLICAS), 40, MAX_REPLICAS),
    ],
)
def test_postgresql_has_a_connection_for_everybody(
    embedded: list[EmbeddedConfig], replicas: Mapping[str, int], processes: int, ledgers: int
) -> None:
    mesh_of(replicas)._start_postgres()
    (config,) = embedded
    connections = int(config.settings["max_connections"])
    # Each has two pools: of transactions, and of statements that are one in themselves. A ledger
    # has two more, for its reconciliation.
    needed = 2 * POOL_SIZE * processes + 2 * RECONCILIATION_CONNECTIONS * ledgers
    assert connections >= max(200, needed + 30)


class Troubled:
    """A PostgreSQL that runs, on a disk that is full."""

    polls = 0

    def poll(self) -> int | None:
        self.polls += 1
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_log_that_can_t_be_tidied_ends_nothing_and_is_told_once() -> None:
    told: list[str] = []
    mesh = Mesh(MeshConfig(Path("/nowhere"), 50050, {}), say=told.append)
    mesh._postgres = troubled = Troubled()  # type: ignore[assignment]
    for _ in range(3):
        mesh.poll()
    assert troubled.polls == 3
    assert told == ["PostgreSQL's log is not kept small: No space left on device"]


class Dead:
    """A PostgreSQL that died, and can't be started where the disk is full."""

    starts = 0

    def poll(self) -> int | None:
        return 1

    def start(self) -> None:
        self.starts += 1
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_postgresql_that_finds_no_room_is_started_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "_backoff_s", lambda _deaths: 0.0)
    told: list[str] = []
    mesh = Mesh(MeshConfig(Path("/nowhere"), 50050, {}), say=told.append)
    mesh._postgres = dead = Dead()  # type: ignore[assignment]
    for _ in range(4):
        mesh.poll()
    assert dead.starts == 2
    assert told[1] == "PostgreSQL can't be started: No space left on device"


def test_callers_are_told_of_all_replicas_and_everybody_of_how_many_there_are() -> None:
    mesh = mesh_of({"executor": 2, "wallet": 3})
    settings: dict[str, Any] = mesh._environment("payment")
    assert settings["PAYMESH_PAYMENT_PORT"] == "50051"
    assert settings["PAYMESH_PAYMENT_EXECUTOR_TARGET"] == "ipv4:127.0.0.1:50052,127.0.0.1:50072"
    assert settings["PAYMESH_PAYMENT_WALLET_TARGET"].count(",") == 2
    assert settings["PAYMESH_PAYMENT_LEDGER_TARGET"] == "127.0.0.1:50054"
    assert (
        settings["PAYMESH_PAYMENT_REPLICAS"] == "payment=1,executor=2,wallet=3,ledger=1,psp_stub=1"
    )
    second = mesh._environment("executor-1")
    assert second["PAYMESH_EXECUTOR_PORT"] == "50072"
    assert second["PAYMESH_EXECUTOR_REPLICAS"] == settings["PAYMESH_PAYMENT_REPLICAS"]


def test_a_service_that_is_left_out_is_not_counted_and_called_where_it_would_be() -> None:
    mesh = mesh_of({"payment": 0, "psp_stub": 0, "wallet": 2})
    assert mesh.instances(*PORT_OFFSETS) == ["executor", "wallet", "wallet-1", "ledger"]
    settings = mesh._environment("executor")
    assert settings["PAYMESH_EXECUTOR_PSP_TARGET"] == "127.0.0.1:50055"
    assert settings["PAYMESH_EXECUTOR_REPLICAS"] == "executor=1,wallet=2,ledger=1"


def test_a_target_of_the_users_goes_before_ours() -> None:
    mine = "dns:///executors:50052"
    mesh = mesh_of({"executor": 2}, PAYMESH_PAYMENT_EXECUTOR_TARGET=mine)
    assert mesh._environment("payment")["PAYMESH_PAYMENT_EXECUTOR_TARGET"] == mine


@pytest.mark.parametrize(
    ("host", "target"),
    [
        ("0.0.0.0", "ipv4:127.0.0.1:50053,127.0.0.1:50073"),
        ("::", "ipv4:127.0.0.1:50053,127.0.0.1:50073"),
        ("::1", "ipv6:[::1]:50053,[::1]:50073"),
    ],
)
def test_replicas_on_other_addresses(host: str, target: str) -> None:
    assert mesh_of({"wallet": 2}, PAYMESH_WALLET_HOST=host).targets("wallet") == target


def test_replicas_of_a_named_host_are_refused() -> None:
    mesh = mesh_of({"wallet": 2}, PAYMESH_WALLET_HOST="localhost")
    with pytest.raises(StartError, match="PAYMESH_WALLET_HOST is 'localhost'") as refused:
        mesh._environment("payment")
    assert refused.value.bad_settings
    assert mesh_of({}, PAYMESH_WALLET_HOST="localhost").targets("wallet") == "localhost:50053"
