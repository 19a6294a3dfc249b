"""Runs and breaks, and their SQL."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from typing import Any, NamedTuple, TypeAlias
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from ledger_svc.reconciliation import (
    store_bank,
    store_chain,
    store_findings,
    store_match,
    store_post,
)
from ledger_svc.reconciliation.domain import (
    Balance,
    Break,
    BreakClass,
    BreakFilter,
    BreakState,
    FileState,
    Run,
    RunState,
)
from ledger_svc.reconciliation.store_inputs import Inputs, Parameters

Before: TypeAlias = tuple[datetime, UUID] | None
"""A list goes on with what is older than this (create_time, id); None: from the start."""


class Around(NamedTuple):
    """What is around a day.

    cut_off_time: of the run before; last_day: of the last run; file_day: the day before this
    one that has a file.
    """

    cut_off_time: datetime | None
    last_day: date | None
    file_day: date | None


_ANALYZE = text("""
ANALYZE (SKIP_LOCKED) journal, entry, settlement_file, statement, settlement_line,
  settlement_match, settlement_booking
""")

_AROUND = text(f"""
SELECT max(cut_off_time) FILTER (WHERE settlement_date < :day), max(settlement_date),
       greatest(
         (SELECT max(settlement_date) FROM settlement_file
          WHERE source = :source AND settlement_date < :day
            AND state = {FileState.INGESTED}),
         (SELECT max(settlement_date) FROM statement
          WHERE source = :source AND settlement_date < :day AND is_current)
       )
FROM reconciliation_run WHERE source = :source
""")

_FILES = text(f"""
SELECT file_id FROM settlement_file
WHERE source = :source AND settlement_date = :day AND state = {FileState.INGESTED}
UNION
SELECT file_id FROM statement
WHERE source = :source AND settlement_date = :day AND is_current
ORDER BY file_id
""")

_LATEST_RUN = text("""
SELECT run_id FROM reconciliation_run
WHERE source = :source AND settlement_date = :day
ORDER BY version DESC LIMIT 1
""")

_INSERT_RUN = text("""
INSERT INTO reconciliation_run (
  run_id, source, settlement_date, version, state, cut_off_time, files, lines, matched
) VALUES (
  :run_id, :source, :day, :version, :state, cast(:cut_off_time AS timestamptz),
  cast(:files AS uuid[]), :lines, 0
)
""")

_FINISH_RUN = f"""
UPDATE reconciliation_run AS r
SET state = CASE
      WHEN EXISTS (
        SELECT FROM run_balance AS b WHERE b.run_id = :run_id AND b.difference_minor <> 0
      ) THEN {RunState.BROKEN}
      WHEN EXISTS (
        SELECT FROM run_finding AS f
        WHERE f.run_id = :run_id AND f.class = {BreakClass.CHAIN_BROKEN}
      ) THEN {RunState.OPEN}
      WHEN EXISTS (
        SELECT FROM run_finding AS f WHERE f.run_id = :run_id AND f.class > 0
      ) OR (
        -- What does not prove itself whole may have been cut, and the rest of it may match.
        SELECT bool_and(coalesce(s.ties, false)) FROM statement AS s
        WHERE s.source = :source AND s.settlement_date = :day AND s.is_current
      ) IS NOT TRUE THEN {RunState.EXPLAINED}
      ELSE {RunState.BALANCED}
    END,
    matched = {{matched}}
WHERE r.run_id = :run_id
"""
_FINISH_PSP = text(
    _FINISH_RUN.format(
        matched=f"""(SELECT count(*) FROM day_line) - (SELECT count(*) FROM open_line)
    + (SELECT count(*) FROM matched)
    + (SELECT count(*) FROM open_line WHERE kind IN ('FEE', 'TRANSFER', 'TRANSFER_RETURN'))
    - (
      SELECT count(*) FROM run_finding AS f JOIN open_line AS d USING (file_id, sequence)
      WHERE f.run_id = :run_id AND f.class = {int(BreakClass.DUPLICATE_IN_FILE)}
        AND d.kind IN ('TRANSFER', 'TRANSFER_RETURN')
    )
"""
    )
)
_FINISH_BANK = text(
    _FINISH_RUN.format(
        matched="""(
      SELECT count(*) FROM day_line AS d
      WHERE EXISTS (
        SELECT FROM settlement_match AS m WHERE m.file_id = d.file_id AND m.sequence = d.sequence
      ) OR d.kind IN ('FEE', 'TRANSFER', 'TRANSFER_RETURN')
    )
