"""Reconciles a day of a source: one transaction, which is the run or is nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import date, datetime, timedelta
from typing import Protocol
from uuid import UUID
from zoneinfo import ZoneInfo

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from ledger_svc.reconciliation import (
    store_catch_up,
    store_files,
    store_inputs,
    store_late,
    store_run,
)
from ledger_svc.reconciliation.domain import Break, BreakFilter, Run, RunState
from ledger_svc.reconciliation.sources import Source
from mesh import ids
from mesh.db import Database
from mesh.errors import MeshError, Reason
from mesh.paging import Position

log = structlog.get_logger()

# As far back as a line may find its capture by the PSP's reference; by our own id, for ever.
LOOK_BACK = timedelta(days=45)
# What comes into the ledger is told its time before it is committed: a run looks once more
# at what the run before it may not have seen.
OVERLAP = timedelta(days=1)
NEAR_BUSINESS_DAYS = 3
# So far back a run looks for days that were left out or corrected, which come first.
CATCH_UP_DAYS = LOOK_BACK.days


class SettlementFiles(Protocol):
    """Where the files of one source can be fetched from: its PSP adapter."""

    def fetch(self, day: date) -> AsyncIterator[bytes]:
        """The bytes of the day's newest file. Errors: MeshError."""
        ...


async def late_days(database: Database, name: str, day: date) -> list[date]:
    """Other days whose lines waited for what came: a capture, a transfer, the day before.

    And a bank's whose transfer was taken back.
    """
    around = {
        "look_back": LOOK_BACK,
        "overlap": OVERLAP,
        # So many business days may have a weekend between them.
        "near_days": NEAR_BUSINESS_DAYS + 2,
    }
    return await database.read(
        "ledger.late_days",
        lambda connection: store_late.read_late_days(connection, name, day, around),
    )


async def days_behind(database: Database, name: str, day: date) -> list[date]:
    """Days before this one that are not reconciled as their files are now, the oldest first."""
    return await database.read(
        "ledger.days_behind",
        lambda connection: store_catch_up.read_days_behind(connection, name, day, CATCH_UP_DAYS),
    )


async def missing_days(database: Database, name: str, source: Source, day: date) -> list[date]:
    """The days before this one that should have a file and have none, the oldest first."""
    found = await database.read(
        "ledger.missing_days",
        lambda connection: store_catch_up.read_missing_days(connection, name, day, CATCH_UP_DAYS),
    )
    return [one for one in found if source.has_file(one)]


async def has_files(database: Database, name: str, day: date) -> bool:
    """Whether a usable file of the day is there."""
    files = await database.read(
        "ledger.day_files", lambda connection: store_run.read_files(connection, name, day)
    )
    return bool(files)


async def reconcile(database: Database, name: str, source: Source, day: date) -> Run:
    """Reconciles the day; with unchanged inputs it is the same run again.

    Errors: SETTLEMENT_FILE_MISSING; those of Database.commit.
    """

    async def work(connection: AsyncConnection) -> Run:
        # Two callers, and a file that comes in, wait for each other here, and the second
        # finds what the first has done. A caller that dies leaves nothing.
        await store_files.lock_source(connection, name)
        files = await store_run.read_files(connection, name, day)
        if not files:
            raise MeshError(
                Reason.SETTLEMENT_FILE_MISSING,
                f"no usable settlement file of {day} is there; ingest one",
                {"source": name, "settlement_date": day.isoformat()},
            )
        around = await store_run.read_around(connection, name, day)
        given = _parameters(name, source, day, around)
        is_bank = source.kind == "bank"
        inputs = await store_inputs.begin(connection, files, given, is_bank=is_bank)
        depends_on = (
            name,
            day.isoformat(),
            ",".join(file_id.hex for file_id in inputs.files),
            inputs.before,
            source.day_end(day).isoformat(),
            str(inputs.captures),
            str(inputs.met),
            str(inputs.taken),
            str(inputs.nameless),
            str(inputs.registered),
            str(inputs.decisions),
            str(inputs.transfers),
            str(given["missing_day"]),
            source.model_dump_json(),
        )
        # Only the latest version counts: what was so before it, and is so again, is a new one.
        latest = await store_run.read_latest(connection, name, day)
        if latest is not None and latest.run_id in {
            ids.reconciliation_run_id(*depends_on, str(latest.version)),
            # Of runs that are older than the version in the id.
            ids.reconciliation_run_id(*depends_on),
        }:
            return latest
        version = 1 if latest is None else latest.version + 1
        run_id = ids.reconciliation_run_id(*depends_on, str(version))
        given |= {"run_id": run_id, "version": version}
        await store_run.run(connection, inputs, given, is_bank=is_bank)
        return (await store_run.read_runs(connection, [run_id]))[run_id]

    # By itself: the locks that it takes must not be kept while the run goes on.
    await database.read("ledger.analyze", store_run.analyze)
    run = await database.commit("ledger.reconcile", work)
    # OPEN waits for a file that somebody has to get, BROKEN for whoever finds what is wrong.
    tell = log.warning if run.state in {RunState.BROKEN, RunState.OPEN} else log.info
    tell(
        "reconciled",
        source=name,
        settlement_date=day.isoformat(),
        run_id=run.run_id.hex,
        version=run.version,
        state=run.state.name,
        lines=run.lines,
        breaks=sum(count for _, count in run.counts),
    )
    return run


