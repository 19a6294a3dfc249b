"""ledger_svc with sources of the tests' own, through real gRPC on a real PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import date
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

import grpc
import psycopg
import pytest
import pytest_asyncio
from paymesh.reconciliation.v1.reconciliation_service_pb2_grpc import ReconciliationServiceStub

from ledger_svc.config import Settings
from ledger_svc.main import wire
from ledger_svc.reconciliation.sources import Source
from mesh.errors import MeshError, Reason
from tests.support.ports import free_port
from tests.support.reconciliation_world import World
from tests.support.serving import serving

if TYPE_CHECKING:
    from paymesh.reconciliation.v1.reconciliation_service_pb2_grpc import (
        ReconciliationServiceAsyncStub,
    )

MAX_FILE_BYTES = 3_000_000
_SOURCES = 400
_PSP = Source(kind="psp", accounts=frozenset({"acct-1", "acct-2"}), settle_days=3)
_DAILY = _PSP.model_copy(update={"file_days": "daily"})
_WEEKDAYS = _PSP.model_copy(update={"file_days": "weekdays"})
_BANK = Source(kind="bank")
# Those below ADAPTERS have one, and are the tests' of that.
_used = count(10)
_address: list[str] = []


class Adapter:
    """An adapter that has files for days, or one for any, or an error."""

    def __init__(self) -> None:
        self.file: bytes | MeshError = MeshError(Reason.DEPENDENCY_DOWN, "nothing is told")
        self.files: dict[str, bytes] = {}
        self.asked: list[date] = []

    async def fetch(self, day: date) -> AsyncIterator[bytes]:
        self.asked.append(day)
        file = self.file
        if self.files:
            missing = MeshError(Reason.SETTLEMENT_FILE_MISSING, "there is none")
            file = self.files.get(day.isoformat(), missing)
        if isinstance(file, MeshError):
            raise file
        for i in range(0, len(file), 100):
            yield file[i : i + 100]


ADAPTERS = 10
_adapters: dict[str, Adapter] = {}


@pytest.fixture
def adapter(channel: grpc.aio.Channel) -> tuple[str, Adapter]:
    """A source that no other test uses, and its adapter."""
    return _adapters.popitem()


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def channel(databases: dict[str, str]) -> AsyncIterator[grpc.aio.Channel]:
    settings = Settings(
        port=free_port(),
        database_url=databases["ledger"],
        drain_s=0,
        max_file_bytes=MAX_FILE_BYTES,
        sources={
            **{f"psp-{n}": _PSP.model_copy(update={"bank": f"bank-{n}"}) for n in range(_SOURCES)},
            **{f"psp-{n}": _DAILY for n in range(ADAPTERS)},
            **{f"any-{n}": Source(kind="psp", bank=f"bank-{n}") for n in range(_SOURCES)},
            **{f"daily-{n}": _DAILY for n in range(_SOURCES)},
            **{f"weekdays-{n}": _WEEKDAYS for n in range(_SOURCES)},
            **{f"bank-{n}": _BANK for n in range(_SOURCES)},
            **{
                f"rounds-{n}": _BANK.model_copy(update={"rounding_tolerance_minor": 2})
                for n in range(_SOURCES)
            },
            **{
                f"fees-{n}": _PSP.model_copy(
                    update={
                        "fee_basis_points": 100,
                        "fee_tolerance_minor": 2,
                        "rounding_tolerance_minor": 2,
                    }
                )
                for n in range(_SOURCES)
            },
        },
    )
    adapters = {f"psp-{n}": Adapter() for n in range(ADAPTERS)}
    _adapters.update(adapters)
    async with serving(partial(wire, adapters=adapters), settings) as channel:
        _address.append(f"127.0.0.1:{settings.port}")
        yield channel


@pytest.fixture
def address(channel: grpc.aio.Channel) -> str:
    """Where the service listens."""
    return _address[-1]


@pytest.fixture
def reconciliation(channel: grpc.aio.Channel) -> ReconciliationServiceAsyncStub:
    return ReconciliationServiceStub(channel)


@pytest.fixture
def psp() -> str:
    """A PSP that no other test uses; accounts acct-1 and acct-2, pays out to its bank."""
    return f"psp-{next(_used)}"


@pytest.fixture
def sql(databases: dict[str, str]) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    """What is really stored."""
    with psycopg.connect(databases["ledger"], autocommit=True) as connection:
        yield connection


@pytest.fixture
def world(psp: str, channel: grpc.aio.Channel, sql: psycopg.Connection[tuple[Any, ...]]) -> World:
    return World(psp, channel, sql)
