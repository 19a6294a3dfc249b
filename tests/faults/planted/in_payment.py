"""Bugs of payment_svc."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

from paymesh.ledger.v1 import ledger_posting_service_pb2 as ledger_pb
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh import ids
from mesh.batching import Writer
from mesh.clock import utc_now
from mesh.db import CommitUnknown
from mesh.errors import MeshError
from payment_svc import clients, operations, recovery, store, store_attention, store_reconciliation
from payment_svc.carried import Carried
from payment_svc.clients import Applied, Capture, WalletClient
from payment_svc.conveyor import Conveyor
from payment_svc.domain import (
    Captured,
    Declined,
    Item,
    NewPayment,
    OperationState,
    OrderState,
    Outcome,
    Progress,
    items_of,
)
from payment_svc.intake import Intake
from payment_svc.operations import Accepted, Recorded, Written
from payment_svc.servicer import PaymentServicer
from payment_svc.views import Payment
from tests.faults.planted.plant import Patch, swap

# The finishing write without the conditions that only the owner can meet.
_UNCONDITIONAL = (
    ("AND (o.epoch = a.epoch AND o.attempt = a.attempt) IS TRUE", ""),
    (" AND p.state = m.from_state", ""),
)


# Between a look and what follows from it, so that the other replica looks, too.
_LOOKED_S = 0.4


def id_rolled_anew(patch: Patch) -> None:
    """(1) payment id rolled anew on a replay: a request that was seen before gets another id."""
    seen: set[tuple[str, str]] = set()
    real = ids.payment_id

    def rolled(caller: str, request_id: str) -> UUID:
        if (caller, request_id) in seen:
            return uuid4()
        seen.add((caller, request_id))
        return real(caller, request_id)

    patch.setattr(ids, "payment_id", rolled)


def fields_not_compared(patch: Patch) -> None:
    """(2) stored fields not compared: another request under a used request_id is a replay."""
    patch.setattr(operations, "differences", lambda asked, stored: [])


def answered_before_commit(patch: Patch) -> None:
    """(3) accept answered before its commit: a new payment is told while it is being written."""
    real = PaymentServicer._accepted

    async def accepted(
        self: PaymentServicer, payment: NewPayment, answer_at: float
    ) -> tuple[Accepted, Payment]:
        if await self._reader.get(payment.payment_id) is not None:
            return await real(self, payment, answer_at)
        self._intake.accept(payment)
        now = utc_now()
        told = Carried(payment, now, {i.position: _nothing_yet(i) for i in items_of(payment, 0)})
        return Accepted(payment, now), told.answer(now)

    patch.setattr(PaymentServicer, "_accepted", accepted)


def _nothing_yet(item: Item) -> Progress:
    return Progress(
        item=item,
        state=OrderState.PROCESSING,
        operation_state=OperationState.PENDING,
        evidence=None,
        psp_reference=None,
        captured_minor=None,
        decline_category=0,
        decline_code="",
        attention_reason=None,
        retry_after_s=None,
        delayed=False,
    )


def epoch_ignored(patch: Patch) -> None:
    """(11) finishing write ignores the epoch: whoever comes last writes, owner or not.

    Nor does it ask for the state that the owner knew, which would still stop it.
    """
    swap(patch, store, "_RECORD", *_UNCONDITIONAL)


def dead_never_replaced(patch: Patch) -> None:
    """(12) a dead replica's items never taken over: nobody looks for them."""

    async def take_of_dead(_connection: AsyncConnection, _epoch: int, _most: int) -> list[Item]:
        return []

    patch.setattr(store, "take_of_dead", take_of_dead)


