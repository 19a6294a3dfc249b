"""Files that are dropped into a folder: taken once they are whole, once, and nothing else is."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
import pytest_asyncio
from paymesh.reconciliation.v1 import reconciliation_service_pb2 as pb
from structlog.testing import capture_logs

from ledger_svc.config import Settings
from ledger_svc.main import wire
from tests.rpc.reconciliation.conftest import MAX_FILE_BYTES
from tests.support.eventually import eventually
from tests.support.mesh import clean_environment, environment
from tests.support.reconciliation import DayFile, reference
from tests.support.reconciliation_world import World
from tests.support.serving import serving

Sql = psycopg.Connection[tuple[Any, ...]]

POLL_MS, QUIET_MS = 20, 150
LONG_ENOUGH_S = 5 * (POLL_MS + QUIET_MS) / 1000


def listed(folder: Path) -> set[str]:
    return {one.name for one in folder.iterdir()}


class Drop:
    """A drop folder with the folder of one source, which no other test knows."""

    def __init__(self, root: Path, url: str, sql: Sql) -> None:
        self.root = root
        self.source = f"drop-{uuid.uuid4().hex}"
        self.folder = root / self.source
        self.folder.mkdir()
        self.url = url
        self.sql = sql

    def settings(self, **given: Any) -> dict[str, Any]:
        return {
            "port": 0,
            "database_url": self.url,
            "drain_s": 0,
            "max_file_bytes": MAX_FILE_BYTES,
            "sources": {self.source: {"kind": "psp"}, "../outside": {"kind": "psp"}},
            "drop_folder": self.root,
            "drop_poll_ms": POLL_MS,
            "drop_quiet_ms": QUIET_MS,
        } | given

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[grpc.aio.Channel]:
        """A ledger_svc that looks into it."""
        async with serving(wire, Settings(**self.settings())) as channel:
            yield channel

    def put(self, name: str, content: bytes) -> str:
        """Drops a file whole; the name that it is moved to."""
        new = self.folder / f".{name}"
        new.write_bytes(content)
        new.rename(self.folder / name)
        return f"{hashlib.sha256(content).hexdigest()[:12]}-{name}"

    def names(self, *path: str) -> set[str]:
        """What lies in the source's folder, or in one of its own."""
        folder = self.folder.joinpath(*path)
        return listed(folder) if folder.is_dir() else set()

    def stored(self) -> list[tuple[Any, ...]]:
        """The files of the source: (name, state, lines that are there)."""
        return self.sql.execute(
            "SELECT f.file_name, f.state,"
            " (SELECT count(*) FROM settlement_line AS l WHERE l.file_id = f.file_id)"
            " FROM settlement_file AS f WHERE f.source = %s ORDER BY f.file_name",
            [self.source],
        ).fetchall()


@pytest.fixture
def drop(tmp_path: Path, databases: dict[str, str], sql: Sql) -> Drop:
    root = tmp_path / "drop"
    root.mkdir()
    return Drop(root, databases["ledger"], sql)


@pytest_asyncio.fixture(loop_scope="session")
async def served(drop: Drop) -> AsyncIterator[grpc.aio.Channel]:
    async with drop.serving() as channel:
        yield channel


def a_day(lines: int = 1) -> bytes:
    file = DayFile(statement=reference())
    for _ in range(lines):
        file.line(500, 5, psp_reference=reference())
    return file.content()


async def test_a_dropped_file_is_taken_and_moved_to_done(
    drop: Drop, served: grpc.aio.Channel
) -> None:
    kept = drop.put("day.csv", content := a_day(2))
    await eventually(lambda: drop.names("done") == {kept})
    assert drop.names() == {"done"}
    assert (drop.folder / "done" / kept).read_bytes() == content
    assert drop.stored() == [("day.csv", pb.FILE_STATE_INGESTED, 2)]
    run = await World(drop.source, served, drop.sql).run()
    assert (run.lines, run.breaks) == (2, 2)


async def test_a_file_that_still_grows_is_left_alone(drop: Drop, served: grpc.aio.Channel) -> None:
    content = a_day(40)
    step = len(content) // 20
    with (drop.folder / "day.csv").open("wb", buffering=0) as stream:
        for start in range(0, len(content), step):
            stream.write(content[start : start + step])
            await asyncio.sleep(QUIET_MS / 3000)
            assert (drop.names(), drop.stored()) == ({"day.csv"}, [])
    await eventually(lambda: drop.names("done"))
    assert drop.stored() == [("day.csv", pb.FILE_STATE_INGESTED, 40)]


