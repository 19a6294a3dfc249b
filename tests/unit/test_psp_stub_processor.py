"""Latency, waiting and telling of the stub, without a database."""

from __future__ import annotations

import asyncio
import statistics
import uuid
from collections.abc import Sequence

import pytest
from structlog.testing import capture_logs

from mesh.errors import MeshError, Reason
from psp_stub.domain import Ask, Charge, State
from psp_stub.operations import Answer
from psp_stub.processor import Latency, Processor

CHARGE = Charge(State.CAPTURED, 1, "EUR", 0, None, "stub_1")


def new_ask(token: str = "tok_ok") -> Ask:
    return Ask(uuid.uuid4().hex, uuid.uuid4().hex, uuid.uuid4().hex, token, 1, "EUR")


class Bank:
    """Captures all, and remembers the lists that it was given."""

    def __init__(self, *, takes_s: float = 0.0) -> None:
        self.lists: list[list[Ask]] = []
        self._takes_s = takes_s

    async def write(self, asks: Sequence[Ask]) -> list[Answer]:
        self.lists.append(list(asks))
        await asyncio.sleep(self._takes_s)
        return [CHARGE] * len(asks)


async def told(processor: Processor, asks: Sequence[Ask]) -> list[list[Ask]]:
    return [[ask for ask, _ in batch] async for batch in processor.process(asks)]


def test_latency_has_the_median_and_the_p99() -> None:
    latency = Latency(0.4, 2.0, seed=1)
    drawn = sorted(latency.draw_s() for _ in range(20_000))
    assert statistics.median(drawn) == pytest.approx(0.4, rel=0.03)
    assert drawn[19_800] == pytest.approx(2.0, rel=0.1)
    assert drawn[0] > 0


def test_a_seed_repeats_itself() -> None:
    one, same, other = Latency(0.4, 2.0, 7), Latency(0.4, 2.0, 7), Latency(0.4, 2.0, 8)
    drawn = [one.draw_s() for _ in range(5)]
    assert [same.draw_s() for _ in range(5)] == drawn
    assert [other.draw_s() for _ in range(5)] != drawn


@pytest.mark.parametrize(
    ("median_s", "p99_s", "drawn"), [(0.0, 0.0, 0.0), (0.3, 0.0, 0.3), (0.3, 0.3, 0.3)]
)
def test_latency_without_spread(median_s: float, p99_s: float, drawn: float) -> None:
    latency = Latency(median_s, p99_s, seed=1)
    assert [latency.draw_s() for _ in range(3)] == [drawn] * 3


async def test_without_latency_a_list_stays_one() -> None:
    bank = Bank()
    asks = [new_ask() for _ in range(500)]
    assert await told(Processor(bank.write, Latency(0, 0, 1), slow_s=1), asks) == [asks]
    assert bank.lists == [asks]


async def test_no_list_no_work() -> None:
    bank = Bank()
    assert await told(Processor(bank.write, Latency(0, 0, 1), slow_s=1), []) == []
    assert bank.lists == []


async def test_the_slow_come_later() -> None:
    bank = Bank()
    slow, fast = [new_ask("tok_slow") for _ in range(2)], new_ask()
    asks = [slow[0], fast, slow[1]]
    processor = Processor(bank.write, Latency(0, 0, 1), slow_s=0.05)
    assert await told(processor, asks) == [[fast], slow]
    assert bank.lists == [[fast], slow]


async def test_what_is_overdue_travels_together() -> None:
    bank = Bank(takes_s=0.3)
    asks = [new_ask() for _ in range(200)]
    batches = await told(Processor(bank.write, Latency(0.03, 0.1, 3), slow_s=1), asks)
    assert len(batches) <= 3  # the first that are due, and all that came due meanwhile
    assert sorted(ask for batch in batches for ask in batch) == sorted(asks)


async def test_whoever_stops_listening_stops_nothing() -> None:
    bank = Bank()
    processor = Processor(bank.write, Latency(0.05, 0, 1), slow_s=1)
    asks = [new_ask()]
    listening = asyncio.ensure_future(told(processor, asks))
    await asyncio.sleep(0.01)
    listening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await listening
    assert bank.lists == []
    await asyncio.sleep(0.1)
    assert bank.lists == [asks]


async def test_a_bug_is_told_as_an_error() -> None:
    async def write(asks: Sequence[Ask]) -> list[Answer]:
        raise ZeroDivisionError

    processor = Processor(write, Latency(0, 0, 1), slow_s=1)
    with capture_logs() as logs:
        ((_, answer),) = [pair async for batch in processor.process([new_ask()]) for pair in batch]
    assert isinstance(answer, MeshError)
    assert answer.reason is Reason.INTERNAL
    assert logs[0]["event"] == "charges_failed"
