"""Settlement days of sources that no other test knows, and how they are sent."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from paymesh.reconciliation.v1 import reconciliation_service_pb2 as pb

from tests.support.settlement import OwnFile

if TYPE_CHECKING:
    from paymesh.reconciliation.v1.reconciliation_service_pb2_grpc import (
        ReconciliationServiceAsyncStub,
    )

DAY = "2026-01-31"


class DayFile(OwnFile):
    """One day of a PSP: an opened statement, to be given lines and closed."""

    def __init__(
        self,
        opening: int = 0,
        *,
        day: str = DAY,
        account: str = "acct-1",
        currency: str = "EUR",
        revision: int = 0,
        statement: str = "",
        page: int = 1,
        last: bool = True,
    ) -> None:
        super().__init__()
        self.open_day(
            opening,
            day=day,
            account=account,
            currency=currency,
            revision=revision,
            statement=statement,
            page=page,
            last=last,
        )

    def open_day(
        self,
        opening: int = 0,
        *,
        day: str = DAY,
        account: str = "acct-1",
        currency: str = "EUR",
        revision: int = 0,
        statement: str = "",
        page: int = 1,
        last: bool = True,
    ) -> DayFile:
        """Opens a further statement, or a page of one."""
        self.open(
            opening, currency=currency, statement=statement or f"S-{day}", page=page, last=last
        )
        told = {"account": account, "settlement_date": day, "revision": revision}
        self._page |= told
        self.rows[-1] |= told
        return self

    def line(self, gross: int, fee: int = 0, kind: str = "CHARGE", **cells: object) -> DayFile:
        super().line(gross, fee, kind, **cells)
        return self

    def content(self) -> bytes:
        """The file, its last statement closed."""
        self.close()
        return self.text().encode()


def reference() -> str:
    """A PSP reference that no other test knows."""
    return f"psp_{uuid.uuid4().hex}"


def parts(
    content: bytes, source: str, *, chunk_bytes: int = 1 << 16, **header: Any
) -> list[pb.IngestSettlementFileRequest]:
    """A file's stream."""
    head = pb.SettlementFileHeader(source=source, file_name="day.csv", **header)
    return [
        pb.IngestSettlementFileRequest(header=head),
        *(
            pb.IngestSettlementFileRequest(chunk=content[i : i + chunk_bytes])
            for i in range(0, len(content), chunk_bytes)
        ),
    ]


async def stream(
    messages: list[pb.IngestSettlementFileRequest], pause_s: float = 0
) -> AsyncIterator[pb.IngestSettlementFileRequest]:
    for message in messages:
        yield message
        await asyncio.sleep(pause_s)


async def ingest(
    stub: ReconciliationServiceAsyncStub, content: bytes, source: str, **header: Any
) -> pb.SettlementFile:
    """Sends a file and tells what became of it."""
    response = await stub.IngestSettlementFile(stream(parts(content, source, **header)))
    return response.file
