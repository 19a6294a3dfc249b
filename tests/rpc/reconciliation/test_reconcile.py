"""A day's file against the ledger: each difference is found, classified, and posted once."""

from __future__ import annotations

from collections import Counter

import pytest
from paymesh.ledger.v1 import ledger_service_pb2 as ledger_pb
from paymesh.reconciliation.v1 import reconciliation_service_pb2 as pb

from tests.support.reconciliation import DayFile, reference
from tests.support.reconciliation_world import (
    BANK,
    FEES,
    RECEIVABLE,
    SUSPENSE,
    World,
    charge_cells,
    class_of,
    counts,
)


async def today(world: World) -> str:
    """The ledger's captures are of this day; by the one that files have else, none is missing."""
    [day] = await days_from_today(world, 1)
    return day


async def days_from_today(world: World, count: int, start: int = 0) -> list[str]:
    rows = world.sql.execute(
        "SELECT (paymesh_now() AT TIME ZONE 'UTC')::date + n FROM unnest(%s::int[]) AS n",
        [list(range(start, start + count))],
    )
    return [str(row[0]) for row in rows]


async def test_a_day_that_matches_is_balanced(world: World) -> None:
    file = DayFile(1000)
    for amount, fee in ((500, 5), (700, 7), (300, 3)):
        file.line(amount, fee, **await world.capture(amount, fee))
    run = await world.day(file)
    assert run.state == pb.RUN_STATE_BALANCED, run
    assert (run.version, run.lines, run.matched, run.breaks) == (1, 3, 3, 0)
    assert list(run.balances) == [
        pb.RunBalance(
            currency_code="EUR",
            opening_minor=1000,
            closing_minor=2485,
            lines_minor=1485,
            ledger_minor=1485,
            breaks_minor=0,
            difference_minor=0,
        )
    ]
    assert world.matches() == 3
    assert world.booked() == 0
    assert await world.run() == run
    read = await world.reconciliation.GetRun(pb.GetRunRequest(run_id=run.run_id))
    assert read.run == run


async def test_lines_are_matched_by_reference_or_order_where_they_don_t_name_our_operation(
    world: World,
) -> None:
    by_reference = await world.capture(500)
    by_order = await world.capture(600, psp_reference="")
    await world.capture(777, psp_reference="")
    day = await today(world)
    file = (
        DayFile(day=day)
        .line(500, psp_reference=by_reference["psp_reference"])
        .line(600, psp_reference=reference(), order_id=by_order["order_id"])
        .line(777, psp_reference=reference())
    )
    run = await world.day(file, day)
    assert run.state == pb.RUN_STATE_BALANCED, run
    rules = world.sql.execute(
        "SELECT rule FROM settlement_match WHERE run_id = %s ORDER BY sequence", [run.run_id]
    ).fetchall()
    assert [row[0] for row in rules] == ["PSP_REFERENCE", "ORDER", "AMOUNT_AND_DATE"]


async def test_what_two_captures_could_be_is_only_suggested(world: World) -> None:
    for _ in range(2):
        await world.capture(777, psp_reference="")
    day = await today(world)
    run = await world.day(DayFile(day=day).line(777, psp_reference=reference()), day)
    [found] = [one for one in await world.breaks(run) if one.file_id]
    assert class_of(found) == pb.BREAK_CLASS_AMBIGUOUS
    assert found.state == pb.BREAK_STATE_SUGGESTED
    assert found.booked_journal_id == ""
    assert [entry.account.kind for entry in found.proposal] == [RECEIVABLE, SUSPENSE]
    assert run.state == pb.RUN_STATE_EXPLAINED
    assert run.balances[0].breaks_minor == 777
    assert world.booked() == 0


async def test_a_line_without_our_ids_that_two_named_captures_could_be_is_only_suggested(
    world: World,
) -> None:
    """As a PSP writes that calls a charge otherwise in its files. One alone is no choice."""
    for amount in (777, 777, 555):
        await world.capture(amount)
    day = await today(world)
    file = DayFile(day=day)
    for amount in (777, 777, 555):
        file.line(amount, psp_reference=reference())
    run = await world.day(file, day)
    found = Counter(class_of(one) for one in await world.breaks(run) if one.file_id)
    assert found == {pb.BREAK_CLASS_AMBIGUOUS: 2, pb.BREAK_CLASS_UNKNOWN_TO_US: 1}
    assert await world.balance(SUSPENSE) == 555
    assert world.matches() == 0
    assert (run.state, run.balances[0].difference_minor) == (pb.RUN_STATE_EXPLAINED, 0)


