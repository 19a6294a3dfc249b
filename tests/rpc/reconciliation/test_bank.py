"""A bank's day against the transfers that PSPs' files told."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from paymesh.reconciliation.v1 import reconciliation_service_pb2 as pb

from tests.rpc.reconciliation.test_decide import ACCEPT, POST, decision, resolve
from tests.support.reconciliation import DAY, DayFile, ingest, reference
from tests.support.reconciliation_world import (
    BANK,
    RECEIVABLE,
    ROUNDING,
    SUSPENSE,
    World,
    charge_cells,
    class_of,
    counts,
    runs_of,
)
from tests.support.settlement import camt, ntry, stmt, stripe, stripe_row

NEXT_DAYS = ("2026-02-01", "2026-02-02")


def bank_of(world: World) -> World:
    return world.of(world.source.replace("psp", "bank"))


async def paid_out(world: World, *transfers: tuple[int, str]) -> None:
    """The PSP's day, of which these amounts go to the bank under these names."""
    total = sum(amount for amount, _ in transfers)
    charge = await world.capture(total)
    await psp_tells(world, 0, (total, charge), *((*one, reference()) for one in transfers))


async def psp_tells(
    world: World, revision: int, charge: tuple[int, Any], *transfers: tuple[int, str, str]
) -> pb.Run:
    """This revision of the PSP's day: amounts, names and the PSP's references of transfers."""
    gross, cells = charge
    file = DayFile(revision=revision).line(gross, **cells)
    for amount, name, theirs in transfers:
        file.line(-amount, 0, kind="TRANSFER", transfer_reference=name, psp_reference=theirs)
    return await world.day(file)


def entry(amount: str, remittance: str, mark: str = "CRDT") -> str:
    details = f"<TxDtls><RmtInf><Ustrd>{remittance}</Ustrd></RmtInf></TxDtls>"
    return ntry(amount, mark, details, value_day=DAY)


async def bank_day(
    bank: World, *entries: str, closing: str, opening: str = "100.00", day: str = DAY
) -> pb.Run:
    return await bank_statements(
        bank, stmt(*entries, opening=opening, closing=closing, closing_day=day), day=day
    )


async def bank_statements(bank: World, *statements: str, day: str = DAY) -> pb.Run:
    file = await ingest(bank.reconciliation, camt(*statements).encode(), bank.source)
    assert file.state == pb.FILE_STATE_INGESTED, file.problem
    return await bank.run(day)


async def test_a_transfer_is_found_by_its_name_in_the_banks_text(world: World) -> None:
    bank, name = bank_of(world), reference()
    await paid_out(world, (9700, name))
    run = await bank_day(bank, entry("97.00", f"PAYOUT {name}/PSP"), closing="197.00")
    assert (run.state, run.matched, run.breaks) == (pb.RUN_STATE_BALANCED, 1, 0)
    assert (run.balances[0].lines_minor, run.balances[0].ledger_minor) == (9700, 9700)
    assert await bank.run() == run
    assert await bank.balance(BANK) == 9700


async def test_several_transfers_are_one_line_by_their_sum(world: World) -> None:
    bank, name = bank_of(world), reference()
    await paid_out(world, (5000, name), (4000, name), (700, name))
    run = await bank_day(bank, entry("97.00", name), closing="197.00")
    assert (run.state, run.matched) == (pb.RUN_STATE_BALANCED, 1)
    assert bank.matches() == 3
    assert await bank.run() == run
    assert bank.matches() == 3


