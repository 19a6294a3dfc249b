"""Asks a service of the mesh whether it serves: `python -m mesh.healthcheck PORT`.

Exits 0 if it says SERVING, 1 if it does not, 2 for a bad argument. For container
engines, which know no gRPC, and for whoever starts services and waits for them.
"""

from __future__ import annotations

import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

_TIMEOUT_S = 3.0


def is_serving(target: str, timeout_s: float = _TIMEOUT_S) -> bool:
    """Whether the server at `target` (`host:port`) says SERVING within `timeout_s` seconds."""
    with grpc.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            check = health_pb2_grpc.HealthStub(channel).Check  # type: ignore[attr-defined]
            answer: health_pb2.HealthCheckResponse = check(
                health_pb2.HealthCheckRequest(), timeout=timeout_s
            )
        except grpc.RpcError:
            return False
    return answer.status == health_pb2.HealthCheckResponse.SERVING


def main(arguments: list[str]) -> int:
    """Checks 127.0.0.1 on the port, or the `host:port`, that is the only argument."""
    if len(arguments) != 1 or not arguments[0].rpartition(":")[2].isdigit():
        sys.stderr.write("usage: python -m mesh.healthcheck PORT|HOST:PORT\n")
        return 2
    target = arguments[0] if ":" in arguments[0] else f"127.0.0.1:{arguments[0]}"
    if is_serving(target):
        return 0
    sys.stderr.write(f"{target} does not say SERVING\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
