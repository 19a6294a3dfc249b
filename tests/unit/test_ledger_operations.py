"""The rules of ledger_svc's transactions that are not SQL; tests/store has those that are."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from types import SimpleNamespace
from uuid import UUID

import pytest
from structlog.testing import capture_logs

from ledger_svc import chart, operations
from ledger_svc.chart import CaptureEvent
from ledger_svc.domain import Account, AccountKind, Journal, UnbalancedError, WrittenJournal
from ledger_svc.register import Registered, RegisterState
from mesh.errors import MeshError, Reason
from mesh.money import Money
from mesh.paging import Position
from tests.support.captures import new_capture
from tests.support.fake_database import FakeDatabase, Statements

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def fake() -> FakeDatabase:
    return FakeDatabase()


def play(monkeypatch: pytest.MonkeyPatch, module: str = "store", **answers: object) -> Statements:
    statements = Statements(**answers)
    monkeypatch.setattr(operations, module, statements)
    return statements


def ids_of(event: CaptureEvent) -> tuple[UUID, ...]:
    return tuple(journal.journal_id for journal in chart.journals(event))


# --- booking -----------------------------------------------------------------------------


def play_ledger(monkeypatch: pytest.MonkeyPatch, *booked: CaptureEvent) -> Statements:
    """A ledger in which these events are booked before."""
    known = {j.journal_id: WrittenJournal(j, NOW) for e in booked for j in chart.journals(e)}

    def insert_events(events: list[tuple[Journal, ...]]) -> set[UUID]:
        return {journals[0].journal_id for journals in events} - known.keys()

    return play(
        monkeypatch,
        insert_events=insert_events,
        read_journals=lambda journal_ids: {key: known[key] for key in journal_ids if key in known},
    )


async def test_a_new_event_is_booked_by_one_statement(
    monkeypatch: pytest.MonkeyPatch, fake: FakeDatabase
) -> None:
    statements = play_ledger(monkeypatch)
    event = new_capture(fee=Money(3, "EUR"))
    assert await operations.post_events(fake.database, [event]) == [ids_of(event)]
    assert statements.calls == [("insert_events", ([chart.journals(event)],))]
    assert fake.commits == [("ledger.post", True)]


async def test_an_event_that_is_booked_answers_with_all_its_journals(
    monkeypatch: pytest.MonkeyPatch, fake: FakeDatabase
) -> None:
    booked, fresh = new_capture(fee=Money(3, "EUR")), new_capture()
    play_ledger(monkeypatch, booked)
    answers = await operations.post_events(fake.database, [booked, fresh, booked])
    assert answers == [ids_of(booked), ids_of(fresh), ids_of(booked)]
    assert len(ids_of(booked)) == 2


@pytest.mark.parametrize("fee", [None, Money(4, "EUR")])
async def test_an_event_that_is_booked_otherwise_is_refused_and_its_neighbours_are_not(
    monkeypatch: pytest.MonkeyPatch, fake: FakeDatabase, fee: Money | None
) -> None:
    booked, fresh = new_capture(fee=Money(3, "EUR")), new_capture()
    play_ledger(monkeypatch, booked)
    refused, answer = await operations.post_events(fake.database, [booked._replace(fee=fee), fresh])
    assert isinstance(refused, MeshError)
    assert refused.reason is Reason.OPERATION_CONFLICT
    assert refused.metadata == {"fields": "capture.fee.amount_minor"}
    assert answer == ids_of(fresh)


async def test_a_conflict_is_logged_under_the_key_of_its_event(
    monkeypatch: pytest.MonkeyPatch, fake: FakeDatabase
) -> None:
    booked = new_capture(fee=Money(3, "EUR"))
    play_ledger(monkeypatch, booked)
    with capture_logs() as lines:
        await operations.post_events(fake.database, [booked._replace(fee=Money(4, "EUR"))])
    (line,) = lines
    assert line["journal_id"] == ids_of(booked)[0].hex
    assert line["operation_id"] == booked.operation_id.hex
    assert line["fields"] == ("capture.fee.amount_minor",)


async def test_of_equal_keys_in_one_list_the_first_is_booked(
    monkeypatch: pytest.MonkeyPatch, fake: FakeDatabase
) -> None:
    statements = play_ledger(monkeypatch)
    event = new_capture()
    first, second = await operations.post_events(
        fake.database, [event, event._replace(seller_id="other")]
    )
    assert first == ids_of(event)
    assert isinstance(second, MeshError)
    assert statements.calls == [("insert_events", ([chart.journals(event)],))]


async def test_an_event_that_loses_money_is_refused_alone(
    monkeypatch: pytest.MonkeyPatch, fake: FakeDatabase
) -> None:
    play_ledger(monkeypatch)
    event, fresh = new_capture(), new_capture()
    lossy = event._replace(commission_minor=event.commission_minor - 1)
    refused, answer = await operations.post_events(fake.database, [lossy, fresh])
    assert isinstance(refused, UnbalancedError)
    assert answer == ids_of(fresh)


async def test_where_nothing_can_be_booked_the_database_is_not_asked(fake: FakeDatabase) -> None:
    lossy = new_capture()._replace(commission_minor=0)
    (refused,) = await operations.post_events(fake.database, [lossy])
    assert isinstance(refused, UnbalancedError)
    assert fake.commits == []


# --- the register ------------------------------------------------------------------------


def told(state: RegisterState, version: int, **fields: object) -> Registered:
    one = Registered(
        uuid.UUID(int=1), uuid.UUID(int=2), uuid.UUID(int=3), 1, 100, "EUR", state, version, "", ""
    )
    return one._replace(**fields)  # type: ignore[arg-type]


def play_register(monkeypatch: pytest.MonkeyPatch, *stored: Registered) -> Statements:
    """A register that holds these, whatever it is told, and else what it is told."""
    held = {one.operation_id: one for one in stored}

    def put_registered(told: list[Registered]) -> None:
        for one in told:
            held.setdefault(one.operation_id, one)

    return play(
        monkeypatch,
        "store_register",
        put_registered=put_registered,
        read_registered=lambda operation_ids: {key: held[key] for key in operation_ids},
    )


UNKNOWN, PARKED = RegisterState.UNKNOWN, RegisterState.PARKED
DECLINED, CAPTURED = RegisterState.DECLINED, RegisterState.CAPTURED


async def test_who_tells_nothing_costs_nothing(fake: FakeDatabase) -> None:
    assert await operations.register_operations(fake.database, []) == []
    assert fake.commits == []


@pytest.mark.parametrize(
    ("first", "second", "stored"),
    [
        (told(UNKNOWN, 1), told(PARKED, 2), 1),
        (told(PARKED, 2), told(UNKNOWN, 1), 0),
        (told(CAPTURED, 1), told(UNKNOWN, 2), 0),
        (told(UNKNOWN, 2), told(CAPTURED, 1), 1),
    ],
)
async def test_of_one_operation_twice_in_a_list_that_is_stored_which_counts(
    monkeypatch: pytest.MonkeyPatch,
    fake: FakeDatabase,
    first: Registered,
    second: Registered,
    stored: int,
) -> None:
    statements = play_register(monkeypatch)
    counts = (first, second)[stored]
    answers = await operations.register_operations(fake.database, [first, second])
    assert answers == [counts, counts]
    assert statements.calls == [
        ("put_registered", ([counts],)),
        ("read_registered", ([counts.operation_id],)),
    ]
    # Two statements that belong together: the answer is what this commit has stored.
    assert fake.commits == [("ledger.register", False)]


async def test_what_contradicts_the_register_is_refused_and_its_neighbour_is_not(
    monkeypatch: pytest.MonkeyPatch, fake: FakeDatabase
) -> None:
    play_register(monkeypatch, told(DECLINED, 1))
    neighbour = told(PARKED, 1, operation_id=uuid.UUID(int=9))
    refused, stored = await operations.register_operations(
        fake.database, [told(CAPTURED, 2, amount_minor=101), neighbour]
    )
    assert isinstance(refused, MeshError)
    assert refused.reason is Reason.OPERATION_CONFLICT
    assert refused.metadata == {"fields": "amount.amount_minor,state"}
    assert stored == neighbour


# --- reads -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "balance"),
    [(AccountKind.PSP_RECEIVABLE, 5), (AccountKind.PSP_FEE_EXPENSE, 5),
     (AccountKind.SELLER_PENDING, -5), (AccountKind.SUSPENSE, -5)],
)  # fmt: skip
async def test_a_balance_is_positive_on_the_normal_side_of_its_account(
    monkeypatch: pytest.MonkeyPatch, fake: FakeDatabase, kind: AccountKind, balance: int
) -> None:
    play(monkeypatch, read_balance=5)  # debits less credits
    assert await operations.get_balance(fake.database, Account(kind), "EUR", None) == balance


@pytest.mark.parametrize("after", [None, Position(NOW, UUID(int=1))])
@pytest.mark.parametrize("key", [UUID(int=5), Account(AccountKind.SUSPENSE, source="psp")])
async def test_journals_are_listed_by_order_or_account_from_a_place_on_in_their_order(
    monkeypatch: pytest.MonkeyPatch,
    fake: FakeDatabase,
    key: UUID | Account,
    after: Position | None,
) -> None:
    journal_ids = [uuid.uuid4() for _ in range(3)]
    statements = play(
        monkeypatch,
        list_by_order=journal_ids,
        list_by_account=journal_ids,
        read_journals=lambda asked: {one: str(one) for one in sorted(asked)},
    )
    listed = await operations.list_journals(fake.database, key, after, 10)
    assert [str(one) for one in listed] == [str(one) for one in journal_ids]
    by = "list_by_order" if isinstance(key, UUID) else "list_by_account"
    before = after and (NOW, UUID(int=1))
    assert statements.calls[0] == (by, (key, before, 10))


async def test_an_operation_s_journals_are_found_by_their_keys_and_by_their_orders(
    monkeypatch: pytest.MonkeyPatch, fake: FakeDatabase
) -> None:
    event = new_capture(fee=Money(3, "EUR"))
    written = SimpleNamespace()
    statements = play(
        monkeypatch, find_journals=[UUID(int=1)], read_journals={UUID(int=1): written}
    )
    found = await operations.find_journals(fake.database, {event.operation_id: event.order_id})
    assert found == [written]
    assert statements.calls[0] == ("find_journals", (list(ids_of(event)), {event.order_id}))
