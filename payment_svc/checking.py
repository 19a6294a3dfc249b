"""CheckMesh: walks the payments of a time range, compares the books, mends what can be mended.

Nothing is held but a page. A page is read first and the others are asked after it, all at
once; see comparing.py for what follows from that order. What is mended goes the way of any
retry: through the wallet and the ledger under the same keys, or onto the conveyor.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import structlog

from mesh.db import Database
from mesh.errors import MeshError, Reason
from payment_svc import operations
from payment_svc.books_of_others import BooksOfOthers
from payment_svc.checked import (
    BOOKED_AGAIN,
    DRIVEN_AGAIN,
    Books,
    CheckedOrder,
    CheckedPayment,
    Executed,
    Finding,
    FindingClass,
    FindingKind,
    LookUp,
)
from payment_svc.clients import Applied, Capture, LedgerClient, WalletClient
from payment_svc.comparing import Comparison, of_payment
from payment_svc.domain import Captured, Evidence, Item
from payment_svc.store_check import Place

log = structlog.get_logger()

MOST_PAYMENTS = 500
MOST_ORDERS = 500


@dataclass(frozen=True, slots=True)
class Asked:
    """What to check; the times are those of the payments, None for the defaults."""

    from_time: datetime | None
    to_time: datetime | None
    repair: bool
    look_up: bool


@dataclass(frozen=True, slots=True)
class Told:
    """A finding, and what came of it. problem: why it was not mended, where that was tried."""

    finding: Finding
    repaired: bool = False
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """What a page brought; the counts are those of the check so far, see the contract."""

    told: Sequence[Told]
    payments: int
    orders: int
    under_way: int
    unanswered: int
    checked_from: datetime
    checked_to: datetime


class Checker:
    """Checks; any number of checks may run at once."""

    def __init__(
        self, database: Database, books: BooksOfOthers, wallet: WalletClient, ledger: LedgerClient
    ) -> None:
        """`wallet` and `ledger`: through which a capture is credited and booked again."""
        self._database = database
        self._books = books
        self._wallet = wallet
        self._ledger = ledger

    async def check(self, asked: Asked, stopping: Callable[[], bool]) -> AsyncGenerator[Page, None]:
        """Yields what was found, page by page, newest payments first; at least one page.

        Errors: DEPENDENCY_DOWN (also if it is `stopping`); of a repair OUTCOME_UNKNOWN.
        """
        start, end = await operations.check_range(self._database, asked.from_time, asked.to_time)
        payments = orders = under_way = unanswered = findings = 0
        place = Place(end, UUID(int=0))
        while True:
            if stopping():
                raise MeshError(Reason.DEPENDENCY_DOWN, "the service stops; check again")
            page = await operations.check_page(
                self._database, start, place, MOST_PAYMENTS, MOST_ORDERS
            )
            found, books = await self._compare(page, look_up=asked.look_up)
            told = await self._repaired(found, books) if asked.repair else list(map(Told, found))
            payments += len(page)
            orders += sum(len(payment.orders) for payment in page)
            under_way += sum(order.under_way for payment in page for order in payment.orders)
            unanswered += sum(
                answer.result is LookUp.NO_ANSWER for answer in books.looked_up.values()
            )
            findings += len(told)
            if page:
                place = Place(page[-1].create_time, page[-1].payment_id)
            done = place.create_time if page else start
            yield Page(told, payments, orders, under_way, unanswered, done, end)
            if not page:
                log.info("mesh_checked", payments=payments, orders=orders, findings=findings)
                return

    async def _compare(
        self, page: Sequence[CheckedPayment], *, look_up: bool
    ) -> tuple[list[Finding], Books]:
        orders = [order for payment in page for order in payment.orders]
        books = await self._books.read(orders, look_up=look_up) if orders else Books()
        comparison = Comparison(books)
        found: list[Finding] = []
        for payment in page:
            found += of_payment(payment)
            for order in payment.orders:
                found += comparison.findings(order)
        return found, books

    async def _repaired(self, found: Sequence[Finding], books: Books) -> list[Told]:
        """Mends what nothing contradicts, and tells of all that was found."""
        contradicted = {
            finding.payment_id
            for finding in found
            if finding.kind.finding_class is FindingClass.CONTRADICTION
        }
        clear = [finding for finding in found if finding.payment_id not in contradicted]
        problems = await self._book(_orders_of(clear, BOOKED_AGAIN), books.executed)
        problems |= await self._put_back(_orders_of(clear, DRIVEN_AGAIN))
        told = []
        for finding in found:
            if finding.kind.finding_class is not FindingClass.MISSING_STEP:
                told.append(Told(finding))
            elif finding.order is None or finding.payment_id in contradicted:
                told.append(Told(finding, problem="the payment's books contradict each other"))
            else:
                problem = problems[finding.order.operation_id]
                told.append(Told(finding, repaired=not problem, problem=problem))
                _log(finding, finding.order, problem)
        return told

    async def _book(
        self, orders: Sequence[CheckedOrder], executed: Mapping[UUID, Executed]
    ) -> dict[UUID, str]:
        """Credits and books captures once more, as the conveyor does; problems by operation."""
        if not orders:
            return {}
        problems: dict[UUID, str] = {}
        captures = []
        applied = await self._wallet.credit([_item(order) for order in orders])
        for order, answer in zip(orders, applied, strict=True):
            if isinstance(answer, Applied):
                captured = _captured(executed[order.operation_id])
                captures.append(Capture(_item(order), captured, answer))
            else:
                problems[order.operation_id] = f"the wallet: {answer}"
        booked = await self._ledger.book(captures) if captures else []
        for capture, error in zip(captures, booked, strict=True):
            problems[capture.item.operation_id] = "" if error is None else f"the ledger: {error}"
        return problems

    async def _put_back(self, orders: Sequence[CheckedOrder]) -> dict[UUID, str]:
        """Back onto the conveyor, of whichever replica looks first; problems by operation."""
        if not orders:
            return {}
        due = await operations.put_back(self._database, orders)
        return {
            order.operation_id: "" if order.operation_id in due else "it has moved since"
            for order in orders
        }


def _orders_of(found: Iterable[Finding], kinds: frozenset[FindingKind]) -> list[CheckedOrder]:
    """The orders of the findings of these kinds, each once."""
    orders = [finding.order for finding in found if finding.kind in kinds]
    return list({order.operation_id: order for order in orders if order is not None}.values())


def _log(finding: Finding, order: CheckedOrder, problem: str) -> None:
    if problem:
        log.warning("finding_not_repaired", **order.ids, kind=finding.kind.name, cause=problem)
    else:
        log.info("finding_repaired", **order.ids, kind=finding.kind.name)


def _item(order: CheckedOrder) -> Item:
    """The order as wallet and ledger are told of it; it is on no conveyor."""
    return Item(
        payment_id=order.payment_id,
        order_id=order.order_id,
        operation_id=order.operation_id,
        position=order.position,
        seller_id=order.seller_id,
        amount_minor=order.amount.amount_minor,
        currency_code=order.amount.currency_code,
        commission_minor=order.commission_minor,
        payment_method="",
        state=order.state,
        attempt=order.attempt,
        epoch=0,
    )


def _captured(executed: Executed) -> Captured:
    return Captured(
        executed.psp_reference, executed.fee, executed.source, Evidence(executed.evidence)
    )