def _parameters(
    name: str, source: Source, day: date, around: store_run.Around
) -> dict[str, object]:
    cut_off_time = source.day_end(day)
    look_back_time = cut_off_time - LOOK_BACK
    from_time: datetime | str = "-infinity"
    if around.cut_off_time is not None:
        from_time = around.cut_off_time - OVERLAP
    return {
        "source": name,
        "day": day,
        "cut_off_time": cut_off_time,
        "from_time": from_time,
        "look_back_time": look_back_time,
        "near_from_day": _business_days(day, -NEAR_BUSINESS_DAYS),
        "near_until_day": _business_days(day, NEAR_BUSINESS_DAYS),
        "near_from_time": _midnight(_business_days(day, -NEAR_BUSINESS_DAYS), source),
        "near_until_time": _midnight(
            _business_days(day, NEAR_BUSINESS_DAYS) + timedelta(days=1), source
        ),
        "as_of_day": day if around.last_day is None else max(day, around.last_day),
        "missing_day": next(iter(_missing(source, around.file_day, day)), None),
        "zone": source.zone,
        "ends_after": source.ends_after,
        "settle_days": source.settle_days,
        "fee_tolerance_minor": source.fee_tolerance_minor,
        "rounding_tolerance_minor": source.rounding_tolerance_minor,
        "fee_basis_points": source.fee_basis_points,
        "fee_fixed_minor": source.fee_fixed_minor,
        "bank": source.bank or name,
    }


def _missing(source: Source, file_day: date | None, day: date) -> list[date]:
    """The days between the one that has a file and this one that should have one, too."""
    if file_day is None:
        return []
    between = (file_day + timedelta(days=n) for n in range(1, (day - file_day).days))
    return [one for one in between if source.has_file(one)]


def _business_days(day: date, count: int) -> date:
    """The day so many business days (Monday to Friday) later, or earlier."""
    step = timedelta(days=1 if count > 0 else -1)
    left = abs(count)
    while left:
        day += step
        left -= day.isoweekday() <= 5
    return day


def _midnight(day: date, source: Source) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(source.zone))


async def get_run(database: Database, run_id: UUID) -> Run:
    """The run of this id. Errors: RUN_NOT_FOUND."""
    found = await database.read(
        "ledger.run", lambda connection: store_run.read_runs(connection, [run_id])
    )
    if run_id not in found:
        raise MeshError(Reason.RUN_NOT_FOUND, "there is no reconciliation run of this id")
    return found[run_id]


async def list_runs(
    database: Database, source: str, day: date | None, after: Position | None, limit: int
) -> list[Run]:
    """At most `limit` runs, newest first, from `after` on."""
    before = None if after is None else (after.create_time, after.id)
    return await database.read(
        "ledger.runs",
        lambda connection: store_run.list_runs(connection, source, day, before, limit),
    )


async def list_breaks(
    database: Database, which: BreakFilter, after: Position | None, limit: int
) -> list[Break]:
    """At most `limit` breaks, newest first, from `after` on. Errors: RUN_NOT_FOUND."""
    if which.run_id is not None:
        await get_run(database, which.run_id)
    before = None if after is None else (after.create_time, after.id)
    return await database.read(
        "ledger.breaks",
        lambda connection: store_run.list_breaks(connection, which, before, limit),
    )
