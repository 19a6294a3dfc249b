"""The transactions of payment_svc: one function, one commit, over a list."""

from __future__ import annotations

from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Mapping,
    Sequence,
    Set,
)
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import accumulate
from typing import Protocol, TypeAlias, TypeVar
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.db import CommitFailed, CommitUnknown, Database
from mesh.errors import MeshError, Reason
from payment_svc import store, store_check, store_reads, store_reconciliation
from payment_svc.checked import CheckedOrder, CheckedPayment
from payment_svc.domain import (
    Item,
    NewPayment,
    NewRetry,
    Progress,
    Trip,
    differences,
    request_id_reused,
)
from payment_svc.views import (
    Listed,
    Payment,
    Replicas,
    Standing,
    UnknownOperation,
    Unregistered,
)

# Of a list's payments at once, in one statement: a page may have a hundred thousand.
MOST_ORDERS_READ = 500


@dataclass(frozen=True, slots=True)
class Accepted:
    """A payment that is stored. create_time: when, by this very call; None for a replay."""

    payment: NewPayment
    create_time: datetime | None

    @property
    def new(self) -> bool:
        """Whether this very call stored it."""
        return self.create_time is not None


@dataclass(frozen=True, slots=True)
class Recorded:
    """Progress that was looked at. update_time: when it was written; None if it was not.

    It is not written when another replica has the item, or when it was written before.
    """

    progress: Progress
    update_time: datetime | None

    @property
    def owned(self) -> bool:
        """Whether it was written."""
        return self.update_time is not None


Written: TypeAlias = Accepted | Recorded | MeshError

_Operation = TypeVar("_Operation", UnknownOperation, Unregistered)


async def write(
    database: Database, items: Sequence[NewPayment | Progress], epoch: int
) -> list[Written]:
    """Accepts payments and records progress, together in one commit; a result an item.

    Idempotent on payment_id (compared with what is stored; other fields are refused as
    REQUEST_ID_REUSED) and on (operation_id, epoch, attempt).
    """
    progress = [item for item in items if isinstance(item, Progress)]
    asked: dict[UUID, NewPayment] = {}
    for item in items:
        if isinstance(item, NewPayment):
            asked.setdefault(item.payment_id, item)  # of equal keys the first one is stored

    async def work(
        connection: AsyncConnection,
    ) -> tuple[dict[Trip, datetime], dict[UUID, datetime]]:
        owned = await store.record(connection, progress) if progress else {}
        # In one order everywhere: two replicas with the same keys would wait for each other.
        payments = sorted(asked.values(), key=lambda payment: payment.payment_id)
        new = await store.insert_payments(connection, payments, epoch) if payments else {}
        return owned, new

    owned, new = await database.commit("payment.write", work, one_write=not (progress and asked))
    stored = await _stored(database, asked, new.keys())

    def result(item: NewPayment | Progress) -> Written:
        if isinstance(item, Progress):
            return Recorded(item, owned.get(item.item.trip))
        if create_time := new.pop(item.payment_id, None):
            return Accepted(item, create_time)
        fields = differences(item, stored[item.payment_id])
        return request_id_reused(fields) if fields else Accepted(item, None)

    return [result(item) for item in items]


async def _stored(
    database: Database, asked: Mapping[UUID, NewPayment], new: Set[UUID]
) -> dict[UUID, NewPayment]:
    """The requests as they are stored: the new ones, and those that RETURNING did not answer.

    The latter were stored before, or by a transaction that committed while ours inserted,
    which only a later statement sees.
    """
    stored = {payment_id: asked[payment_id] for payment_id in new}
    known = list(asked.keys() - new)
    if known:
        try:
            stored |= await database.read(
                "payment.requests", lambda connection: store.select_requests(connection, known)
            )
        except CommitFailed as failed:
            # The commit before it went well, so nobody may be told that nothing is stored.
            raise CommitUnknown("payment.requests", failed) from None
    return stored


async def open_epoch(database: Database, name: str, lease_s: float) -> int:
    """A new epoch with a lease of `lease_s` seconds of database time."""
    return await database.commit(
        "payment.open_epoch",
        lambda connection: store.insert_replica(connection, name, lease_s),
        one_write=True,
    )


