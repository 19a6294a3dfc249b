"""What surrounds every handler, outermost first: log, error guard, limit, deadline, validation.

One interceptor instead of five, because each costs some 30 µs a call and the order
matters more than the separation: a line is logged for what the guard answered, and what
validation refuses is an error like any other. Requests are read and answers are written
inside the guard, so that bytes that are no message have a typed answer too.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Set
from contextlib import aclosing
from typing import Any, TypeAlias

import grpc
import structlog
from google.protobuf.message import DecodeError

from mesh import deadline
from mesh.cards import refuse_card_numbers
from mesh.errors import MeshError, Reason, Violation, validation_failed
from mesh.metrics import Calls
from mesh.status import abort
from mesh.validation import check, check_size

log = structlog.get_logger()

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Continuation: TypeAlias = Callable[[grpc.HandlerCallDetails], Awaitable["Handler | None"]]

# When to come again after OVERLOADED, in seconds.
OVERLOADED_RETRY_S = 1.0

_MAX_LOGGED_FIELDS = 10


class ServiceInterceptor(grpc.aio.ServerInterceptor):
    """Wraps the handlers of the mesh's own services; health and reflection pass as they are.

    internal: full names of services that take lists of items, each validated by the
    servicer, so that a bad item never fails its neighbours. max_calls: calls under way at
    once; more are refused as OVERLOADED.
    """

    def __init__(self, internal: Set[str], max_calls: int = 2**31 - 1) -> None:
        """`internal` may still grow until the server starts."""
        self._internal = internal
        self._limit = _Limit(max_calls)
        self._wrapped: dict[str, Handler] = {}

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler | None:
        """The wrapped handler of the called method."""
        method: str = handler_call_details.method
        known = self._wrapped.get(method)
        if known is not None:
            return known
        handler = await continuation(handler_call_details)
        if handler is None or not method.startswith("/paymesh."):
            return handler
        wrapped = self._wrap(method.lstrip("/"), handler)
        self._wrapped[method] = wrapped
        return wrapped

    def _wrap(self, name: str, handler: Handler) -> Handler:
        validate = name.partition("/")[0] not in self._internal
        method = _Method(name, handler, self._limit, validate=validate)
        inner: Any  # the stubs know the handlers of synchronous servers only
        make: Any
        if handler.request_streaming and handler.response_streaming:
            inner, make = handler.stream_stream, grpc.stream_stream_rpc_method_handler
        elif handler.response_streaming:
            inner, make = handler.unary_stream, grpc.unary_stream_rpc_method_handler
        elif handler.request_streaming:
            inner, make = handler.stream_unary, grpc.stream_unary_rpc_method_handler
        else:
            inner, make = handler.unary_unary, grpc.unary_unary_rpc_method_handler
        surround: Any = method.streaming if handler.response_streaming else method.unary
        return make(  # type: ignore[no-any-return]
            surround(inner),
            # Of a stream, gRPC reads each message while the servicer iterates: inside.
            request_deserializer=method.parse if handler.request_streaming else None,
            response_serializer=None,
        )


class _Limit:
    """Counts calls under way. gRPC's own limit refuses without a reason."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._under_way = 0

    def __enter__(self) -> None:
        if self._under_way >= self._most:
            raise MeshError(
                Reason.OVERLOADED,
                "too many calls are under way: this call accepted nothing; of an earlier one with"
                " this request_id it says nothing: call again with the same request_id",
                retry_delay_s=OVERLOADED_RETRY_S,
            )
        self._under_way += 1

    def __exit__(self, *_: object) -> None:
        self._under_way -= 1


