"""Settlement days: closing them, sending them again, and their files.

A day is closed in one transaction, which gives it its captures and stores all that its files
say; a file is built from those rows alone. Whoever asks for the file of a day that is over
closes it: there is no timer, so no restart can miss one.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial
from typing import NamedTuple

from sqlalchemy.ext.asyncio import AsyncConnection

from mesh import settlement_file
from mesh.db import Database
from mesh.errors import MeshError, Reason, Violation, validation_failed
from psp_stub import bank_statement, store_days, store_sent
from psp_stub.csv_file import CsvFile
from psp_stub.falsify import Told, tell
from psp_stub.faults import Capture, Fault, FaultKind, Material, needed
from psp_stub.settlement import (
    Altered,
    Calendar,
    Carried,
    Day,
    Line,
    Sent,
    Statement,
)

FORMATS = (settlement_file.FORMAT, bank_statement.FORMAT)
"""By their full names, the own one first."""

MAX_DAYS_AHEAD = 366
"""How far ahead of time days are closed, or get faults, on demand."""

_READ_LINES = 1_000
_CHUNK_CHARACTERS = 1 << 16
_MOST_FOR_PAIRS = 20_000

# By the names that callers may use.
_FORMATS = {
    "": settlement_file.FORMAT,
    settlement_file.FORMAT: settlement_file.FORMAT,
    "camt.053": bank_statement.FORMAT,
    bank_statement.FORMAT: bank_statement.FORMAT,
}


@dataclass(frozen=True, slots=True)
class Terms:
    """How the stub settles.

    calendar: when days end. delayed: a transfer pays the lines of the days before, not those
    of its own. bank_account: where it goes, an IBAN.
    """

    calendar: Calendar
    delayed: bool
    bank_account: str


class ToldDay(NamedTuple):
    """A day as it is told, and what was ordered for it. closed: how many days were closed."""

    sent: Sent
    faults: Sequence[Fault]
    closed: int = 0


class File(NamedTuple):
    """A file, not built yet. format: its full name."""

    sent: Sent
    format: str
    name: str


class Settlement:
    """The settlement days of one database, by one set of terms."""

    def __init__(self, database: Database, terms: Terms) -> None:
        self._database = database
        self._terms = terms
        self._calendar = terms.calendar
        # Between processes the database's lock does it; here nobody need hold a connection.
        self._closing = asyncio.Lock()
        self._under_way: set[asyncio.Task[int]] = set()

    async def close(self, wanted: date | None) -> ToldDay:
        """Closes the days up to this one, by default up to the one that it is now.

        Idempotent. Errors: VALIDATION_FAILED (too far ahead), SETTLEMENT_FILE_NOT_FOUND
        (before the first day), CommitFailed.
        """
        today = await self._today()
        day = today if wanted is None else wanted
        _refuse_far_ahead(day, today)
        closed = 0
        if await self._sent(day, None) is None:
            closed = await self._close_through(day)
        return await self._told(day, closed)

    async def resend(self, day: date) -> ToldDay:
        """Sends the files of the last closed day again, without its faults. Idempotent.

        Errors: SETTLEMENT_NOT_READY, SETTLEMENT_FILE_NOT_FOUND, WRONG_STATE, CommitFailed.
        """
        sent = await self._closed(day)
        if not sent.revision:
            async with self._closing:
                await self._database.commit(
                    "psp_stub.resend_day", partial(self._resend, day=sent.day)
                )
        return await self._told(day, 0)

    async def seed(self, day: date | None, fault: Fault) -> date:
        """Orders a fault, by default for the first day that is not closed, which it answers.

        Errors: VALIDATION_FAILED, SETTLEMENT_FILE_NOT_FOUND, WRONG_STATE, CommitFailed.
        """
        today = await self._today()

        async def work(connection: AsyncConnection) -> date:
            await store_days.lock(connection)
            last = await store_days.last(connection)
            next_day = await self._next_day(connection, last)
            wanted = next_day if day is None else day
            if wanted < next_day:
                if last is None:
                    raise _no_file("before the first settlement day")
                raise MeshError(Reason.WRONG_STATE, "the settlement day is closed")
            await store_days.set_fault(connection, wanted, fault)
            return wanted

        if day is not None:
            _refuse_far_ahead(day, today)
        async with self._closing:
            return await self._database.commit("psp_stub.seed_fault", work)

    async def open_file(self, day: date, format_name: str, revision: int | None) -> File:
        """A file to be read by `chunks`. Closes the day if it is over.

        Errors: UNSUPPORTED_FORMAT, SETTLEMENT_NOT_READY, SETTLEMENT_FILE_NOT_FOUND, CommitFailed.
        """
        known = _FORMATS.get(format_name)
        if known is None:
            raise MeshError(
                Reason.UNSUPPORTED_FORMAT,
                "the adapter has no such format",
                {"formats": ",".join(FORMATS)},
            )
        sent = await self._closed(day)
        if revision is not None and revision != sent.revision:
            earlier = await self._sent(day, revision)
            if earlier is None:
                raise _no_file("of this revision")
            sent = earlier
        if sent.is_missing and known == settlement_file.FORMAT:
            raise _no_file("of this day")
        kind, end = (
            ("settlement", "csv") if known == settlement_file.FORMAT else ("bank", "camt053.xml")
        )
        return File(sent, known, f"psp_stub-{kind}-{day.isoformat()}-r{sent.revision}.{end}")

    async def chunks(self, file: File) -> AsyncIterator[bytes]:
        """The bytes of a file, built from its rows; a few hundred kilobytes in memory."""
        if file.format == bank_statement.FORMAT:
            lines = await self._database.read(
                "psp_stub.bank_lines", partial(store_sent.read_bank_lines, sent=file.sent)
            )
            built = bank_statement.bank_statement(file.sent, lines, self._terms.bank_account)
            for at in range(0, len(built), _CHUNK_CHARACTERS):
                yield built[at : at + _CHUNK_CHARACTERS]
            return
        csv = CsvFile(file.sent)
        altered = await self._database.read(
            "psp_stub.altered_lines", partial(store_sent.read_altered, sent=file.sent)
        )
        for told in file.sent.statements:
            ours = _by_line(altered, told.currency_code)
            statement = csv.statement(told, _count(told, ours))
            async for line in self._lines(file.sent, told, ours):
                statement.line(line)
                if csv.pending >= _CHUNK_CHARACTERS:
                    yield csv.take()
            statement.end()
        csv.end()
        yield csv.take()

    async def _lines(
        self, sent: Sent, told: Statement, altered: Mapping[int, Sequence[Line]]
    ) -> AsyncIterator[Line]:
        """What a statement says: its true lines or what is said in their place, then the rest."""
        after = 0
        while after < told.captures:
            captures = await self._database.read(
                "psp_stub.settlement_lines",
                partial(
                    store_days.captures,
                    day=sent.day.settlement_date,
                    currency_code=told.currency_code,
                    after=after,
                    most=_READ_LINES,
                ),
            )
            for capture in captures:
                for line in altered.get(capture.line_no, (capture.line,)):
                    yield line
            after = captures[-1].line_no
        for line_no in sorted(line_no for line_no in altered if line_no > told.captures):
            for line in altered[line_no]:
                yield line

    async def _today(self) -> date:
        moment = await self._database.read("psp_stub.now", store_days.now)
        return self._calendar.day_of(moment)

    async def _sent(self, day: date, revision: int | None) -> Sent | None:
        return await self._database.read(
            "psp_stub.settlement_day", partial(store_sent.read_sent, day=day, revision=revision)
        )

    async def _closed(self, day: date) -> Sent:
        """The newest revision of a day that is over, which is closed if nobody did yet."""
        sent = await self._sent(day, None)
        if sent is not None:
            return sent
        if day >= await self._today():
            ready = self._calendar.end(day).isoformat().replace("+00:00", "Z")
            raise MeshError(
                Reason.SETTLEMENT_NOT_READY,
                "the settlement day is not over",
                {"ready_time": ready},
            )
        await self._close_through(day)
        sent = await self._sent(day, None)
        if sent is None:
            raise _no_file("before the first settlement day")
        return sent

    async def _told(self, day: date, closed: int) -> ToldDay:
        sent = await self._sent(day, None)
        if sent is None:
            raise _no_file("before the first settlement day")
        faults = await self._database.read("psp_stub.faults", partial(store_days.faults, day=day))
        return ToldDay(sent, faults, closed)

    async def _close_through(self, day: date) -> int:
        """Closes the days that are open up to this one, each by itself; tells how many.

        A caller that gives up does not undo what may have taken minutes.
        """
        work = asyncio.create_task(self._close_one_by_one(day))
        self._under_way.add(work)  # the loop itself holds tasks weakly
        work.add_done_callback(self._under_way.discard)
        return await asyncio.shield(work)

    async def _close_one_by_one(self, day: date) -> int:
        closed = 0
        async with self._closing:
            while await self._database.commit(
                "psp_stub.close_day", partial(self._close_next, wanted=day)
            ):
                closed += 1
        return closed

    async def _next_day(self, connection: AsyncConnection, last: Day | None) -> date:
        if last is not None:
            return last.settlement_date + timedelta(days=1)
        return self._calendar.day_of(await store_days.first_moment(connection))

    async def _close_next(self, connection: AsyncConnection, wanted: date) -> bool:
        """Closes the first open day, unless that is after the wanted one."""
        await store_days.lock(connection)
        last = await store_days.last(connection)
        next_day = await self._next_day(connection, last)
        if next_day > wanted:
            return False
        moment = await store_days.now(connection)
        day = Day(next_day, self._calendar.end(next_day), moment)
        await store_days.insert_day(connection, day, last and last.settlement_date)
        faults = await store_days.faults(connection, next_day)
        carried = await _carried(connection, day)
        late = await store_days.assign(connection, day, _limits(carried, faults))
        faults = [
            one._replace(applied=late.get(one.currency_code, 0))
            if one.kind is FaultKind.LATE_LINE
            else one
            for one in faults
        ]
        told = await self._tell(connection, day, carried, faults)
        sent = Sent(day, 0, moment, told.is_missing, told.statements)
        await store_sent.insert_sent(connection, sent, told.altered, told.bank_lines)
        await store_days.set_applied(connection, next_day, told.applied)
        return True

    async def _resend(self, connection: AsyncConnection, day: Day) -> None:
        await store_days.lock(connection)
        known = await store_sent.read_sent(connection, day.settlement_date, None)
        if known is None or known.revision:
            return
        last = await store_days.last(connection)
        if last != day:
            raise MeshError(Reason.WRONG_STATE, "a later settlement day is closed")
        carried = await _carried(connection, day)
        told = await self._tell(connection, day, carried, [])
        moment = await store_days.now(connection)
        sent = Sent(day, 1, moment, is_missing=False, statements=told.statements)
        await store_sent.insert_sent(connection, sent, told.altered, told.bank_lines)

    async def _tell(
        self,
        connection: AsyncConnection,
        day: Day,
        carried: Mapping[str, Carried],
        faults: Sequence[Fault],
    ) -> Told:
        sums = await store_days.sums(connection, day.settlement_date)
        captures: dict[str, list[Capture]] = {}
        declined: dict[str, list[Line]] = {}
        disputes: dict[str, list[Line]] = {}
        for fault in faults:
            currency = fault.currency_code
            if fault.kind is FaultKind.DECLINED_SETTLED:
                declined[currency] = await store_days.declined(
                    connection, day, currency, fault.ordered
                )
            elif fault.kind is FaultKind.CHARGEBACK_REVERSAL:
                disputes[currency] = await store_sent.disputes(connection, currency, fault.ordered)
            if currency in captures:
                continue
            most = needed(faults, currency, most=_MOST_FOR_PAIRS)
            captures[currency] = await store_days.captures(
                connection, day.settlement_date, currency, after=0, most=most
            )
        material = Material(
            day.settlement_date, day.close_time, carried, sums, captures, declined, disputes
        )
        return tell(material, faults, delayed=self._terms.delayed)


async def _carried(connection: AsyncConnection, day: Day) -> dict[str, Carried]:
    """What the day takes over from the one before, as that was told last."""
    before = await store_sent.read_sent(connection, day.settlement_date - timedelta(days=1), None)
    if before is None:
        return {}
    return {one.currency_code: Carried.of(one) for one in before.statements}


def _limits(carried: Mapping[str, Carried], faults: Sequence[Fault]) -> dict[str, store_days.Limit]:
    limits: defaultdict[str, store_days.Limit] = defaultdict(store_days.Limit)
    for currency, before in carried.items():
        room = store_days.Limit().most_minor - max(before.opening_minor, 0)
        limits[currency] = store_days.Limit(most_minor=room)
    for fault in faults:
        if fault.kind is FaultKind.LATE_LINE:
            currency = fault.currency_code
            limits[currency] = limits[currency]._replace(late=fault.ordered)
    return dict(limits)


def _by_line(altered: Sequence[Altered], currency_code: str) -> dict[int, list[Line]]:
    """By line_no, what is said there; empty lists where nothing is."""
    lines: defaultdict[int, list[Line]] = defaultdict(list)
    for one in altered:
        if one.currency_code == currency_code:
            said = lines[one.line_no]
            if one.line is not None:
                said.append(one.line)
    return dict(lines)


def _count(told: Statement, altered: Mapping[int, Sequence[Line]]) -> int:
    """How many lines a statement says, without its transfers."""
    replaced = sum(1 for line_no in altered if line_no <= told.captures)
    return told.captures - replaced + sum(len(lines) for lines in altered.values())


def _refuse_far_ahead(day: date, today: date) -> None:
    if day > today + timedelta(days=MAX_DAYS_AHEAD):
        raise validation_failed(
            Violation("settlement_date", f"must be at most {MAX_DAYS_AHEAD} days ahead")
        )


def _no_file(which: str) -> MeshError:
    return MeshError(Reason.SETTLEMENT_FILE_NOT_FOUND, f"there is no settlement file {which}")