async def renew_epoch(database: Database, epoch: int, lease_s: float) -> bool:
    """Renews the lease; False if others were told that this epoch is dead."""
    return await database.commit(
        "payment.renew_epoch",
        lambda connection: store.renew(connection, epoch, lease_s),
        one_write=True,
    )


async def release_epoch(database: Database, epoch: int) -> None:
    """Ends the epoch at once, so that nobody waits for its lease."""
    await database.commit(
        "payment.release_epoch",
        lambda connection: store.release(connection, epoch),
        one_write=True,
    )


@dataclass(frozen=True, slots=True)
class Taken:
    """What a replica took: items that are due, and items of the dead."""

    items: list[Item]
    dead_epochs: list[int]
    more: bool
    """Whether there may be more at once."""


async def take(database: Database, epoch: int, most: int) -> Taken:
    """Declares replicas dead whose lease ran out, and takes their items and due ones."""

    async def work(connection: AsyncConnection) -> Taken:
        dead = await store.declare_dead(connection)
        of_dead = await store.take_of_dead(connection, epoch, most)
        due = await store.take_due(connection, epoch, most)
        return Taken([*of_dead, *due], dead, len(of_dead) == most or len(due) == most)

    return await database.commit("payment.take", work)


async def retry(database: Database, asked: NewRetry, epoch: int) -> list[Item] | None:
    """Stores an operator's retry and takes what it drives again; None for a replay.

    Idempotent on (payment_id, caller, request_id). Errors: REQUEST_ID_REUSED (another note);
    WRONG_STATE (nothing is parked, and nothing was stored).
    """

    async def work(connection: AsyncConnection) -> tuple[list[Item] | None, str | None]:
        items = await store.insert_retry(connection, asked, epoch)
        # A second statement: only it sees what a concurrent transaction has just stored.
        note = asked.note if items is not None else await store.select_note(connection, asked)
        return items, note

    items, note = await database.commit("payment.retry", work)
    if note is None:
        raise MeshError(Reason.WRONG_STATE, "no order of the payment is parked")
    if note != asked.note:
        raise request_id_reused(["note"])
    return items


async def own_items(
    database: Database, epoch: int, carried: Callable[[UUID], bool] = lambda _: False
) -> list[Item]:
    """What this epoch owns and does not carry: nobody drives it, and it has to be."""
    owned = await database.read(
        "payment.own_ids", lambda connection: store.select_own_ids(connection, epoch)
    )
    missing = [operation_id for operation_id in owned if not carried(operation_id)]
    if not missing:
        return []
    # Asked again: what was finished during the first look is not missing, but done.
    return await database.read(
        "payment.own_items", lambda connection: store.select_own(connection, epoch, missing)
    )


async def let_go(database: Database, items: Sequence[Item], epoch: int) -> set[UUID]:
    """Gives up what this epoch owns though its order has ended; answers which."""
    return await database.commit(
        "payment.let_go",
        lambda connection: store.let_go(connection, items, epoch),
        one_write=True,
    )


async def unknown(database: Database, most: int) -> AsyncIterator[list[UnknownOperation]]:
    """Operations that a settlement file may tell of, and that nobody drives.

    First those whose outcome only evidence can tell, then those that are pending; oldest
    first. In pages of at most `most`, each read when it is asked for; none is empty.
    """
    for name, select in (
        ("payment.unknown", store_reconciliation.select_unknown),
        ("payment.pending", store_reconciliation.select_pending),
    ):
        async for page in _pages(database, name, select, most):
            yield page


async def take_unknown(
    database: Database, operations: Sequence[tuple[UUID, UUID]], epoch: int
) -> list[Item]:
    """Takes (payment_id, operation_id) still unknown or pending, and that nobody drives."""
    return await database.commit(
        "payment.take_unknown",
        lambda connection: store.take_unknown(connection, epoch, operations),
        one_write=True,
    )


async def unregistered(database: Database, most: int) -> AsyncIterator[list[Unregistered]]:
    """Operations of which the ledger's register has something to be told; pages as above."""
    select = store_reconciliation.select_unregistered
    async for page in _pages(database, "payment.unregistered", select, most):
        yield page


class _Select(Protocol[_Operation]):
    def __call__(
        self, connection: AsyncConnection, after: store_reconciliation.Place, most: int
    ) -> Awaitable[list[_Operation]]: ...