async def test_classes_12_and_13_what_only_one_of_the_two_has(world: World) -> None:
    bank, name = bank_of(world), reference()
    await paid_out(world, (9700, name))
    run = await bank_day(bank, entry("50.00", "who knows"), closing="150.00")
    assert run.state == pb.RUN_STATE_EXPLAINED
    assert counts(run) == {
        pb.BREAK_CLASS_PAYOUT_WITHOUT_BANK_LINE: 1,
        pb.BREAK_CLASS_BANK_LINE_WITHOUT_PAYOUT: 1,
    }
    found = {class_of(one): one for one in await bank.breaks(run)}
    missing = found[pb.BREAK_CLASS_PAYOUT_WITHOUT_BANK_LINE]
    strange = found[pb.BREAK_CLASS_BANK_LINE_WITHOUT_PAYOUT]
    assert (missing.amount_minor, missing.psp_reference) == (-9700, name)
    assert (strange.amount_minor, strange.state) == (5000, pb.BREAK_STATE_OPEN)
    assert [one.account.kind for one in strange.proposal] == [BANK, SUSPENSE]
    assert (run.balances[0].breaks_minor, run.balances[0].difference_minor) == (5000, 0)
    assert await bank.run() == run
    assert bank.booked() == 0

    # The line comes with the next statement of the day.
    content = camt(
        stmt(entry("97.00", name), opening="150.00", closing="247.00").replace("S-1", "S-2")
    )
    await ingest(bank.reconciliation, content.encode(), bank.source)
    later = await bank.run()
    assert counts(later) == {pb.BREAK_CLASS_BANK_LINE_WITHOUT_PAYOUT: 1}
    states = {class_of(one): one.state for one in await bank.breaks()}
    assert states[pb.BREAK_CLASS_PAYOUT_WITHOUT_BANK_LINE] == pb.BREAK_STATE_CLEARED


async def test_a_line_without_a_name_is_matched_by_amount_if_nothing_else_fits(
    world: World,
) -> None:
    bank = bank_of(world)
    await paid_out(world, (9700, reference()))
    run = await bank_day(bank, entry("97.00", "no name"), closing="197.00")
    assert (run.state, run.matched) == (pb.RUN_STATE_BALANCED, 1)


@pytest.mark.parametrize(
    ("told", "resolution"),
    [("named", None), ("no name", None), ("named", POST), ("named", ACCEPT)],
)
async def test_a_transfer_that_is_told_after_the_banks_day_is_met_by_the_next_night(
    world: World, told: str, resolution: Any
) -> None:
    bank, name = bank_of(world), reference()
    text = name if told == "named" else told
    run = await bank_day(bank, entry("97.00", text), closing="197.00")
    assert counts(run) == {pb.BREAK_CLASS_BANK_LINE_WITHOUT_PAYOUT: 1}
    if resolution:
        [found] = await bank.breaks(run)
        await resolve(bank, decision(found.break_id, resolution))
    await paid_out(world, (9700, name))
    for day in NEXT_DAYS:
        next_night = await bank_day(bank, opening="197.00", closing="197.00", day=day)
        assert next_night.state == pb.RUN_STATE_BALANCED
    versions = [one.version for one in await runs_of(bank)]
    assert versions == ([3, 2, 1] if resolution else [2, 1])
    assert [one.state for one in await bank.breaks()] == [pb.BREAK_STATE_CLEARED]
    assert await bank.balance(BANK) == 9700
    assert await bank.balance(SUSPENSE) == 0
    await world.assert_sums_to_zero()


async def test_a_transfer_that_tells_which_of_several_a_line_is_is_met_by_the_next_night(
    world: World,
) -> None:
    bank, name = bank_of(world), reference()
    await paid_out(world, (5000, reference()), (5000, reference()))
    run = await bank_day(bank, entry("50.00", name), closing="150.00")
    assert counts(run)[pb.BREAK_CLASS_AMBIGUOUS] == 1
    file = DayFile(day=NEXT_DAYS[0]).line(5000, **await world.capture(5000))
    file.line(-5000, 0, kind="TRANSFER", transfer_reference=name)
    await world.day(file, NEXT_DAYS[0])
    await bank_day(bank, opening="150.00", closing="150.00", day=NEXT_DAYS[0])
    assert bank.matches() == 1
    cleared = [one for one in await bank.breaks() if one.file_id]
    assert [one.state for one in cleared] == [pb.BREAK_STATE_CLEARED]


async def test_a_day_with_a_strange_line_is_not_run_again_for_other_transfers(
    world: World,
) -> None:
    bank = bank_of(world)
    await bank_day(bank, entry("50.00", "who knows"), closing="150.00")
    await paid_out(world, (9700, reference()))
    await bank_day(bank, opening="150.00", closing="150.00", day=NEXT_DAYS[0])
    assert [one.version for one in await runs_of(bank)] == [1]


async def test_what_two_transfers_could_be_is_only_suggested(world: World) -> None:
    bank = bank_of(world)
    await paid_out(world, (5000, reference()), (5000, reference()))
    run = await bank_day(bank, entry("50.00", "no name"), closing="150.00")
    assert counts(run) == {
        pb.BREAK_CLASS_PAYOUT_WITHOUT_BANK_LINE: 2,
        pb.BREAK_CLASS_AMBIGUOUS: 1,
    }
    assert bank.matches() == 0