async def test_class_3_in_file_unknown_to_us(world: World) -> None:
    mine = await world.capture(500)
    strange = reference()
    run = await world.day(DayFile().line(500, **mine).line(120, 20, psp_reference=strange))
    assert run.state == pb.RUN_STATE_EXPLAINED
    assert counts(run) == {pb.BREAK_CLASS_UNKNOWN_TO_US: 1}
    [found] = await world.breaks(run)
    assert class_of(found) == pb.BREAK_CLASS_UNKNOWN_TO_US
    assert (found.state, found.amount_minor) == (pb.BREAK_STATE_POSTED, 100)
    assert (found.psp_reference, found.place, found.sequence) == (strange, "line 4", 2)
    assert len(found.file_sha256) == 64
    assert await world.balance(SUSPENSE) == 100
    assert await world.balance(RECEIVABLE) == 600
    await world.assert_sums_to_zero()

    assert await world.run() == run
    assert world.booked() == 1

    # The capture comes late: the suspense entry is reversed, not added to.
    await world.capture(120, 20, cells=charge_cells(psp_reference=strange))
    again = await world.run()
    assert (again.version, again.state) == (2, pb.RUN_STATE_BALANCED)
    assert await world.balance(SUSPENSE) == 0
    assert await world.balance(RECEIVABLE) == 600
    assert world.booked() == 2
    [cleared] = await world.breaks()
    assert (cleared.break_id, cleared.state) == (found.break_id, pb.BREAK_STATE_CLEARED)
    assert cleared.booked_journal_id == ""
    await world.assert_sums_to_zero()
    assert await world.run() == again
    assert world.booked() == 2
    # What a run found is not rewritten by a later one.
    assert [one.break_id for one in await world.breaks(run)] == [found.break_id]


async def test_class_4_the_amount_differs(world: World) -> None:
    mine = await world.capture(500, 5)
    run = await world.day(DayFile().line(450, 5, **mine))
    [found] = await world.breaks(run)
    assert class_of(found) == pb.BREAK_CLASS_AMOUNT_DIFFERS
    assert (found.amount_minor, found.state) == (-50, pb.BREAK_STATE_POSTED)
    assert await world.balance(RECEIVABLE) == 445
    assert await world.balance(SUSPENSE) == -50
    assert run.state == pb.RUN_STATE_EXPLAINED
    assert await world.run() == run
    assert world.booked() == 1
    await world.assert_sums_to_zero()

    # The source corrects its statement.
    corrected = await world.day(DayFile(revision=1).line(500, 5, **mine))
    assert (corrected.version, corrected.state) == (2, pb.RUN_STATE_BALANCED)
    assert await world.balance(SUSPENSE) == 0
    assert world.booked() == 2
    assert [one.state for one in await world.breaks()] == [pb.BREAK_STATE_CLEARED]


async def test_class_5_a_fee_that_was_not_booked_is_booked(world: World) -> None:
    mine = await world.capture(500)
    run = await world.day(DayFile().line(500, 12, **mine))
    assert (run.state, run.breaks) == (pb.RUN_STATE_BALANCED, 0)
    assert await world.balance(FEES) == 12
    assert await world.balance(RECEIVABLE) == 488
    journals = await world.ledger.ListJournals(
        ledger_pb.ListJournalsRequest(order_id=mine["order_id"])
    )
    assert {journal.kind for journal in journals.journals} == {
        ledger_pb.JOURNAL_KIND_CAPTURE,
        ledger_pb.JOURNAL_KIND_SETTLEMENT,
    }
    assert await world.run() == run
    assert world.booked() == 1


async def test_class_5_a_fee_within_tolerance_is_booked_and_one_beyond_it_waits(
    world: World,
) -> None:
    world.source = world.source.replace("psp", "fees")  # 1 %, tolerance 2
    near, far = await world.capture(1000, 10), await world.capture(1000, 10)
    unbooked, dear = await world.capture(1000), await world.capture(1000)
    file = (
        DayFile()
        .line(1000, 12, **near)
        .line(1000, 13, **far)
        .line(1000, 12, **unbooked)
        .line(1000, 13, **dear)
    )
    run = await world.day(file)
    found = {one.psp_reference: one for one in await world.breaks(run)}
    assert {name: one.state for name, one in found.items()} == {
        near["psp_reference"]: pb.BREAK_STATE_RESOLVED,
        far["psp_reference"]: pb.BREAK_STATE_OPEN,
        dear["psp_reference"]: pb.BREAK_STATE_OPEN,
    }
    assert {class_of(one) for one in found.values()} == {pb.BREAK_CLASS_FEE_DIFFERS}
    assert await world.balance(FEES) == 10 + 2 + 10 + 12
    assert run.balances[0].breaks_minor == -3 - 13
    assert (run.state, run.balances[0].difference_minor) == (pb.RUN_STATE_EXPLAINED, 0)
    assert await world.run() == run
    assert world.booked() == 2
    await world.assert_sums_to_zero()