"""
    )
)

_DIFFERS = text("SELECT FROM run_balance WHERE run_id = :run_id AND difference_minor <> 0 LIMIT 1")

_READ_RUNS = text("""
SELECT r.run_id, r.source, r.settlement_date, r.version, r.state, r.cut_off_time, r.files, r.lines,
       r.matched, r.create_time, c.create_time AS close_time, coalesce(c.actor, '') AS close_actor
FROM reconciliation_run AS r
LEFT JOIN day_close AS c ON c.run_id = r.run_id
WHERE r.run_id = ANY (cast(:run_ids AS uuid[]))
""")
_LIST_RUNS = text("""
SELECT run_id FROM reconciliation_run
WHERE (cast(:source AS text) = '' OR source = :source)
  AND (cast(:day AS date) IS NULL OR settlement_date = :day)
  AND (create_time, run_id) < (cast(:before_time AS timestamptz), cast(:before_id AS uuid))
ORDER BY create_time DESC, run_id DESC
LIMIT :limit
""")
_COUNTS = text("""
SELECT run_id, class, count(*) FROM run_finding
WHERE run_id = ANY (cast(:run_ids AS uuid[])) AND class > 0
GROUP BY run_id, class ORDER BY run_id, class
""")
_BALANCES = text("""
SELECT run_id, currency, opening_minor, closing_minor, lines_minor, ledger_minor, breaks_minor,
       difference_minor
FROM run_balance WHERE run_id = ANY (cast(:run_ids AS uuid[]))
ORDER BY run_id, currency
""")

_BREAK_SELECT = """
SELECT b.break_id, b.source, b.settlement_date, b.class, b.state, b.last_run_id, b.create_time,
       b.update_time, cast(extract(day FROM paymesh_now() - b.create_time) AS integer) AS age_days,
       b.base_kind, b.counter_kind, b.counter_source, b.amount_minor, b.currency, b.file_id,
       b.sequence, f.sha256, coalesce(l.place, '') AS place, b.journal_id, b.operation_id,
       b.order_id, b.psp_reference, b.rule, k.journal_id AS booked_id