async def test_a_name_with_another_amount_is_no_match(world: World) -> None:
    bank, name = bank_of(world), reference()
    await paid_out(world, (9700, name))
    run = await bank_day(bank, entry("96.00", name), closing="196.00")
    assert counts(run) == {
        pb.BREAK_CLASS_PAYOUT_WITHOUT_BANK_LINE: 1,
        pb.BREAK_CLASS_BANK_LINE_WITHOUT_PAYOUT: 1,
    }


async def test_a_transfer_that_the_psp_takes_back_is_matched_no_more(world: World) -> None:
    bank, name = bank_of(world), reference()
    await paid_out(world, (9700, name))
    await bank_day(bank, entry("97.00", name), closing="197.00")
    mine = await world.capture(9700)
    await world.day(DayFile(revision=1).line(9700, **mine))
    run = await bank.run()
    assert (run.version, counts(run)) == (2, {pb.BREAK_CLASS_BANK_LINE_WITHOUT_PAYOUT: 1})
    assert bank.matches() == 0
    await world.assert_sums_to_zero()


@pytest.mark.parametrize("now", [(), (9000,)], ids=["taken back", "changed"])
async def test_a_transfer_that_the_psp_corrects_is_missed_by_the_banks_next_night(
    world: World, now: tuple[int, ...]
) -> None:
    bank, name, theirs = bank_of(world), reference(), reference()
    charge = 9700, await world.capture(9700)
    await psp_tells(world, 0, charge, (9700, name, theirs))
    await bank_day(bank, entry("97.00", name), closing="197.00")
    await psp_tells(world, 1, charge, *((amount, name, theirs) for amount in now))
    for day in NEXT_DAYS:
        await bank_day(bank, opening="197.00", closing="197.00", day=day)
    latest, first = await runs_of(bank)
    assert (latest.version, latest.state) == (2, pb.RUN_STATE_EXPLAINED)
    missing = {pb.BREAK_CLASS_PAYOUT_WITHOUT_BANK_LINE: 1} if now else {}
    assert counts(latest) == {pb.BREAK_CLASS_BANK_LINE_WITHOUT_PAYOUT: 1} | missing
    assert first.state == pb.RUN_STATE_BALANCED
    assert bank.matches() == 0
    assert await bank.balance(BANK) == sum(now)
    await world.assert_sums_to_zero()


async def test_another_days_run_does_not_hide_that_a_transfer_was_taken_back(
    world: World,
) -> None:
    bank, name = bank_of(world), reference()
    charge = 9700, await world.capture(9700)
    await psp_tells(world, 0, charge, (9700, name, reference()))
    await bank_day(bank, entry("97.00", name), closing="197.00")
    strange = entry("50.00", "who knows")
    await bank_day(bank, strange, opening="197.00", closing="247.00", day=NEXT_DAYS[0])
    await psp_tells(world, 1, charge)
    [found] = await bank.breaks()
    await resolve(bank, decision(found.break_id, ACCEPT))
    assert [one.version for one in await runs_of(bank, NEXT_DAYS[0])] == [2, 1]
    await bank_day(bank, opening="247.00", closing="247.00", day=NEXT_DAYS[1])
    [latest, _] = await runs_of(bank)
    assert counts(latest) == {pb.BREAK_CLASS_BANK_LINE_WITHOUT_PAYOUT: 1}


async def test_what_was_posted_for_a_missing_transfer_is_reversed_when_the_psp_takes_it_back(
    world: World,
) -> None:
    bank = bank_of(world)
    charge = 9700, await world.capture(9700)
    await psp_tells(world, 0, charge, (9700, reference(), reference()))
    run = await bank_day(bank, closing="100.00")
    assert counts(run) == {pb.BREAK_CLASS_PAYOUT_WITHOUT_BANK_LINE: 1}
    [found] = await bank.breaks(run)
    await resolve(bank, decision(found.break_id, POST))
    assert (await bank.balance(BANK), await bank.balance(SUSPENSE)) == (0, -9700)
    await psp_tells(world, 1, charge)
    for day in NEXT_DAYS:
        next_night = await bank_day(bank, opening="100.00", closing="100.00", day=day)
        assert next_night.state == pb.RUN_STATE_BALANCED
        assert (await bank.balance(BANK), await bank.balance(SUSPENSE)) == (0, 0)
    assert [one.state for one in await bank.breaks()] == [pb.BREAK_STATE_CLEARED]
    assert bank.booked() == 2
    await world.assert_sums_to_zero()