@pytest.mark.parametrize("name", [".day.csv", "day.csv.part", "day.csv.filepart", "DAY.TMP"])
async def test_a_file_in_work_is_taken_once_it_has_its_name(
    drop: Drop, served: grpc.aio.Channel, name: str
) -> None:
    (drop.folder / name).write_bytes(a_day())
    await asyncio.sleep(LONG_ENOUGH_S)
    assert (drop.names(), drop.stored()) == ({name}, [])
    (drop.folder / name).rename(drop.folder / "day.csv")
    await eventually(lambda: drop.names("done"))
    assert drop.stored() == [("day.csv", pb.FILE_STATE_INGESTED, 1)]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"nonsense", ["state: QUARANTINED", "problem: UNKNOWN_FORMAT"]),
        (b"", ["state: QUARANTINED", "problem: EMPTY_FILE"]),
        (
            DayFile().line(500).close(balance_minor=1).text().encode(),
            ["class: 16", "problem: DOES_NOT_TIE"],
        ),
        (DayFile(last=False).line(5).content(), ["state: WAITING", "class: 19", "PAGES_MISSING"]),
    ],
    ids=["nonsense", "empty", "does not tie", "pages missing"],
)
async def test_what_can_t_be_used_is_moved_to_refused_with_the_reason(
    drop: Drop, served: grpc.aio.Channel, content: bytes, told: list[str]
) -> None:
    with capture_logs() as lines:
        kept = drop.put("day.csv", content)
        good = drop.put("good.csv", a_day())
        await eventually(lambda: drop.names("done") == {good})
        # The line comes after the move.
        await eventually(lambda: [line["event"] for line in lines].count("drop_taken") == 2)
    taken = {line["moved_to"]: line for line in lines if line["event"] == "drop_taken"}
    assert taken[f"refused/{kept}"]["log_level"] == "warning"
    assert taken[f"done/{good}"]["log_level"] == "info"
    assert drop.names("refused") == {kept, f"{kept}.reason"}
    assert drop.names() == {"done", "refused"}
    reason = (drop.folder / "refused" / f"{kept}.reason").read_text()
    assert all(one in reason for one in told), reason
    assert re.search(r"^file_id: [0-9a-f]{32}$", reason, re.MULTILINE)
    assert [lines for _, _, lines in drop.stored()] == [0, 1]


async def test_what_is_too_large_is_refused_and_leaves_nothing(
    drop: Drop, served: grpc.aio.Channel
) -> None:
    drop.put("day.csv", b"x" * (MAX_FILE_BYTES + 1))
    await eventually(lambda: len(drop.names("refused")) == 2)
    [reason] = (drop.folder / "refused").glob("*.reason")
    assert reason.read_text().startswith("FILE_TOO_LARGE: ")
    assert drop.stored() == []


async def test_the_same_file_again_is_stored_once(drop: Drop, served: grpc.aio.Channel) -> None:
    content = a_day(3)
    for name in ("day.csv", "day.csv", "again.csv"):
        kept = drop.put(name, content)
        await eventually(lambda kept=kept: kept in drop.names("done") and len(drop.names()) == 1)  # type: ignore[misc]
    assert len(drop.names("done")) == 2
    assert drop.stored() == [("day.csv", pb.FILE_STATE_INGESTED, 3)]


async def test_names_are_kept_as_far_as_a_text_can_be(drop: Drop, served: grpc.aio.Channel) -> None:
    names = ["a\nb\x1b[2J.csv", "x" * 250 + ".csv", os.fsdecode(b"\xff.csv"), "done.csv"]
    for name in names:
        (drop.folder / name).write_bytes(a_day())
    await eventually(lambda: len(drop.names("done")) == len(names))
    assert {name for name, _, _ in drop.stored()} == {
        "a?b?[2J.csv", "x" * 250 + ".csv", "?.csv", "done.csv"
    }  # fmt: skip


async def test_nothing_outside_of_the_folder_is_followed(drop: Drop, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "in").mkdir(parents=True)
    secret = outside / "secret.csv"
    secret.write_bytes(a_day())
    (drop.folder / "link.csv").symlink_to(secret)
    (drop.folder / "hard.csv").hardlink_to(secret)
    (drop.folder / "folder.csv").mkdir()
    (drop.folder / "folder.csv" / "in.csv").write_bytes(a_day())
    os.mkfifo(drop.folder / "pipe.csv")
    (drop.root / "nobody").mkdir()
    (drop.root / "nobody" / "day.csv").write_bytes(a_day())
    before = drop.names()
    async with drop.serving():
        await asyncio.sleep(LONG_ENOUGH_S)
        assert (drop.names(), drop.stored()) == (before, [])
        # And what is a plain file is taken all the same.
        drop.put("day.csv", a_day())
        await eventually(lambda: drop.names("done"))
    assert [name for name, _, _ in drop.stored()] == ["day.csv"]
    assert listed(outside) == {"in", "secret.csv"}
    assert listed(drop.root / "nobody") == {"day.csv"}


