"""What PostgreSQL refuses, it quotes. None of that reaches an error, a log or a caller."""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Awaitable, Callable

import pytest
import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.batching import Writer
from mesh.db import CommitFailed, Database
from mesh.errors import MeshError
from mesh.status import to_status
from tests.store.mesh.conftest import insert
from tests.unit.test_batching import running

CANARY = "4111-canary-1111"

Work = Callable[[AsyncConnection], Awaitable[None]]


def with_canary(sql: str) -> Work:
    async def work(connection: AsyncConnection) -> None:
        await connection.execute(text(sql), {"canary": CANARY})

    return work


def literally(sql: str) -> Work:
    async def work(connection: AsyncConnection) -> None:
        await connection.execute(text(sql.replace("CANARY", CANARY)))

    return work


async def slowly(connection: AsyncConnection) -> None:
    await connection.execute(text("SET LOCAL statement_timeout = '20ms'"))
    await with_canary("SELECT pg_sleep(length(:canary))")(connection)


REFUSED: dict[str, Work] = {
    "unique": lambda c: insert(c, 2, note=CANARY),
    "check": lambda c: insert(c, 3, note=CANARY + "3", amount=-1),
    "not null": with_canary("INSERT INTO item VALUES (4, :canary, NULL)"),
    "no uuid": with_canary("SELECT cast(:canary AS uuid)"),
    "no number": with_canary("SELECT cast(cast(:canary AS text) AS bigint)"),
    "no date": with_canary("SELECT cast(cast(:canary AS text) AS timestamptz)"),
    "no JSON": with_canary("SELECT cast(cast(:canary AS text) AS jsonb)"),
    "NUL": lambda c: insert(c, 5, note=CANARY + "\0"),
    "division": with_canary("SELECT 1 / (length(:canary) - length(:canary))"),
    "raised by a trigger": literally(
        "DO $$ BEGIN RAISE EXCEPTION 'no % here', 'CANARY' USING DETAIL = 'CANARY'; END $$"
    ),
    "conflict": literally(
        "DO $$ BEGIN RAISE SQLSTATE '40001' USING MESSAGE = 'x', DETAIL = 'CANARY'; END $$"
    ),
    "time out": slowly,
    "bug": with_canary("SELECT nope WHERE note = :canary"),
}


class Heard:
    """All that is logged, by us as JSON and by libraries as text."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog
        self.ours: list[str] = []

    @property
    def all(self) -> str:
        formatter = logging.Formatter("%(message)s %(args)s")
        theirs = [formatter.format(record) for record in self._caplog.records]
        return "\n".join([*self.ours, *theirs])


@pytest.fixture
def heard(caplog: pytest.LogCaptureFixture) -> Heard:
    caplog.set_level(logging.INFO)
    return Heard(caplog)


@pytest.fixture(autouse=True)
def _as_in_a_service(heard: Heard) -> object:
    """The processors of mesh.logs, into a list."""
    before = structlog.get_config()

    class Listen:
        def msg(self, line: str) -> None:
            json.loads(line)
            heard.ours.append(line)

        debug = info = warning = error = critical = msg

    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=lambda *_: Listen(),
        cache_logger_on_first_use=False,
    )
    yield
    structlog.configure(**before)


@pytest.mark.parametrize("name", REFUSED)
async def test_no_error_quotes_a_value(database: Database, heard: Heard, name: str) -> None:
    await database.commit("test.write", lambda connection: insert(connection, 1, note=CANARY))
    with pytest.raises(CommitFailed) as caught:
        await database.commit("test.write", REFUSED[name])
    failed = caught.value
    log = structlog.get_logger()
    log.error("failed", exc_info=failed, error=failed, said=failed.said)
    try:
        raise LookupError from failed
    except LookupError:
        log.exception("failed because of it")
    told = [
        str(failed),
        repr(failed),
        failed.said,
        failed.constraint,
        str(to_status(failed)),
        *traceback.format_exception(failed),
        heard.all,
    ]
    assert CANARY not in "\n".join(told)
    assert "test.write" in heard.all


@pytest.mark.parametrize("name", REFUSED)
async def test_no_writer_logs_a_value(database: Database, heard: Heard, name: str) -> None:
    await database.commit("test.write", lambda connection: insert(connection, 1, note=CANARY))

    async def commit(items: list[str]) -> list[str]:
        await database.commit("test.write", REFUSED[items[0]])
        return items

    writer: Writer[str, str] = Writer("test", commit)
    async with running(writer.run):
        (answer,) = await writer.write([name], durable=False)
    assert isinstance(answer, MeshError)
    assert CANARY not in f"{answer} {answer!r} {to_status(answer)} {heard.all}"
