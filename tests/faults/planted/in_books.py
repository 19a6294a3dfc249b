"""Bugs of wallet_svc and ledger_svc, and of the night."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

from paymesh.wallet.v1 import wallet_posting_service_pb2 as wallet_pb
from sqlalchemy.ext.asyncio import AsyncConnection

import wallet_svc.operations
import wallet_svc.servicer
import wallet_svc.store
from ledger_svc import chart
from ledger_svc.chart import CaptureEvent
from ledger_svc.domain import Journal
from ledger_svc.reconciliation import files, store_post
from ledger_svc.reconciliation.domain import Delivery, StoredFile
from ledger_svc.reconciliation.judging import Judged
from mesh import ids
from mesh.errors import MeshError
from tests.faults.planted.plant import Patch, swap
from wallet_svc.domain import Movement
from wallet_svc.servicer import WalletPostingServicer

_AS_ASKED = """
  FROM json_to_recordset(cast(:movements AS json))
       AS m (movement_id uuid, seller_id text, currency text, pending_minor bigint,
             available_minor bigint, debt_minor bigint)
"""


def movement_without_key(patch: Patch) -> None:
    """(14) wallet movement without its key: each time that it is asked for it is a new one."""
    patch.setattr(Movement, "movement_id", property(lambda _: uuid4()))


def replay_changes_balance(patch: Patch) -> None:
    """(15) balance changed for replayed movements: by what was asked, not by what was written."""
    swap(
        patch,
        wallet_svc.store,
        "_INSERT_MOVEMENTS",
        ("FROM inserted\n  GROUP BY", f"{_AS_ASKED}\n  GROUP BY"),
    )


def twice_in_a_list(patch: Patch) -> None:
    """(16) a key twice in one list counted twice: its movement is one, its money is not."""
    real = wallet_svc.operations.apply_movements
    asked: list[wallet_svc.domain.Applied] = []

    async def apply_movements(database: Any, movements: Sequence[Movement]) -> Any:
        asked[:] = [
            wallet_svc.domain.Applied(m.movement_id, m, wallet_svc.domain.split(m))
            for m in movements
        ]
        return await real(database, movements)

    real_insert = wallet_svc.store.insert_movements

    async def insert_movements(connection: AsyncConnection, _: Any) -> set[UUID]:
        return await real_insert(connection, asked)

    patch.setattr(wallet_svc.operations, "apply_movements", apply_movements)
    patch.setattr(wallet_svc.store, "insert_movements", insert_movements)
    swap(
        patch,
        wallet_svc.store,
        "_INSERT_MOVEMENTS",
        (
            "FROM inserted\n  GROUP BY",
            f"{_AS_ASKED}\n  WHERE movement_id IN (SELECT movement_id FROM inserted)\n  GROUP BY",
        ),
    )


def journal_without_key(patch: Patch) -> None:
    """(19) journal without its key: each time that an event comes it is booked."""
    patch.setattr(chart, "_journal_id", lambda _kind, _operation_id, _revision: uuid4())


def commission_missing(patch: Patch) -> None:
    """(20) commission missing from the entries: they balance, and tell of less."""
    real = chart.journals

    def journals(event: CaptureEvent) -> tuple[Journal, ...]:
        captured = replace(event.captured, amount_minor=event.seller_pending_minor)
        return real(event._replace(captured=captured, commission_minor=0))

    patch.setattr(chart, "journals", journals)


def neighbours_fail(patch: Patch) -> None:
    """(22) a bad item fails its neighbours: the first that is wrong is the whole list's answer."""
    real = WalletPostingServicer.ApplyMovements

    async def apply(
        self: WalletPostingServicer, request: wallet_pb.ApplyMovementsRequest, context: Any
    ) -> wallet_pb.ApplyMovementsResponse:
        for movement in map(wallet_svc.servicer._movement, request.movements):
            if isinstance(movement, MeshError):
                raise movement
        return await real(self, request, context)

    patch.setattr(WalletPostingServicer, "ApplyMovements", apply)


def results_shifted(patch: Patch) -> None:
    """(23) results matched by position after a filter: the good ones' answers come first."""
    real = WalletPostingServicer.ApplyMovements

    async def apply(
        self: WalletPostingServicer, request: wallet_pb.ApplyMovementsRequest, context: Any
    ) -> wallet_pb.ApplyMovementsResponse:
        response = await real(self, request, context)
        results = sorted(response.results, key=lambda r: r.WhichOneof("result") == "error")
        return wallet_pb.ApplyMovementsResponse(results=results)

    patch.setattr(WalletPostingServicer, "ApplyMovements", apply)


def lines_doubled(patch: Patch) -> None:
    """(32) re-ingest doubles lines: a file that comes again is another file, another statement."""
    real = files._store

    async def store(
        connection: AsyncConnection, delivery: Delivery, judged: Judged, rows: Any
    ) -> StoredFile:
        salt = secrets.token_bytes(32)
        statements = [replace(one, identity=salt.hex()) for one in judged.statements]
        another = delivery._replace(sha256=salt)
        return await real(connection, another, replace(judged, statements=statements), rows)

    patch.setattr(files, "_store", store)


def posted_twice(patch: Patch) -> None:
    """(33) an adjustment posted twice: nobody asks whether it stands; each run is a new one."""
    swap(
        patch,
        store_post,
        "POST",
        (
            """f.is_posted AND NOT EXISTS (
    SELECT FROM settlement_booking AS b
    WHERE b.subject_id = f.subject_id AND b.reversal_id IS NULL
  )""",
            "f.is_posted",
        ),
        (
            "counter_source, amount_minor, currency\n  FROM new\n)",
            "counter_source, amount_minor, currency\n  FROM new\n  ON CONFLICT DO NOTHING\n)",
        ),
    )
    patch.setattr(ids, "reconciliation_run_id", lambda *_: uuid4())
