"""Where the parts of a mesh on one machine listen, from its port base on."""

from __future__ import annotations

import random
import socket
from collections.abc import Mapping

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

# Below the ports that systems give to outgoing connections.
_FREE_PORT_BASES = range(20_000, 32_000, 20)


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