class _Method:
    """One RPC and what surrounds it."""

    def __init__(self, name: str, handler: Handler, limit: _Limit, *, validate: bool) -> None:
        self._name = name
        self._deserialize: Any = handler.request_deserializer
        self._serialize: Any = handler.response_serializer
        self._streams_requests = handler.request_streaming
        self._limit = limit
        self._validate = validate
        self._calls = Calls.of_server(
            name, streams_in=handler.request_streaming, streams_out=handler.response_streaming
        )

    def parse(self, raw: bytes) -> Any:
        """The request that the bytes are."""
        try:
            return self._deserialize(raw)
        except DecodeError:
            raise validation_failed(
                Violation("", "the request is not a message of this RPC's type")
            ) from None

    def unary(
        self, handler: Callable[[Any, Context], Awaitable[Any]]
    ) -> Callable[[Any, Context], Awaitable[Any]]:
        """The handler of an RPC with one answer, guarded."""

        async def guarded(request: Any, context: Context) -> Any:
            started = time.perf_counter()
            self._calls.started()
            try:
                with self._limit:
                    response = self._serialize(
                        await handler(self._prepare(request, context), context)
                    )
            except BaseException as error:
                await self._fail(context, error, started)
                raise  # only what _fail did not turn into an abort
            self._succeeded(started)
            return response

        return guarded

    def streaming(
        self, handler: Callable[[Any, Context], AsyncGenerator[Any, None]]
    ) -> Callable[[Any, Context], AsyncGenerator[Any, None]]:
        """The handler of an RPC with a stream of answers, guarded."""

        async def guarded(request: Any, context: Context) -> AsyncGenerator[Any, None]:
            started = time.perf_counter()
            self._calls.started()
            try:
                with self._limit:
                    # Closed here and now: left to the garbage collector, what a servicer
                    # does when its caller has gone would happen at some later time.
                    async with aclosing(
                        handler(self._prepare(request, context), context)
                    ) as responses:
                        async for response in responses:
                            yield self._serialize(response)
            except GeneratorExit:
                self._cancelled(started)
                raise
            except BaseException as error:
                await self._fail(context, error, started)
                raise
            self._succeeded(started)

        return guarded

    def _prepare(self, request: Any, context: Context) -> Any:
        """What the handler takes: a valid message, or the stream as it is."""
        deadline.set_remaining(context.time_remaining())
        if self._streams_requests:
            return request
        if not self._validate:
            return self.parse(request)
        # Before it is parsed: a message can take a hundred times the room of its bytes.
        error = check_size(len(request))
        if error is None:
            message = self.parse(request)
            error = check(message) or refuse_card_numbers(message)
            if error is None:
                return message
        raise error

    def _succeeded(self, started: float) -> None:
        log.debug("call", method=self._name, code="OK", ms=self._ended("OK", started))

    async def _fail(self, context: Context, error: BaseException, started: float) -> None:
        """Ends the call with a typed error; returns only if the error must pass as it is."""
        if isinstance(error, grpc.aio.AbortError):
            # The servicer ended the call itself, or something that it called.
            refused = context.code()
            code = getattr(refused, "name", str(refused))
            ms = self._ended(code, started)
            log.info("call_refused", method=self._name, code=code, reason="", ms=ms)
            return
        if isinstance(error, asyncio.CancelledError):
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                self._cancelled(started)
                return
            # An inner task was cancelled, not the call: unanswered, the client would hang.
            error = MeshError(Reason.OUTCOME_UNKNOWN, "the work was interrupted; call again")
        if not isinstance(error, Exception):
            self._ended("UNKNOWN", started)
            return
        if not isinstance(error, MeshError) or _is_unlogged_bug(error):
            await abort(context, crashed(self._name, error, self._ended("INTERNAL", started)))
        peer_code = ""
        if not error.reason:
            # A call on behalf of this one ended without a clear answer, and so does this one.
            peer_code = error.code.name
            error = MeshError(
                Reason.OUTCOME_UNKNOWN, "a part of the work has no clear outcome; call again"
            )
        self._refused(error, started, peer_code)
        await abort(context, error)

    def _refused(self, error: MeshError, started: float, peer_code: str) -> None:
        facts: dict[str, object] = {"reason": error.reason.value}
        if error.violations:
            facts["fields"] = [v.field for v in error.violations[:_MAX_LOGGED_FIELDS]]
        if peer_code:
            facts["peer_code"] = peer_code
        code = error.code.name
        ms = self._ended(code, started)
        log.info("call_refused", method=self._name, code=code, **facts, ms=ms)

    def _cancelled(self, started: float) -> None:
        """The client has gone, or its time is up."""
        log.info("call_cancelled", method=self._name, ms=self._ended("CANCELLED", started))

    def _ended(self, code: str, started: float) -> float:
        """Counts the call; answers how long it took, in milliseconds."""
        seconds = time.perf_counter() - started
        self._calls.ended(code, seconds)
        return round(seconds * 1000, 1)


def _is_unlogged_bug(error: MeshError) -> bool:
    return error.reason is Reason.INTERNAL and "error_id" not in error.metadata


def crashed(method: str, error: Exception, ms: float) -> MeshError:
    """The answer to a bug: where to find it in the log, and nothing of what it is.

    ms: how long the work took.
    """
    error_id = uuid.uuid4().hex
    log.error(
        "call_crashed", method=method, code="INTERNAL", error_id=error_id, ms=ms, exc_info=error
    )
    return MeshError(
        Reason.INTERNAL, f"an internal error, logged as {error_id}", {"error_id": error_id}
    )
