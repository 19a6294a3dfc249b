"""Takes settlement files in from a folder, where somebody drops them, by SFTP for example.

`<folder>/<source>/<file>` is taken when it is whole, as if it had come by IngestSettlementFile,
and then moved to `done/` or, with the reason beside it, to `refused/`. A process that dies in
between leaves the file where it is: it is taken again, which changes nothing. Of several
replicas one takes it: whoever has its lock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import ParamSpec, TypeVar

import structlog

from ledger_svc.reconciliation import drop_files, files
from ledger_svc.reconciliation.domain import Delivery, FileState, StoredFile
from ledger_svc.reconciliation.drop_files import DONE, REFUSED, Found, Held
from ledger_svc.reconciliation.sources import Sources
from mesh.db import Database
from mesh.errors import MeshError, Reason

log = structlog.get_logger()

P = ParamSpec("P")
T = TypeVar("T")

RETRY_S = 60.0
"""So long a file is left alone that could not be taken or moved."""

_CHUNK_BYTES = 1 << 20
_KEY_CHARACTERS = 12


class DropFolder:
    """The loop that looks into the folder."""

    def __init__(
        self,
        root: Path,
        database: Database,
        sources: Sources,
        *,
        max_file_bytes: int,
        poll_s: float,
        quiet_s: float,
    ) -> None:
        """`poll_s`: between two looks; `quiet_s`: so long a file is unchanged that is whole."""
        self._root = root
        self._database = database
        self._sources = sources
        self._max_file_bytes = max_file_bytes
        self._poll_s = poll_s
        self._quiet_s = quiet_s
        self._seen: dict[Found, float] = {}
        """The files of the last look, and from when on each may be taken."""
        self._unreadable: list[str] = []

    async def run(self) -> None:
        """Runs until cancelled; whatever is wrong with a file or the folder is told and waits."""
        while True:
            try:
                await self.look()
            except OSError as error:
                log.warning("drop_folder_unreadable", cause=str(error))
            await asyncio.sleep(self._poll_s)

    async def look(self) -> None:
        """Takes every file that is whole by now. Raises OSError if the folder can't be read."""
        now = asyncio.get_running_loop().time()
        found, unreadable = await _in_thread(drop_files.look, self._root, self._sources)
        if unreadable != self._unreadable:
            self._unreadable = unreadable
            log.warning("drop_folders_unreadable", folders=unreadable)
        self._seen = {one: self._seen.get(one, now + self._quiet_s) for one in found}
        for one in found:
            if self._seen[one] <= now and not await self._taken(one):
                self._seen[one] = now + RETRY_S

    async def _taken(self, found: Found) -> bool:
        """Takes one file, whatever becomes of it; False: it should be left alone for a while."""
        try:
            await self._take(found)
        except (MeshError, OSError) as error:
            log.warning("drop_waits", source=found.source, file_name=found.name, cause=str(error))
            return False
        except Exception:
            # One file must neither stop the service nor keep the others waiting.
            log.exception("drop_failed", source=found.source, file_name=found.name)
            return False
        return True

    async def _take(self, found: Found) -> None:
        with ExitStack() as stack:
            held = await _in_thread(stack.enter_context, drop_files.hold(self._root, found))
            if held is None:
                return
            try:
                stored = await self._ingest(found, held)
            except MeshError as error:
                if error.reason is not Reason.FILE_TOO_LARGE:
                    raise
                key = f"{found.mark.mtime_ns:x}"[-_KEY_CHARACTERS:]
                await self._move(held, found, REFUSED, key, f"{error.reason}: {error.message}\n")
                return
            if stored is None:
                return
            key = stored.sha256.hex()[:_KEY_CHARACTERS]
            if stored.state in {FileState.INGESTED, FileState.SUPERSEDED}:
                await self._move(held, found, DONE, key)
            else:
                await self._move(held, found, REFUSED, key, _reason(stored))

    async def _ingest(self, found: Found, held: Held) -> StoredFile | None:
        """Reads the file and takes it in; None if it was not whole after all.

        Errors: FILE_TOO_LARGE; those of Database.commit.
        """
        if found.mark.size_bytes > self._max_file_bytes:
            raise files.too_large(self._max_file_bytes)
        with files.Spool(self._max_file_bytes) as spool:
            while chunk := await _in_thread(held.read, _CHUNK_BYTES):
                await spool.write(chunk)
            spool.finish()
            if await _in_thread(held.has_changed):
                return None
            name = "".join(one if one.isprintable() else "?" for one in found.name)
            told = Delivery(found.source, name, "", None, spool.sha256, spool.size_bytes)
            source = files.source_of(self._sources, found.source)
            return await files.ingest(self._database, told, source, spool, self._max_file_bytes)

    async def _move(self, held: Held, found: Found, to: str, key: str, reason: str = "") -> None:
        name = await _in_thread(held.move, to, key, reason)
        tell = log.warning if to == REFUSED else log.info
        tell("drop_taken", source=found.source, file_name=found.name, moved_to=f"{to}/{name}")


def _reason(stored: StoredFile) -> str:
    """What is written beside a refused file."""
    facts = {
        "state": stored.state.name,
        "class": str(int(stored.problem_class) or ""),
        "problem": stored.problem,
        "place": stored.problem_place,
        "file_id": stored.file_id.hex,
    }
    return "".join(f"{name}: {fact}\n" for name, fact in facts.items() if fact)


async def _in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Runs it in a thread and waits for its end, even if cancelled: it uses what is open."""
    running = asyncio.ensure_future(asyncio.to_thread(work, *args, **kwargs))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise
