"""Takes settlement files in, and reads what they say: one function, one commit."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from datetime import date
from types import TracebackType
from typing import Self
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from ledger_svc.reconciliation import store_files
from ledger_svc.reconciliation.domain import (
    Delivery,
    FileState,
    FoundLine,
    StoredFile,
    StoredStatement,
    Verdict,
)
from ledger_svc.reconciliation.judging import Judged, Rows, judge
from ledger_svc.reconciliation.sources import Source, Sources
from mesh import ids
from mesh.db import Database
from mesh.errors import MeshError, Reason

log = structlog.get_logger()

SOON_S = 0.2
"""A file that takes longer to read is stored meanwhile."""
_NEXT_BLOCK_S = 0.02
# How many times the limit is read, to tell the caller that it is exceeded.
_TAKEN_TO_THE_END = 3


class Spool:
    """A file while it comes: on disk, counted and hashed."""

    def __init__(self, max_file_bytes: int) -> None:
        self.size_bytes = 0
        self.file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        self._max_file_bytes = max_file_bytes
        self._sha256 = hashlib.sha256()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.file.close()

    @property
    def sha256(self) -> bytes:
        """Of all bytes so far."""
        return self._sha256.digest()

    async def write(self, chunk: bytes) -> None:
        """Adds the next bytes. Errors: FILE_TOO_LARGE.

        What is too large is no longer stored, and yet taken to its end, within reason: a
        caller who is still sending when the call ends may not see why it ended.
        """
        self.size_bytes += len(chunk)
        if self.size_bytes <= self._max_file_bytes:
            await asyncio.to_thread(self._add, chunk)
        elif self.size_bytes > _TAKEN_TO_THE_END * self._max_file_bytes:
            self.finish()

    def finish(self) -> None:
        """Nothing more comes. Errors: FILE_TOO_LARGE."""
        if self.size_bytes > self._max_file_bytes:
            raise too_large(self._max_file_bytes)

    def _add(self, chunk: bytes) -> None:
        self._sha256.update(chunk)
        self.file.write(chunk)


def too_large(max_file_bytes: int) -> MeshError:
    """That a file has more bytes than this."""
    return MeshError(
        Reason.FILE_TOO_LARGE,
        f"a settlement file may have {max_file_bytes} bytes at most; nothing was stored",
        {"max_file_bytes": str(max_file_bytes)},
    )


def source_of(sources: Sources, name: str) -> Source:
    """The facts of a source. Errors: SOURCE_NOT_FOUND."""
    source = sources.get(name)
    if source is None:
        raise MeshError(
            Reason.SOURCE_NOT_FOUND, "no source of this name is configured (PAYMESH_LEDGER_SOURCES)"
        )
    return source


async def ingest(
    database: Database, delivery: Delivery, source: Source, spool: Spool, max_file_bytes: int
) -> StoredFile:
    """Judges a file and stores it, with its lines if it can be used.

    Idempotent on (source, settlement date, sha256); one that was refused is judged again.
    Errors: those of Database.commit.
    """
    spool.file.seek(0)
    with closing(Rows()) as rows:
        # In a thread: payments go on meanwhile.
        reading = asyncio.ensure_future(
            asyncio.to_thread(judge, spool.file, delivery, source, max_file_bytes, rows)
        )
        try:
            stored = await _ingest(database, delivery, rows, reading)
        finally:
            reading.cancel()
    is_refused = stored.state in {FileState.QUARANTINED, FileState.WAITING}
    tell = log.warning if is_refused else log.info
    tell(
        "settlement_file",
        source=stored.source,
        file_id=stored.file_id.hex,
        state=stored.state.name,
        lines=stored.lines,
        size_bytes=stored.size_bytes,
        **({"problem": stored.problem} if is_refused else {}),
    )
    return stored


async def _ingest(
    database: Database, delivery: Delivery, rows: Rows, reading: asyncio.Future[Judged]
) -> StoredFile:
    await asyncio.wait({reading}, timeout=SOON_S)
    day = delivery.settlement_date or rows.first_day
    if not reading.done() and day is not None:
        try:
            return await database.commit(
                "ledger.ingest",
                lambda connection: _store_while_read(connection, delivery, day, rows, reading),
            )
        except _NotAsExpected:
            log.info("settlement_file_read_first", source=delivery.source)
    judged = await reading
    return await database.commit(
        "ledger.ingest", lambda connection: _store(connection, delivery, judged, rows)
    )


class _NotAsExpected(Exception):
    """The file can't be used, is there already, or is another day's: nothing is stored."""


async def _store_while_read(
    connection: AsyncConnection,
    delivery: Delivery,
    day: date,
    rows: Rows,
    reading: asyncio.Future[Judged],
) -> StoredFile:
    """Stores the lines of a large file while it is read, as that of a day that is likely.

    Raises _NotAsExpected: then it has to be read to its end first.
    """
    file_id = _file_id(delivery, day)
    # Whoever else brings it waits here. Nobody sees it before the commit.
    if not await store_files.put_file(
        connection, file_id, delivery, Verdict(FileState.WAITING, "", day, 0)
    ):
        raise _NotAsExpected
    await store_files.copy_lines(connection, file_id, _while_read(rows, reading))
    judged = await reading
    if judged.verdict.settlement_date != day:
        raise _NotAsExpected
    return await _store(connection, delivery, judged, None)


async def _while_read(rows: Rows, reading: asyncio.Future[Judged]) -> AsyncIterator[bytes]:
    offset = 0
    while True:
        at_end = reading.done()
        if block := await asyncio.to_thread(rows.block, offset):
            offset += len(block)
            yield block
        elif not at_end:
            await asyncio.wait({reading}, timeout=_NEXT_BLOCK_S)
        elif not rows.is_complete:
            raise _NotAsExpected
        else:
            return


def _file_id(delivery: Delivery, day: date | None) -> UUID:
    return ids.settlement_file_id(
        delivery.source, "" if day is None else day.isoformat(), delivery.sha256.hex()
    )


async def _store(
    connection: AsyncConnection, delivery: Delivery, judged: Judged, rows: Rows | None
) -> StoredFile:
    """Stores a file that was read. rows: its lines; None if they are stored already."""
    verdict = judged.verdict
    day = verdict.settlement_date
    file_id = _file_id(delivery, day)
    if await store_files.put_file(connection, file_id, delivery, verdict):
        usable = verdict.state is FileState.INGESTED
        if usable:
            if rows is not None:
                await store_files.copy_lines(connection, file_id, _blocks(rows))
            await store_files.lock_source(connection, delivery.source)
        await store_files.put_statements(
            connection, file_id, delivery.source, judged.statements, day=day, usable=usable
        )
    return await _found(connection, file_id)


async def _blocks(rows: Rows) -> AsyncIterator[bytes]:
    offset = 0
    while block := await asyncio.to_thread(rows.block, offset):
        offset += len(block)
        yield block


async def fetch(
    database: Database,
    delivery: Delivery,
    source: Source,
    chunks: AsyncIterator[bytes],
    max_file_bytes: int,
) -> StoredFile:
    """Takes in what an adapter sends; `delivery` without hash and size.

    Errors: those of the adapter; FILE_TOO_LARGE; those of Database.commit.
    """
    with Spool(max_file_bytes) as spool:
        async for chunk in chunks:
            await spool.write(chunk)
        spool.finish()
        whole = delivery._replace(sha256=spool.sha256, size_bytes=spool.size_bytes)
        return await ingest(database, whole, source, spool, max_file_bytes)


async def get_file(database: Database, file_id: UUID) -> StoredFile:
    """The file of this id. Errors: FILE_NOT_FOUND."""
    return await database.read("ledger.file", lambda connection: _found(connection, file_id))


async def list_statements(
    database: Database, file_id: UUID, after: int, limit: int
) -> list[StoredStatement]:
    """At most `limit` statements of a file after the number `after`. Errors: FILE_NOT_FOUND."""

    async def work(connection: AsyncConnection) -> list[StoredStatement]:
        await _found(connection, file_id)
        return await store_files.list_statements(connection, file_id, after, limit)

    return await database.read("ledger.statements", work)


async def find_lines(
    database: Database, references: Sequence[str], operation_ids: Sequence[UUID], limit: int
) -> list[FoundLine]:
    """At most `limit` lines that name one of these references or operations."""
    return await database.read(
        "ledger.find_lines",
        lambda connection: store_files.find_lines(connection, references, operation_ids, limit),
    )


async def _found(connection: AsyncConnection, file_id: UUID) -> StoredFile:
    stored = await store_files.read_file(connection, file_id)
    if stored is None:
        raise MeshError(Reason.FILE_NOT_FOUND, "there is no settlement file of this id")
    return stored
