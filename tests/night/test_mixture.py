"""Faults of every class, hidden among many payments: all are found, and nothing else.

The stub's days are seeded by its own list of faults; what should be found follows from the file
and from what was booked, without any code of the ledger (tests/support/mixture_truth.py).
"""

from __future__ import annotations

import json
import os
import random
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import grpc
import pytest
from paymesh.ledger.v1 import ledger_service_pb2 as ledger_pb
from paymesh.reconciliation.v1 import reconciliation_service_pb2 as pb

from mesh.errors import Reason
from mesh.status import from_rpc_error
from psp_stub.faults import FaultKind as F
from psp_stub.settlement import ACCOUNT
from tests.support.mesh import RunningMesh, started_on
from tests.support.mixture import BANK, CAMT, Nights, Reconciled, later
from tests.support.mixture_load import SOURCE, new_charges, random_amounts
from tests.support.mixture_report import report
from tests.support.mixture_truth import (
    FEE_HIGHER_BY,
    HIGHER_BY,
    OFFSET_BY,
    Finding,
    Truth,
    made_up_name,
    not_at_the_bank,
)
from tests.support.postgres import PostgresServer

HOME = "EUR"
SETTLE_DAYS = 3
TOLERANCE = 10_000

# Faults of single lines, all in the one file of the main day.
OF_LINES = (
    F.LATE_LINE, F.MISSING_LINE, F.UNKNOWN_LINE, F.AMOUNT_DIFFERS, F.FEE_DIFFERS, F.FEE_LINE,
    F.CURRENCY_DIFFERS, F.DUPLICATE_LINE, F.UNKNOWN_REFUND, F.CHARGEBACK, F.DECLINED_SETTLED,
    F.CHARGE_REVERSAL, F.FX_DIFFERENCE, F.RESERVE_HOLD, F.RESERVE_RELEASE, F.BALANCE_TRANSFER,
    F.INVOICE_DEDUCTION, F.OFFSETTING_ERRORS, F.AMBIGUOUS_LINES, F.CLOSING_DIFFERS,
    F.UNKNOWN_BANK_LINE,
)  # fmt: skip
BY = {F.AMOUNT_DIFFERS: HIGHER_BY, F.FEE_DIFFERS: FEE_HIGHER_BY, F.OFFSETTING_ERRORS: OFFSET_BY}
# Each of these is a line of the file twice over.
PAIRS = (F.OFFSETTING_ERRORS, F.AMBIGUOUS_LINES)
OF_FILES = {
    F.ARITHMETIC_BROKEN: (pb.FILE_STATE_QUARANTINED, pb.BREAK_CLASS_ARITHMETIC_BROKEN),
    F.PAGES_INCOMPLETE: (pb.FILE_STATE_WAITING, pb.BREAK_CLASS_PAGES_INCOMPLETE),
    F.UNKNOWN_ACCOUNT: (pb.FILE_STATE_QUARANTINED, pb.BREAK_CLASS_UNKNOWN_ACCOUNT),
}
UNKNOWN_CREDIT = 100
TRANSFER_SHORT_BY = 77
CHAIN_OFF_BY = 50


class Size(NamedTuple):
    """payments: captured on the main day. each: of a kind; files: of each kind of bad file."""

    payments: int
    each: int
    files: int


SMALL = Size(payments=600, each=3, files=1)


def full() -> Size:
    """The issue's, or what NIGHT_PAYMENTS and NIGHT_EACH say."""
    return Size(
        payments=int(os.environ.get("NIGHT_PAYMENTS", "100000")),
        each=int(os.environ.get("NIGHT_EACH", "100")),
        files=int(os.environ.get("NIGHT_FILES", "10")),
    )


@pytest.fixture
def mesh(postgres_server: PostgresServer) -> Iterator[RunningMesh]:
    sources = {
        SOURCE: {
            "kind": "psp",
            "accounts": [ACCOUNT],
            "bank": BANK,
            "settle_days": SETTLE_DAYS,
            "rounding_tolerance_minor": TOLERANCE,
        },
        BANK: {"kind": "bank"},
    }
    with started_on(postgres_server, ledger_sources=json.dumps(sources)) as mesh:
        yield mesh


