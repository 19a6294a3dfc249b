"""The look at settlement files, for what the PSP never told.

From time to time the operations that are unknown are read page by page, the ledger is asked
for the lines that name them, and what a line proves is driven on like anything else that is
due. Nothing is kept here between two looks: the line is stored in the ledger and stays there,
so whatever is lost on the way is found by the next look, and a correction of the file counts
at once. What the evidence led to is kept by the executor.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias
from uuid import UUID

import structlog

from mesh.db import Database
from mesh.errors import MeshError
from payment_svc import operations
from payment_svc.clients_reconciliation import MAX_LIST_ITEMS, SettlementClient
from payment_svc.domain import Item, Settled
from payment_svc.settlement import Line, Unclear, judge
from payment_svc.views import UnknownOperation

log = structlog.get_logger()

Drive: TypeAlias = Callable[[Mapping[tuple[UUID, UUID], Settled]], Awaitable[list[Item]]]
"""Takes what is proven, by (payment_id, operation_id), and drives it; answers what it took."""


class Evidence:
    """The loop that asks the ledger about what is unknown."""

    def __init__(
        self, database: Database, settlement: SettlementClient, drive: Drive, *, poll_s: float
    ) -> None:
        """`poll_s` is how often it looks, in seconds."""
        self._database = database
        self._settlement = settlement
        self._drive = drive
        self._poll_s = poll_s
        self._unclear: set[UUID] = set()
        """The operations that the last look told of as unclear: once is enough."""

    async def run(self) -> None:
        """Runs until cancelled; a ledger or a database that is away is asked again."""
        while True:
            await asyncio.sleep(self._poll_s)
            try:
                await self._look()
            except MeshError as error:
                log.warning("evidence_waits", cause=str(error))

    async def _look(self) -> None:
        unclear: set[UUID] = set()
        async for page in operations.unknown(self._database, MAX_LIST_ITEMS):
            lines = await self._settlement.find([one.operation_id.hex for one in page])
            proven: dict[tuple[UUID, UUID], Settled] = {}
            for one in page:
                told = lines.get(one.operation_id.hex, [])
                proof = judge(one.amount, told)
                if isinstance(proof, Settled):
                    proven[one.payment_id, one.operation_id] = proof
                elif isinstance(proof, Unclear):
                    unclear.add(one.operation_id)
                    self._tell_unclear(one, proof, told)
            if proven:
                for item in await self._drive(proven):
                    _tell_proven(item, lines[item.operation_id.hex])
        self._unclear = unclear

    def _tell_unclear(self, one: UnknownOperation, proof: Unclear, lines: list[Line]) -> None:
        if one.operation_id not in self._unclear:
            log.warning(
                "settlement_unclear",
                **one.ids,
                why=proof.why,
                lines=[f"{line.file_id}/{line.sequence}" for line in lines[:10]],
            )


def _tell_proven(item: Item, lines: list[Line]) -> None:
    settled = item.settled
    if settled is not None:
        log.info(
            "settlement_found",
            **item.ids,
            state=item.state.name,
            settled=str(settled.amount),
            lines=[f"{line.file_id}/{line.sequence}" for line in lines],
        )
