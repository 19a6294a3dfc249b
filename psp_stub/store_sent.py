"""What was sent of settlement days, and what their files are built from: SQL.

In the caller's transaction. See the second migration.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date
from typing import Any

from sqlalchemy import TextClause, text
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.settlement_file import Kind
from psp_stub.settlement import Altered, BankLine, Day, Line, Sent, Statement

_INSERT_REVISION = text("""
INSERT INTO settlement_revision (settlement_date, revision, create_time, is_missing)
VALUES (:settlement_date, :revision, :create_time, :is_missing)
""")

_ALTERED_COLUMNS = (
    "kind, psp_reference, related_psp_reference, idempotency_key, operation_id, order_id,"
    " create_time, gross_minor, fee_minor, original_amount_minor, original_currency_code,"
    " exchange_rate, description"
)

# Of what was sent again nothing is left that was wrong.
_DISPUTES = text(f"""
SELECT {_ALTERED_COLUMNS}
FROM settlement_altered_line AS dispute
WHERE kind = 'DISPUTE' AND currency_code = :currency_code
  AND NOT EXISTS (SELECT FROM settlement_revision AS newer
                  WHERE newer.settlement_date = dispute.settlement_date AND newer.revision = 1)
  AND NOT EXISTS (
    SELECT FROM settlement_altered_line AS won
    WHERE won.kind = 'DISPUTE_REVERSAL' AND won.related_psp_reference = dispute.psp_reference
      AND NOT EXISTS (SELECT FROM settlement_revision AS newer
                      WHERE newer.settlement_date = won.settlement_date AND newer.revision = 1))
ORDER BY settlement_date, line_no, part LIMIT :most
""")

_READ_SENT = text("""
SELECT settlement_date, end_time, close_time, revision, create_time, is_missing
FROM settlement_revision JOIN settlement_day USING (settlement_date)
WHERE settlement_date = :settlement_date
  AND revision = coalesce(cast(:revision as integer), revision)
ORDER BY revision DESC LIMIT 1
""")

_READ_STATEMENTS = text(f"""
SELECT {", ".join(Statement._fields)} FROM settlement_statement
WHERE settlement_date = :settlement_date AND revision = :revision
ORDER BY currency_code
""")

_READ_ALTERED = text(f"""
SELECT currency_code, line_no, part, {_ALTERED_COLUMNS}
FROM settlement_altered_line
WHERE settlement_date = :settlement_date AND revision = :revision
ORDER BY currency_code, line_no, part
""")

_READ_BANK_LINES = text(f"""
SELECT {", ".join(BankLine._fields)} FROM settlement_bank_line
WHERE settlement_date = :settlement_date AND revision = :revision
ORDER BY currency_code, line_no
""")


def _insert(table: str, columns: Sequence[str]) -> TextClause:
    names = ["settlement_date", "revision", *columns]
    values = ", ".join(f":{name}" for name in names)
    return text(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({values})")


_LINE_COLUMNS = tuple(_ALTERED_COLUMNS.split(", "))
_INSERT_STATEMENT = _insert("settlement_statement", Statement._fields)
_INSERT_BANK_LINE = _insert("settlement_bank_line", ("line_no", *BankLine._fields))
_INSERT_ALTERED = _insert(
    "settlement_altered_line", ("currency_code", "line_no", "part", *_LINE_COLUMNS)
)


async def insert_sent(
    connection: AsyncConnection,
    sent: Sent,
    altered: Iterable[Altered],
    bank_lines: Iterable[BankLine],
) -> None:
    """Stores what a revision tells."""
    names = {"settlement_date": sent.day.settlement_date, "revision": sent.revision}
    await connection.execute(
        _INSERT_REVISION,
        {**names, "create_time": sent.create_time, "is_missing": sent.is_missing},
    )
    told: list[tuple[TextClause, list[dict[str, Any]]]] = [
        (_INSERT_STATEMENT, [one._asdict() for one in sent.statements]),
        (
            _INSERT_BANK_LINE,
            [{"line_no": at, **one._asdict()} for at, one in enumerate(bank_lines, start=1)],
        ),
        (_INSERT_ALTERED, [_altered_row(one, sent) for one in altered]),
    ]
    for statement, rows in told:
        if rows:
            await connection.execute(statement, [names | row for row in rows])


async def read_sent(connection: AsyncConnection, day: date, revision: int | None) -> Sent | None:
    """A revision of a day's files, the newest if none is named."""
    parameters: dict[str, Any] = {"settlement_date": day, "revision": revision}
    row = (await connection.execute(_READ_SENT, parameters)).one_or_none()
    if row is None:
        return None
    parameters["revision"] = row.revision
    statements = await connection.execute(_READ_STATEMENTS, parameters)
    return Sent(
        Day(row.settlement_date, row.end_time, row.close_time),
        row.revision,
        row.create_time,
        row.is_missing,
        tuple(Statement(*one) for one in statements),
    )


async def read_altered(connection: AsyncConnection, sent: Sent) -> list[Altered]:
    """What the revision says otherwise, in the order of the file."""
    rows = await connection.execute(_READ_ALTERED, _key(sent))
    return [
        Altered(row.currency_code, row.line_no, row.part, _line(row) if row.kind else None)
        for row in rows
    ]


async def read_bank_lines(connection: AsyncConnection, sent: Sent) -> list[BankLine]:
    """What the bank's statement holds, in its order."""
    return [BankLine(*row) for row in await connection.execute(_READ_BANK_LINES, _key(sent))]


async def disputes(connection: AsyncConnection, currency_code: str, most: int) -> list[Line]:
    """Chargebacks that were told and not reversed, oldest first."""
    rows = await connection.execute(_DISPUTES, {"currency_code": currency_code, "most": most})
    return [_line(row) for row in rows]


def _key(sent: Sent) -> dict[str, Any]:
    return {"settlement_date": sent.day.settlement_date, "revision": sent.revision}


def _line(row: Row[Any]) -> Line:
    cells = {name: getattr(row, name) for name in _LINE_COLUMNS}
    return Line(**{**cells, "kind": Kind(row.kind)})


# Where a file says nothing, the row needs a time all the same.
def _altered_row(altered: Altered, sent: Sent) -> dict[str, Any]:
    line = altered.line
    cells = (line or Line(Kind.CHARGE, "", sent.create_time, 0))._asdict()
    if line is None:
        cells["kind"] = None
    return {
        "currency_code": altered.currency_code,
        "line_no": altered.line_no,
        "part": altered.part,
        **cells,
    }