@pytest.fixture
def nights(mesh: RunningMesh) -> Iterator[Nights]:
    nights = Nights(mesh)
    yield nights
    nights.close()


@pytest.mark.timeout(120)
def test_a_few_faults_of_every_class_are_found_and_nothing_else(
    nights: Nights, capsys: pytest.CaptureFixture[str]
) -> None:
    _mixture(nights, SMALL, capsys)


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_100_faults_of_each_kind_in_100_000_payments(
    nights: Nights, capsys: pytest.CaptureFixture[str]
) -> None:
    _mixture(nights, full(), capsys)


def _mixture(nights: Nights, size: Size, capsys: pytest.CaptureFixture[str]) -> None:
    chance = random.Random(20_260_131)
    currencies = _currencies(nights, size.each)
    truth = Truth()
    nights.timed("charge and book", lambda: _fill(nights, truth, size, currencies, chance))

    today, of_lines, lacking = _the_main_day(nights, truth, size, currencies)
    nights.timed("charge and book", lambda: _more(nights, truth, currencies))
    _the_next_day(nights, truth, size, currencies, later(today, 1))
    _the_bank(nights, later(today, 1), lacking)
    _a_day_off_the_chain(nights, truth, currencies, later(today, 2))
    _the_day_on_which_missing_is_lost(nights, truth, size, later(today, 3))
    _the_main_day_again(nights, truth, today, of_lines)
    bad = nights.timed("bad files", lambda: _bad_files(nights, truth, size, later(today, 4)))

    with capsys.disabled():
        title = f"{size.payments} payments, {size.each} faults of each kind"
        sys.stdout.write(report(nights, f"{title}, {len(nights.compared)} runs", bad))
    assert [one.missing for one in nights.compared if one.missing] == []
    assert [one.false for one in nights.compared if one.false] == []
    assert nights.trial_balance_differs() == {}


# --- what is there -----------------------------------------------------------------------


def _currencies(nights: Nights, count: int) -> list[str]:
    """So many beside the home currency; the dollar takes lines of other statements."""
    known = [one for one in nights.books.currencies() if one not in {HOME, "USD"}]
    return ["USD", *known][:count]


