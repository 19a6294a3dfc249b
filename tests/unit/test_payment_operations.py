"""The rules of payment_svc's transactions that are not SQL; tests/store has those that are."""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mesh.db import Busy, CommitUnknown
from mesh.errors import MeshError, Reason
from mesh.money import Money
from payment_svc import operations
from payment_svc.domain import Item, NewPayment, NewRetry, OrderState, Progress, items_of
from payment_svc.operations import Accepted, Recorded, Taken
from payment_svc.store_check import Place
from payment_svc.views import Listed, Replicas, Standing, UnknownOperation
from tests.support.fake_database import FakeDatabase, Statements
from tests.support.payments import new_order, new_payment, progress
from tests.support.values import assert_value

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def fake() -> FakeDatabase:
    return FakeDatabase()


def play(monkeypatch: pytest.MonkeyPatch, module: str = "store", **answers: object) -> Statements:
    statements = Statements(**answers)
    monkeypatch.setattr(operations, module, statements)
    return statements


def new_progress() -> Progress:
    (item,) = items_of(new_payment(), 1)
    return progress(item, OrderState.SUCCEEDED)


# --- accepting and recording -------------------------------------------------------------


def play_write(
    monkeypatch: pytest.MonkeyPatch, *stored: NewPayment, owned: tuple[Progress, ...] = ()
) -> Statements:
    """A database in which these payments are stored before, and these items are ours."""
    known = {payment.payment_id: payment for payment in stored}
    return play(
        monkeypatch,
        record=lambda progress: {
            p.item.trip: NOW for p in progress if any(p is other for other in owned)
        },
        insert_payments=lambda payments, _: {
            p.payment_id: NOW for p in payments if p.payment_id not in known
        },
        select_requests=lambda payment_ids: {key: known[key] for key in payment_ids},
    )


async def test_a_new_payment_is_accepted_by_one_statement_and_compared_with_nothing(
    monkeypatch: pytest.MonkeyPatch, fake: FakeDatabase
) -> None:
    statements = play_write(monkeypatch)
    payment = new_payment()
    (accepted,) = await operations.write(fake.database, [payment], 7)
    assert accepted == Accepted(payment, NOW)
    assert isinstance(accepted, Accepted)
    assert accepted.new
    assert statements.calls == [("insert_payments", ([payment], 7))]
    assert (fake.commits, fake.reads) == ([("payment.write", True)], [])


async def test_a_replay_is_answered_as_what_it_repeats(
    monkeypatch: pytest.MonkeyPatch, fake: FakeDatabase
) -> None:
    payment, fresh = new_payment(), new_payment()
    statements = play_write(monkeypatch, payment)
    answers = await operations.write(fake.database, [payment, fresh], 7)
    assert answers == [Accepted(payment, None), Accepted(fresh, NOW)]
    assert [a.new for a in answers if isinstance(a, Accepted)] == [False, True]
    assert statements.calls[-1] == ("select_requests", ([payment.payment_id],))


async def test_another_request_under_a_used_id_is_refused_and_its_neighbour_is_not(
    monkeypatch: pytest.MonkeyPatch, fake: FakeDatabase
) -> None:
    payment, fresh = new_payment(), new_payment()
    play_write(monkeypatch, payment)
    other = replace(payment, buyer_id="other")
    refusal, accepted = await operations.write(fake.database, [other, fresh], 7)
    assert isinstance(refusal, MeshError)
    assert refusal.metadata == {"fields": "buyer_id"}
    assert accepted == Accepted(fresh, NOW)


async def test_of_equal_keys_in_one_list_the_first_is_stored_and_the_others_are_replays(
    monkeypatch: pytest.MonkeyPatch, fake: FakeDatabase
) -> None:
    statements = play_write(monkeypatch)
    payment = new_payment()
    other = replace(payment, buyer_id="other")
    first, again, refused = await operations.write(fake.database, [payment, payment, other], 7)
    assert (first, again) == (Accepted(payment, NOW), Accepted(payment, None))
    assert isinstance(refused, MeshError)
    assert statements.calls == [("insert_payments", ([payment], 7))]


