"""Where the parts of a mesh on one machine listen, from its port base on."""

from __future__ import annotations

import random
import socket
from collections.abc import Mapping, Sequence
from ipaddress import ip_address

HOST = "127.0.0.1"
DEFAULT_PORT_BASE = 50050

PORT_OFFSETS: Mapping[str, int] = {
    "payment": 1,
    "executor": 2,
    "wallet": 3,
    "ledger": 4,
    "psp_stub": 5,
}
POSTGRES_PORT_OFFSET = 6
METRICS_PORT_OFFSET = 10
"""A service's metrics are this many ports above its own: base + 11 to base + 15."""

_OFFSETS = (
    *PORT_OFFSETS.values(),
    POSTGRES_PORT_OFFSET,
    *(METRICS_PORT_OFFSET + offset for offset in PORT_OFFSETS.values()),
)
MAX_PORT_BASE = 65535 - max(_OFFSETS)

MAX_REPLICAS = 8
"""Of one service on one machine."""
REPLICA_STRIDE = 20
"""Replica n of a service listens REPLICA_STRIDE * n above the first one. What belongs to all
replicas of a number lies within the stride: + 1 to + 5 serve, + 11 to + 15 are for metrics."""

# Below the ports that systems give to outgoing connections.
_FREE_PORT_BASES = range(20_000, 32_000, 20)


def instance_name(service: str, number: int) -> str:
    """How a replica is called; number: from 0. `payment` is the first, `payment-1` the next."""
    return f"{service}-{number}" if number else service


def instance_parts(name: str) -> tuple[str, int]:
    """The service and the number of a replica's name."""
    service, _, number = name.partition("-")
    return service, int(number or 0)


def port_offset(service: str, number: int = 0) -> int:
    """What a replica's port is above the port base; number: from 0."""
    return PORT_OFFSETS[service] + REPLICA_STRIDE * number


def listed_target(host: str, ports: Sequence[int]) -> str:
    """What a caller of all these ports of a host connects to, to share its calls among them.

    Raises ValueError for several ports of a host that has a name, which gRPC can't list.
    """
    if len(ports) == 1:
        return f"{host}:{ports[0]}"
    address = ip_address(host.strip("[]"))
    listed = f"[{address}]" if address.version == 6 else str(address)
    return f"ipv{address.version}:" + ",".join(f"{listed}:{port}" for port in ports)


def max_port_base(replicas: Mapping[str, int]) -> int:
    """The highest port base whose ports all exist. replicas: service → how many."""
    offsets = [port_offset(service, count - 1) for service, count in replicas.items()]
    return (
        MAX_PORT_BASE
        if not offsets
        else min(MAX_PORT_BASE, 65535 - METRICS_PORT_OFFSET - max(offsets))
    )


def is_free(port: int) -> bool:
    """Whether a server could listen on the port now."""
    with socket.socket() as probe:
        # As servers do: connections that linger from an earlier run are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen()
        except OSError:
            return False
    return True


def free_port_base() -> int:
    """A port base of which all ports are free now. Raises OSError if there is none."""
    for base in random.sample(_FREE_PORT_BASES, len(_FREE_PORT_BASES)):
        if all(is_free(base + offset) for offset in _OFFSETS):
            return base
    raise OSError("there are no free ports")
