"""What the ladder does when time passes between its commit and its call."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from typing import Any

import pytest

from executor_svc.clients import Answers, Capabilities
from executor_svc.domain import Kind, NotFound, Operation, Stored
from executor_svc.ladder import Ladder, Run
from executor_svc.operations import MAY_SEND, Intent, Resend, Unresolved, Write, Written
from mesh import ids
from mesh.errors import MeshError, Reason

SAFE_S = 0.5


class _Psp:
    def __init__(self) -> None:
        self.calls: list[str] = []

    async def capabilities(self) -> Capabilities:
        return Capabilities("psp", SAFE_S)

    ask_capabilities = capabilities

    async def charge(
        self, items: Iterable[tuple[str, Operation]], timeout_s: float
    ) -> AsyncGenerator[Answers, None]:
        self.calls.append("charge")
        assert 0 < timeout_s <= SAFE_S
        for nothing in list[Answers]():
            yield nothing

    async def look_up(self, keys: Sequence[str]) -> AsyncGenerator[Answers, None]:
        self.calls.append("look_up")
        yield [(key, NotFound()) for key in keys]


class _Writer:
    """Commits at once, and then the whole process is stopped for a while, or not."""

    def __init__(
        self, stopped_after: type[Write] | None, stop: Callable[[float], None] = time.sleep
    ) -> None:
        self.stopped_after = stopped_after
        self.stop = stop
        self.written: list[Write] = []

    async def write(self, items: Sequence[Write], *, durable: bool) -> list[Written | MeshError]:
        self.written += items
        if self.stopped_after is not None and isinstance(items[0], self.stopped_after):
            self.stop(2 * SAFE_S)  # the loop stands still as well
        if isinstance(items[0], Intent | Resend):
            return [MAY_SEND for _ in items]
        return [MeshError(Reason.INTERNAL, "the end of the round") for _ in items]


async def round_of(psp: _Psp, writer: _Writer) -> None:
    """One round of a new operation."""
    ended = asyncio.Event()

    def finish(run: Run, result: Stored | MeshError) -> None:
        ended.set()

    ladder: Any = Ladder
    operation = Operation(
        uuid.uuid4(), uuid.uuid4(), uuid.uuid4(), Kind.CHARGE, 100, "EUR", "tok_ok"
    )
    run = Run(operation=operation, psp_key=ids.psp_key(operation.operation_id))
    intended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    ladder(None, writer, psp, psp_deadline_s=10, backoff_s=0, finish=finish).begin([run], intended)
    await asyncio.wait_for(asyncio.gather(intended, ended.wait()), 5)


async def test_each_send_is_followed_by_a_look_up_and_one_is_repeated() -> None:
    psp, writer = _Psp(), _Writer(stopped_after=None)
    await round_of(psp, writer)
    assert psp.calls == ["charge", "look_up", "charge", "look_up"]
    assert [type(write) for write in writer.written] == [Intent, Resend, Unresolved]


async def test_a_process_that_was_stopped_after_its_intent_does_not_send() -> None:
    """Another one may have sent meanwhile, and the PSP forgotten what it took."""
    psp = _Psp()
    await round_of(psp, _Writer(stopped_after=Intent))
    assert psp.calls == ["look_up", "charge", "look_up"]


async def test_a_process_that_was_stopped_after_its_resend_does_not_send() -> None:
    psp = _Psp()
    await round_of(psp, _Writer(stopped_after=Resend))
    assert psp.calls == ["charge", "look_up", "look_up"]


class _Machine:
    """Sleeps, with all that runs on it: only the clock that counts that goes on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.slept_s = 0.0
        clock = time.clock_gettime

        def clock_gettime(which: int) -> float:
            return clock(which) + (self.slept_s if which == time.CLOCK_BOOTTIME else 0.0)

        monkeypatch.setattr(time, "clock_gettime", clock_gettime)

    def suspend(self, seconds: float) -> None:
        self.slept_s += seconds


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="no clock here counts sleep")
async def test_a_machine_that_was_suspended_after_an_intent_does_not_send(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    psp, machine = _Psp(), _Machine(monkeypatch)
    await round_of(psp, _Writer(stopped_after=Intent, stop=machine.suspend))
    assert psp.calls == ["look_up", "charge", "look_up"]
