"""Who drives what: leases, items of the dead, and items whose time has come.

Each process holds one lease with an epoch, by database time. An item belongs to an epoch,
and what its owner learns is written only while it still does, so that two replicas never
both finish an item. A dead epoch's items are taken over by an update that returns what it
won; a start-up is nothing else than the first look.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from uuid import UUID

import structlog

from mesh.db import CommitFailed, CommitUnknown, Database
from payment_svc import operations
from payment_svc.conveyor import Conveyor
from payment_svc.domain import ENDED_STATES, Item, NewRetry, Settled

log = structlog.get_logger()

MOST_ITEMS = 500
RENEWALS_PER_LEASE = 3


class Lease:
    """The epoch of this process."""

    def __init__(self, database: Database, *, name: str, lease_s: float) -> None:
        """`name` is for operators; `lease_s` is the lease's length in seconds."""
        self._database = database
        self._name = name
        self.lease_s = lease_s
        self._renew_at = 0.0
        self.epoch = 0
        self.unsure = False
        """Set when a commit's answer was lost: this epoch may own what is on no conveyor."""

    async def open(self) -> None:
        """Takes a new epoch."""
        self.epoch = await operations.open_epoch(self._database, self._name, self.lease_s)
        self._renew_at = time.monotonic() + self.lease_s / RENEWALS_PER_LEASE
        log.info("epoch_opened", epoch=self.epoch)

    async def keep(self) -> None:
        """Renews the lease when it is time; takes a new epoch if this one was declared dead."""
        if time.monotonic() < self._renew_at:
            return
        if await operations.renew_epoch(self._database, self.epoch, self.lease_s):
            self._renew_at = time.monotonic() + self.lease_s / RENEWALS_PER_LEASE
        else:
            log.warning("epoch_lost", epoch=self.epoch)
            await self.open()

    async def release(self) -> None:
        """Gives the epoch up, so that what it owns is taken over at once.

        If the database is away, the lease runs out instead.
        """
        try:
            await operations.release_epoch(self._database, self.epoch)
        except CommitFailed as failed:
            log.warning("epoch_not_released", epoch=self.epoch, cause=str(failed))
        else:
            log.info("epoch_released", epoch=self.epoch)


class Recovery:
    """The loop that keeps the lease and puts on the conveyor what is not on it."""

    def __init__(
        self,
        database: Database,
        lease: Lease,
        conveyor: Conveyor,
        *,
        poll_s: float,
        has_room: Callable[[], bool],
    ) -> None:
        """`poll_s` is how often it looks; `has_room` tells whether more can be carried."""
        self._database = database
        self._lease = lease
        self._conveyor = conveyor
        self._poll_s = poll_s
        self._has_room = has_room
        self._audit_at = 0.0

    async def run(self) -> None:
        """Runs until cancelled; a database that is away is asked again."""
        while True:
            try:
                more = await self._look()
            except CommitFailed as failed:
                log.warning("recovery_waits", cause=str(failed))
                more = False
            if not more:
                await asyncio.sleep(self._poll_s)

    async def retry(self, asked: NewRetry) -> bool:
        """Drives a payment's parked orders again; False for a replay.

        Errors: see operations.retry; OUTCOME_UNKNOWN (call again with the same request_id).
        """
        try:
            items = await operations.retry(self._database, asked, self._lease.epoch)
        except (CommitUnknown, asyncio.CancelledError):
            # Also when the caller leaves: that may be in the middle of the COMMIT.
            self._lease.unsure = True
            raise
        if items is None:
            return False
        log.info(
            "payment_retried",
            payment_id=asked.payment_id.hex,
            caller=asked.caller,
            orders=[item.order_id.hex for item in items],
        )
        self._drive(items)
        return True

    async def settle(self, proven: Mapping[tuple[UUID, UUID], Settled]) -> list[Item]:
        """Drives on what a settlement file proves, by (payment_id, operation_id).

        Answers what was taken: not what somebody drives, or has driven to its end meanwhile.
        Errors: those of Database.commit. What is lost with them is found again by the next
        look at the files, because the line that proves it is still there.
        """
        if not self._has_room():
            return []
        try:
            items = await operations.take_unknown(self._database, list(proven), self._lease.epoch)
        except CommitUnknown:
            self._lease.unsure = True
            raise
        items = [
            replace(item, settled=proven[item.payment_id, item.operation_id]) for item in items
        ]
        self._drive(items)
        return items

    async def _look(self) -> bool:
        # The lease first: what is taken must be taken by a living epoch.
        await self._lease.keep()
        if self._lease.unsure or time.monotonic() >= self._audit_at:
            await self._audit()
        if not self._has_room():
            return False
        try:
            taken = await operations.take(self._database, self._lease.epoch, MOST_ITEMS)
        except CommitUnknown:
            self._lease.unsure = True
            raise
        for epoch in taken.dead_epochs:
            log.warning("epoch_declared_dead", epoch=epoch)
        if taken.items:
            log.info("items_taken", items=len(taken.items))
            for item in taken.items:
                log.info("order_taken", **item.ids, state=item.state.name, attempt=item.attempt)
            self._drive(taken.items)
        return taken.more

    async def _audit(self) -> None:
        """Puts on the conveyor what this epoch owns and nobody drives.

        What a COMMIT stored whose answer was lost, and what could not be written for a
        bug. From time to time also when nothing is known to be missing: a COMMIT that
        hangs in the server is seen by nobody until it ends.
        """
        unsure, self._lease.unsure = self._lease.unsure, False
        try:
            lost = await operations.own_items(
                self._database, self._lease.epoch, self._conveyor.carries
            )
        except CommitFailed:
            self._lease.unsure = True
            raise
        self._audit_at = time.monotonic() + self._lease.lease_s
        if lost:
            log.warning("items_found", items=len(lost), unsure=unsure)
            for item in lost:
                log.warning("order_found", **item.ids, state=item.state.name, attempt=item.attempt)
            self._drive(lost)
            await self._let_go([item for item in lost if item.state in ENDED_STATES])

    async def _let_go(self, ended: Sequence[Item]) -> None:
        if not ended:
            return
        for item in ended:
            log.error("order_let_go", **item.ids, state=item.state.name)
        try:
            await operations.let_go(self._database, ended, self._lease.epoch)
        except CommitFailed:
            self._lease.unsure = True
            raise

    def _drive(self, items: Sequence[Item]) -> None:
        """Puts items on the conveyor, but nothing that has ended: the audit lets go of it.

        Nobody should own such an order. If one is owned all the same, by a bug, it must not
        hold up what is driven beside it, nor keep its callers waiting.
        """
        alive = [item for item in items if item.state not in ENDED_STATES]
        if len(alive) < len(items):
            self._lease.unsure = True
        self._conveyor.put(alive)
