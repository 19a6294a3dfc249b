"""A day goes on from what the day before it ended with, however many statements each has."""

from __future__ import annotations

import pytest
from paymesh.reconciliation.v1 import reconciliation_service_pb2 as pb

from tests.support.reconciliation import DAY, ingest
from tests.support.reconciliation_world import World, class_of
from tests.support.settlement import camt, ntry, stmt

NEXT_DAY = "2026-02-01"
OPEN = pb.RUN_STATE_OPEN

# Each as its opening and its closing, in whole euros; as the bank numbers them.
PAGES = {
    "two": {"S-9": (100, 150), "S-10": (150, 170)},
    "named the other way": {"S-10": (100, 150), "S-9": (150, 170)},
    "with empty ones": {"S-8": (100, 100), "S-9": (100, 170), "S-10": (170, 170),
                        "S-11": (170, 170)},
}  # fmt: skip
ROUND = {"S-9": (100, 150), "S-10": (150, 100)}


@pytest.fixture
def bank(world: World) -> World:
    return world.of(world.source.replace("psp", "bank"))


async def day_of(bank: World, statements: dict[str, tuple[int, int]], day: str = DAY) -> pb.Run:
    told = []
    for name, (opening, closing) in statements.items():
        moved = closing - opening
        entries = [ntry(f"{abs(moved)}.00", "CRDT" if moved > 0 else "DBIT")] if moved else []
        one = stmt(*entries, opening=f"{opening}.00", closing=f"{closing}.00", closing_day=day)
        told.append(one.replace("<Id>S-1</Id>", f"<Id>{name}</Id>"))
    file = await ingest(bank.reconciliation, camt(*told).encode(), bank.source)
    assert file.state == pb.FILE_STATE_INGESTED, file.problem
    return await bank.run(day)


@pytest.mark.parametrize("pages", PAGES)
async def test_a_day_goes_on_from_the_end_of_the_chain_before(bank: World, pages: str) -> None:
    first = await day_of(bank, PAGES[pages])
    assert first.state == pb.RUN_STATE_EXPLAINED
    [balance] = first.balances
    assert (balance.opening_minor, balance.closing_minor) == (10000, 17000)
    assert (await day_of(bank, {"S-20": (170, 170)}, NEXT_DAY)).state == pb.RUN_STATE_BALANCED


async def test_a_day_that_goes_on_from_the_middle_of_the_chain_before_is_open(
    bank: World,
) -> None:
    await day_of(bank, PAGES["two"])
    broken = await day_of(bank, {"S-20": (150, 150)}, NEXT_DAY)
    assert broken.state == OPEN
    [found] = await bank.breaks(broken)
    assert (class_of(found), found.amount_minor) == (pb.BREAK_CLASS_CHAIN_BROKEN, -2000)


async def test_a_day_that_ends_as_it_began_is_no_end_less_chain(bank: World) -> None:
    first = await day_of(bank, ROUND)
    [balance] = first.balances
    assert (balance.opening_minor, balance.closing_minor) == (10000, 10000)
    assert (await day_of(bank, {"S-20": (100, 100)}, NEXT_DAY)).state == pb.RUN_STATE_BALANCED
    assert (await day_of(bank, {"S-20": (90, 90)}, "2026-02-02")).state == OPEN


@pytest.mark.parametrize("today", [ROUND, {"S-9": (100, 100), "S-10": (100, 100)}])
async def test_statements_that_lead_only_to_each_other_go_on_from_nothing(
    bank: World, today: dict[str, tuple[int, int]]
) -> None:
    await day_of(bank, {"S-1": (90, 90)})
    assert (await day_of(bank, today, NEXT_DAY)).state == OPEN


async def test_a_round_day_goes_on_from_the_day_before(bank: World) -> None:
    await day_of(bank, {"S-1": (100, 100)})
    assert (await day_of(bank, ROUND, NEXT_DAY)).state == pb.RUN_STATE_EXPLAINED
