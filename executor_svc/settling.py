"""Operations that a settlement file tells of: what the PSP never said is stored as evidence.

The PSP is not asked, and nothing is sent: it may be down, and it may have forgotten the key.
The evidence moves a row by the same table of states as the PSP's own answers do, so what was
declined, captured or parked for an operator stays as it is. Where it proves nothing, the round
goes the usual way: the same line, brought again and again, must not keep the PSP from being asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

import structlog

from executor_svc import domain, operations
from executor_svc.domain import RESTING, Finding, Outcome, Settled, Source, Stored
from executor_svc.ladder import Finish, Ladder, Run, conflict
from executor_svc.operations import Found, Intent, Write, Written
from mesh.batching import Writer
from mesh.db import Database
from mesh.errors import MeshError, Reason

log = structlog.get_logger()

Proven = tuple[Run, Settled]


class Settling:
    """Takes runs to their end by evidence alone. Belongs to one event loop."""

    def __init__(
        self,
        database: Database,
        writer: Writer[Write, Written],
        ladder: Ladder,
        *,
        finish: Finish,
    ) -> None:
        """finish: as in Ladder."""
        self._database = database
        self._writer = writer
        self._ladder = ladder
        self._finish = finish
        self._tasks: set[asyncio.Task[None]] = set()

    def settle(self, proven: Sequence[Proven], *, under_way: bool = False) -> None:
        """Stores the evidence and ends the runs.

        under_way: the runs are on the ladder, too. Where the evidence settles nothing, they
        go on there; where it does, what the ladder finds later changes nothing.
        """
        if proven:
            task = asyncio.create_task(self._guarded(self._settle(proven, under_way), proven))
            self._tasks.add(task)  # the loop itself holds tasks weakly
            task.add_done_callback(self._tasks.discard)

    async def _settle(self, proven: Sequence[Proven], under_way: bool) -> None:
        try:
            rows = await operations.find(
                self._database, [run.operation.operation_id for run, _ in proven]
            )
        except MeshError as error:
            for run, _ in proven:
                self._end(run, error, under_way)
            return
        writes: list[Write] = []
        unproven: list[Run] = []
        written: list[tuple[Run, Finding]] = []
        for run, settled in proven:
            row = rows.get(run.operation.operation_id)
            if row is None:
                # A database that was set back. Together with the evidence, in one commit: by
                # itself it would say "just sent", and let the same be sent again.
                writes.append(Intent(run.operation, run.psp_key, settled.source))
            elif fields := domain.differences(run.operation, row.operation):
                self._finish(run, conflict(fields))
                continue
            elif row.source != settled.source:
                log.warning(
                    "settlement_of_another_source",
                    **run.operation.ids,
                    sent_to=row.source,
                    settled_by=settled.source,
                )
                unproven.append(run)
                continue
            finding = _finding(run, settled)
            writes.append(Found(run.operation, finding, run.restart))
            written.append((run, finding))
        if unproven and not under_way:
            self._ladder.begin(unproven, asyncio.get_running_loop().create_future())
        results = await self._writer.write(writes, durable=True)
        answers = [r for w, r in zip(writes, results, strict=True) if isinstance(w, Found)]
        for (run, finding), result in zip(written, answers, strict=True):
            _tell(run, finding, result)
            self._end(run, result, under_way)

    def _end(self, run: Run, result: Written | MeshError, under_way: bool) -> None:
        """Ends the run, but not one that goes on elsewhere and may learn more there."""
        if isinstance(result, Stored):
            if result.state in RESTING or not under_way:
                self._finish(run, result)
        elif not isinstance(result, MeshError):
            raise TypeError("leave to send is no end")
        elif not under_way:
            self._finish(run, result)

    async def _guarded(self, work: Coroutine[Any, Any, None], proven: Sequence[Proven]) -> None:
        try:
            await work
        except Exception:
            log.exception("runner_failed", operations=len(proven))
            for run, _ in proven:
                self._finish(run, MeshError(Reason.INTERNAL, "the executor failed; ask again"))


def _finding(run: Run, settled: Settled) -> Finding:
    finding = domain.judge(
        run.operation, settled.captured, Source.SETTLEMENT_FILE, first_call=False
    )
    if finding is None:
        raise TypeError("that something was captured is evidence")
    return finding


def _tell(run: Run, finding: Finding, result: Written | MeshError) -> None:
    """A line for what a person has to know, and one for what was settled."""
    if not isinstance(result, Stored):
        return
    told = {
        "stored": result.state.name,
        "stored_reference": result.psp_reference,
        "settled": str(finding.captured),
        "settled_reference": finding.psp_reference,
    }
    if domain.contradicts(result, finding):
        # What was declined and yet settled is never driven again: the buyer may have paid
        # anew. The reconciliation books it to suspense, and an operator decides.
        log.error("settlement_contradicts", **run.operation.ids, **told)
    elif result.evidence is Source.SETTLEMENT_FILE:
        is_right = finding.outcome is Outcome.CAPTURED
        log.info(
            "operation_settled" if is_right else "operation_settled_otherwise",
            **run.operation.ids,
            **told,
        )