FROM settlement_break AS b
LEFT JOIN settlement_file AS f ON f.file_id = b.file_id
LEFT JOIN settlement_line AS l ON l.file_id = b.file_id AND l.sequence = b.sequence
LEFT JOIN settlement_booking AS k ON k.subject_id = b.break_id AND k.reversal_id IS NULL
"""
_BREAK_FILTER = """
(cast(:class AS integer) = 0 OR b.class = :class)
AND (cast(:state AS integer) = 0 OR b.state = :state)
AND (cast(:source AS text) = '' OR b.source = :source)
AND (b.create_time, b.break_id) < (cast(:before_time AS timestamptz), cast(:before_id AS uuid))
ORDER BY b.create_time DESC, b.break_id DESC
LIMIT :limit
"""
_LIST_BREAKS = text(f"{_BREAK_SELECT} WHERE {_BREAK_FILTER}")
_READ_BREAK = text(f"{_BREAK_SELECT} WHERE b.break_id = :break_id")
_LIST_BREAKS_OF_RUN = text(f"""
{_BREAK_SELECT}
JOIN run_finding AS n ON n.run_id = :run_id AND n.subject_id = b.break_id AND n.class > 0
WHERE {_BREAK_FILTER}
""")


async def analyze(connection: AsyncConnection) -> None:
    """Lets the planner know what came since autovacuum was here."""
    await connection.execute(_ANALYZE)


async def read_around(connection: AsyncConnection, source: str, day: date) -> Around:
    """The runs and files before and after this day."""
    row = (await connection.execute(_AROUND, {"source": source, "day": day})).one()
    return Around(*row)


async def read_files(connection: AsyncConnection, source: str, day: date) -> tuple[UUID, ...]:
    """The files that say something of the day; empty if none came."""
    rows = await connection.execute(_FILES, {"source": source, "day": day})
    return tuple(rows.scalars())


async def read_latest(connection: AsyncConnection, source: str, day: date) -> Run | None:
    """The version of the day that counts, None if it was never reconciled."""
    rows = await connection.execute(_LATEST_RUN, {"source": source, "day": day})
    run_id = rows.scalar_one_or_none()
    return None if run_id is None else (await read_runs(connection, [run_id]))[run_id]


_PSP = (
    *store_match.PASSES,
    store_findings.LINES,
    store_findings.LEDGER,
    store_chain.CHAIN,
    store_findings.BATCHES,
)
_BANK = (*store_bank.PASSES, store_bank.LINES, store_bank.LEDGER, store_chain.CHAIN)


async def run(
    connection: AsyncConnection, inputs: Inputs, day: Parameters, *, is_bank: bool
) -> None:
    """Matches, finds, posts and proves a day that has begun, as the run of these parameters."""
    balances = store_post.BANK_BALANCES if is_bank else store_post.BALANCES
    closing = store_findings.BANK_CLOSING if is_bank else store_findings.CLOSING
    given = {
        **day, "files": list(inputs.files), "lines": inputs.lines, "state": int(RunState.OPEN)
    }  # fmt: skip
    await connection.execute(_INSERT_RUN, given)
    for statement in (
        *(_BANK if is_bank else _PSP),
        *([] if day["missing_day"] is None else [store_chain.MISSING_DAY]),
        *store_post.DECIDED,
        store_post.REVERSE,
        store_post.POST,
        balances,
    ):
        await connection.execute(statement, day)
    if (await connection.execute(_DIFFERS, day)).first() is not None:
        for statement in (
            closing,
            *store_post.DECIDED,
            store_post.POST,
            store_post.FORGET_BALANCES,
            balances,
        ):
            await connection.execute(statement, day)
    finish = _FINISH_BANK if is_bank else _FINISH_PSP
    for statement in (store_post.PUT_BREAKS, store_post.CLEAR_BREAKS, finish):
        await connection.execute(statement, day)


async def read_runs(connection: AsyncConnection, run_ids: Sequence[UUID]) -> dict[UUID, Run]:
    """The runs of these ids, as far as they are there."""
    asked = {"run_ids": list(run_ids)}
    counts: dict[UUID, list[tuple[BreakClass, int]]] = {}
    for run_id, class_, count in await connection.execute(_COUNTS, asked):
        counts.setdefault(run_id, []).append((BreakClass(class_), count))
    balances: dict[UUID, list[Balance]] = {}
    for run_id, *balance in await connection.execute(_BALANCES, asked):
        balances.setdefault(run_id, []).append(Balance(*balance))
    found = {}
    for row in await connection.execute(_READ_RUNS, asked):
        *facts, close_time, close_actor = row
        stored = Run(*facts)
        found[stored.run_id] = stored._replace(
            state=RunState(stored.state),
            files=tuple(stored.files),
            counts=tuple(counts.get(stored.run_id, ())),
            balances=tuple(balances.get(stored.run_id, ())),
            close_time=close_time,
            close_actor=close_actor,
        )
    return found


async def list_runs(
    connection: AsyncConnection, source: str, day: date | None, before: Before, limit: int
) -> list[Run]:
    """At most `limit` runs, newest first, of this source and day where they are told."""
    rows = await connection.execute(
        _LIST_RUNS, {"source": source, "day": day, "limit": limit, **_before(before)}
    )
    run_ids = list(rows.scalars())
    found = await read_runs(connection, run_ids)
    return [found[run_id] for run_id in run_ids]


async def list_breaks(
    connection: AsyncConnection, which: BreakFilter, before: Before, limit: int
) -> list[Break]:
    """At most `limit` breaks, newest first."""
    given: dict[str, Any] = {
        "source": which.source,
        "class": which.class_,
        "state": which.state,
        "limit": limit,
        **_before(before),
    }
    statement = _LIST_BREAKS
    if which.run_id is not None:
        statement, given["run_id"] = _LIST_BREAKS_OF_RUN, which.run_id
    return [_stored_break(row) for row in await connection.execute(statement, given)]


async def read_break(connection: AsyncConnection, break_id: UUID) -> Break | None:
    """The break of this id, None if there is none."""
    row = (await connection.execute(_READ_BREAK, {"break_id": break_id})).one_or_none()
    return None if row is None else _stored_break(row)


def _stored_break(row: Any) -> Break:
    one = Break(*row)
    return one._replace(class_=BreakClass(one.class_), state=BreakState(one.state))


def _before(before: Before) -> dict[str, object]:
    if before is None:
        return {"before_time": "infinity", "before_id": UUID(int=0)}
    return {"before_time": before[0], "before_id": before[1]}