async def test_class_6_the_currency_differs_and_nothing_is_converted(world: World) -> None:
    mine = await world.capture(500, currency="USD")
    run = await world.day(DayFile().line(460, 4, **mine))
    [found] = await world.breaks(run)
    assert class_of(found) == pb.BREAK_CLASS_CURRENCY_DIFFERS
    assert (found.state, found.amount_minor) == (pb.BREAK_STATE_OPEN, 456)
    assert await world.balance(SUSPENSE) == 0
    assert (run.state, run.balances[0].breaks_minor) == (pb.RUN_STATE_EXPLAINED, 456)


async def test_class_7_a_line_that_is_there_twice(world: World) -> None:
    mine = await world.capture(500, 5)
    run = await world.day(DayFile().line(500, 5, **mine).line(500, 5, **mine))
    [found] = await world.breaks(run)
    assert class_of(found) == pb.BREAK_CLASS_DUPLICATE_IN_FILE
    assert (found.state, found.amount_minor) == (pb.BREAK_STATE_POSTED, 495)
    assert world.matches() == 1
    assert await world.balance(SUSPENSE) == 495
    assert await world.run() == run
    assert world.booked() == 1
    # The source takes it back by a correction.
    corrected = await world.day(DayFile(revision=1).line(500, 5, **mine))
    assert corrected.state == pb.RUN_STATE_BALANCED
    assert await world.balance(SUSPENSE) == 0
    assert world.booked() == 2
    await world.assert_sums_to_zero()


async def test_a_duplicate_on_another_day_is_one_too(world: World) -> None:
    mine = await world.capture(500, 5)
    await world.day(DayFile().line(500, 5, **mine))
    run = await world.day(DayFile(495, day="2026-02-01").line(500, 5, **mine), "2026-02-01")
    assert counts(run) == {pb.BREAK_CLASS_DUPLICATE_IN_FILE: 1}


async def test_two_genuine_lines_of_one_amount_are_two(world: World) -> None:
    first, second = await world.capture(500), await world.capture(500)
    run = await world.day(DayFile().line(500, **first).line(500, **second))
    assert (run.state, world.matches()) == (pb.RUN_STATE_BALANCED, 2)


async def test_errors_that_offset_each_other_are_two_breaks(world: World) -> None:
    more, less = await world.capture(500), await world.capture(500)
    run = await world.day(DayFile().line(510, **more).line(490, **less))
    assert counts(run) == {pb.BREAK_CLASS_AMOUNT_DIFFERS: 2}
    assert sorted(one.amount_minor for one in await world.breaks(run)) == [-10, 10]
    assert run.state == pb.RUN_STATE_EXPLAINED


async def test_class_9_a_refund_that_the_ledger_does_not_have(world: World) -> None:
    run = await world.day(DayFile(1000).line(-400, 0, kind="REFUND", psp_reference=reference()))
    [found] = await world.breaks(run)
    assert class_of(found) == pb.BREAK_CLASS_REFUND_DIFFERS
    assert [entry.account.kind for entry in found.proposal] == [SUSPENSE, RECEIVABLE]
    assert await world.balance(RECEIVABLE) == -400
    assert await world.run() == run
    assert world.booked() == 1


async def test_class_10_a_dispute_and_its_fee(world: World) -> None:
    run = await world.day(DayFile(1000).line(-100, 15, kind="DISPUTE", psp_reference=reference()))
    [found] = await world.breaks(run)
    assert class_of(found) == pb.BREAK_CLASS_CHARGEBACK
    assert await world.balance(ledger_pb.ACCOUNT_KIND_DISPUTE_RECEIVABLE) == 100
    assert await world.balance(ledger_pb.ACCOUNT_KIND_DISPUTE_FEE_EXPENSE) == 15
    assert await world.balance(RECEIVABLE) == -115
    assert (run.state, run.balances[0].difference_minor) == (pb.RUN_STATE_EXPLAINED, 0)
    assert await world.run() == run
    assert world.booked() == 2
    await world.assert_sums_to_zero()