def taken_by_two(patch: Patch) -> None:
    """(13) two replicas drive one item without a conditional write: both look, both take it.

    And both write what they learnt, as if each were alone.
    """
    found = text(
        "SELECT operation_id FROM operation WHERE next_attempt_time <= paymesh_now()"
        " AND epoch IS NULL LIMIT :most"
    )
    won = text(
        "WITH taken AS (UPDATE operation SET epoch = :epoch, next_attempt_time = NULL"
        " WHERE operation_id = ANY(:operation_ids) RETURNING *)"
        f" SELECT {store._ITEM_COLUMNS} FROM taken o"
        " JOIN payment_order q ON q.payment_id = o.payment_id AND q.position = o.position"
        " JOIN payment p ON p.payment_id = o.payment_id"
    )

    async def take_due(connection: AsyncConnection, epoch: int, most: int) -> list[Item]:
        looked = [row.operation_id for row in await connection.execute(found, {"most": most})]
        if not looked:
            return []
        await asyncio.sleep(_LOOKED_S)
        rows = await connection.execute(won, {"epoch": epoch, "operation_ids": looked})
        return [store._item(row) for row in rows]

    patch.setattr(store, "take_due", take_due)
    swap(patch, store, "_RECORD", *_UNCONDITIONAL)


def ledger_first(patch: Patch) -> None:
    """(18) ledger before wallet: it is booked with the split that the wallet is thought to make."""
    real = Conveyor._book

    async def book(self: Conveyor, captured: list[tuple[Item, Captured]]) -> None:
        await self._ledger.book(
            [
                Capture(item, outcome, Applied(item.amount_minor - item.commission_minor))
                for item, outcome in captured
            ]
        )
        await real(self, captured)

    patch.setattr(Conveyor, "_book", book)


def rounded_twice(patch: Patch) -> None:
    """(21) rounding on both sides of a split: seller's part and commission are each rounded up.

    Both come from a rate in basis points, and what is booked as captured is their sum.
    """
    real_credit, real_event = WalletClient.credit, clients._event

    def part(item: Item, basis_points: int) -> int:
        return (item.amount_minor * basis_points + 5_000) // 10_000

    def rate(item: Item) -> int:
        return round(item.commission_minor * 10_000 / item.amount_minor)

    async def credit(self: WalletClient, items: Sequence[Item]) -> list[Applied | MeshError]:
        return await real_credit(
            self,
            [
                replace(item, commission_minor=item.amount_minor - part(item, 10_000 - rate(item)))
                for item in items
            ],
        )

    def event(capture: Capture) -> ledger_pb.LedgerEvent:
        commission = part(capture.item, rate(capture.item))
        amount = capture.applied.pending_minor + commission
        item = replace(capture.item, amount_minor=amount, commission_minor=commission)
        return real_event(replace(capture, item=item))

    patch.setattr(WalletClient, "credit", credit)
    patch.setattr(clients, "_event", event)


def unknown_commit_under_new_ids(patch: Patch) -> None:
    """(24) unknown commit re-run under new ids: the payment is accepted once more."""
    real = Writer._isolating

    async def settled(self: Writer[Any, Any], items: list[Any]) -> list[Any]:
        try:
            return await real(self, items)
        except CommitUnknown:
            again = [
                replace(item, payment_id=uuid4()) if isinstance(item, NewPayment) else item
                for item in items
            ]
            return await real(self, again)

    patch.setattr(Writer, "_settled", settled)


def unknown_commit_is_success(patch: Patch) -> None:
    """(25) unknown commit taken for success: it is driven and told, stored or not."""
    real = Intake._commit

    async def commit(self: Intake, items: list[NewPayment | Progress]) -> Sequence[Written]:
        try:
            return await real(self, items)
        except CommitUnknown:
            self._lease.unsure = False
            written: list[Written] = [
                Accepted(item, utc_now())
                if isinstance(item, NewPayment)
                else Recorded(item, utc_now())
                for item in items
            ]
            return self._written(written, self._lease.epoch)

    patch.setattr(Intake, "_commit", commit)


def last_second_missed(patch: Patch) -> None:
    """(27) recovery misses what was accepted in the last second: before its owner's lease ended."""
    owner = "epoch = ANY(ARRAY(SELECT r.epoch FROM replica r WHERE r.dead))"
    swap(
        patch,
        store,
        "_TAKE_OF_DEAD",
        (
            owner,
            (
                f"{owner} AND create_time < (SELECT r.lease_until FROM replica r"
                " WHERE r.epoch = operation.epoch) - interval '1 second'"
            ),
        ),
    )


def parked_not_shown(patch: Patch) -> None:
    """(28) parked items not shown: what needs attention is told without them."""
    swap(
        patch,
        store_attention,
        "_OPEN",
        ("FROM payment_order WHERE attention_reason <> ''", "FROM payment_order WHERE false"),
    )


_VOID = (
    "UPDATE operation SET epoch = NULL, next_attempt_time = NULL WHERE payment_id = :payment_id",
    "UPDATE payment_order SET state = 9 WHERE payment_id = :payment_id",
    "UPDATE payment SET open_orders = 0 WHERE payment_id = :payment_id",
)


def leaving_cancels(patch: Patch) -> None:
    """(29) a caller that leaves cancels the payment: its orders are voided, charged or not."""
    real = PaymentServicer._accepted

    async def void(self: PaymentServicer, payment_id: UUID) -> None:
        async def work(connection: AsyncConnection) -> None:
            for statement in _VOID:
                await connection.execute(text(statement), {"payment_id": payment_id})

        await self._database.commit("payment.void", work)

    async def accepted(
        self: PaymentServicer, payment: NewPayment, answer_at: float
    ) -> tuple[Accepted, Payment]:
        try:
            return await real(self, payment, answer_at)
        except asyncio.CancelledError:
            asyncio.ensure_future(void(self, payment.payment_id))  # noqa: RUF006
            raise

    patch.setattr(PaymentServicer, "_accepted", accepted)


def drain_drops(patch: Patch) -> None:
    """(31) drain drops waiting items: what a replica owns when it stops is nobody's."""
    real = store.release

    async def release(connection: AsyncConnection, epoch: int) -> None:
        await real(connection, epoch)
        await connection.execute(
            text("UPDATE operation SET epoch = NULL WHERE epoch = :epoch"), {"epoch": epoch}
        )

    patch.setattr(store, "release", release)


def neighbour_credits(patch: Patch) -> None:
    """(34) a declined order credited when its neighbour succeeded: the payment is credited."""
    real = Conveyor.learnt
    captured: set[UUID] = set()
    declined: dict[UUID, list[Item]] = {}

    def learnt(self: Conveyor, outcomes: list[tuple[Item, Outcome]]) -> None:
        for item, outcome in outcomes:
            if isinstance(outcome, Captured):
                captured.add(item.payment_id)
            elif isinstance(outcome, Declined):
                declined.setdefault(item.payment_id, []).append(item)
        for payment_id in captured & declined.keys():
            asyncio.ensure_future(self._wallet.credit(declined.pop(payment_id)))  # noqa: RUF006
        real(self, outcomes)

    patch.setattr(Conveyor, "learnt", learnt)


def settled_driven_again(patch: Patch) -> None:
    """(35) a declined and settled order re-driven: a line of a file moves what has ended.

    The evidence loop takes it for one whose outcome is not known.
    """
    failed, unknown = OperationState.FAILED.value, OperationState.UNKNOWN.value
    told = f"state IN ({failed}, {unknown})"
    orders = (
        f"q.state = {OrderState.UNKNOWN.value}\n",
        f"q.state IN ({OrderState.UNKNOWN.value}, {OrderState.DECLINED.value})\n",
    )
    swap(patch, store_reconciliation, "_UNKNOWN", (f"state = {unknown}", told), orders)
    taken = f"state IN ({OperationState.PENDING.value}, {unknown})"
    swap(patch, store, "_TAKE_UNKNOWN", (taken, told))
    patch.setattr(recovery, "ENDED_STATES", frozenset())


def deadlock_not_retried(patch: Patch) -> None:
    """(17) deadlock not retried: whoever was its victim is refused."""
    patch.setattr("mesh.db.MAX_CONFLICT_TRIES", 1)
