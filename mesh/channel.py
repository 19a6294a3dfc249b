"""The one way to open a channel to another service, and so the one wrapper for calls.

Every call with one request has a deadline: its own timeout, else what is left of the call
being served, else the channel's default. Standing streams have none: keepalive ends them
when the other side is gone. UNAVAILABLE is retried by gRPC itself (so a retried mutation
needs a key; all of ours have one), throttled so that retries never pile up on a service
that is down. Calls to the PSP are not retried: that belongs to the durable executor.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import grpc
from grpc.aio import ClientCallDetails, Metadata

from mesh import deadline, failpoints
from mesh.metrics import Calls

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
DEFAULT_TIMEOUT_S = 5.0

_RETRY_POLICY = {
    "maxAttempts": 4,
    "initialBackoff": "0.05s",
    "maxBackoff": "1s",
    "backoffMultiplier": 3,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
# Half of the tokens gone (ten failures in a row) stops retries until calls succeed again.
_RETRY_THROTTLING = {"maxTokens": 20, "tokenRatio": 0.2}


def open_channel(
    target: str, *, retries: bool = True, default_timeout_s: float = DEFAULT_TIMEOUT_S
) -> grpc.aio.Channel:
    """A channel to `target`: `host:port`, or several replicas, among which calls take turns.

    Those are `dns:///name:port`, or listed as in `ipv4:127.0.0.1:50052,127.0.0.1:50072`. One
    that is gone, or says NOT_SERVING, has no turn; a standing stream stays with one of them.
    """
    method_config: dict[str, object] = {"name": [{}]}
    if retries:
        method_config["retryPolicy"] = _RETRY_POLICY
    service_config = {
        "loadBalancingConfig": [{"round_robin": {}}],
        "healthCheckConfig": {"serviceName": ""},
        "methodConfig": [method_config],
        "retryThrottling": _RETRY_THROTTLING,
    }
    channel = grpc.aio.insecure_channel(
        target,
        options=[
            ("grpc.service_config", json.dumps(service_config)),
            ("grpc.enable_retries", int(retries)),
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.keepalive_timeout_ms", 10_000),
            # Without it a peer that is frozen, not gone, is waited for a minute longer.
            ("grpc.http2.ping_timeout_ms", 10_000),
            # A standing stream may be silent for hours; by default pings stop after two.
            ("grpc.http2.max_pings_without_data", 0),
            # Services are never behind a proxy of the environment.
            ("grpc.enable_http_proxy", 0),
            # A service that was restarted is back within a second: look often.
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 500),
            ("grpc.max_reconnect_backoff_ms", 1_000),
        ],
        interceptors=_deadlines(default_timeout_s),
    )
    points = failpoints.installed()
    return channel if points is None else points.channel(target, channel)


def _deadlines(default_timeout_s: float) -> Sequence[grpc.aio.ClientInterceptor]:
    def with_deadline(details: ClientCallDetails) -> ClientCallDetails:
        timeout = details.timeout
        if timeout is None:
            timeout = deadline.remaining_s()
        if timeout is None:
            timeout = default_timeout_s
        return ClientCallDetails(
            details.method,
            timeout,
            details.metadata or Metadata(),
            details.credentials,
            details.wait_for_ready,
        )

    return [_UnaryUnary(with_deadline), _UnaryStream(with_deadline)]


_Change = Callable[[ClientCallDetails], ClientCallDetails]


class _Counts:
    """Counts calls out. One is a list, so what a count costs is shared by its items."""

    def __init__(self, *, streams_out: bool) -> None:
        self._streams_out = streams_out
        self._calls: dict[str, Calls] = {}
        self._watching: set[asyncio.Task[None]] = set()

    def watch(self, method: str | bytes, call: Any) -> None:
        """Counts the call when it ends."""
        task = asyncio.create_task(self._ended(_name(method), call, time.perf_counter()))
        self._watching.add(task)  # the loop itself holds tasks weakly
        task.add_done_callback(self._watching.discard)

    async def _ended(self, method: str, call: Any, started: float) -> None:
        code = await call.code()
        calls = self._calls.get(method)
        if calls is None:
            calls = Calls.of_client(method, streams_out=self._streams_out)
            self._calls[method] = calls
        calls.ended(code.name, time.perf_counter() - started)


def _name(method: str | bytes) -> str:
    return (method.decode() if isinstance(method, bytes) else method).lstrip("/")


class _UnaryUnary(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self, change: _Change) -> None:
        self._change = change
        self._counts = _Counts(streams_out=False)

    async def intercept_unary_unary(
        self,
        continuation: Callable[[ClientCallDetails, Any], Any],
        client_call_details: ClientCallDetails,
        request: Any,
    ) -> Any:
        call = await continuation(self._change(client_call_details), request)
        self._counts.watch(client_call_details.method, call)
        return call


class _UnaryStream(grpc.aio.UnaryStreamClientInterceptor):
    def __init__(self, change: _Change) -> None:
        self._change = change
        self._counts = _Counts(streams_out=True)

    async def intercept_unary_stream(
        self,
        continuation: Callable[[ClientCallDetails, Any], Any],
        client_call_details: ClientCallDetails,
        request: Any,
    ) -> Any:
        call = await continuation(self._change(client_call_details), request)
        self._counts.watch(client_call_details.method, call)
        return call
