"""Events are booked exactly once, whatever comes doubled, different or at once."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections import Counter
from functools import partial
from typing import Any

import psycopg
import pytest

from ledger_svc import chart
from ledger_svc.chart import CaptureEvent
from ledger_svc.domain import Account, AccountKind, JournalKind
from ledger_svc.operations import Booked, get_balance, list_journals, post_events
from mesh.batching import Writer
from mesh.db import BadData, Database
from mesh.errors import Code, MeshError, Reason
from mesh.money import Money
from tests.support.captures import new_capture, new_seller, new_source
from tests.support.databases import superuser_url

K = AccountKind

# Journals whose entries don't add up, or are not as many as they were written with.
UNSOUND = """
SELECT journal_id
FROM journal FULL JOIN entry USING (journal_id)
GROUP BY journal_id
HAVING count(line) <> min(line_count)
   OR count(DISTINCT entry.create_time) <> 1 OR min(entry.create_time) <> min(journal.create_time)
UNION ALL
SELECT journal_id
FROM entry
GROUP BY journal_id, currency
HAVING sum(CASE direction WHEN 1 THEN amount_minor ELSE -amount_minor END) <> 0
"""


def assert_books_are_sound(url: str) -> None:
    with psycopg.connect(url) as connection:
        assert connection.execute(UNSOUND).fetchall() == []


def booked(answer: Booked | MeshError) -> Booked:
    assert isinstance(answer, tuple), answer
    return answer


def refused(answer: Booked | MeshError) -> MeshError:
    assert isinstance(answer, MeshError), answer
    return answer


async def pending(database: Database, event: CaptureEvent) -> int:
    account = Account(K.SELLER_PENDING, owner_id=event.seller_id)
    return await get_balance(database, account, event.captured.currency_code, None)


async def test_a_capture_with_a_fee(database: Database, ledger_url: str) -> None:
    event = new_capture(pending_minor=90, commission_minor=10, fee=Money(3, "EUR"))
    (answer,) = await post_events(database, [event])

    wanted = chart.journals(event)
    assert booked(answer) == tuple(journal.journal_id for journal in wanted)
    listed = await list_journals(database, event.order_id, None, 10)
    assert {written.journal.kind: written.journal for written in listed} == {
        journal.kind: journal for journal in wanted
    }
    source, owner = event.source, event.seller_id
    for account, balance in (
        (Account(K.PSP_RECEIVABLE, source=source), 97),
        (Account(K.PSP_FEE_EXPENSE, source=source), 3),
        (Account(K.SELLER_PENDING, owner_id=owner), 90),
        (Account(K.SELLER_AVAILABLE, owner_id=owner), 0),
        (Account(K.SELLER_DEBT, owner_id=owner), 0),
    ):
        assert await get_balance(database, account, "EUR", None) == balance
        assert await get_balance(database, account, "USD", None) == 0
    assert_books_are_sound(ledger_url)


async def test_a_fee_in_another_currency(database: Database) -> None:
    event = new_capture(fee=Money(4, "USD"))
    await post_events(database, [event])
    receivable = Account(K.PSP_RECEIVABLE, source=event.source)
    assert await get_balance(database, receivable, "EUR", None) == 100
    assert await get_balance(database, receivable, "USD", None) == -4


async def test_no_fee_no_journal(database: Database) -> None:
    events = [new_capture(), new_capture(fee=Money(0, "EUR"))]
    for event, answer in zip(events, await post_events(database, events), strict=True):
        assert len(booked(answer)) == 1
        (written,) = await list_journals(database, event.order_id, None, 10)
        assert written.journal.kind is JournalKind.CAPTURE


async def test_a_replay_writes_nothing(database: Database, ledger_url: str) -> None:
    events = [new_capture(fee=Money(3, "EUR")) for _ in range(3)]
    first = await post_events(database, events)
    new = new_capture()
    again = await post_events(database, [events[2], new, events[0]])
    assert again == [first[2], again[1], first[0]]
    for event in (*events, new):
        assert await pending(database, event) == 90
    assert_books_are_sound(ledger_url)


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        ({"order_id": uuid.uuid4()}, "order_id"),
        ({"seller_id": "another-seller"}, "capture.seller_id"),
        ({"source": "another-source"}, "capture.source"),
        (
            {"seller_pending_minor": 80, "commission_minor": 20},
            "capture.commission_minor,capture.seller_pending_minor",
        ),
        ({"fee": None}, "capture.fee.amount_minor"),
        ({"fee": Money(4, "EUR")}, "capture.fee.amount_minor"),
    ],
)
@pytest.mark.parametrize("swapped", [False, True])
async def test_a_conflict_names_the_fields_and_books_nothing(
    database: Database, ledger_url: str, change: dict[str, Any], fields: str, swapped: bool
) -> None:
    one = new_capture(fee=Money(3, "EUR"))
    other = one._replace(**change)
    stored, asked = (other, one) if swapped else (one, other)
    neighbour = new_capture()
    await post_events(database, [stored])

    error, beside = await post_events(database, [asked, neighbour])

    assert refused(error).reason is Reason.OPERATION_CONFLICT
    assert refused(error).code is Code.ALREADY_EXISTS
    assert refused(error).metadata == {"fields": fields}
    assert len(booked(beside)) == 1
    listed = await list_journals(database, stored.order_id, None, 10)
    assert {written.journal for written in listed} == set(chart.journals(stored))
    if asked.order_id != stored.order_id:
        assert await list_journals(database, asked.order_id, None, 10) == []
    assert_books_are_sound(ledger_url)


async def test_an_unbalanced_event_fails_alone(database: Database, ledger_url: str) -> None:
    good, bad = new_capture(), new_capture()._replace(commission_minor=11)
    answers = await post_events(database, [bad, good, bad])
    for answer in (answers[0], answers[2]):
        assert refused(answer).is_permanent
    assert len(booked(answers[1])) == 1
    assert await list_journals(database, bad.order_id, None, 10) == []
    assert [refused(answer).is_permanent for answer in await post_events(database, [bad])] == [True]
    assert await post_events(database, []) == []
    assert_books_are_sound(ledger_url)


async def test_one_key_several_times_in_a_list(database: Database, ledger_url: str) -> None:
    event = new_capture()
    with_fee = event._replace(fee=Money(3, "EUR"))
    answers = await post_events(database, [event, with_fee, event])
    assert booked(answers[0]) == booked(answers[2])
    assert refused(answers[1]).metadata == {"fields": "capture.fee.amount_minor"}
    assert len(await list_journals(database, event.order_id, None, 10)) == 1

    # Against what is stored, not against who was first in this list.
    answers = await post_events(database, [with_fee, event])
    assert refused(answers[0]).reason is Reason.OPERATION_CONFLICT
    assert len(booked(answers[1])) == 1
    assert_books_are_sound(ledger_url)


async def test_a_row_that_the_database_refuses_stands_alone(
    database: Database, ledger_url: str
) -> None:
    good = [new_capture(fee=Money(1, "EUR")) for _ in range(9)]
    # Longer than the servicer lets through.
    bad = new_capture(seller_id="s" * 256)
    writer: Writer[CaptureEvent, Booked] = Writer("test", partial(post_events, database))
    running = asyncio.ensure_future(writer.run())
    try:
        answers = await writer.write([*good[:4], bad, *good[4:]], durable=False)
    finally:
        running.cancel()
    assert isinstance(answers.pop(4), BadData)
    assert all(len(booked(answer)) == 2 for answer in answers)
    assert await list_journals(database, bad.order_id, None, 10) == []
    assert_books_are_sound(ledger_url)


async def test_concurrent_lists_with_the_same_events(
    ledger_url: str, databases: dict[str, str]
) -> None:
    """Two replicas, eight lists at once: no deadlock, and each event is booked once."""
    sellers, source = [new_seller() for _ in range(5)], new_source()
    chance = random.Random(5)
    pool = [
        new_capture(
            seller_id=chance.choice(sellers),
            source=source,
            pending_minor=chance.randrange(1, 1000),
            commission_minor=chance.randrange(10),
            currency_code=chance.choice(["EUR", "USD"]),
            fee=chance.choice([None, Money(2, "EUR")]),
        )
        for _ in range(200)
    ]
    replicas = [Database(ledger_url, application_name=f"test-{n}", pool_size=4) for n in range(2)]
    deadlocks = _deadlocks(databases)

    async def one(number: int) -> list[Booked | MeshError]:
        return await post_events(replicas[number % 2], chance.sample(pool, 80))

    for _ in range(5):
        for answers in await asyncio.gather(*(one(number) for number in range(8))):
            assert all(isinstance(answer, tuple) for answer in answers)
    await post_events(replicas[0], pool)

    expected: Counter[tuple[str, str]] = Counter()
    received: Counter[str] = Counter()
    for event in pool:
        currency = event.captured.currency_code
        expected[event.seller_id, currency] += event.seller_pending_minor
        received[currency] += event.captured.amount_minor
        received["EUR"] -= event.fee.amount_minor if event.fee else 0
    for (seller, currency), amount_minor in expected.items():
        account = Account(K.SELLER_PENDING, owner_id=seller)
        assert await get_balance(replicas[1], account, currency, None) == amount_minor
    for currency, amount_minor in received.items():
        account = Account(K.PSP_RECEIVABLE, source=source)
        assert await get_balance(replicas[1], account, currency, None) == amount_minor
    for replica in replicas:
        await replica.close()  # which also makes the server count what happened
    assert _deadlocks(databases) == deadlocks
    assert_books_are_sound(ledger_url)


def _deadlocks(databases: dict[str, str]) -> object:
    with psycopg.connect(superuser_url(databases, "ledger")) as connection:
        return connection.execute(
            "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        ).fetchone()


async def test_conflicting_events_at_once_book_one_of_the_two(
    database: Database, ledger_url: str
) -> None:
    """The same keys with and without a fee, concurrently: one of both is a conflict."""
    for _ in range(10):
        ours = [new_capture() for _ in range(20)]
        theirs = [event._replace(fee=Money(3, "EUR")) for event in reversed(ours)]
        one, other = await asyncio.gather(
            post_events(database, ours), post_events(database, theirs)
        )
        for mine, yours in zip(one, reversed(other), strict=True):
            assert isinstance(mine, tuple) != isinstance(yours, tuple)
    assert_books_are_sound(ledger_url)


async def test_what_the_psp_calls_it_may_be_learned_later_but_not_change(
    database: Database, ledger_url: str
) -> None:
    named = new_capture()._replace(psp_reference="psp_1")
    [booked] = await post_events(database, [named])
    assert isinstance(booked, tuple)
    with psycopg.connect(ledger_url) as connection:
        row = connection.execute(
            "SELECT psp_reference FROM journal WHERE journal_id = %s", [booked[0]]
        ).fetchone()
    assert row == ("psp_1",)
    again, unnamed, renamed = await post_events(
        database,
        [named, named._replace(psp_reference=""), named._replace(psp_reference="psp_2")],
    )
    assert again == unnamed == booked
    assert isinstance(renamed, MeshError)
    assert renamed.metadata == {"fields": "capture.psp_reference"}
