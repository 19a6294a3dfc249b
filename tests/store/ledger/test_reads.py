"""Balances, the trial balance and lists of journals."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from ledger_svc import chart, store
from ledger_svc.chart import CaptureEvent
from ledger_svc.domain import Account, AccountKind, Direction, TrialBalanceRow, WrittenJournal
from ledger_svc.operations import get_balance, get_trial_balance, list_journals, post_events
from mesh.db import Database
from mesh.money import Money
from mesh.paging import Position
from tests.support.captures import new_capture, new_seller, new_source

K = AccountKind
Connection = psycopg.Connection[tuple[object, ...]]


async def written_time(database: Database, event: CaptureEvent) -> datetime:
    (written,) = await list_journals(database, event.order_id, None, 10)
    return written.create_time


async def test_a_balance_as_of_a_time(database: Database) -> None:
    seller = new_seller()
    events = [new_capture(seller_id=seller) for _ in range(3)]
    for event in events:
        await post_events(database, [event])
        await asyncio.sleep(0.002)
    times = [await written_time(database, event) for event in events]
    assert times == sorted(set(times))

    account = Account(K.SELLER_PENDING, owner_id=seller)
    microsecond = timedelta(microseconds=1)
    for number, time in enumerate(times, start=1):
        assert await get_balance(database, account, "EUR", time) == number * 90
        assert await get_balance(database, account, "EUR", time - microsecond) == (number - 1) * 90
    first, last = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)
    assert await get_balance(database, account, "EUR", first) == 0
    assert await get_balance(database, account, "EUR", last) == 270


async def test_every_normal_side(database: Database) -> None:
    """A balance is positive on the kind's normal side, also where the other side has more."""
    event = new_capture(fee=Money(7, "USD"))
    await post_events(database, [event])
    receivable = Account(K.PSP_RECEIVABLE, source=event.source)
    assert await get_balance(database, receivable, "USD", None) == -7
    assert (
        await get_balance(database, Account(K.PSP_FEE_EXPENSE, "", event.source), "USD", None) == 7
    )
    pending = Account(K.SELLER_PENDING, owner_id=event.seller_id)
    assert chart.CHART[K.SELLER_PENDING].normal is Direction.CREDIT
    assert await get_balance(database, pending, "EUR", None) == 90


async def test_the_trial_balance(database: Database) -> None:
    source = new_source()
    earlier = new_capture()
    await post_events(database, [earlier])
    events = [
        new_capture(source=source, fee=Money(3, "EUR")),
        new_capture(source=source, currency_code="JPY"),
        new_capture(source=source, pending_minor=50, commission_minor=0, fee=Money(1, "USD")),
    ]
    await post_events(database, events)
    rows = await get_trial_balance(database, None)

    ours = [row for row in rows if row.source == source]
    assert ours == [
        TrialBalanceRow(K.PSP_RECEIVABLE, source, "EUR", 150, 3),
        TrialBalanceRow(K.PSP_RECEIVABLE, source, "JPY", 100, 0),
        TrialBalanceRow(K.PSP_RECEIVABLE, source, "USD", 0, 1),
        TrialBalanceRow(K.PSP_FEE_EXPENSE, source, "EUR", 3, 0),
        TrialBalanceRow(K.PSP_FEE_EXPENSE, source, "USD", 1, 0),
    ]
    # Sellers are summed: one row per currency, whoever they are.
    pending = [row.currency_code for row in rows if row.kind is K.SELLER_PENDING]
    assert len(pending) == len(set(pending))
    assert rows == sorted(rows, key=lambda row: (row.kind, row.source, row.currency_code))
    sums: Counter[str] = Counter()
    for row in rows:
        sums[row.currency_code] += row.debit_minor - row.credit_minor
    assert not any(sums.values())

    as_of = await get_trial_balance(database, await written_time(database, earlier))
    assert {row.source for row in as_of} >= {earlier.source}
    assert {row.source for row in as_of}.isdisjoint({source})


async def everything(
    database: Database, key: uuid.UUID | Account, size: int
) -> list[WrittenJournal]:
    listed: list[WrittenJournal] = []
    after: Position | None = None
    while page := await list_journals(database, key, after, size):
        assert len(page) <= size
        listed += page
        after = Position(page[-1].create_time, page[-1].journal.journal_id)
    return listed


