"""The tables of settlement days: SQL, in the caller's transaction. See the second migration."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from typing import Any, NamedTuple

from sqlalchemy import text
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.money import MAX_AMOUNT_MINOR
from mesh.patience import take_time
from mesh.settlement_file import Kind
from psp_stub.faults import Capture, Fault, FaultKind
from psp_stub.settlement import Day, Line, Sums

# Closing reads all captures that are in no file (200,000 in 2 s): once a day, and no charge
# waits for its locks.
_PATIENCE_MS = 15 * 60_000

_LOCK = text("LOCK TABLE settlement_fault IN SHARE ROW EXCLUSIVE MODE")

_NOW = text("SELECT paymesh_now()")

_LAST = text("""
SELECT settlement_date, end_time, close_time FROM settlement_day
ORDER BY settlement_date DESC LIMIT 1
""")

_FIRST_MOMENT = text("SELECT least(min(create_time), paymesh_now()) FROM charge")

_INSERT_DAY = text("""
INSERT INTO settlement_day (settlement_date, previous_date, end_time, close_time)
VALUES (:settlement_date, :previous_date, :end_time, :close_time)
""")

# In the order of capture; `later` counts those of the currency that come after. What would
# lift a balance above the cap of amounts waits for the next day, as what is late does.
_ASSIGN = text("""
WITH due AS MATERIALIZED (
  SELECT idempotency_key, generation, currency_code,
         row_number() OVER in_time AS line_no,
         sum(captured_minor) OVER in_time AS taken_minor,
         count(*) OVER (PARTITION BY currency_code) - row_number() OVER in_time AS later
  FROM charge
  WHERE final_state = 'CAPTURED'
    AND final_time < cast(:end_time as timestamptz)
    AND final_time <= cast(:close_time as timestamptz)
    AND NOT EXISTS (
      SELECT FROM settlement_line AS told
      WHERE (told.idempotency_key, told.generation)
          = (charge.idempotency_key, charge.generation))
  WINDOW in_time AS (PARTITION BY currency_code ORDER BY final_time, charge_number
                     ROWS UNBOUNDED PRECEDING)
),
limits AS (
  SELECT * FROM unnest(
    cast(:currency_codes as text[]), cast(:most_minor as bigint[]), cast(:late as integer[]))
  AS limits (currency_code, most_minor, late)
),
ranked AS MATERIALIZED (
  SELECT due.*, later < coalesce(late, 0) AS is_late,
         taken_minor <= coalesce(most_minor, :cap) AS fits
  FROM due LEFT JOIN limits USING (currency_code)
),
assigned AS (
  INSERT INTO settlement_line
    (settlement_date, currency_code, line_no, idempotency_key, generation)
  SELECT :settlement_date, currency_code, line_no, idempotency_key, generation
  FROM ranked WHERE fits AND NOT is_late
)
SELECT currency_code, count(*) AS late FROM ranked WHERE is_late GROUP BY currency_code
""")

_SUMS = text("""
SELECT currency_code, count(*) AS captures, cast(sum(captured_minor) as bigint) AS gross_minor,
       cast(sum(fee_minor) as bigint) AS fee_minor
FROM settlement_line JOIN charge USING (idempotency_key, generation, currency_code)
WHERE settlement_date = :settlement_date
GROUP BY currency_code
""")

_CAPTURES = text("""
SELECT line_no, psp_reference, final_time, captured_minor, fee_minor, idempotency_key,
       operation_id, order_id
FROM settlement_line JOIN charge USING (idempotency_key, generation)
WHERE settlement_date = :settlement_date AND settlement_line.currency_code = :currency_code
  AND line_no > :after
ORDER BY line_no LIMIT :most
""")

# As they would be told if they had been captured.
_DECLINED = text("""
SELECT psp_reference, final_time, asked_minor AS captured_minor, 0 AS fee_minor,
       idempotency_key, operation_id, order_id
FROM charge
WHERE final_state = 'DECLINED' AND currency_code = :currency_code
  AND final_time < :end_time AND final_time <= :close_time
  AND NOT EXISTS (SELECT FROM settlement_altered_line AS told
                  WHERE told.psp_reference = charge.psp_reference)
