"""Each class of the catalogue is seeded by a file, and it alone is found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping

import pytest
from paymesh.ledger.v1 import operation_register_service_pb2 as register_pb
from paymesh.reconciliation.v1 import reconciliation_service_pb2 as pb

from tests.support.reconciliation import DayFile, ingest, reference
from tests.support.reconciliation_world import ROUNDING, World, charge_cells, counts

Found = Mapping[int, int]
"""class → how many breaks, or how many files that are not used."""


async def _today(world: World, plus: int = 0) -> str:
    row = world.sql.execute(
        "SELECT (paymesh_now() AT TIME ZONE 'UTC')::date + %s", [plus]
    ).fetchone()
    assert row is not None
    return str(row[0])


async def _files(world: World, *contents: bytes) -> Found:
    """What became of the files once all are there."""
    ids = [(await ingest(world.reconciliation, one, world.source)).file_id for one in contents]
    stored = [
        (await world.reconciliation.GetFile(pb.GetFileRequest(file_id=id_))).file for id_ in ids
    ]
    return Counter(int(one.problem_class) for one in stored if one.problem_class)


def _line(kind: str, amount: int = -70, fee: int = 0) -> Callable[[World], Awaitable[Found]]:
    """A line that belongs to no charge."""

    async def seed(world: World) -> Found:
        file = DayFile(1000).line(amount, fee, kind=kind, psp_reference=reference())
        return counts(await world.day(file))

    return seed


async def _timing(world: World) -> Found:
    await world.capture(500)
    day = await _today(world)
    return counts(await world.day(DayFile(day=day), day))


async def _never_settled(world: World) -> Found:
    await world.capture(500)
    day = await _today(world, 3)
    return counts(await world.day(DayFile(day=day), day))


async def _amount_differs(world: World) -> Found:
    return counts(await world.day(DayFile().line(510, **await world.capture(500))))


async def _fee_differs(world: World) -> Found:
    return counts(await world.day(DayFile().line(500, 7, **await world.capture(500, 5))))


async def _currency_differs(world: World) -> Found:
    mine = await world.capture(500, currency="USD")
    return counts(await world.day(DayFile().line(500, **mine)))


async def _duplicate_in_file(world: World) -> Found:
    mine = await world.capture(500)
    return counts(await world.day(DayFile().line(500, **mine).line(500, **mine)))


async def _duplicate_in_ledger(world: World) -> Found:
    mine = await world.capture(500)
    await world.capture(500, cells=charge_cells(order_id=mine["order_id"]))
    day = await _today(world)
    return counts(await world.day(DayFile(day=day).line(500, **mine), day))


async def _payout_differs(world: World) -> Found:
    mine = await world.capture(1000)
    file = (
        DayFile()
        .line(1000, transfer_reference="T", **mine)
        .line(-900, 0, kind="TRANSFER", transfer_reference="T")
    )
    return counts(await world.day(file))


async def _payout_without_bank_line(world: World) -> Found:
    await world.day(DayFile(900).line(-900, 0, kind="TRANSFER", psp_reference=reference()))
    return counts(await world.of(world.source.replace("psp", "bank")).day(DayFile(account="a")))


async def _bank_line_without_payout(world: World) -> Found:
    bank = world.of(world.source.replace("psp", "bank"))
    return counts(await bank.day(DayFile(account="a").line(900, kind="TRANSFER_RETURN")))


async def _status_differs(world: World) -> Found:
    declined = await world.registered(register_pb.REGISTER_STATE_DECLINED)
    return counts(await world.day(DayFile().line(250, **declined)))


async def _arithmetic_broken(world: World) -> Found:
    return await _files(world, DayFile().line(500).close(balance_minor=501).text().encode())


async def _chain_broken(world: World) -> Found:
    daily = world.of(world.source.replace("psp", "daily"))
    await daily.day(DayFile(500))
    # What is missing between them changed no balance.
    return counts(await daily.day(DayFile(500, day="2026-02-02"), "2026-02-02"))


async def _file_resent(world: World) -> Found:
    mine = await world.capture(500)
    first, corrected = DayFile().line(400, **mine), DayFile(revision=1).line(500, **mine)
    found = await _files(world, first.content(), corrected.content())
    assert (await world.run()).state == pb.RUN_STATE_BALANCED
    return found


async def _pages_incomplete(world: World) -> Found:
    return await _files(world, DayFile(last=False).line(500).content())


async def _offsetting(world: World) -> Found:
    more, less = await world.capture(500), await world.capture(500)
    return counts(await world.day(DayFile().line(510, **more).line(490, **less)))


async def _ambiguous(world: World) -> Found:
    for _ in range(2):
        await world.capture(777, psp_reference="")
    day = await _today(world)
    found = counts(await world.day(DayFile(day=day).line(777, psp_reference=reference()), day))
    # Of the captures, none of which is settled yet.
    assert found.pop(pb.BREAK_CLASS_TIMING) == 2
    return found


async def _closing_differs(world: World) -> Found:
    tolerant = world.of(world.source.replace("psp", "fees"))
    found = await _line("ADJUSTMENT", -1)(tolerant)
    assert await tolerant.balance(ROUNDING) == 1
    return found


async def _unknown_account(world: World) -> Found:
    return await _files(world, DayFile(account="acct-9").content())


SEEDS: Mapping[int, Callable[[World], Awaitable[Found]]] = {
    pb.BREAK_CLASS_TIMING: _timing,
    pb.BREAK_CLASS_NEVER_SETTLED: _never_settled,
    pb.BREAK_CLASS_UNKNOWN_TO_US: _line("CHARGE", 70),
    pb.BREAK_CLASS_AMOUNT_DIFFERS: _amount_differs,
    pb.BREAK_CLASS_FEE_DIFFERS: _fee_differs,
    pb.BREAK_CLASS_CURRENCY_DIFFERS: _currency_differs,
    pb.BREAK_CLASS_DUPLICATE_IN_FILE: _duplicate_in_file,
    pb.BREAK_CLASS_DUPLICATE_IN_LEDGER: _duplicate_in_ledger,
    pb.BREAK_CLASS_REFUND_DIFFERS: _line("REFUND"),
    pb.BREAK_CLASS_CHARGEBACK: _line("DISPUTE", -70, 15),
    pb.BREAK_CLASS_PAYOUT_DIFFERS: _payout_differs,
    pb.BREAK_CLASS_PAYOUT_WITHOUT_BANK_LINE: _payout_without_bank_line,
    pb.BREAK_CLASS_BANK_LINE_WITHOUT_PAYOUT: _bank_line_without_payout,
    pb.BREAK_CLASS_STATUS_DIFFERS: _status_differs,
    pb.BREAK_CLASS_REVERSAL_OR_RETURN: _line("CHARGE_REVERSAL"),
    pb.BREAK_CLASS_ARITHMETIC_BROKEN: _arithmetic_broken,
    pb.BREAK_CLASS_CHAIN_BROKEN: _chain_broken,
    pb.BREAK_CLASS_FILE_RESENT: _file_resent,
    pb.BREAK_CLASS_PAGES_INCOMPLETE: _pages_incomplete,
    pb.BREAK_CLASS_FX_DIFFERENCE: _line("FX"),
    pb.BREAK_CLASS_RESERVE_OR_TRANSFER: _line("RESERVE_HOLD"),
    pb.BREAK_CLASS_OFFSETTING: _offsetting,
    pb.BREAK_CLASS_AMBIGUOUS: _ambiguous,
    pb.BREAK_CLASS_CLOSING_DIFFERS: _closing_differs,
    pb.BREAK_CLASS_UNKNOWN_ACCOUNT: _unknown_account,
}


def found_as(class_: int) -> Found:
    """Offsetting errors are two breaks, never silence."""
    if class_ == pb.BREAK_CLASS_OFFSETTING:
        return {pb.BREAK_CLASS_AMOUNT_DIFFERS: 2}
    return {class_: 1}


# Of the contract's own list: a class that nobody seeds fails.
@pytest.mark.parametrize("name", [name for name, number in pb.BreakClass.items() if number])
async def test_each_class_is_found_and_nothing_else(world: World, name: str) -> None:
    class_ = pb.BreakClass.Value(name)
    assert await SEEDS[class_](world) == found_as(class_)
    await world.assert_sums_to_zero()


async def test_an_adjustment_beyond_what_is_rounding_is_unknown_to_us(world: World) -> None:
    tolerant = world.of(world.source.replace("psp", "fees"))
    assert await _line("ADJUSTMENT", -3)(tolerant) == {pb.BREAK_CLASS_UNKNOWN_TO_US: 1}
    assert await tolerant.balance(ROUNDING) == 0


async def test_an_adjustment_about_a_charge_is_no_rounding(world: World) -> None:
    tolerant = world.of(world.source.replace("psp", "fees"))
    about = DayFile().line(1, kind="ADJUSTMENT", related_psp_reference=reference())
    assert counts(await tolerant.day(about)) == {pb.BREAK_CLASS_UNKNOWN_TO_US: 1}