async def test_a_folder_that_is_a_link_is_not_entered(drop: Drop, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "day.csv").write_bytes(a_day())
    drop.folder.rmdir()
    drop.folder.symlink_to(outside)
    async with drop.serving():
        await asyncio.sleep(LONG_ENOUGH_S)
    assert (listed(outside), drop.stored()) == ({"day.csv"}, [])


async def test_links_in_the_place_of_our_own_folders_lead_nowhere(
    drop: Drop, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    victim = outside / "victim"
    victim.write_text("mine")
    (drop.folder / "done").symlink_to(outside)
    (drop.folder / "refused").mkdir()
    good, bad = a_day(), b"nonsense"
    kept = f"{hashlib.sha256(bad).hexdigest()[:12]}-bad.csv"
    for name in (f"{kept}.reason", f".{kept}.reason.tmp"):
        (drop.folder / "refused" / name).symlink_to(victim)
    async with drop.serving():
        drop.put("good.csv", good)
        drop.put("bad.csv", bad)
        await eventually(lambda: kept in drop.names("refused"))
        await eventually(lambda: len(drop.stored()) == 2)
    assert (listed(outside), victim.read_text()) == ({"victim"}, "mine")
    assert "good.csv" in drop.names()
    assert not (drop.folder / "refused" / f"{kept}.reason").is_symlink()


async def test_three_replicas_take_each_file_once(drop: Drop) -> None:
    contents = {f"{n}.csv": a_day(20) for n in range(30)}
    async with AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(drop.serving())
        kept = {drop.put(name, content) for name, content in contents.items()}
        await eventually(lambda: drop.names("done") == kept, timeout_s=20)
        await asyncio.sleep(LONG_ENOUGH_S)
    assert drop.names() == {"done"}
    assert drop.stored() == sorted((name, pb.FILE_STATE_INGESTED, 20) for name in contents)


# --- a process that dies ---------------------------------------------------------------


@asynccontextmanager
async def process(drop: Drop, **settings: Any) -> AsyncIterator[asyncio.subprocess.Process]:
    """A ledger_svc of its own process; killed at the end."""
    given = drop.settings(**settings)
    given["sources"] = json.dumps(given["sources"])
    running = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "ledger_svc",
        env=clean_environment() | environment(**{f"ledger_{k}": v for k, v in given.items()}),
        cwd=drop.root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield running
    finally:
        running.kill()
        await running.wait()


async def test_killed_between_taking_and_moving_it_is_taken_again_and_stored_once(
    drop: Drop,
) -> None:
    # Where `done` should be is a file: what is taken can't be moved, until the process is dead.
    blocked = drop.folder / "done"
    blocked.write_bytes(b"")
    blocked.chmod(0)
    os.link(blocked, drop.root / "second-name")  # no file of the drop's
    kept = drop.put("day.csv", a_day(3))
    bad = drop.put("bad.csv", b"nonsense")
    async with process(drop):
        await eventually(lambda: len(drop.stored()) == 2, timeout_s=30)
        await eventually(lambda: bad in drop.names("refused"))
    before = drop.stored()
    assert "day.csv" in drop.names()

    blocked.unlink()
    async with process(drop):
        await eventually(lambda: drop.names("done") == {kept}, timeout_s=30)
    assert drop.names() == {"done", "refused"}
    assert drop.stored() == before
    assert {name: lines for name, _, lines in before} == {"day.csv": 3, "bad.csv": 0}


async def test_killed_in_the_middle_again_and_again_it_takes_all_of_them_once(drop: Drop) -> None:
    contents = {f"{n}.csv": a_day(300) for n in range(12)}
    kept = {drop.put(name, content) for name, content in contents.items()}
    for number in range(1, 4):
        async with process(drop):
            await eventually(
                lambda number=number: len(drop.names("done")) >= 3 * number,  # type: ignore[misc]
                timeout_s=30,
            )
    async with process(drop):
        await eventually(lambda: drop.names("done") == kept, timeout_s=30)
    assert drop.names() == {"done"}
    assert drop.stored() == sorted((name, pb.FILE_STATE_INGESTED, 300) for name in contents)
