"""The rules of the stub's transactions that are not SQL; tests/store has those that are."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

import pytest

from mesh.errors import Code, MeshError, Reason
from psp_stub import operations
from psp_stub.domain import (
    SCRIPTS,
    Ask,
    Charge,
    Decline,
    DeclineCategory,
    FeeSchedule,
    State,
    as_new,
    decide,
)
from psp_stub.operations import Operations, Rules
from psp_stub.store import Call, Met
from tests.support.fake_database import FakeDatabase, Statements
from tests.support.values import assert_value

FEES = FeeSchedule(bps=290, fixed_minor=30)
RULES = Rules(FEES, key_memory_s=3_600, pending_s=60)


@pytest.fixture
def fake() -> FakeDatabase:
    return FakeDatabase()


def new_ask(payment_method: str = "tok_ok") -> Ask:
    return Ask(uuid.uuid4().hex, "1" * 32, "2" * 32, payment_method, 10_000, "EUR")


def charged(ask: Ask) -> Charge:
    return as_new(ask, decide(ask, FEES), f"psp_{ask.idempotency_key}")


class Memory:
    """What the stub's tables hold: the calls under each key, and the charges."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asks: dict[str, Ask] = {}
        self.calls: dict[str, int] = {}
        self.charges: dict[str, Charge] = {}
        self.statements = Statements(
            call=self._call,
            read_asks=lambda keys: {key: self.asks[key] for key in keys},
            read_charges=lambda keys: {key: self.charges[key] for key in keys},
            look_up=lambda keys, *_: {
                key: (self.asks[key].payment_method, self.charges[key])
                for key in keys
                if key in self.charges
            },
        )
        monkeypatch.setattr(operations, "store", self.statements)

    def _call(self, calls: Sequence[Call], key_memory_s: float, pending_s: float) -> dict[str, Met]:
        assert (key_memory_s, pending_s) == (RULES.key_memory_s, RULES.pending_s)
        assert list(calls) == sorted(calls, key=lambda call: call.ask)
        met = {}
        for ask, times, processed_at_call, decision in calls:
            key = ask.idempotency_key
            if self.asks.setdefault(key, Ask(*ask)) != ask:
                continue
            before = self.calls.get(key, 0)
            self.calls[key] = before + times
            reference = None
            if before < processed_at_call <= self.calls[key]:
                reference = f"psp_{key}"
                self.charges[key] = as_new(ask, decision, reference)
                if decision.pending:
                    self.charges[key] = Charge(State.PENDING, 0, "EUR", 0, None, reference)
            met[key] = Met(self.calls[key], reference)
        return met


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Memory:
    return Memory(monkeypatch)


async def charge(fake: FakeDatabase, *asks: Ask) -> list[Charge | MeshError | None]:
    return await Operations(fake.database, RULES).charge(asks)


def error_of(answer: object) -> MeshError:
    assert isinstance(answer, MeshError)
    return answer


@pytest.mark.parametrize("token", ["tok_ok", "tok_declined", "tok_wrong_amount"])
async def test_a_new_charge_is_one_statement_and_is_told(
    fake: FakeDatabase, memory: Memory, token: str
) -> None:
    ask = new_ask(token)
    assert await charge(fake, ask) == [charged(ask)]
    assert memory.statements.names == ["call"]
    assert fake.commits == [("psp_stub.charge", True)]


async def test_many_new_charges_are_one_statement_as_well(
    fake: FakeDatabase, memory: Memory
) -> None:
    asks = [new_ask() for _ in range(300)]
    assert await charge(fake, *asks) == [charged(ask) for ask in asks]
    assert memory.statements.names == ["call"]


async def test_a_charge_again_is_the_same_charge(fake: FakeDatabase, memory: Memory) -> None:
    ask, fresh = new_ask(), new_ask()
    first = await charge(fake, ask)
    assert await charge(fake, ask, fresh) == [*first, charged(fresh)]
    assert memory.calls[ask.idempotency_key] == 2


async def test_a_charge_that_waits_is_told_as_it_stands(fake: FakeDatabase, memory: Memory) -> None:
    ask = new_ask("tok_pending_success")
    (answer,) = await charge(fake, ask)
    assert isinstance(answer, Charge)
    assert (answer.state, answer.captured_minor) == (State.PENDING, 0)
    assert memory.statements.names == ["call", "read_charges"]


