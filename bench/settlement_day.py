"""A PSP's day: a million captures in the ledger, and the file that tells them, but for 1 %."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

import psycopg
from paymesh.reconciliation.v1 import reconciliation_service_pb2 as pb

from bench.settlement_rig import PSP, LedgerRig
from mesh import ids
from mesh.settlement_file import COLUMNS, RECORD, Kind, Record
from psp_stub.csv_file import CsvFile
from psp_stub.settlement import (
    ACCOUNT,
    Carried,
    Day,
    Deviation,
    Line,
    Sent,
    Sums,
    state,
)

DAY = date(2026, 3, 2)
_MIDNIGHT = datetime(2026, 3, 2, tzinfo=UTC)
_CURRENCY = "EUR"
_BLOCK = 1 << 20
_BATCH = 50_000
# Of a thousand orders these differ, each in its own way.
_SEEDED = {
    50: pb.BREAK_CLASS_AMOUNT_DIFFERS,
    150: pb.BREAK_CLASS_AMOUNT_DIFFERS,
    250: pb.BREAK_CLASS_FEE_DIFFERS,
    350: pb.BREAK_CLASS_FEE_DIFFERS,
    450: pb.BREAK_CLASS_TIMING,
    550: pb.BREAK_CLASS_STATUS_DIFFERS,
    650: pb.BREAK_CLASS_UNKNOWN_TO_US,
    750: pb.BREAK_CLASS_DUPLICATE_IN_FILE,
    850: pb.BREAK_CLASS_REFUND_DIFFERS,
    950: pb.BREAK_CLASS_CHARGEBACK,
}


class Order(NamedTuple):
    """A captured order; differs: the class of what is wrong with it, 0 for nothing."""

    number: int
    order_id: UUID
    operation_id: UUID
    amount_minor: int
    fee_minor: int
    create_time: datetime
    psp_reference: str
    differs: int


class MadeDay(NamedTuple):
    """What was made. seeded: (class, PSP reference) of each difference, in order."""

    orders: int
    lines: int
    file: Path
    rows: Path
    seeded: Counter[tuple[int, str]]


def make_day(rig: LedgerRig, orders: int) -> MadeDay:
    """Loads the captures, set-wise, and writes the file and its bare rows."""
    made = rig.folder / "orders.csv"
    with made.open("w", newline="") as output:
        csv.writer(output).writerows(
            (
                order.number,
                order.order_id.hex,
                order.operation_id.hex,
                ids.journal_id("capture", order.operation_id).hex,
                ids.journal_id("psp_fee", order.operation_id).hex,
                order.amount_minor,
                order.fee_minor,
                order.create_time.isoformat(),
                order.psp_reference,
                order.differs,
            )
            for order in _orders(orders)
            if order.differs != pb.BREAK_CLASS_UNKNOWN_TO_US
        )
    with rig.connect() as connection:
        _load(connection, made, orders)
    made.unlink()
    seeded: Counter[tuple[int, str]] = Counter()
    for order in _orders(orders):
        if order.differs:
            name = order.psp_reference
            if order.differs in {pb.BREAK_CLASS_REFUND_DIFFERS, pb.BREAK_CLASS_CHARGEBACK}:
                name = f"{name}_2"
            seeded[(order.differs, name)] += 1
    file, rows = rig.folder / "day.csv", rig.folder / "rows.csv"
    lines = _write(file, rows, orders)
    return MadeDay(orders, lines, file, rows, seeded)


def _orders(count: int) -> Iterator[Order]:
    for number in range(count):
        moment = _MIDNIGHT + timedelta(seconds=number * 86_000 / count)
        milliseconds = int(moment.timestamp() * 1000)
        request = UUID(int=(milliseconds << 80) | (7 << 76) | (2 << 62) | number)
        order_id = ids.order_id(ids.payment_id("bench", str(request)), 0)
        amount = 1_000 + number * 7_919 % 90_000
        yield Order(
            number,
            order_id,
            ids.first_charge_id(order_id),
            amount,
            amount // 100 + 10,
            moment,
            f"ch_{number:012d}",
            _SEEDED.get(number % 1_000, 0),
        )


def _lines(orders: int) -> Iterator[Line]:
    for order in _orders(orders):
        if order.differs == pb.BREAK_CLASS_TIMING:
            continue
        line = Line(
            Kind.CHARGE,
            order.psp_reference,
            order.create_time,
            order.amount_minor,
            order.fee_minor,
            idempotency_key=ids.psp_key(order.operation_id).hex,
            operation_id=order.operation_id.hex,
            order_id=order.order_id.hex,
        )
        about = Line(
            Kind.REFUND,
            f"{order.psp_reference}_2",
            order.create_time,
            -order.amount_minor,
            related_psp_reference=order.psp_reference,
            order_id=order.order_id.hex,
        )
        match order.differs:
            case pb.BREAK_CLASS_AMOUNT_DIFFERS:
                yield line._replace(gross_minor=order.amount_minor + 7)
            case pb.BREAK_CLASS_FEE_DIFFERS:
                yield line._replace(fee_minor=order.fee_minor + 3)
            case pb.BREAK_CLASS_UNKNOWN_TO_US:
                yield line._replace(idempotency_key="", operation_id="", order_id="")
            case pb.BREAK_CLASS_DUPLICATE_IN_FILE:
                yield from (line, line)
            case pb.BREAK_CLASS_REFUND_DIFFERS:
                yield from (line, about)
            case pb.BREAK_CLASS_CHARGEBACK:
                yield from (line, about._replace(kind=Kind.DISPUTE))
            case _:
                yield line


def _write(file: Path, rows: Path, orders: int) -> int:
    """The file as the stub writes it, and of it the rows of its lines alone."""
    gross = fee = count = 0
    for line in _lines(orders):
        gross, fee, count = gross + line.gross_minor, fee + line.fee_minor, count + 1
    sent = Sent(
        Day(DAY, _MIDNIGHT + timedelta(days=1), _MIDNIGHT + timedelta(days=1)), 0, _MIDNIGHT,
        is_missing=False, statements=(),
    )  # fmt: skip
    statement = state(
        _CURRENCY, Carried(), Sums(count, gross, fee), Deviation(ACCOUNT), delayed=False
    )
    made = CsvFile(sent)
    with file.open("wb") as output:
        part = made.statement(statement, count)
        for line in _lines(orders):
            part.line(line)
            if made.pending >= _BLOCK:
                output.write(made.take())
        part.end()
        made.end()
        output.write(made.take())
    start = f"{Record.LINE},".encode()
    with file.open("rb") as whole, rows.open("wb") as output:
        output.writelines(row for row in whole if row.startswith(start))
    return count + 1  # the transfer


# Not captured as far as we know, and told to the register: that is class 14.
_WAITS = pb.BREAK_CLASS_STATUS_DIFFERS
_REGISTER = """
INSERT INTO operation_register (
  operation_id, order_id, payment_id, amount_minor, version, kind, state, currency, reason,
  psp_reference
)
SELECT operation_id, order_id, order_id, amount_minor, 1, 1, 2, 'EUR', '', ''
FROM made WHERE differs = %(waits)s
"""
_MAKE = """
CREATE UNLOGGED TABLE made (
  number bigint PRIMARY KEY, order_id uuid, operation_id uuid, capture_id uuid, fee_id uuid,
  amount_minor bigint, fee_minor bigint, create_time timestamptz, psp_reference text,
  differs smallint
)
"""
# Both journals of a capture with all their entries, as PostCaptures books them.
_LOAD = """
WITH part AS MATERIALIZED (
  SELECT * FROM made WHERE number >= %(first)s AND number < %(last)s AND differs <> %(waits)s
), captured AS (
  INSERT INTO journal (
    journal_id, kind, operation_id, revision, order_id, psp_reference, line_count, create_time
  )
  SELECT capture_id, 1, operation_id, 0, order_id, psp_reference, 3, create_time FROM part
  UNION ALL
  SELECT fee_id, 2, operation_id, 0, order_id, psp_reference, 2, create_time FROM part
)
INSERT INTO entry (
  journal_id, line, account_kind, owner_id, source, currency, direction, amount_minor, create_time
)
SELECT one.* , create_time
FROM part
CROSS JOIN LATERAL (VALUES
  (capture_id, 0, 1, '', %(source)s, 'EUR', 1, amount_minor),
  (capture_id, 1, 2, 'seller-' || number %% 5000, '', 'EUR', 2, amount_minor - 100),
  (capture_id, 2, 6, '', '', 'EUR', 2, 100),
  (fee_id, 0, 7, '', %(source)s, 'EUR', 1, fee_minor),
  (fee_id, 1, 1, '', %(source)s, 'EUR', 2, fee_minor)
) AS one
"""


def _load(connection: psycopg.Connection[tuple[object, ...]], made: Path, orders: int) -> None:
    connection.execute(_MAKE)
    with (
        connection.cursor() as cursor,
        cursor.copy("COPY made FROM STDIN WITH (FORMAT csv)") as copy,
        made.open("rb") as rows,
    ):
        while block := rows.read(_BLOCK):
            copy.write(block)
    connection.execute("SET lock_timeout = 0")
    for first in range(0, orders, _BATCH):
        connection.execute(
            _LOAD, {"first": first, "last": first + _BATCH, "source": PSP, "waits": _WAITS}
        )
    connection.execute(_REGISTER, {"waits": _WAITS})
    connection.execute("DROP TABLE made")
    # As autovacuum has done by the night.
    connection.execute("VACUUM (ANALYZE) journal, entry")
    connection.execute("CHECKPOINT")


_TYPES = {
    "line_no": "bigint",
    "operation_id": "uuid",
    "order_id": "uuid",
    "create_time": "timestamptz",
    "settlement_date": "date",
    "booking_date": "date",
    "value_date": "date",
}


def bare_script(day: MadeDay) -> str:
    """What psql is measured by: COPY of the lines, as they are, and one join with the ledger."""
    columns = ", ".join(
        f"{name if name != RECORD else 'record'} "
        + ("bigint" if name.endswith("_minor") else _TYPES.get(name, "text"))
        for name in COLUMNS
    )
    return f"""
CREATE TABLE bare ({columns});
\\copy bare FROM '{day.rows}' WITH (FORMAT csv)
SELECT count(*), sum(bare.gross_minor - e.amount_minor)
FROM bare
JOIN journal AS j ON j.operation_id = bare.operation_id AND j.kind = 1
JOIN entry AS e ON e.journal_id = j.journal_id AND e.line = 0;
"""  # noqa: S608 - of our own column names


def found(rig: LedgerRig) -> Counter[tuple[int, str]]:
    """(class, PSP reference) of every break that the ledger holds."""
    with rig.connect() as connection:
        rows = connection.execute("SELECT class, psp_reference FROM settlement_break").fetchall()
    return Counter((int(class_), str(name)) for class_, name in rows)