async def test_payments_are_inserted_in_the_order_of_their_keys(
    monkeypatch: pytest.MonkeyPatch, fake: FakeDatabase
) -> None:
    """Else two replicas with the same keys would wait for each other."""
    statements = play_write(monkeypatch)
    payments = sorted((new_payment() for _ in range(5)), key=lambda p: p.payment_id, reverse=True)
    await operations.write(fake.database, payments, 7)
    ((_, (inserted, _)),) = statements.calls
    assert inserted == payments[::-1]


async def test_a_replay_that_can_t_be_read_is_not_told_that_nothing_is_stored(
    monkeypatch: pytest.MonkeyPatch, fake: FakeDatabase
) -> None:
    payment = new_payment()
    play_write(monkeypatch, payment)
    fake.fails["payment.requests"] = Busy("payment.requests", Exception())
    with pytest.raises(CommitUnknown) as raised:
        await operations.write(fake.database, [payment, new_payment()], 7)
    assert raised.value.reason is Reason.OUTCOME_UNKNOWN
    assert raised.value.commit == "payment.requests"


async def test_progress_is_recorded_for_what_is_still_ours(
    monkeypatch: pytest.MonkeyPatch, fake: FakeDatabase
) -> None:
    ours, anothers = new_progress(), new_progress()
    statements = play_write(monkeypatch, owned=(ours,))
    recorded = await operations.write(fake.database, [anothers, ours], 7)
    assert recorded == [Recorded(anothers, None), Recorded(ours, NOW)]
    assert [r.owned for r in recorded if isinstance(r, Recorded)] == [False, True]
    assert statements.calls == [("record", ([anothers, ours],))]
    assert fake.commits == [("payment.write", True)]


async def test_what_accepts_and_records_is_one_transaction_of_two_writes(
    monkeypatch: pytest.MonkeyPatch, fake: FakeDatabase
) -> None:
    payment, ours = new_payment(), new_progress()
    statements = play_write(monkeypatch, owned=(ours,))
    answers = await operations.write(fake.database, [payment, ours], 7)
    assert answers == [Accepted(payment, NOW), Recorded(ours, NOW)]
    assert statements.names == ["record", "insert_payments"]
    assert fake.commits == [("payment.write", False)]


@pytest.mark.parametrize(
    "value", [Accepted(new_payment(), None), Recorded(new_progress(), None), Taken([], [], False)]
)
def test_what_came_of_a_write_is_never_changed(value: object) -> None:
    assert_value(value)


# --- taking ------------------------------------------------------------------------------


def items(count: int) -> list[Item]:
    return items_of(new_payment(*(new_order() for _ in range(count))), 1)


@pytest.mark.parametrize(
    ("of_dead", "due", "more"),
    [(0, 0, False), (2, 2, False), (299, 299, False), (300, 0, True), (0, 300, True),
     (300, 300, True), (300, 299, True), (299, 300, True)],
)  # fmt: skip
async def test_there_may_be_more_if_either_of_what_was_taken_is_as_much_as_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, fake: FakeDatabase, of_dead: int, due: int, more: bool
) -> None:
    theirs, ours = items(of_dead), items(due)
    statements = play(monkeypatch, declare_dead=[3], take_of_dead=theirs, take_due=ours)
    most = int("300")  # not the very object that len() gives: numbers are compared by value
    taken = await operations.take(fake.database, 7, most)
    assert taken == Taken([*theirs, *ours], [3], more)
    assert statements.calls == [
        ("declare_dead", ()), ("take_of_dead", (7, 300)), ("take_due", (7, 300)),
    ]  # fmt: skip
    # Several writes: the dead are declared dead only if what they had is taken.
    assert fake.commits == [("payment.take", False)]


# --- an operator's retry -----------------------------------------------------------------

RETRY = NewRetry(uuid.uuid4(), "ops", "retry-1", "the PSP put it right")


async def test_a_retry_takes_what_it_drives_again(
    monkeypatch: pytest.MonkeyPatch, fake: FakeDatabase
) -> None:
    parked = items(2)
    statements = play(monkeypatch, insert_retry=parked)
    assert await operations.retry(fake.database, RETRY, 7) == parked
    assert statements.calls == [("insert_retry", (RETRY, 7))]
    assert fake.commits == [("payment.retry", False)]


async def test_a_retry_again_is_a_replay(
    monkeypatch: pytest.MonkeyPatch, fake: FakeDatabase
) -> None:
    note = "".join(list(RETRY.note))  # as a row's: equal, and not the same object
    play(monkeypatch, insert_retry=None, select_note=note)
    assert await operations.retry(fake.database, RETRY, 7) is None


async def test_a_retry_with_nothing_parked_is_refused(
    monkeypatch: pytest.MonkeyPatch, fake: FakeDatabase
) -> None:
    play(monkeypatch, insert_retry=None, select_note=None)
    with pytest.raises(MeshError) as raised:
        await operations.retry(fake.database, RETRY, 7)
    assert raised.value.reason is Reason.WRONG_STATE


@pytest.mark.parametrize("note", ["a", "z", ""])
async def test_another_note_under_a_used_id_is_refused(
    monkeypatch: pytest.MonkeyPatch, fake: FakeDatabase, note: str
) -> None:
    play(monkeypatch, insert_retry=None, select_note=note)
    with pytest.raises(MeshError) as raised:
        await operations.retry(fake.database, RETRY, 7)
    assert raised.value.reason is Reason.REQUEST_ID_REUSED
    assert raised.value.metadata == {"fields": "note"}


# --- what nobody carries -----------------------------------------------------------------


async def test_only_what_is_owned_and_not_carried_is_read(
    monkeypatch: pytest.MonkeyPatch, fake: FakeDatabase
) -> None:
    carried, missing = items(2)
    owned = [carried.operation_id, missing.operation_id]
    statements = play(monkeypatch, select_own_ids=owned, select_own=[missing])
    found = await operations.own_items(fake.database, 7, {carried.operation_id}.__contains__)
    assert found == [missing]
    assert statements.calls == [
        ("select_own_ids", (7,)), ("select_own", (7, [missing.operation_id])),
    ]  # fmt: skip


async def test_a_replica_that_carries_all_it_owns_asks_no_further(
    monkeypatch: pytest.MonkeyPatch, fake: FakeDatabase
) -> None:
    statements = play(monkeypatch, select_own_ids=[uuid.uuid4()])
    assert await operations.own_items(fake.database, 7, lambda _: True) == []
    assert statements.names == ["select_own_ids"]


async def test_a_replica_that_just_started_carries_nothing(
    monkeypatch: pytest.MonkeyPatch, fake: FakeDatabase
) -> None:
    owned = items(2)
    keys = [item.operation_id for item in owned]
    statements = play(monkeypatch, select_own_ids=keys, select_own=owned)
    assert await operations.own_items(fake.database, 7) == owned
    assert statements.calls[-1] == ("select_own", (7, keys))


# --- pages -------------------------------------------------------------------------------


def operation(number: int) -> UnknownOperation:
    return UnknownOperation(
        uuid.uuid4(), uuid.uuid4(), UUID(int=number), Money(1, "EUR"), NOW + timedelta(0, number)
    )


@pytest.mark.parametrize(
    ("name", "statements"),
    [("unknown", ["unknown", "pending"]), ("unregistered", ["unregistered"])],
)
@given(left=st.integers(0, 12), most=st.integers(1, 5))
@example(left=301, most=300)
async def test_pages_bring_everything_once_and_none_is_empty(
    name: str, statements: list[str], left: int, most: int
) -> None:
    rows = [operation(number) for number in range(left)]

    def select(after: tuple[datetime, UUID] | None, most: int) -> list[UnknownOperation]:
        rest = [r for r in rows if after is None or (r.create_time, r.operation_id) > after]
        return rest[:most]

    fake = FakeDatabase()
    with pytest.MonkeyPatch.context() as monkeypatch:
        selects = {f"select_{statement}": select for statement in statements}
        play(monkeypatch, "store_reconciliation", **selects)
        pages = [page async for page in getattr(operations, name)(fake.database, most)]
    assert [row for page in pages for row in page] == rows * len(statements)
    assert all(1 <= len(page) <= most for page in pages)
    # A page that is not full is the last: nobody asks for what is not there.
    asked = [f"payment.{s}" for s in statements for _ in range(left // most + 1)]
    assert fake.reads == asked


@pytest.mark.parametrize(
    ("orders", "most_orders", "checked"),
    [
        ([], 5, 0),
        ([2, 2, 2], 6, 3),
        ([2, 2, 2], 5, 2),
        ([2, 2, 2], 4, 2),
        ([5, 1], 5, 1),
        # The first is checked whatever it has: else the check would never get past it.
        ([6, 1], 5, 1),
    ],
)
async def test_a_page_of_a_check_has_no_more_orders_than_it_may_unless_it_is_one_payment(
    monkeypatch: pytest.MonkeyPatch,
    fake: FakeDatabase,
    orders: list[int],
    most_orders: int,
    checked: int,
) -> None:
    listed = [SimpleNamespace(payment_id=uuid.uuid4(), order_count=count) for count in orders]
    keys = [payment.payment_id for payment in listed]
    statements = play(
        monkeypatch,
        "store_check",
        select_page=listed,
        # As a database finds them: in no order.
        select_checked=lambda payment_ids: {key: str(key) for key in reversed(payment_ids)},
    )
    place = Place(NOW, UUID(int=5))
    page = await operations.check_page(fake.database, NOW, place, 10, most_orders)
    assert [str(one) for one in page] == [str(key) for key in keys[:checked]]
    assert statements.calls[0] == ("select_page", (NOW, place, 10))


@pytest.mark.parametrize(
    ("orders", "read"),
    [
        ([], []),
        ([1, 1, 1], [3]),
        ([100] * 12, [5, 5, 2]),
        ([499, 1, 1], [2, 1]),
        ([501, 500, 1], [1, 1, 1]),  # a payment alone is read, however large it is
    ],
)
async def test_a_list_is_read_in_its_order_some_orders_at_a_time(
    monkeypatch: pytest.MonkeyPatch, fake: FakeDatabase, orders: list[int], read: list[int]
) -> None:
    listed = [Listed(uuid.uuid4(), NOW, count) for count in orders]
    statements = play(
        monkeypatch,
        "store_reads",
        list_payments=listed,
        # As a database finds them: in no order.
        select_payments=lambda payment_ids: {key: str(key) for key in sorted(payment_ids)},
    )
    assert await operations.list_payments(fake.database, {}, 3) == listed
    parts = [part async for part in operations.listed_payments(fake.database, listed)]
    assert [str(one) for part in parts for one in part] == [str(one.payment_id) for one in listed]
    assert [len(part) for part in parts] == read
    assert statements.names == ["list_payments"] + ["select_payments"] * len(read)


# --- one statement is one round trip -----------------------------------------------------


async def test_what_writes_by_one_statement_is_no_transaction_of_several(
    monkeypatch: pytest.MonkeyPatch, fake: FakeDatabase
) -> None:
    play(monkeypatch, insert_replica=3, renew=True, release=None, take_unknown=[], let_go=set())
    play(monkeypatch, "store_reconciliation", mark_registered=None)
    play(monkeypatch, "store_check", put_back={UUID(int=1)})
    assert await operations.open_epoch(fake.database, "r1", 10.0) == 3
    assert await operations.renew_epoch(fake.database, 3, 10.0) is True
    await operations.release_epoch(fake.database, 3)
    assert await operations.take_unknown(fake.database, [], 3) == []
    assert await operations.let_go(fake.database, [], 3) == set()
    await operations.registered(fake.database, [])
    assert await operations.put_back(fake.database, []) == {UUID(int=1)}
    assert fake.commits == [
        ("payment.open_epoch", True),
        ("payment.renew_epoch", True),
        ("payment.release_epoch", True),
        ("payment.take_unknown", True),
        ("payment.let_go", True),
        ("payment.registered", True),
        ("payment.put_back", True),
    ]


async def test_what_stands_is_counted_in_one_transaction(
    monkeypatch: pytest.MonkeyPatch, fake: FakeDatabase
) -> None:
    """It sets the planner's mind for its statements, which must not outlast them."""
    parked = Standing(OrderState.PARKED, "WHY", 1, 2.0)
    play(monkeypatch, "store_reads", select_standing=[parked], select_replicas=Replicas(2, 9.0))
    assert await operations.standing(fake.database, 3) == ([parked], Replicas(2, 9.0))
    assert fake.commits == [("payment.standing", False)]