@pytest.mark.parametrize(
    ("kind", "class_", "state"),
    [
        ("CHARGE_REVERSAL", pb.BREAK_CLASS_REVERSAL_OR_RETURN, pb.BREAK_STATE_OPEN),
        ("RESERVE_HOLD", pb.BREAK_CLASS_RESERVE_OR_TRANSFER, pb.BREAK_STATE_OPEN),
        ("INVOICE_DEDUCTION", pb.BREAK_CLASS_RESERVE_OR_TRANSFER, pb.BREAK_STATE_OPEN),
        ("FX", pb.BREAK_CLASS_FX_DIFFERENCE, pb.BREAK_STATE_RESOLVED),
        ("ADJUSTMENT", pb.BREAK_CLASS_UNKNOWN_TO_US, pb.BREAK_STATE_POSTED),
    ],
)
async def test_other_kinds_of_lines(world: World, kind: str, class_: int, state: int) -> None:
    run = await world.day(DayFile(1000).line(-70, 0, kind=kind, psp_reference=reference()))
    [found] = await world.breaks(run)
    assert (class_of(found), found.state, found.amount_minor) == (class_, state, -70)
    assert (run.state, run.balances[0].difference_minor) == (pb.RUN_STATE_EXPLAINED, 0)


async def test_transfers_and_fees_are_booked_by_rule(world: World) -> None:
    mine = await world.capture(1000, 10)
    file = (
        DayFile()
        .line(1000, 10, transfer_reference="T-1", **mine)
        .line(-30, 0, kind="FEE", transfer_reference="T-1")
        .line(-960, 0, kind="TRANSFER", transfer_reference="T-1")
    )
    run = await world.day(file)
    assert (run.state, run.matched) == (pb.RUN_STATE_BALANCED, 3)
    assert await world.balance(BANK, source=world.source.replace("psp", "bank")) == 960
    assert await world.balance(FEES) == 40
    assert await world.balance(RECEIVABLE) == 0
    assert await world.run() == run
    assert world.booked() == 2


@pytest.mark.parametrize(("kind", "amount"), [("TRANSFER", -960), ("TRANSFER_RETURN", 960)])
async def test_class_7_a_transfer_that_is_told_twice_is_booked_once(
    world: World, kind: str, amount: int
) -> None:
    name = reference()
    file = DayFile(5000)
    for told in (name, reference(), name):
        file.line(amount, 0, kind=kind, psp_reference=told)
    run = await world.day(file.line(amount + 1, 0, kind=kind, psp_reference=name))
    bank = world.source.replace("psp", "bank")
    booked = -(3 * amount + 1)
    assert await world.balance(BANK, source=bank) == booked
    [found] = await world.breaks(run)
    assert class_of(found) == pb.BREAK_CLASS_DUPLICATE_IN_FILE
    assert (found.state, found.amount_minor) == (pb.BREAK_STATE_POSTED, amount)
    assert (run.lines, run.matched, run.state) == (4, 3, pb.RUN_STATE_EXPLAINED)
    assert await world.balance(SUSPENSE) == amount

    # Nor is it booked on another day, and it stays the other day's when the first is run again.
    again = DayFile(5000 + 4 * amount + 1, day="2026-02-01")
    again.line(amount, 0, kind=kind, psp_reference=name)
    later = await world.day(again, "2026-02-01")
    assert counts(later) == {pb.BREAK_CLASS_DUPLICATE_IN_FILE: 1}
    assert await world.balance(BANK, source=bank) == booked
    file.open_day(0, currency="USD", statement="more")
    assert counts(await world.day(file)) == {pb.BREAK_CLASS_DUPLICATE_IN_FILE: 1}
    assert await world.balance(BANK, source=bank) == booked
    later = await world.run("2026-02-01")
    assert (later.version, counts(later)) == (2, {pb.BREAK_CLASS_DUPLICATE_IN_FILE: 1})
    assert await world.balance(BANK, source=bank) == booked
    await world.assert_sums_to_zero()


async def test_fees_of_one_name_and_amount_are_as_many_as_there_are(world: World) -> None:
    name = reference()
    file = DayFile(100).line(-3, 0, kind="FEE", psp_reference=name)
    run = await world.day(file.line(-3, 0, kind="FEE", psp_reference=name))
    assert run.state == pb.RUN_STATE_BALANCED
    assert await world.balance(FEES) == 6


async def test_a_psp_whose_bank_is_not_told_is_its_own(world: World) -> None:
    world.source = world.source.replace("psp", "fees")
    file = DayFile(960).line(-960, 0, kind="TRANSFER", psp_reference=reference())
    run = await world.day(file)
    assert await world.balance(BANK) == 960
    assert await world.run() == run
    assert world.booked() == 1