@pytest.mark.parametrize("token", sorted(SCRIPTS))
async def test_calls_that_come_at_once_hear_what_they_would_hear_one_by_one(
    fake: FakeDatabase, memory: Memory, token: str
) -> None:
    """The list of a batch is no other PSP than the calls by themselves."""
    alone, together = new_ask(token), new_ask(token)
    one_by_one = [(await charge(fake, alone))[0] for _ in range(4)]
    at_once = await charge(fake, *[together] * 4)

    def heard(answer: Charge | MeshError | None) -> object:
        if isinstance(answer, Charge):
            return answer._replace(psp_reference="")
        return answer and (answer.reason, answer.code)

    assert [heard(answer) for answer in at_once] == [heard(answer) for answer in one_by_one]
    assert memory.calls[together.idempotency_key] == 4


async def test_what_a_script_says_instead_of_an_answer_is_heard(
    fake: FakeDatabase, memory: Memory
) -> None:
    silent, broken, away = map(
        new_ask, ("tok_timeout_captured", "tok_error_captured", "tok_unavailable_twice")
    )
    silence, failed, unavailable = await charge(fake, silent, broken, away)
    assert silence is None
    assert error_of(failed).code is Code.INTERNAL
    assert error_of(unavailable).code is Code.UNAVAILABLE
    # The money is taken where the script says so, whatever the caller hears.
    assert memory.charges.keys() == {silent.idempotency_key, broken.idempotency_key}


@pytest.mark.parametrize(("used", "free"), [("a", "b"), ("b", "a")])
async def test_a_key_with_other_fields_is_a_conflict_and_its_neighbour_is_charged(
    fake: FakeDatabase, memory: Memory, used: str, free: str
) -> None:
    ask, fresh = (new_ask()._replace(idempotency_key=key) for key in (used, free))
    await charge(fake, ask)
    refused, answer = await charge(fake, ask._replace(amount_minor=1), fresh)
    assert error_of(refused).reason is Reason.OPERATION_CONFLICT
    assert error_of(refused).metadata == {"fields": "amount.amount_minor"}
    assert answer == charged(fresh)
    assert memory.calls == {used: 1, free: 1}


async def test_of_one_key_with_several_fields_in_a_list_that_is_charged_which_is_stored(
    fake: FakeDatabase, memory: Memory
) -> None:
    """Also where the wrong fields come first."""
    ask = new_ask()
    wrong = ask._replace(amount_minor=1)
    await charge(fake, ask)
    refused, right, again = await charge(fake, wrong, ask, ask)
    assert error_of(refused).reason is Reason.OPERATION_CONFLICT
    assert right == again == charged(ask)
    assert memory.calls[ask.idempotency_key] == 3


async def test_of_one_new_key_with_several_fields_the_first_is_charged(
    fake: FakeDatabase, memory: Memory
) -> None:
    ask = new_ask()
    taken, refused = await charge(fake, ask, ask._replace(currency_code="USD"))
    assert taken == charged(ask)
    assert error_of(refused).metadata == {"fields": "amount.currency_code"}
    # The first needs no second look; only what is in doubt is read, and it is not called again.
    assert memory.statements.names == ["call", "read_asks"]


async def test_an_empty_list_asks_nothing(fake: FakeDatabase, memory: Memory) -> None:
    assert await charge(fake) == []
    assert await Operations(fake.database, RULES).look_up([]) == {}
    assert (fake.commits, fake.reads) == ([], [])


async def test_a_look_up_tells_of_what_is_charged_and_not_hidden(
    fake: FakeDatabase, memory: Memory
) -> None:
    told, hidden, unknown = new_ask(), new_ask("tok_silent"), new_ask()
    await charge(fake, told, hidden)
    keys = [ask.idempotency_key for ask in (told, hidden, unknown)]
    found = await Operations(fake.database, RULES).look_up(keys)
    assert found == {told.idempotency_key: charged(told)}


def test_the_psp_s_rules_are_never_changed() -> None:
    assert_value(RULES)


def test_a_decline_is_told_as_one() -> None:
    declined = charged(new_ask("tok_insufficient_funds"))
    assert declined.state is State.DECLINED
    assert declined.decline == Decline(DeclineCategory.INSUFFICIENT_FUNDS, "insufficient_funds")
