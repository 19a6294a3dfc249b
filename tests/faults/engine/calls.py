"""Channels whose calls can be lost, doubled and late."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Never

import grpc

from tests.faults.engine.faults import Kind
from tests.support.passing_channel import PassingChannel

if TYPE_CHECKING:
    from tests.faults.engine.process import Life

SLOW_S = 0.03
"""Within every deadline."""
TOO_SLOW_S = 0.05
"""After its caller gave up: it is told so at once, and this is when the request arrives."""
_ENDS_WITHIN_S = 10.0
"""Longer than any deadline of a mesh of these."""


class FailingChannel(PassingChannel):
    """A channel of a life, to one service. Calls fail by the interface that stubs use."""

    def __init__(self, real: grpc.aio.Channel, owner: Life, target: str) -> None:
        super().__init__(real)
        self._life = owner
        self._target = target

    def unary_unary(self, method: str, *args: Any, **more: Any) -> Any:
        real: Any = self._real.unary_unary(method, *args, **more)

        def call(request: Any, **options: Any) -> Awaitable[Any]:
            return asyncio.ensure_future(self._once(method, lambda: real(request, **options)))

        return call

    def stream_unary(self, method: str, *args: Any, **more: Any) -> Any:
        real: Any = self._real.stream_unary(method, *args, **more)

        async def again(requests: Any, **options: Any) -> Any:
            # All of it is read, so that it can be sent twice.
            told = [request async for request in _each(requests)]
            return await self._once(method, lambda: real(iter(told), **options))

        return lambda requests, **options: asyncio.ensure_future(again(requests, **options))

    def unary_stream(self, method: str, *args: Any, **more: Any) -> Any:
        real: Any = self._real.unary_stream(method, *args, **more)

        def call(request: Any, **options: Any) -> _Responses:
            responses = _Responses()
            arrives = self._life.mesh.sent(request)
            responses.come = self._streamed(method, lambda: real(arrives, **options), responses)
            return responses

        return call

    def stream_stream(self, method: str, *args: Any, **more: Any) -> Any:
        real: Any = self._real.stream_stream(method, *args, **more)

        def call(requests: Any, **options: Any) -> _Responses:
            standing = _Standing(self, method, real, requests, options)
            responses = _Responses()
            responses.come = standing.responses(responses)
            return responses

        return call

    async def fault(self, method: str) -> Kind | None:
        """Passes the point of a call; the fault that happens to it."""
        await self._life.lives()
        mesh = self._life.mesh
        callee = mesh.callee(self._target)
        fault = mesh.at(f"{self._life.service}>{callee} {method.rpartition('/')[2]}")
        if fault is None:
            return None
        if fault.kind is Kind.PAUSED:
            mesh.pause(callee)
        return fault.kind

    def later(self, work: Callable[[], Awaitable[object]]) -> None:
        """See Surroundings."""
        self._life.mesh.later(work)

    def beside(self, work: Awaitable[object]) -> None:
        """See Surroundings."""
        self._life.mesh.beside(work)

    async def lives(self) -> None:
        """See Life."""
        await self._life.lives()

    async def _once(self, method: str, call: Callable[[], Awaitable[Any]]) -> Any:
        kind = await self.fault(method)
        match kind:
            case Kind.REQUEST_LOST:
                lost()
            case Kind.TOO_SLOW:
                self.beside(_after(TOO_SLOW_S, call))
                given_up()
            case Kind.SLOW:
                await asyncio.sleep(SLOW_S)
            case Kind.DUPLICATED:
                self.beside(call())
            case _:
                pass
        try:
            answer = await call()
        finally:
            await self.lives()
        if kind is Kind.ANSWER_LOST:
            lost()
        if kind is Kind.LATE_DUPLICATE:
            self.later(call)
        return answer

    async def _streamed(
        self, method: str, call: Callable[[], AsyncIterator[Any]], told: _Responses
    ) -> AsyncIterator[Any]:
        kind = await self.fault(method)
        match kind:
            case Kind.REQUEST_LOST:
                lost()
            case Kind.TOO_SLOW:
                self.beside(_after(TOO_SLOW_S, lambda: _read(call())))
                given_up()
            case Kind.SLOW:
                await asyncio.sleep(SLOW_S)
            case Kind.DUPLICATED:
                self.beside(_read(call()))
            case Kind.LATE_DUPLICATE:
                self.later(lambda: _read(call()))
            case _:
                pass
        told.real = responses = call()
        try:
            async for response in responses:
                await self.lives()
                if kind is not Kind.ANSWER_LOST:
                    yield response
            if kind is Kind.ANSWER_LOST:
                lost()
        finally:
            told.cancel()


class _Standing:
    """A stream both ways: each request on it is a call."""

    def __init__(
        self, channel: FailingChannel, method: str, real: Any, requests: Any, options: Any
    ) -> None:
        self._channel = channel
        self._method = method
        self._real = real
        self._requests = requests
        self._options = options
        self._broken = asyncio.get_running_loop().create_future()
        self._deaf = False

    async def responses(self, told: _Responses) -> AsyncIterator[Any]:
        """What the callee says, until the stream breaks."""
        told.real = self._real(self._passing(), **self._options)
        come = aiter(told.real)
        try:
            while True:
                response = asyncio.ensure_future(anext(come, None))
                await asyncio.wait({response, self._broken}, return_when=asyncio.FIRST_COMPLETED)
                await self._channel.lives()
                if self._broken.done():
                    response.cancel()
                    lost()
                message = await response
                if message is None:
                    return
                if self._deaf:
                    lost()
                yield message
        finally:
            told.cancel()
            if not self._broken.done():
                self._broken.cancel()

    async def _passing(self) -> AsyncIterator[Any]:
        async for request in self._requests:
            kind = await self._channel.fault(self._method)
            again = self._alone(request)
            match kind:
                case Kind.REQUEST_LOST:
                    self._broken.set_result(None)
                    return
                case Kind.ANSWER_LOST:
                    self._deaf = True
                case Kind.DUPLICATED:
                    yield request
                case Kind.LATE_DUPLICATE:
                    self._channel.later(again)
                case Kind.SLOW:
                    await asyncio.sleep(SLOW_S)
                case Kind.TOO_SLOW:
                    # Its caller has given the stream up, and the callee reads it all the same.
                    self._channel.beside(_after(TOO_SLOW_S, again))
                    self._broken.set_result(None)
                    return
                case _:
                    pass
            yield request

    def _alone(self, request: Any) -> Callable[[], Awaitable[object]]:
        async def only() -> AsyncIterator[Any]:
            yield request

        return lambda: _read(self._real(only(), timeout=1))


class _Responses:
    """What a stub's streaming call answers: iterated once, and cancelled."""

    def __init__(self) -> None:
        self.come: AsyncIterator[Any]
        self.real: Any = None
        """The call, if there is one yet."""

    def __aiter__(self) -> AsyncIterator[Any]:
        return self.come

    def cancel(self) -> None:
        """The caller has heard enough."""
        if self.real is not None:
            self.real.cancel()


def lost() -> Never:
    """The network says that the other side can't be reached, whatever it has done."""
    raise _error(grpc.StatusCode.UNAVAILABLE, "injected: connection lost")


def given_up() -> Never:
    """The caller's time is over."""
    raise _error(grpc.StatusCode.DEADLINE_EXCEEDED, "injected: deadline exceeded")


def _error(code: grpc.StatusCode, details: str) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details)


async def _after(seconds: float, call: Callable[[], Awaitable[object]]) -> object:
    await asyncio.sleep(seconds)
    return await call()


async def _read(responses: AsyncIterator[Any]) -> None:
    # Its deadline ends it much sooner. Only of a call whose process was killed meanwhile, and so
    # its channel, gRPC may now and then tell nobody that it has ended.
    with suppress(TimeoutError):
        async with asyncio.timeout(_ENDS_WITHIN_S):
            async for _ in responses:
                pass


async def _each(requests: Any) -> AsyncIterator[Any]:
    if hasattr(requests, "__aiter__"):
        async for request in requests:
            yield request
    else:
        for request in requests:
            yield request