@pytest.mark.parametrize("now", [4000, 3800], ids=["another reference", "another amount"])
async def test_of_several_transfers_in_one_line_a_corrected_one_frees_the_line(
    world: World, now: int
) -> None:
    bank, name = bank_of(world), reference()
    same = (5000, name, reference()), (700, name, reference())
    charge = 9700, await world.capture(9700)
    await psp_tells(world, 0, charge, *same, (4000, name, reference()))
    await bank_day(bank, entry("97.00", name), closing="197.00")
    await psp_tells(world, 1, charge, *same, (now, name, reference()))
    await bank_day(bank, opening="197.00", closing="197.00", day=NEXT_DAYS[0])
    run = await bank.run()
    assert (run.version, run.balances[0].difference_minor) == (2, 0)
    if now == 4000:
        assert (run.state, bank.matches()) == (pb.RUN_STATE_BALANCED, 3)
    else:
        assert (run.state, bank.matches()) == (pb.RUN_STATE_EXPLAINED, 0)
        assert counts(run) == {
            pb.BREAK_CLASS_PAYOUT_WITHOUT_BANK_LINE: 3,
            pb.BREAK_CLASS_BANK_LINE_WITHOUT_PAYOUT: 1,
        }
    await world.assert_sums_to_zero()


async def test_what_a_banks_day_misses_by_within_tolerance_is_booked_on_the_banks_cash(
    world: World,
) -> None:
    bank = world.of(world.source.replace("psp", "rounds"))
    content = camt(stmt(entry("0.02", "rounding"), opening="100.00", closing="100.02"))
    file = await ingest(bank.reconciliation, content.encode(), bank.source)
    # As an error of ours would: a line that is taken for done, and nothing was booked for it.
    world.sql.execute(
        "INSERT INTO settlement_match (journal_id, file_id, sequence, rule, run_id)"
        " SELECT %s, file_id, sequence, 'PLANTED', %s FROM settlement_line WHERE file_id = %s",
        [uuid.uuid4(), uuid.uuid4(), file.file_id],
    )
    run = await bank.run()
    assert counts(run) == {pb.BREAK_CLASS_CLOSING_DIFFERS: 1}
    assert (run.state, run.balances[0].difference_minor) == (pb.RUN_STATE_EXPLAINED, 0)
    assert [await bank.balance(kind) for kind in (BANK, ROUNDING, RECEIVABLE)] == [2, -2, 0]
    assert await bank.run() == run
    await world.assert_sums_to_zero()


async def test_a_payout_that_stripe_tells_is_a_transfer_to_the_bank(world: World) -> None:
    psp, bank = world.of(world.source.replace("psp", "any")), bank_of(world)
    cells, payout = charge_cells(), reference()
    await psp.capture(1000, 59, cells=cells)
    of_payout = {
        "automatic_payout_id": payout,
        "automatic_payout_effective_at_utc": f"{DAY} 00:00:00",
    }
    charged = of_payout | {"balance_transaction_id": cells["psp_reference"]}
    paid = of_payout | {"balance_transaction_id": reference(), "source_id": payout}
    content = stripe(
        stripe_row("9.41", "10.00", "0.59", **charged),
        stripe_row("-9.41", category="payout", **paid),
    )
    file = await ingest(psp.reconciliation, content.encode(), psp.source)
    assert (file.state, file.lines) == (pb.FILE_STATE_INGESTED, 2), file.problem
    run = await psp.run()
    assert (run.state, run.lines, run.matched) == (pb.RUN_STATE_BALANCED, 2, 2)
    assert (run.balances[0].lines_minor, run.balances[0].ledger_minor) == (0, 0)
    assert await psp.balance(RECEIVABLE) == 0
    assert await bank.balance(BANK) == 941
    assert await psp.run() == run

    at_bank = await bank_day(bank, entry("9.41", f"STRIPE {payout}"), closing="109.41")
    assert (at_bank.state, at_bank.matched) == (pb.RUN_STATE_BALANCED, 1)
    assert await bank.balance(BANK) == 941
    await world.assert_sums_to_zero()