async def _pages(
    database: Database, name: str, select: _Select[_Operation], most: int
) -> AsyncIterator[list[_Operation]]:
    place: store_reconciliation.Place = None
    while True:
        page = await database.read(name, partial(select, after=place, most=most))
        if page:
            yield page
        if len(page) < most:
            return
        place = page[-1].create_time, page[-1].operation_id


async def registered(database: Database, told: Sequence[Unregistered]) -> None:
    """Notes what the register was told; what was learnt since then stays to be told."""
    await database.commit(
        "payment.registered",
        lambda connection: store_reconciliation.mark_registered(connection, told),
        one_write=True,
    )


async def update_times(database: Database, payment_ids: Sequence[UUID]) -> dict[UUID, datetime]:
    """When each of the payments last changed."""
    return await database.read(
        "payment.update_times",
        lambda connection: store_reads.select_update_times(connection, payment_ids),
    )


async def resting(database: Database, payment_ids: Sequence[UUID]) -> set[UUID]:
    """Which of the payments rest."""
    return await database.read(
        "payment.resting",
        lambda connection: store_reads.select_resting(connection, payment_ids),
    )


async def payments(database: Database, payment_ids: Sequence[UUID]) -> dict[UUID, Payment]:
    """The payments by id; those that are not there are left out."""
    return await database.read(
        "payment.payments",
        lambda connection: store_reads.select_payments(connection, payment_ids),
    )


async def list_payments(
    database: Database, filters: Mapping[str, object], limit: int
) -> list[Listed]:
    """Payments newest first, at most `limit`; filters as in store_reads.list_payments."""
    return await database.read(
        "payment.list_payments",
        lambda connection: store_reads.list_payments(connection, filters, limit),
    )


async def listed_payments(
    database: Database, listed: Sequence[Listed]
) -> AsyncGenerator[list[Payment], None]:
    """The payments of a list, in its order; some orders at a time, read when asked for."""
    while listed:
        part = _of_few_orders(listed, MOST_ORDERS_READ)
        found = await payments(database, [one.payment_id for one in part])
        yield [found[one.payment_id] for one in part]
        listed = listed[len(part) :]


def _of_few_orders(listed: Sequence[Listed], most_orders: int) -> Sequence[Listed]:
    """The first of them, with at most so many orders, unless the first has more."""
    sums = accumulate(payment.order_count for payment in listed)
    fitting = [p for p, orders in zip(listed, sums, strict=True) if orders <= most_orders]
    return fitting or listed[:1]


async def standing(database: Database, epoch: int) -> tuple[list[Standing], Replicas]:
    """What does not rest for good, and how the replicas are, for the metrics."""

    async def work(connection: AsyncConnection) -> tuple[list[Standing], Replicas]:
        orders = await store_reads.select_standing(connection)
        return orders, await store_reads.select_replicas(connection, epoch)

    # It writes nothing: a transaction for the settings that end with it.
    return await database.commit("payment.standing", work)


async def check_range(
    database: Database, from_time: datetime | None, to_time: datetime | None
) -> tuple[datetime, datetime]:
    """What a check goes over, with its defaults, by database time."""
    return await database.read(
        "payment.check_range",
        lambda connection: store_check.select_range(connection, from_time, to_time),
    )


async def check_page(
    database: Database,
    from_time: datetime,
    before: store_check.Place,
    most_payments: int,
    most_orders: int,
) -> list[CheckedPayment]:
    """The next payments to check, newest first: at most so many, and at least one if any is left.

    With at most so many orders, unless the first has more.
    """

    async def work(connection: AsyncConnection) -> list[CheckedPayment]:
        listed = await store_check.select_page(connection, from_time, before, most_payments)
        payment_ids = [payment.payment_id for payment in _of_few_orders(listed, most_orders)]
        found = await store_check.select_checked(connection, payment_ids)
        return [found[payment_id] for payment_id in payment_ids]

    return await database.read("payment.check_page", work)


async def put_back(database: Database, orders: Sequence[CheckedOrder]) -> set[UUID]:
    """Makes the operations of orders that nobody drives due at once; answers which.

    Not those that were driven since they were read, or whose orders have ended.
    """
    return await database.commit(
        "payment.put_back",
        lambda connection: store_check.put_back(connection, orders),
        one_write=True,
    )
