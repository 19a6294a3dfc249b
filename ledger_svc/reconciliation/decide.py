"""Operators resolve breaks and close days: one function, one commit."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncConnection

from ledger_svc.reconciliation import run, store_decisions, store_files, store_run
from ledger_svc.reconciliation.domain import (
    Break,
    BreakState,
    Close,
    Decision,
    Resolution,
    Run,
    RunState,
)
from ledger_svc.reconciliation.files import source_of
from ledger_svc.reconciliation.sources import Sources
from mesh.db import Database
from mesh.errors import MeshError, Reason


async def resolve(database: Database, sources: Sources, decision: Decision) -> Break:
    """Stores a decision, and reconciles the break's day so that it takes effect.

    Idempotent on (caller, request_id). Errors: BREAK_NOT_FOUND, REQUEST_ID_REUSED,
    WRONG_STATE, SOURCE_NOT_FOUND; those of Database.commit.
    """

    async def work(connection: AsyncConnection) -> Break:
        about = await _break(connection, decision)
        await store_files.lock_source(connection, about.source)
        stored = await store_decisions.read_decision(
            connection, decision.caller, decision.request_id
        )
        if stored is not None:
            _refuse_reuse(stored._asdict(), decision._asdict())
            return about
        about = await _break(connection, decision)
        if about.state in {BreakState.RESOLVED, BreakState.CLEARED}:
            raise MeshError(
                Reason.WRONG_STATE, f"the break is {about.state.name}: there is nothing to resolve"
            )
        if decision.resolution is Resolution.POST and about.booked_id is not None:
            raise MeshError(Reason.WRONG_STATE, "the break's proposal is posted already")
        if decision.resolution is Resolution.POST and not about.is_postable:
            raise MeshError(Reason.WRONG_STATE, "the break has nothing to post")
        await store_decisions.put_decision(connection, decision, about)
        return about

    about = await database.commit("ledger.resolve", work)
    source = source_of(sources, about.source)
    await run.reconcile(database, about.source, source, about.settlement_date)
    return await database.read("ledger.break", lambda connection: _break(connection, decision))


async def close_day(database: Database, close: Close) -> Run:
    """Closes the day with its latest run.

    Idempotent on (caller, request_id). Errors: RUN_NOT_FOUND, REQUEST_ID_REUSED, WRONG_STATE;
    those of Database.commit.
    """

    async def work(connection: AsyncConnection) -> Run:
        await store_files.lock_source(connection, close.source)
        stored = await store_decisions.read_close(connection, close.caller, close.request_id)
        if stored is not None:
            _refuse_reuse(stored[0]._asdict(), close._asdict())
            return (await store_run.read_runs(connection, [stored[1]]))[stored[1]]
        day = close.source, close.settlement_date
        latest = await store_run.read_latest(connection, *day)
        if latest is None:
            raise MeshError(Reason.RUN_NOT_FOUND, "the day was never reconciled")
        if latest.files != await store_run.read_files(connection, *day):
            raise MeshError(
                Reason.WRONG_STATE,
                "the day's files are others than its latest run was made from; reconcile it first",
                {"run_id": latest.run_id.hex},
            )
        if latest.state not in {RunState.BALANCED, RunState.EXPLAINED}:
            raise MeshError(Reason.WRONG_STATE, f"the day is {latest.state.name}")
        waiting = await store_decisions.count_waiting(connection, *day)
        if waiting:
            raise MeshError(
                Reason.WRONG_STATE,
                f"{waiting} breaks of the day wait for an operator",
                {"breaks": str(waiting)},
            )
        await store_decisions.put_close(connection, close, latest.run_id)
        return (await store_run.read_runs(connection, [latest.run_id]))[latest.run_id]

    return await database.commit("ledger.close_day", work)


async def _break(connection: AsyncConnection, decision: Decision) -> Break:
    found = await store_run.read_break(connection, decision.break_id)
    if found is None:
        raise MeshError(Reason.BREAK_NOT_FOUND, "there is no break of this id")
    return found


def _refuse_reuse(stored: dict[str, object], asked: dict[str, object]) -> None:
    fields = sorted(name for name in asked if asked[name] != stored[name])
    if fields:
        raise MeshError(
            Reason.REQUEST_ID_REUSED,
            "this request_id was used for another request",
            {"fields": ",".join(fields)},
        )
