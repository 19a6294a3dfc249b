"""A mesh that is played by a test: grpcio-testing's fake channels under the command line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc_testing
from google.protobuf.message import Message
from typer.testing import CliRunner, Result

from mesh.errors import MeshError
from mesh.status import trailing_metadata
from paymeshctl.main import app


@dataclass
class TakenCall:
    """A call that the command line made and that waits for the test's answer."""

    address: str
    metadata: dict[str, str]
    timeout_s: float | None
    request: Any
    _rpc: Any

    def answer(self, response: Message) -> None:
        """The mesh answers."""
        self._rpc.terminate(response, (), grpc.StatusCode.OK, "")

    def refuse(self, error: MeshError, code: grpc.StatusCode) -> None:
        """The mesh refuses, with details."""
        self._rpc.terminate(None, trailing_metadata(error), code, error.message)

    def break_off(self, code: grpc.StatusCode, details: str) -> None:
        """The way to the mesh breaks: a status without details."""
        self._rpc.terminate(None, (), code, details)


@dataclass
class TakenStream:
    """A call that waits for a stream of answers."""

    metadata: dict[str, str]
    timeout_s: float | None
    request: Any
    _rpc: Any

    def send(self, *responses: Message) -> None:
        """The mesh answers, and goes on."""
        for response in responses:
            self._rpc.send_response(response)

    def end(self) -> None:
        """The mesh has no more to say."""
        self._rpc.terminate((), grpc.StatusCode.OK, "")

    def refuse(self, error: MeshError, code: grpc.StatusCode) -> None:
        """The mesh ends with an error."""
        self._rpc.terminate(trailing_metadata(error), code, error.message)


@dataclass
class FakeMesh:
    """Stands in the place of all channels; the command line runs in a thread of its own."""

    timeouts: list[float | None] = field(default_factory=list)
    _channels: dict[str, Any] = field(default_factory=dict)
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))

    def open_channel(self, address: str) -> Any:
        """What client.open_channel is replaced by."""
        channel = grpc_testing.channel((), grpc_testing.strict_real_time())
        self._channels[address] = channel
        return _Recorder(channel, self.timeouts)

    def run(self, *arguments: str, env: dict[str, str] | None = None) -> Future[Result]:
        """Starts `paymesh …`; its result comes when the test has answered its calls."""
        return self._pool.submit(lambda: CliRunner().invoke(app, list(arguments), env=env))

    def take(self, run: Future[Result], address: str, method: Any) -> TakenCall:
        """The next call to a method (its descriptor) at an address."""
        while address not in self._channels:
            if run.done():
                raise AssertionError(f"it ended without a call: {run.result().output}")
        metadata, request, rpc = self._channels[address].take_unary_unary(method)
        rpc.send_initial_metadata(())
        return TakenCall(address, dict(metadata), self.timeouts[-1], request, rpc)

    def take_stream(self, run: Future[Result], address: str, method: Any) -> TakenStream:
        """The next call to a method that answers with a stream."""
        while address not in self._channels:
            if run.done():
                raise AssertionError(f"it ended without a call: {run.result().output}")
        metadata, request, rpc = self._channels[address].take_unary_stream(method)
        rpc.send_initial_metadata(())
        return TakenStream(dict(metadata), self.timeouts[-1], request, rpc)

    def close(self) -> None:
        """Ends the thread, which has no call left to wait for."""
        self._pool.shutdown(wait=False)

    @property
    def addresses(self) -> Sequence[str]:
        """Where channels were opened to."""
        return list(self._channels)


class _Recorder:
    """A fake channel that, unlike grpcio-testing's, remembers each call's deadline."""

    def __init__(self, channel: Any, timeouts: list[float | None]) -> None:
        self._channel = channel
        self._timeouts = timeouts

    def unary_unary(self, *arguments: Any, **named: Any) -> Callable[..., Any]:
        return self._recorded(self._channel.unary_unary(*arguments, **named))

    def unary_stream(self, *arguments: Any, **named: Any) -> Callable[..., Any]:
        return self._recorded(self._channel.unary_stream(*arguments, **named))

    def stream_unary(self, *arguments: Any, **named: Any) -> Callable[..., Any]:
        return self._recorded(self._channel.stream_unary(*arguments, **named))

    def stream_stream(self, *arguments: Any, **named: Any) -> Callable[..., Any]:
        return self._recorded(self._channel.stream_stream(*arguments, **named))

    def _recorded(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def recorded(request: Message, timeout: float | None = None, **more: Any) -> Any:
            self._timeouts.append(timeout)
            return call(request, timeout=timeout, **more)

        return recorded

    def close(self) -> None:
        self._channel.close()