def _fill(
    nights: Nights, truth: Truth, size: Size, currencies: Sequence[str], chance: random.Random
) -> None:
    """The main day's payments: seven of ten in the home currency, the rest in all others."""
    others = max(size.payments * 3 // 10 // len(currencies), 1)
    at_home = size.payments - others * len(currencies)
    charges = new_charges(random_amounts(chance, at_home), HOME)
    for currency in currencies:
        charges += new_charges(random_amounts(chance, others), currency)
    chance.shuffle(charges)
    # Faults take the first captures of a day, what is late are the last ones, and pairs of one
    # amount are taken from anywhere: the two that are not booked keep out of their way.
    apart = [range(first, first + size.each) for first in (10_000_000, 20_000_000)]
    most = len(charges) * 9 // 10
    captured = nights.books.capture(charges[:most])
    declined = nights.books.decline(new_charges(apart[0], HOME))
    silent = nights.books.capture_silently(new_charges(apart[1], HOME))
    captured += nights.books.capture(charges[most:])
    truth.booked.update({one.psp_reference: one for one in captured})
    truth.not_booked.update({one.psp_reference: one for one in (*declined, *silent)})

    settled = [one for one in captured if one.currency != HOME][: size.each]
    twice = [
        new._replace(order_id=one.order_id, fee=one.fee, psp_reference=f"twice_{one.psp_reference}")
        for one in settled
        for new in new_charges([one.amount], one.currency)
    ]
    nights.books.book(twice)
    truth.twice.update({one.psp_reference: one for one in twice})


def _more(nights: Nights, truth: Truth, currencies: Sequence[str]) -> None:
    """What the day after has: a payment in each currency."""
    charges = [one for currency in currencies for one in new_charges([5_000], currency)]
    truth.booked.update({one.psp_reference: one for one in nights.books.capture(charges)})


# --- the days ----------------------------------------------------------------------------


def _the_main_day(
    nights: Nights, truth: Truth, size: Size, currencies: Sequence[str]
) -> tuple[str, Counter[Finding], Counter[Finding]]:
    """The day, what its file has, and the transfers that the bank does not show."""
    nights.seed(dict.fromkeys(OF_LINES, size.each), amounts=BY)
    for currency in currencies:
        nights.seed(
            {F.TRANSFER_DIFFERS: 1, F.BANK_LINE_MISSING: 1},
            currency=currency,
            amounts={F.TRANSFER_DIFFERS: TRANSFER_SHORT_BY},
        )
    day = nights.close_day()
    content = nights.fetch(day)
    expected, seeded = truth.of_file(content)
    in_file = {
        kind: size.each * (2 if kind in PAIRS else 1)
        for kind in OF_LINES
        if kind not in {F.LATE_LINE, F.MISSING_LINE, F.UNKNOWN_BANK_LINE}
    }
    # What is captured and never told to us is settled as what was declined is.
    in_file[F.DECLINED_SETTLED] += size.each
    assert seeded == {**in_file, F.TRANSFER_DIFFERS: len(currencies)}
    of_lines = expected.copy()
    expected += truth.missing(pb.BREAK_CLASS_TIMING)

    done = _reconciled(nights, day, content, expected)
    assert done.run.state == pb.RUN_STATE_EXPLAINED
    _assert_the_account_is_what_the_file_says(nights, truth, done, [HOME, *currencies[:3]])
    again = nights.reconcile(day)
    assert (again.run.run_id, again.run.version) == (done.run.run_id, 1)

    lacking = not_at_the_bank(content)
    at_bank = Counter(lacking[currency] for currency in currencies)
    of_nobody = Counter(
        Finding(
            pb.BREAK_CLASS_BANK_LINE_WITHOUT_PAYOUT,
            made_up_name(F.UNKNOWN_BANK_LINE, day, HOME, number),
            HOME,
            UNKNOWN_CREDIT,
        )
        for number in range(1, size.each + 1)
    )
    _the_bank(nights, day, at_bank + of_nobody)
    return day, of_lines, at_bank


def _the_next_day(
    nights: Nights, truth: Truth, size: Size, currencies: Sequence[str], day: str
) -> None:
    """What was late comes, transfers come back, and disputes are won."""
    nights.seed({F.CHARGEBACK_REVERSAL: size.each}, day=day)
    for currency in currencies:
        nights.seed({F.TRANSFER_RETURN: 1}, currency=currency, day=day)
    nights.close_day(day)
    content = nights.fetch(day)
    expected, seeded = truth.of_file(content)
    assert seeded == {F.CHARGEBACK_REVERSAL: size.each, F.TRANSFER_RETURN: len(currencies)}
    expected += truth.missing(pb.BREAK_CLASS_TIMING)
    _reconciled(nights, day, content, expected)


def _a_day_off_the_chain(nights: Nights, truth: Truth, currencies: Sequence[str], day: str) -> None:
    for currency in currencies:
        nights.seed(
            {F.CHAIN_BROKEN: 1}, currency=currency, amounts={F.CHAIN_BROKEN: CHAIN_OFF_BY}, day=day
        )
    nights.close_day(day)
    content = nights.fetch(day)
    expected, seeded = truth.of_file(content)
    assert not seeded
    expected += truth.missing(pb.BREAK_CLASS_TIMING)
    expected.update(
        Finding(pb.BREAK_CLASS_CHAIN_BROKEN, "", currency, CHAIN_OFF_BY) for currency in currencies
    )
    done = _reconciled(nights, day, content, expected)
    assert done.run.state == pb.RUN_STATE_OPEN


def _the_day_on_which_missing_is_lost(nights: Nights, truth: Truth, size: Size, day: str) -> None:
    nights.close_day(day)
    content = nights.fetch(day)
    expected, seeded = truth.of_file(content)
    assert not seeded
    expected += truth.missing(pb.BREAK_CLASS_NEVER_SETTLED)
    assert sum(one.class_ == pb.BREAK_CLASS_NEVER_SETTLED for one in expected) >= size.each
    done = _reconciled(nights, day, content, expected)
    assert done.run.state == pb.RUN_STATE_EXPLAINED


def _the_main_day_again(nights: Nights, truth: Truth, day: str, of_lines: Counter[Finding]) -> None:
    """Asked for once more, it finds the same, takes nothing for younger, and books nothing."""
    suspense = nights.balance(ledger_pb.ACCOUNT_KIND_SUSPENSE, HOME)
    done = nights.reconcile(day)
    nights.compare(done, of_lines + truth.missing(pb.BREAK_CLASS_NEVER_SETTLED))
    assert nights.balance(ledger_pb.ACCOUNT_KIND_SUSPENSE, HOME) == suspense
    assert nights.reconcile(day).run.run_id == done.run.run_id


def _bad_files(nights: Nights, truth: Truth, size: Size, day: str) -> Counter[str]:
    """Each on a day of its own: refused, and after it the right one is taken."""
    counted: Counter[str] = Counter()
    for kind, (state, class_) in OF_FILES.items():
        for _ in range(size.files):
            nights.seed({kind: 1}, day=day)
            nights.close_day(day)
            bad = nights.ingest(nights.fetch(day))
            assert (bad.state, bad.problem_class) == (state, class_), bad
            with pytest.raises(grpc.RpcError) as refused:
                nights.reconcile(day)
            assert from_rpc_error(refused.value).reason == Reason.SETTLEMENT_FILE_MISSING
            counted[pb.BreakClass.Name(class_)] += 1

            nights.resend_day(day)
            right = nights.fetch(day)
            good = nights.ingest(right)
            assert good.state == pb.FILE_STATE_INGESTED, good.problem
            assert nights.ingest(right) == good
            counted["sent again, taken once"] += 1
            day = later(day, 1)
    return counted


def _reconciled(nights: Nights, day: str, content: bytes, expected: Counter[Finding]) -> Reconciled:
    taken = nights.ingest(content)
    assert taken.state == pb.FILE_STATE_INGESTED, taken.problem
    done = nights.timed("reconcile", lambda: nights.reconcile(day))
    assert [one for one in done.run.balances if one.difference_minor] == []
    nights.compare(done, expected)
    return done


def _the_bank(nights: Nights, day: str, expected: Counter[Finding]) -> None:
    taken = nights.ingest(nights.fetch(day, CAMT), BANK)
    assert taken.state == pb.FILE_STATE_INGESTED, taken.problem
    done = nights.timed("reconcile", lambda: nights.reconcile(day, BANK))
    nights.compare(done, expected)


def _assert_the_account_is_what_the_file_says(
    nights: Nights, truth: Truth, done: Reconciled, currencies: Sequence[str]
) -> None:
    """What the ledger has at the PSP is the closing balance, but for what is not posted."""
    tell_only = {pb.BREAK_CLASS_PAYOUT_DIFFERS, pb.BREAK_CLASS_CHAIN_BROKEN}
    waiting: Counter[str] = Counter()
    for one in done.breaks:
        is_posted = one.state in {pb.BREAK_STATE_POSTED, pb.BREAK_STATE_RESOLVED}
        if not is_posted and getattr(one, "class") not in tell_only:
            waiting[one.currency_code] += one.amount_minor
        if getattr(one, "class") == pb.BREAK_CLASS_CURRENCY_DIFFERS:
            # Nothing is converted: what was booked stays as it was, and waits, too.
            booked = truth.booked[one.psp_reference]
            waiting[booked.currency] -= booked.net
    closing = {one.currency_code: one.closing_minor for one in done.run.balances}
    for currency in currencies:
        receivable = nights.balance(ledger_pb.ACCOUNT_KIND_PSP_RECEIVABLE, currency)
        assert receivable == closing[currency] - waiting[currency], currency
