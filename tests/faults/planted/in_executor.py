"""Bugs of executor_svc: what is sent to the PSP, and what is made of its answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing
from typing import Any
from uuid import uuid4

from sqlalchemy.ext.asyncio import AsyncConnection

from executor_svc import clients, domain, operations, store
from executor_svc.clients import Answers, Psp
from executor_svc.domain import Answer, DeclineCategory, Finding, Operation, Outcome, Source
from executor_svc.ladder import Ladder, Run
from mesh.db import Database, _Conflict
from mesh.errors import Code, MeshError
from tests.faults.planted.plant import Patch, swap

_UNTIL_TOO_LATE_S = 0.01


def intent_after_call(patch: Patch) -> None:
    """(4) intent stored after the PSP call: what is new is charged, and then written down."""
    real = Ladder._begin

    async def begin(self: Ladder, runs: list[Run], intended: asyncio.Future[None]) -> None:
        known = await operations.find(self._database, [r.operation.operation_id for r in runs])
        new = [run for run in runs if run.operation.operation_id not in known]
        if new:
            await _charged(self._psp, [(run.psp_key.hex, run.operation) for run in new])
        await real(self, runs, intended)

    patch.setattr(Ladder, "_begin", begin)


async def _charged(psp: Psp, items: list[tuple[str, Operation]]) -> None:
    try:
        async with aclosing(psp.charge(items, 1.0)) as answers:
            async for _ in answers:
                pass
    except MeshError:
        return  # the ladder asks again


def new_key_on_resend(patch: Patch) -> None:
    """(5) new PSP key on a resend: each send has a key of its own."""
    real = Ladder._send

    def send(self: Ladder, runs: list[Run], send_by: float, *, first_call: bool) -> None:
        for run in runs if not first_call else ():
            run.psp_key = uuid4()
        real(self, runs, send_by, first_call=first_call)

    patch.setattr(Ladder, "_send", send)


def timeout_is_decline(patch: Patch) -> None:
    """(6) timeout recorded as decline: who did not answer in time is taken to have refused."""
    _failure_is_decline(patch, Code.DEADLINE_EXCEEDED)


def unavailable_is_decline(patch: Patch) -> None:
    """(7) UNAVAILABLE of the PSP recorded as decline: of a call, or of an item in its answer."""
    _failure_is_decline(patch, Code.UNAVAILABLE)
    real = clients._error

    def error(status: Any) -> Answer:
        answer = real(status)
        unavailable = answer == domain.NoAnswer(Code.UNAVAILABLE.name)
        return _declined("unavailable") if unavailable else answer

    patch.setattr(clients, "_error", error)


def _failure_is_decline(patch: Patch, code: Code) -> None:
    real = Psp.charge

    async def charge(
        self: Psp, items: Iterable[tuple[str, Operation]], timeout_s: float
    ) -> AsyncGenerator[Answers, None]:
        asked = list(items)
        unanswered = {key for key, _ in asked}
        try:
            async for answers in real(self, asked, timeout_s):
                unanswered -= {key for key, _ in answers}
                yield answers
        except MeshError as error:
            if error.code is not code:
                raise
            yield [(key, _declined(code.name)) for key in unanswered]

    patch.setattr(Psp, "charge", charge)


def _declined(code: str) -> Answer:
    return domain.Declined(DeclineCategory.GENERIC, code, "")


def forgotten_is_never_charged(patch: Patch) -> None:
    """(8) "not found" after the key window taken as never charged: the order is declined."""
    patch.setattr(
        operations,
        "FORGOTTEN",
        Finding(
            Outcome.DECLINED,
            Source.PSP_LOOK_UP,
            decline_category=DeclineCategory.GENERIC,
            decline_code="never_charged",
        ),
    )


def resent_too_late(patch: Patch) -> None:
    """(9) resend past the window: nobody asks whether the PSP still remembers the key."""
    swap(
        patch,
        store,
        "_MARK_RESENT",
        ("AND paymesh_now() < o.first_send_time + make_interval(secs => x.safe_seconds)", ""),
    )


def timeout_overwrites(patch: Patch) -> None:
    """(10) a late timeout overwrites a capture: its answer does not stop a call's timer.

    And what the timer writes asks for no state.
    """
    real = Ladder._charged

    def charged(
        self: Ladder, answered: Answers, waiting: dict[str, Run], *args: Any, **more: Any
    ) -> None:
        runs = [waiting[key] for key, _ in answered if key in waiting]
        real(self, answered, waiting, *args, **more)
        asyncio.get_running_loop().call_later(
            _UNTIL_TOO_LATE_S, lambda: self._leave_unknown(runs, not_found=False)
        )

    patch.setattr(Ladder, "_charged", charged)
    swap(
        patch,
        store,
        "_RECORD",
        ("AND (x.origins >> o.state) & 1 = 1", ""),
        ("AND (o.captured_minor IS NULL OR x.captured_minor IS NOT NULL)", ""),
    )


def call_repeated(patch: Patch) -> None:
    """(26) a serialization retry repeats the call: the charge is part of what is tried again."""
    real_charge, real_once = Psp.charge, Database._once
    last: list[tuple[Psp, list[Operation]]] = []

    async def charge(
        self: Psp, items: Iterable[tuple[str, Operation]], timeout_s: float
    ) -> AsyncGenerator[Answers, None]:
        asked = list(items)
        last[:] = [(self, [operation for _, operation in asked])]
        async for answers in real_charge(self, asked, timeout_s):
            yield answers

    async def once(
        self: Database, name: str, work: Callable[[AsyncConnection], Awaitable[Any]], mode: Any
    ) -> Any:
        try:
            return await real_once(self, name, work, mode)
        except _Conflict:
            if name == "executor.write" and last:
                psp, asked = last[0]
                await _charged(psp, [(uuid4().hex, operation) for operation in asked])
            raise

    patch.setattr(Psp, "charge", charge)
    patch.setattr(Database, "_once", once)


def wrong_amount_as_ordered(patch: Patch) -> None:
    """(30) wrong captured amount booked as ordered: whatever was taken is what was asked."""
    real = domain.judge

    def judge(
        operation: Operation, answer: Answer, source: Source, *, first_call: bool
    ) -> Finding | None:
        if isinstance(answer, domain.Captured):
            answer = answer._replace(amount=operation.amount)
        return real(operation, answer, source, first_call=first_call)

    patch.setattr(domain, "judge", judge)