@pytest.mark.parametrize("size", [1, 3, 100])
async def test_journals_of_an_account(database: Database, size: int) -> None:
    seller, source = new_seller(), new_source()
    wanted = set()
    for _ in range(3):  # each list has one create_time, so that the id decides within it
        events = [
            new_capture(seller_id=seller, source=source, fee=Money(1, "USD")) for _ in range(4)
        ]
        await post_events(database, [*events, new_capture()])
        wanted |= {journal for event in events for journal in chart.journals(event)}

    listed = await everything(database, Account(K.PSP_RECEIVABLE, source=source), size)
    assert len(listed) == len(wanted)
    assert {written.journal for written in listed} == wanted
    keys = [(written.create_time, written.journal.journal_id) for written in listed]
    assert keys == sorted(keys, reverse=True)

    captures = await everything(database, Account(K.SELLER_PENDING, owner_id=seller), size)
    assert len(captures) == 12


async def test_a_journal_with_two_lines_on_an_account_is_listed_once(
    database: Database, app: Connection
) -> None:
    journal_id, source = uuid.uuid4(), new_source()
    app.execute(
        "WITH j AS (INSERT INTO journal (journal_id, operation_id, order_id, revision, kind,"
        " line_count) VALUES (%(id)s, %(id)s, %(id)s, 0, 1, 2)) INSERT INTO entry (journal_id,"
        " line, account_kind, owner_id, source, direction, currency, amount_minor)"
        " VALUES (%(id)s, 0, 1, '', %(source)s, 1, 'EUR', 5),"
        " (%(id)s, 1, 1, '', %(source)s, 2, 'EUR', 5)",
        {"id": journal_id, "source": source},
    )
    app.commit()
    listed = await everything(database, Account(K.PSP_RECEIVABLE, source=source), 1)
    assert [written.journal.journal_id for written in listed] == [journal_id]


async def test_a_list_is_stable_under_inserts(database: Database) -> None:
    seller = new_seller()
    account = Account(K.SELLER_PENDING, owner_id=seller)
    await post_events(database, [new_capture(seller_id=seller) for _ in range(6)])
    before = await everything(database, account, 10)

    first = await list_journals(database, account, None, 3)
    await post_events(database, [new_capture(seller_id=seller) for _ in range(6)])
    after = Position(first[-1].create_time, first[-1].journal.journal_id)
    assert first + await list_journals(database, account, after, 10) == before


@pytest.mark.parametrize("account", ["seller", "source"])
@pytest.mark.parametrize("as_of", [None, datetime(2100, 1, 1, tzinfo=UTC)])
async def test_accounts_are_read_from_the_index_alone(
    database: Database, superuser: Connection, account: str, as_of: datetime | None
) -> None:
    sellers, source = [new_seller() for _ in range(20)], new_source()
    for _ in range(2):
        await post_events(
            database, [new_capture(seller_id=seller, source=source) for seller in sellers * 20]
        )
    superuser.commit()
    superuser.autocommit = True

    asked = (
        Account(K.SELLER_PENDING, owner_id=sellers[0])
        if account == "seller"
        else Account(K.PSP_RECEIVABLE, source=source)
    )
    parameters: dict[str, object] = {
        "account_kind": asked.kind.value,
        "owner_id": asked.owner_id,
        "source": asked.source,
        "currency": "EUR",
        "as_of": as_of or "infinity",
        "before_time": as_of or "infinity",
        "before_id": uuid.UUID(int=0),
        "limit": 50,
    }
    balance = ""
    async with asyncio.timeout(20):
        # Whoever reads at the same time, such as an autovacuum, keeps rows from being all-visible.
        while "Heap Fetches: 0" not in balance:
            superuser.execute("VACUUM (ANALYZE) entry")
            balance = await _plan(database, store.BALANCE_SQL, parameters)
    assert "Index Only Scan using entry_by_account" in balance
    listed = await _plan(database, store.LIST_BY_ACCOUNT_SQL, parameters)
    assert "Index Only Scan Backward using entry_by_account" in listed
    assert "Sort Key" not in listed


async def _plan(database: Database, statement: str, parameters: dict[str, object]) -> str:
    """How the service's own connection runs it."""
    used = {name: value for name, value in parameters.items() if f":{name}" in statement}

    async def explain(connection: AsyncConnection) -> str:
        rows = await connection.execute(
            text(f"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) {statement}"), used
        )
        return "\n".join(rows.scalars())

    return await database.read("test.explain", explain)
