"""Hostile and cut files through the real call: nothing of them is used, stored or kept."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from paymesh.reconciliation.v1 import reconciliation_service_pb2 as pb
from paymesh.reconciliation.v1.reconciliation_service_pb2_grpc import ReconciliationServiceStub

from mesh.errors import Reason
from tests.rpc.reconciliation.test_drop import Drop, process
from tests.support.hostile import ENTITY, KINDS, LAUGHS, complete
from tests.support.ports import free_port
from tests.support.reconciliation import DayFile, ingest
from tests.support.reconciliation_world import World, charge_cells
from tests.support.serving import error_of
from tests.support.settlement import XML, camt, mt940, ntry, stmt, stripe, stripe_row

BOMB = b"<" * 50_000_000


def zipped(content: bytes, times: int = 1) -> bytes:
    for _ in range(times):
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as writer:
            writer.writestr("statement.xml", content)
        content = archive.getvalue()
    return content


def declared(declaration: str, amount: str = "&x;") -> bytes:
    return camt(stmt(ntry(amount), closing="105.00"), declaration=declaration).encode()


def hostile() -> dict[str, tuple[bytes, str]]:
    """name → (file, reason)."""
    deep = "<x>" * 100_000 + "</x>" * 100_000
    external = ENTITY.replace('"{value}"', 'SYSTEM "{value}"')
    empty = camt(stmt(opening=None, closing=None).replace("</Acct>", "<Ccy>EUROPE</Ccy></Acct>"))
    latin = camt(stmt(ntry(), closing="105.00")).replace("BANK-1", "BÄNK-1").encode("latin-1")
    return {
        "a doctype": (declared(XML + "<!DOCTYPE Document>", "5.00"), "DTD_REFUSED"),
        "an entity": (declared(XML + ENTITY.format(name="x", value="5.00")), "DTD_REFUSED"),
        "billion laughs": (declared(XML + LAUGHS, "&a9;"), "DTD_REFUSED"),
        "in UTF-16": (declared(XML + LAUGHS, "&a9;").decode().encode("utf-16"), "DTD_REFUSED"),
        "an external file": (
            declared(XML + external.format(name="x", value="file:///etc/passwd")),
            "DTD_REFUSED",
        ),
        "an external address": (
            declared(XML + external.format(name="x", value=f"http://127.0.0.1:{free_port()}/")),
            "DTD_REFUSED",
        ),
        "an external subset": (
            declared(f'{XML}<!DOCTYPE D SYSTEM "http://127.0.0.1:{free_port()}/d">', "5.00"),
            "DTD_REFUSED",
        ),
        "nesting": (camt(stmt(ntry(details=deep))).encode(), "XML_NOT_WELL_FORMED"),
        "an entry without end": (
            camt(stmt(ntry(details="<x>" + "y" * 2_000_000 + "</x>"))).encode(),
            "RECORD_TOO_LONG",
        ),
        "a zip bomb": (zipped(BOMB), "COMPRESSED_FILE"),
        "a zip bomb of zip bombs": (zipped(BOMB, 3), "COMPRESSED_FILE"),
        "a gzip bomb": (gzip.compress(BOMB), "COMPRESSED_FILE"),
        "a bzip2 bomb": (bz2.compress(BOMB), "COMPRESSED_FILE"),
        "an xz bomb": (lzma.compress(BOMB), "COMPRESSED_FILE"),
        "another charset than declared": (latin, "BAD_ENCODING"),
        "a charset that is none": (
            declared('<?xml version="1.0" encoding="UTF-7"?>', "5.00"),
            "BAD_ENCODING",
        ),
        "EBCDIC": (mt940().encode("cp037"), "UNKNOWN_FORMAT"),
        "CSV that is no UTF-8": (
            stripe(stripe_row("1.00")).encode().replace(b"txn_1", b"txn\xff"),
            "BAD_ENCODING",
        ),
        "nothing, in no currency": (empty.encode(), "UNKNOWN_CURRENCY"),
        "NUL bytes": (mt940().encode().replace(b":62F:", b"\0:62F:"), "NUL_BYTE"),
    }


HOSTILE = hostile()


def rows_of(world: World) -> list[int]:
    """How many lines, current statements and journals there are of the source."""
    counted = world.sql.execute(
        "SELECT (SELECT count(*) FROM settlement_line JOIN settlement_file USING (file_id)"
        " WHERE source = %(source)s),"
        " (SELECT count(*) FROM statement WHERE source = %(source)s AND is_current),"
        " (SELECT count(*) FROM settlement_booking WHERE source = %(source)s)",
        {"source": world.source},
    ).fetchone()
    assert counted is not None
    return list(counted)


@pytest.fixture
def anybody(world: World) -> World:
    """A PSP whose files may name any account."""
    return world.of(world.source.replace("psp", "any"))


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_file_is_refused_and_nothing_of_it_is_stored(
    anybody: World, name: str
) -> None:
    content, reason = HOSTILE[name]
    stored = await ingest(anybody.reconciliation, content, anybody.source)
    assert stored.state == pb.FILE_STATE_QUARANTINED
    assert stored.problem.partition(":")[0] == reason
    assert stored.lines == 0
    assert rows_of(anybody) == [0, 0, 0]
    # The service goes on.
    good = await ingest(anybody.reconciliation, DayFile().line(500).content(), anybody.source)
    assert good.state == pb.FILE_STATE_INGESTED


# --- memory ----------------------------------------------------------------------------

ROOM_KIB = 32 * 1024
"""What two more rounds may take: less than one of the bombs would, opened."""


def peak_kib(pid: int) -> int:
    """The most memory that the process has had."""
    status = Path(f"/proc/{pid}/status").read_text()
    [peak] = re.findall(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return int(peak)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peaks are read from /proc")
async def test_hostile_files_take_no_memory(
    tmp_path: Path, databases: dict[str, str], world: World
) -> None:
    drop = Drop(tmp_path, databases["ledger"], world.sql)
    port = free_port()
    async with (
        process(drop, port=port, max_file_bytes=1 << 28) as running,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        await channel.channel_ready()
        stub = ReconciliationServiceStub(channel)

        async def send_all() -> int:
            """The peak in KiB, once all of them were sent."""
            for content, _ in HOSTILE.values():
                stored = await ingest(stub, content, drop.source)
                assert stored.state == pb.FILE_STATE_QUARANTINED
            return peak_kib(running.pid)

        first = await send_all()
        await send_all()
        assert await send_all() - first < ROOM_KIB
        assert first < 250 * 1024


# --- cut files -------------------------------------------------------------------------


DAY_OF = {
    "camt": "2026-01-31",
    "mt940": "2026-01-31",
    "mt940 in a block": "2026-01-31",
    "stripe": "2026-02-02",
    "own": "2026-01-31",
}
USED_AS = {pb.FILE_STATE_QUARANTINED, pb.FILE_STATE_WAITING, pb.FILE_STATE_INGESTED}


def cuts(content: bytes, enough: int) -> Iterator[bytes]:
    """The file cut at each kind of place: between two kinds of characters, and inside of words."""
    places = {match.end() for match in re.finditer(rb"\w+|\s+|[^\w\s]", content)}
    places |= {match.start() + 1 for match in re.finditer(rb"\w{2,}", content)}
    for place in sorted(places | {0}):
        if place < enough:
            yield content[:place]


@pytest.mark.timeout(180)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_file_cut_anywhere_is_refused_or_never_balanced(anybody: World, kind: str) -> None:
    content, enough = complete(kind)
    if kind == "stripe":
        cells = charge_cells()
        await anybody.capture(1000, 59, cells=cells)
        whole = content.replace(b"txn_1", cells["psp_reference"].encode())
        enough += len(whole) - len(content)
        content = whole
    refused = used = 0
    for cut in cuts(content, enough):
        # Told the day, as a file that names none has to be.
        stored = await ingest(
            anybody.reconciliation, cut, anybody.source, settlement_date=DAY_OF[kind]
        )
        assert stored.state in USED_AS, cut
        if stored.state == pb.FILE_STATE_INGESTED:
            used += 1
            run = await anybody.run(DAY_OF[kind])
            assert run.state != pb.RUN_STATE_BALANCED, cut
        else:
            refused += 1
            assert stored.lines == 0
    assert refused > 50
    # Only a format whose file does not say where it ends can be cut and be a file still.
    assert (used > 0) == (kind == "stripe")
    if not used:
        assert rows_of(anybody) == [0, 0, 0]
        error = await error_of(anybody.run(DAY_OF[kind]))
        assert error.reason is Reason.SETTLEMENT_FILE_MISSING
    # And the whole one is used.
    stored = await ingest(anybody.reconciliation, content, anybody.source)
    assert stored.state == pb.FILE_STATE_INGESTED
    run = await anybody.run(DAY_OF[kind])
    assert (run.state == pb.RUN_STATE_BALANCED) == (kind == "stripe")
