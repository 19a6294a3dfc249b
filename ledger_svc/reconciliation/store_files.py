"""Settlement files, statements and lines, and their SQL."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from datetime import date
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from ledger_svc.reconciliation.domain import (
    BreakClass,
    Delivery,
    FileState,
    FoundLine,
    StoredFile,
    StoredStatement,
    Verdict,
)
from ledger_svc.reconciliation.judging import COLUMNS, explained_minor
from ledger_svc.reconciliation.readers import Statement
from mesh.db import copy_in

# The second of two that bring one file waits here for the first. One that was refused
# before is judged again: what was wrong may have been a setting of ours.
_PUT_FILE = text(f"""
INSERT INTO settlement_file AS f (
  file_id, source, settlement_date, sha256, file_name, format, size_bytes, lines, state,
  problem_class, problem, problem_place
) VALUES (
  :file_id, :source, :settlement_date, :sha256, :file_name, :format, :size_bytes, :lines, :state,
  :problem_class, :problem, :problem_place
)
ON CONFLICT (file_id) DO UPDATE
SET format = excluded.format, lines = excluded.lines, state = excluded.state,
    problem_class = excluded.problem_class, problem = excluded.problem,
    problem_place = excluded.problem_place
WHERE f.state IN ({FileState.QUARANTINED}, {FileState.WAITING})
RETURNING file_id
""")

_FILE_COLUMNS = """
file_id, source, settlement_date, sha256, file_name, format, size_bytes, lines, state,
problem_class, problem, problem_place, create_time
"""
_READ_FILE = text(f"SELECT {_FILE_COLUMNS} FROM settlement_file WHERE file_id = :file_id")

_COPY_LINES = f"""
COPY settlement_line ({", ".join(COLUMNS)}) FROM STDIN WITH (FORMAT csv)
"""

_KNOW_SOURCE = text("""
INSERT INTO settlement_source (source) VALUES (:source) ON CONFLICT (source) DO NOTHING
""")
_LOCK_SOURCE = text("UPDATE settlement_source SET changes = changes + 1 WHERE source = :source")

_FORGET_STATEMENTS = text("DELETE FROM statement WHERE file_id = :file_id AND NOT is_current")

_GIVEN = """
json_to_recordset(cast(:statements AS json)) AS n (
  number integer, account text, currency text, settlement_date date, identity text,
  revision bigint, opening_minor bigint, closing_minor bigint, explained_minor bigint,
  entries bigint, credits_minor bigint, debits_minor bigint, ties boolean, problem text
)
"""
_SAME = """
s.source = :source AND s.settlement_date = n.settlement_date AND s.account = n.account
AND s.currency = n.currency AND s.identity = n.identity AND s.is_current
"""

# A correction that the source counts wins over lower counts; where it doesn't count, what
# came later wins.
_SUPERSEDE = text(f"""
UPDATE statement AS s SET is_current = false
FROM {_GIVEN}
WHERE {_SAME} AND s.revision <= n.revision AND s.file_id <> :file_id
""")
_INSERT_STATEMENTS = text(f"""
INSERT INTO statement (
  file_id, source, number, account, currency, settlement_date, identity, revision,
  opening_minor, closing_minor, explained_minor, entries, credits_minor, debits_minor, ties,
  problem, is_current
)
SELECT :file_id, :source, number, account, currency, settlement_date, identity, revision,
       opening_minor, closing_minor, explained_minor, entries, credits_minor, debits_minor, ties,
       problem,
       :usable AND NOT EXISTS (SELECT FROM statement AS s WHERE {_SAME})
FROM {_GIVEN}
""")
# An empty file has no statements, and is not superseded by having none.
_MARK_SUPERSEDED = text(f"""
UPDATE settlement_file AS f
SET state = {FileState.SUPERSEDED}, problem_class = {BreakClass.FILE_RESENT},
    problem = 'SUPERSEDED: a correction has replaced every statement of it'
WHERE f.state = {FileState.INGESTED} AND f.source = :source
  AND (
    f.file_id = :file_id
    OR f.file_id IN (
      SELECT s.file_id FROM statement AS s
      WHERE s.source = :source AND NOT s.is_current
        AND s.settlement_date = ANY (cast(:days AS date[]))
    )
  )
  AND EXISTS (SELECT FROM statement AS s WHERE s.file_id = f.file_id)
  AND NOT EXISTS (SELECT FROM statement AS s WHERE s.file_id = f.file_id AND s.is_current)
""")

_LIST_STATEMENTS = text("""
SELECT number, account, currency, settlement_date, identity, revision, opening_minor,
       closing_minor, explained_minor, entries, credits_minor, debits_minor, ties, problem,
       is_current
FROM statement
WHERE file_id = :file_id AND number > :after
ORDER BY number
LIMIT :limit
""")

# Two index scans; a line that answers to both is there once.
_FIND_LINES = text("""
SELECT l.file_id, l.sequence, l.place, s.source, s.settlement_date, l.kind, l.currency,
       l.amount_minor, l.gross_minor, l.fee_minor, l.source_reference, l.operation_id, l.order_id,
       l.batch_reference, m.journal_id
FROM (
  SELECT file_id, sequence FROM settlement_line
  WHERE operation_id = ANY (cast(:operation_ids AS uuid[]))
  UNION
  SELECT file_id, sequence FROM settlement_line
  WHERE source_reference = ANY (cast(:references AS text[])) AND source_reference <> ''
) AS found
JOIN settlement_line AS l USING (file_id, sequence)
JOIN statement AS s ON s.file_id = l.file_id AND s.number = l.statement AND s.is_current
JOIN settlement_file AS f ON f.file_id = l.file_id
LEFT JOIN settlement_match AS m
  ON m.file_id = l.file_id AND m.sequence = l.sequence AND m.part = 0
WHERE l.level = 'ENTRY'
ORDER BY f.create_time, l.file_id, l.sequence
LIMIT :limit
""")


async def put_file(
    connection: AsyncConnection, file_id: UUID, delivery: Delivery, verdict: Verdict
) -> bool:
    """Stores the file with its verdict; False if it is there and was not refused."""
    rows = await connection.execute(
        _PUT_FILE,
        {
            "file_id": file_id,
            "source": delivery.source,
            "settlement_date": verdict.settlement_date,
            "sha256": delivery.sha256,
            "file_name": delivery.file_name,
            "format": verdict.format,
            "size_bytes": delivery.size_bytes,
            "lines": verdict.lines,
            "state": int(verdict.state),
            "problem_class": int(verdict.problem_class),
            "problem": verdict.problem,
            "problem_place": verdict.place,
        },
    )
    return rows.scalar_one_or_none() is not None


async def copy_lines(
    connection: AsyncConnection, file_id: UUID, blocks: AsyncIterator[bytes]
) -> None:
    """Stores the lines of a file from their CSV."""
    await connection.execute(
        text("SELECT set_config('paymesh.file_id', :file_id, true)"), {"file_id": file_id.hex}
    )
    await copy_in(connection, _COPY_LINES, blocks)


async def lock_source(connection: AsyncConnection, source: str) -> None:
    """Waits until nobody else changes what this source's settlement says."""
    await connection.execute(_KNOW_SOURCE, {"source": source})
    await connection.execute(_LOCK_SOURCE, {"source": source})


async def put_statements(
    connection: AsyncConnection,
    file_id: UUID,
    source: str,
    statements: Sequence[Statement],
    *,
    day: date | None,
    usable: bool,
) -> None:
    """Stores a file's statements; usable ones supersede what they correct.

    day: of those that name none.
    """
    given = {
        "file_id": file_id,
        "source": source,
        "statements": json.dumps([_statement(one, day) for one in statements]),
    }
    await connection.execute(_FORGET_STATEMENTS, {"file_id": file_id})
    if usable:
        await connection.execute(_SUPERSEDE, given)
    await connection.execute(_INSERT_STATEMENTS, {**given, "usable": usable})
    if usable:
        days = sorted({day_of for one in statements if (day_of := one.date or day)})
        await connection.execute(
            _MARK_SUPERSEDED, {"file_id": file_id, "source": source, "days": days}
        )


def _statement(one: Statement, day: date | None) -> dict[str, object]:
    settlement_date = one.date or day
    return {
        "number": one.number,
        "account": one.account or "",
        "currency": one.currency_code or "",
        "settlement_date": settlement_date and settlement_date.isoformat(),
        "identity": one.identity,
        "revision": one.revision,
        "opening_minor": one.opening_minor,
        "closing_minor": one.closing_minor,
        "explained_minor": explained_minor(one),
        "entries": one.entries,
        "credits_minor": one.credits_minor,
        "debits_minor": one.debits_minor,
        "ties": one.ties,
        "problem": one.problem or "",
    }


async def read_file(connection: AsyncConnection, file_id: UUID) -> StoredFile | None:
    """The file of this id, None if there is none."""
    row = (await connection.execute(_READ_FILE, {"file_id": file_id})).one_or_none()
    return None if row is None else _stored_file(row)


def _stored_file(row: Any) -> StoredFile:
    stored = StoredFile(*row)
    return stored._replace(
        state=FileState(stored.state), problem_class=BreakClass(stored.problem_class)
    )


async def list_statements(
    connection: AsyncConnection, file_id: UUID, after: int, limit: int
) -> list[StoredStatement]:
    """At most `limit` statements of a file, those after number `after`, in their order."""
    rows = await connection.execute(
        _LIST_STATEMENTS, {"file_id": file_id, "after": after, "limit": limit}
    )
    return [StoredStatement(*row) for row in rows]


async def find_lines(
    connection: AsyncConnection,
    references: Sequence[str],
    operation_ids: Sequence[UUID],
    limit: int,
) -> list[FoundLine]:
    """At most `limit` lines of current statements that name one of these."""
    rows = await connection.execute(
        _FIND_LINES,
        {"references": list(references), "operation_ids": list(operation_ids), "limit": limit},
    )
    return [FoundLine(*row) for row in rows]
