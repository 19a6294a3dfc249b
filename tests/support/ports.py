"""Ports for servers of tests."""

import random
import socket

# Below the range from which systems take the ports of outgoing connections, which could
# otherwise take a port between our look and the server's start.
_FIRST, _LAST = 20_000, 32_000
_ATTEMPTS = 200


def free_port() -> int:
    """A port on 127.0.0.1 that nobody listens on now; somebody may before you do."""
    return free_port_base(count=1) + 1


def free_port_base(count: int = 15) -> int:
    """A number N so that nobody listens on the ports N+1 to N+`count` of 127.0.0.1 now."""
    for _ in range(_ATTEMPTS):
        base = random.randrange(_FIRST, _LAST - count)
        if all(is_free(base + position) for position in range(1, count + 1)):
            return base
    raise RuntimeError(f"found no {count} free ports in a row in {_ATTEMPTS} attempts")


def is_free(port: int) -> bool:
    """Whether a server could listen on the port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen()
        except OSError:
            return False
    return True