ORDER BY final_time DESC, charge_number DESC LIMIT :most
""")

_READ_FAULTS = text("""
SELECT kind, currency_code, ordered, amount_minor, applied FROM settlement_fault
WHERE settlement_date = :settlement_date ORDER BY kind, currency_code
""")

_SET_FAULT = text("""
INSERT INTO settlement_fault (settlement_date, kind, currency_code, ordered, amount_minor)
VALUES (:settlement_date, :kind, :currency_code, :ordered, :amount_minor)
ON CONFLICT (settlement_date, kind, currency_code)
DO UPDATE SET ordered = excluded.ordered, amount_minor = excluded.amount_minor
""")

_DROP_FAULT = text("""
DELETE FROM settlement_fault
WHERE (settlement_date, kind, currency_code) = (:settlement_date, :kind, :currency_code)
""")

_APPLIED = text("""
UPDATE settlement_fault SET applied = :applied
WHERE (settlement_date, kind, currency_code) = (:settlement_date, :kind, :currency_code)
""")


class Limit(NamedTuple):
    """What a day takes of a currency: most_minor in sum, and not the last `late` captures."""

    most_minor: int = MAX_AMOUNT_MINOR
    late: int = 0


async def lock(connection: AsyncConnection) -> None:
    """Until the transaction ends, nobody else closes, sends again or orders faults.

    Charges go on. Days are a chain in the schema, too: this is what makes callers wait
    instead of fail.
    """
    await take_time(connection, _PATIENCE_MS)
    await connection.execute(_LOCK)


async def now(connection: AsyncConnection) -> datetime:
    """The deciding time, UTC."""
    moment: datetime = (await connection.execute(_NOW)).scalar_one()
    return moment


async def last(connection: AsyncConnection) -> Day | None:
    """The last closed day."""
    row = (await connection.execute(_LAST)).one_or_none()
    return None if row is None else Day(*row)


async def first_moment(connection: AsyncConnection) -> datetime:
    """Where the days begin: with the first charge, or now if there is none."""
    moment: datetime = (await connection.execute(_FIRST_MOMENT)).scalar_one()
    return moment


async def insert_day(connection: AsyncConnection, day: Day, previous: date | None) -> None:
    """A day is closed."""
    await connection.execute(_INSERT_DAY, {**day._asdict(), "previous_date": previous})


async def assign(
    connection: AsyncConnection, day: Day, limits: Mapping[str, Limit]
) -> dict[str, int]:
    """Gives the day its captures; by currency, how many stay behind because they are late."""
    rows = await connection.execute(
        _ASSIGN,
        {
            **day._asdict(),
            "currency_codes": list(limits),
            "most_minor": [limit.most_minor for limit in limits.values()],
            "late": [limit.late for limit in limits.values()],
            "cap": MAX_AMOUNT_MINOR,
        },
    )
    return {row.currency_code: row.late for row in rows}


async def sums(connection: AsyncConnection, day: date) -> dict[str, Sums]:
    """By currency, what the day truly holds."""
    rows = await connection.execute(_SUMS, {"settlement_date": day})
    return {row.currency_code: Sums(row.captures, row.gross_minor, row.fee_minor) for row in rows}


async def captures(
    connection: AsyncConnection, day: date, currency_code: str, *, after: int, most: int
) -> list[Capture]:
    """The day's true lines of a currency after this line_no, at most so many."""
    rows = await connection.execute(
        _CAPTURES,
        {
            "settlement_date": day,
            "currency_code": currency_code,
            "after": after,
            "most": most,
        },
    )
    return [Capture(row.line_no, _charge(row)) for row in rows]


async def declined(
    connection: AsyncConnection, day: Day, currency_code: str, most: int
) -> list[Line]:
    """The last declined charges before the day's end that no file told yet."""
    parameters = {**day._asdict(), "currency_code": currency_code, "most": most}
    return [_charge(row) for row in await connection.execute(_DECLINED, parameters)]


async def faults(connection: AsyncConnection, day: date) -> list[Fault]:
    """What is ordered for the day."""
    rows = await connection.execute(_READ_FAULTS, {"settlement_date": day})
    return [Fault(FaultKind(kind), *rest) for kind, *rest in rows]


async def set_fault(connection: AsyncConnection, day: date, fault: Fault) -> None:
    """Sets an order anew, or takes it back if its count is 0."""
    statement = _SET_FAULT if fault.ordered else _DROP_FAULT
    await connection.execute(statement, {"settlement_date": day, **fault._asdict()})


async def set_applied(
    connection: AsyncConnection, day: date, applied: Mapping[tuple[FaultKind, str], int]
) -> None:
    """Stores how often each order was carried out."""
    rows = [
        {"settlement_date": day, "kind": kind, "currency_code": currency, "applied": count}
        for (kind, currency), count in applied.items()
    ]
    if rows:
        await connection.execute(_APPLIED, rows)


def _charge(row: Row[Any]) -> Line:
    return Line(
        Kind.CHARGE,
        row.psp_reference,
        row.final_time,
        row.captured_minor,
        row.fee_minor,
        idempotency_key=row.idempotency_key,
        operation_id=row.operation_id.hex,
        order_id=row.order_id.hex,
    )