async def test_class_11_a_transfer_that_is_not_the_sum_of_its_lines(world: World) -> None:
    mine = await world.capture(1000)
    file = (
        DayFile()
        .line(1000, transfer_reference="T-2", **mine)
        .line(-900, 0, kind="TRANSFER", transfer_reference="T-2")
    )
    run = await world.day(file)
    [found] = await world.breaks(run)
    assert class_of(found) == pb.BREAK_CLASS_PAYOUT_DIFFERS
    assert (found.amount_minor, found.state) == (100, pb.BREAK_STATE_OPEN)
    assert (run.state, run.balances[0].difference_minor) == (pb.RUN_STATE_EXPLAINED, 0)


async def test_classes_1_and_2_a_capture_that_is_in_no_file_ages(world: World) -> None:
    missing = await world.capture(500, 5)
    days = await days_from_today(world, 4)
    first = await world.day(DayFile(day=days[0]), days[0])
    [timing] = await world.breaks(first)
    assert class_of(timing) == pb.BREAK_CLASS_TIMING
    assert (timing.state, timing.amount_minor) == (pb.BREAK_STATE_OPEN, -495)
    assert first.state == pb.RUN_STATE_EXPLAINED
    assert world.booked() == 0

    last = await world.day(DayFile(day=days[3]), days[3])
    [aged] = await world.breaks(last)
    assert aged.break_id == timing.break_id
    assert class_of(aged) == pb.BREAK_CLASS_NEVER_SETTLED
    assert aged.state == pb.BREAK_STATE_POSTED
    assert await world.balance(RECEIVABLE) == 0
    assert await world.balance(SUSPENSE) == -495
    assert world.booked() == 1
    assert await world.run(days[3]) == last
    assert await world.run(days[0]) == first
    assert world.booked() == 1
    await world.assert_sums_to_zero()

    # It is settled after all.
    following = str(world.sql.execute("SELECT %s::date + 1", [days[3]]).fetchall()[0][0])
    late = await world.day(DayFile(day=following).line(500, 5, **missing), following)
    assert late.state == pb.RUN_STATE_BALANCED
    assert await world.balance(RECEIVABLE) == 495
    assert await world.balance(SUSPENSE) == 0
    assert world.booked() == 2
    assert [one.state for one in await world.breaks()] == [pb.BREAK_STATE_CLEARED]
    await world.assert_sums_to_zero()


async def test_a_capture_whose_line_a_correction_takes_away_is_missing_again(world: World) -> None:
    mine = await world.capture(500, 5)
    days = await days_from_today(world, 5)
    for day in days[:3]:
        await world.day(DayFile(day=day), day)
    settled = await world.day(DayFile(day=days[3]).line(500, 5, **mine), days[3])
    assert settled.state == pb.RUN_STATE_BALANCED
    assert [one.state for one in await world.breaks()] == [pb.BREAK_STATE_CLEARED]

    corrected = await world.day(DayFile(day=days[3], revision=1), days[3])
    assert (corrected.version, counts(corrected)) == (2, {pb.BREAK_CLASS_NEVER_SETTLED: 1})
    [missing] = await world.breaks(corrected)
    assert (missing.state, missing.amount_minor) == (pb.BREAK_STATE_POSTED, -495)
    assert await world.balance(RECEIVABLE) == 0
    assert await world.run(days[3]) == corrected

    # The line comes with a later day after all.
    later = await world.day(DayFile(day=days[4]).line(500, 5, **mine), days[4])
    assert later.state == pb.RUN_STATE_BALANCED
    assert (await world.balance(RECEIVABLE), await world.balance(SUSPENSE)) == (495, 0)
    await world.assert_sums_to_zero()


async def test_a_capture_that_came_after_its_line_is_missing_again_without_it(
    world: World,
) -> None:
    mine = await world.capture(500)
    days = await days_from_today(world, 2, start=-1)
    await world.day(DayFile(day=days[0]).line(500, **mine), days[0])
    await world.day(DayFile(500, day=days[1]), days[1])
    corrected = await world.day(
        DayFile(day=days[0], revision=1).line(500, 0, kind="ADJUSTMENT"), days[0]
    )
    assert counts(corrected) == {pb.BREAK_CLASS_UNKNOWN_TO_US: 1, pb.BREAK_CLASS_TIMING: 1}


async def test_class_8_an_order_that_the_ledger_has_twice(world: World) -> None:
    mine = await world.capture(500)
    await world.capture(500, cells=charge_cells(order_id=mine["order_id"]))
    day = await today(world)
    run = await world.day(DayFile(day=day).line(500, **mine), day)
    [found] = await world.breaks(run)
    assert class_of(found) == pb.BREAK_CLASS_DUPLICATE_IN_LEDGER
    assert (found.state, found.amount_minor) == (pb.BREAK_STATE_OPEN, -500)
