"""One round of operations at the PSP: intent, send, and the ladder for what is unknown.

    begin ─▶ intent committed ──new──▶ charge ──no evidence──▶ look up ──not found──┐
                     │                   ▲                     ▲  │                 │
                     └─there, unresolved─┼─────────────────────┘  │   resend committed, once a
                                         └────────────────────────┼── round, while the PSP
    finish ◀─ outcome committed ◀───── evidence, or none in the end   surely remembers the key

payment_svc owns the schedule: an operation that ends a round unknown, pending or parked is
submitted again later and looked up first. So is one whose process died, because its row
says SENT and no run of it is here.

Runs travel in lists, and the tasks here handle lists. What waits for the PSP holds neither
a connection nor a transaction.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Coroutine, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import structlog

from executor_svc import domain, operations
from executor_svc.clients import Answers, Capabilities, Psp, Unreadable
from executor_svc.domain import (
    RESTING,
    Answer,
    Finding,
    NotFound,
    Operation,
    Source,
    State,
    Stored,
)
from executor_svc.operations import Found, Intent, MaySend, Resend, Unresolved, Write, Written
from mesh import tracing
from mesh.batching import MAX_LIST_ITEMS, Writer
from mesh.clock import elapsed_s
from mesh.db import CommitUnknown, Database, NotCommitted
from mesh.errors import MeshError, Reason, outcome_unknown
from mesh.tracing import Part

log = structlog.get_logger()


@dataclass(slots=True, eq=False, kw_only=True)
class Run:
    """One round of one operation. detail: what came instead of evidence, for people.

    restart: whether an operator asked for the round, so that what is parked is no end of it.
    """

    operation: Operation
    psp_key: UUID
    restart: bool = False
    resent: bool = False
    detail: str = ""

    def note(self, step: str, why: str) -> None:
        """Adds what came instead of evidence."""
        self.detail = f"{self.detail}{'; ' if self.detail else ''}{step}: {why}"


Finish = Callable[[Run, Stored | MeshError], None]


class Ladder:
    """Takes runs through their round. Belongs to one event loop."""

    def __init__(
        self,
        database: Database,
        writer: Writer[Write, Written],
        psp: Psp,
        *,
        psp_deadline_s: float,
        backoff_s: float,
        finish: Finish,
    ) -> None:
        """psp_deadline_s: for a charge. backoff_s: at most, before a look-up.

        finish: is called at the end of each run, at least once, when what it says is
        committed.
        """
        self._database = database
        self._writer = writer
        self._psp = psp
        self._psp_deadline_s = psp_deadline_s
        self._backoff_s = backoff_s
        self._finish = finish
        self._uncertain: list[Run] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, runs: list[Run], intended: asyncio.Future[None]) -> None:
        """Starts a round; the runs end through `finish`, whatever becomes of the caller.

        intended: is given its result when the intents are committed, or refused.
        """
        if runs:
            self._spawn(self._begin(runs, intended), runs)
        else:
            intended.set_result(None)

    async def _begin(self, runs: list[Run], intended: asyncio.Future[None]) -> None:
        """Stores the intents; what is new is sent, what was waiting is looked up."""
        try:
            capabilities = await self._psp.capabilities()
            send_by = elapsed_s() + capabilities.safe_s
            started_ns = time.time_ns()
            results = await self._writer.write(
                [Intent(run.operation, run.psp_key, capabilities.source) for run in runs],
                durable=False,
            )
        except MeshError as error:  # of the capabilities: without them nothing can be sent
            await self._tell_resting(runs, error)
            return
        finally:
            intended.set_result(None)
        new: list[Run] = []
        waiting: list[Run] = []
        elsewhere: list[Run] = []
        for run, result in zip(runs, results, strict=True):
            if isinstance(result, MaySend):
                new.append(run)
            elif not self._settle(run, result):
                is_elsewhere = _is_elsewhere(run, "look-up", result, capabilities)
                (elsewhere if is_elsewhere else waiting).append(run)
        tell("intent", started_ns, new)
        self._leave_unknown(elsewhere, not_found=False, elsewhere=True)
        self._look_up(waiting)
        self._send(new, send_by, first_call=True)

    async def _tell_resting(self, runs: list[Run], error: MeshError) -> None:
        """Answers from the rows what needs no PSP; the error answers the rest."""
        try:
            stored = await operations.find(
                self._database, [run.operation.operation_id for run in runs]
            )
        except MeshError as failed:
            stored, error = {}, failed
        for run in runs:
            if not self._settle(run, stored.get(run.operation.operation_id, error)):
                self._finish(run, error)

    def _settle(self, run: Run, result: Written | MeshError) -> bool:
        """Ends the run if the row, or an error, answers it as it is."""
        if isinstance(result, Stored):
            if fields := domain.differences(run.operation, result.operation):
                result = conflict(fields)
            elif result.state not in RESTING or (run.restart and result.state is State.PARKED):
                return False
        self._end(run, result)
        return True

    def _send(self, runs: list[Run], send_by: float, *, first_call: bool) -> None:
        for part in _parts(runs):
            self._spawn(self._charge(part, send_by, first_call=first_call), part)

    async def _charge(self, runs: Sequence[Run], send_by: float, *, first_call: bool) -> None:
        """Makes one call; what has no evidence at its end is looked up.

        send_by: by the clock of elapsed_s, when the call must be over, because from then on the
        PSP may have forgotten what it took for another call under the same key. So a
        process that was stopped for long after its commit does not send any more.
        """
        waiting = {run.psp_key.hex: run for run in runs}
        timeout_s = min(self._psp_deadline_s, send_by - elapsed_s())
        why = "no answer"
        started_ns = time.time_ns()
        try:
            if timeout_s > 0:
                items = [(run.psp_key.hex, run.operation) for run in runs]
                async with aclosing(self._psp.charge(items, timeout_s)) as answers:
                    async for answered in answers:
                        self._charged(answered, waiting, started_ns, first_call=first_call)
        except MeshError as error:
            why = error.code.name
        for run in waiting.values():
            run.note("charge", why)
        tell("charge", started_ns, waiting.values(), why)
        self._look_up_soon(list(waiting.values()))

    def _charged(
        self, answered: Answers, waiting: dict[str, Run], started_ns: int, *, first_call: bool
    ) -> None:
        found: list[tuple[Run, Finding]] = []
        uncertain: list[Run] = []
        for run, answer in _taken(answered, waiting):
            finding = domain.judge(run.operation, answer, Source.PSP_ANSWER, first_call=first_call)
            if finding is not None:
                found.append((run, finding))
            else:
                run.note("charge", domain.why_unknown(answer))
                uncertain.append(run)
        tell("charge", started_ns, [run for run, _ in found])
        tell("charge", started_ns, uncertain, "no evidence")
        self._record(found)
        self._look_up_soon(uncertain)

    def _look_up_soon(self, runs: list[Run]) -> None:
        """Looks up after the backoff, together with what became uncertain meanwhile."""
        if runs and not self._uncertain:
            asyncio.get_running_loop().call_later(self._backoff_s, self._look_up_uncertain)
        self._uncertain += runs

    def _look_up_uncertain(self) -> None:
        runs, self._uncertain = self._uncertain, []
        self._look_up(runs)

    def _look_up(self, runs: list[Run]) -> None:
        for part in _parts(runs):
            self._spawn(self._ask(part), part)

    async def _ask(self, runs: Sequence[Run]) -> None:
        """Asks the PSP by our keys. Without evidence the round ends, or sends once more.

        A message that can't be read takes its neighbours with it, so their list is halved
        until the key of the bad one stands alone. Half by half: a PSP of which nothing can be
        read hears two calls a key, and not all at once.
        """
        waiting = {run.psp_key.hex: run for run in runs}
        why = "no answer"
        started_ns = time.time_ns()
        try:
            async with aclosing(self._psp.look_up(list(waiting))) as answers:
                async for answered in answers:
                    self._looked_up(answered, waiting, started_ns)
        except MeshError as error:
            why = error.code.name
            if isinstance(error, Unreadable) and len(waiting) > 1:
                left = list(waiting.values())
                half = len(left) // 2
                await self._ask(left[:half])
                await self._ask(left[half:])
                return
        for run in waiting.values():
            run.note("look-up", why)
        tell("look-up", started_ns, waiting.values(), why)
        self._leave_unknown(list(waiting.values()), not_found=False)

    def _looked_up(self, answered: Answers, waiting: dict[str, Run], started_ns: int) -> None:
        found: list[tuple[Run, Finding]] = []
        resend: list[Run] = []
        resent: list[Run] = []
        unanswered: list[Run] = []
        for run, answer in _taken(answered, waiting):
            finding = domain.judge(run.operation, answer, Source.PSP_LOOK_UP, first_call=False)
            if finding is not None:
                found.append((run, finding))
                continue
            run.note("look-up", domain.why_unknown(answer))
            if not isinstance(answer, NotFound):
                unanswered.append(run)
            else:
                (resent if run.resent else resend).append(run)
        tell("look-up", started_ns, [run for run, _ in found])
        tell("look-up", started_ns, [*resend, *resent], "not found")
        tell("look-up", started_ns, unanswered, "no evidence")
        self._record(found)
        if resend:
            self._spawn(self._resend(resend), resend)
        self._leave_unknown(resent, not_found=True)
        self._leave_unknown(unanswered, not_found=False)

    async def _resend(self, runs: list[Run]) -> None:
        """Sends again what the PSP does not know, while it surely would if it had been sent.

        The key window is asked for anew: a PSP that was configured to forget sooner must
        not be sent a key that it has forgotten. So is the name: what another one does not
        know, the one that it was sent to may have taken.
        """
        try:
            capabilities = await self._psp.ask_capabilities()
        except MeshError:
            self._leave_unknown(runs, not_found=True)
            return
        send_by = elapsed_s() + capabilities.safe_s
        started_ns = time.time_ns()
        results = await self._writer.write(
            [
                Resend(run.operation, capabilities.safe_s, capabilities.source, run.restart)
                for run in runs
            ],
            durable=False,
        )
        clear: list[Run] = []
        too_late: list[Run] = []
        elsewhere: list[Run] = []
        for run, result in zip(runs, results, strict=True):
            run.resent = True
            if isinstance(result, MaySend):
                log.info("operation_resent", **run.operation.ids, detail=run.detail)
                clear.append(run)
            elif not self._settle(run, _sent_before(result)):
                is_elsewhere = _is_elsewhere(run, "resend", result, capabilities)
                (elsewhere if is_elsewhere else too_late).append(run)
        tell("resend", started_ns, runs)
        self._leave_unknown(too_late, not_found=True)
        self._leave_unknown(elsewhere, not_found=False, elsewhere=True)
        self._send(clear, send_by, first_call=False)

    def _record(self, found: list[tuple[Run, Finding]]) -> None:
        if found:
            self._spawn(self._store_found(found), [run for run, _ in found])

    async def _store_found(self, found: list[tuple[Run, Finding]]) -> None:
        """Stores evidence, however long the database takes, and tells it."""
        started_ns = time.time_ns()
        results = await self._writer.write(
            [Found(run.operation, finding, run.restart) for run, finding in found], durable=True
        )
        tell("record", started_ns, [run for run, _ in found])
        for (run, finding), result in zip(found, results, strict=True):
            if isinstance(result, Stored) and domain.contradicts(result, finding):
                log.error(
                    "psp_contradicts_itself",
                    **run.operation.ids,
                    stored=result.state.name,
                    stored_reference=result.psp_reference,
                    told=finding.outcome.name,
                    told_reference=finding.psp_reference,
                )
            self._end(run, result)

    def _leave_unknown(self, runs: list[Run], *, not_found: bool, elsewhere: bool = False) -> None:
        if runs:
            self._spawn(self._store_unknown(runs, not_found, elsewhere), runs)

    async def _store_unknown(self, runs: list[Run], not_found: bool, elsewhere: bool) -> None:
        """Ends the round without evidence. Not durable: a row that says SENT says the same."""
        safe_s = (await self._psp.capabilities()).safe_s
        started_ns = time.time_ns()
        results = await self._writer.write(
            [Unresolved(run.operation, not_found, safe_s, elsewhere) for run in runs],
            durable=False,
        )
        tell("record", started_ns, runs, "no evidence")
        for run, result in zip(runs, results, strict=True):
            self._end(run, _sent_before(result))

    def _end(self, run: Run, result: Written | MeshError) -> None:
        if isinstance(result, MaySend):
            raise TypeError("leave to send is no end")
        self._finish(run, result)

    def _spawn(self, work: Coroutine[Any, Any, None], runs: Sequence[Run]) -> None:
        """Starts a task that outlives its caller.

        One that fails is a bug; its runs end with an error, so that they can be submitted
        again.
        """
        task = asyncio.create_task(self._guarded(work, runs))
        self._tasks.add(task)  # the loop itself holds tasks weakly
        task.add_done_callback(self._tasks.discard)

    async def _guarded(self, work: Coroutine[Any, Any, None], runs: Sequence[Run]) -> None:
        try:
            await work
        except Exception:
            log.exception("runner_failed", operations=len(runs))
            for run in runs:
                self._finish(run, MeshError(Reason.INTERNAL, "the executor failed; ask again"))


def tell(step: str, started_ns: int, runs: Collection[Run], problem: str = "") -> None:
    """The spans of a list that took a step, for whoever traces."""
    spans = tracing.recorder()
    if spans is not None and runs:
        asked = [run.operation for run in runs]
        parts = [Part(o.payment_id, o.order_id, o.operation_id, problem) for o in asked]
        spans.handled(step, started_ns, parts)


def _taken(answered: Answers, waiting: dict[str, Run]) -> list[tuple[Run, Answer]]:
    """The runs that are answered, each once; what nobody waits for is left out."""
    return [
        (run, answer) for key, answer in answered if (run := waiting.pop(key, None)) is not None
    ]


def _is_elsewhere(
    run: Run, step: str, result: Written | MeshError, capabilities: Capabilities
) -> bool:
    """Whether another PSP than the one that can be asked has the operation; notes it."""
    if not isinstance(result, Stored) or result.source == capabilities.source:
        return False
    run.note(step, f"sent to another PSP ({result.source}), not to {capabilities.source}")
    return True


def _sent_before(result: Written | MeshError) -> Written | MeshError:
    """An error of the database after a send: it says nothing about the money."""
    if isinstance(result, NotCommitted | CommitUnknown):
        return outcome_unknown("the PSP took the money")
    return result


def _parts(runs: list[Run]) -> Iterable[list[Run]]:
    return (runs[i : i + MAX_LIST_ITEMS] for i in range(0, len(runs), MAX_LIST_ITEMS))


def conflict(fields: Sequence[str]) -> MeshError:
    """The refusal of an operation whose id stands for another one."""
    return MeshError(
        Reason.OPERATION_CONFLICT,
        "this operation was submitted with other fields",
        {"fields": ",".join(fields)},
    )
