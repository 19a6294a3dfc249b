"""The 35 bugs, and what catches each."""

from __future__ import annotations

from collections.abc import Iterable

from tests.faults.planted import in_books, in_executor, in_payment
from tests.faults.planted.plant import Bug

BUGS: tuple[Bug, ...] = (
    Bug(1, in_payment.id_rolled_anew, ("one-order: no fault",), "2 payments under"),
    Bug(
        2,
        in_payment.fields_not_compared,
        ("another-request: no fault",),
        "not stored as it was asked for",
    ),
    Bug(
        3,
        in_payment.answered_before_commit,
        ("told-once: payment.write#1/statement",),
        "acknowledged, and not there",
    ),
    Bug(
        4,
        in_executor.intent_after_call,
        (
            (
                "key-forgotten: executor.write#1/killed-before"
                " + executor>psp_stub Charge#1/callee-paused"
            ),
        ),
        "the PSP captured 2 times",
    ),
    Bug(
        5,
        in_executor.new_key_on_resend,
        (
            "one-order: executor>psp_stub Charge#1/too-slow",
            # Where the machine is so slow that the look-up finds what came late.
            "one-order: executor>psp_stub Charge#1/request-lost",
        ),
        "never asked for",
    ),
    Bug(
        6,
        in_executor.timeout_is_decline,
        ("one-order: executor>psp_stub Charge#1/too-slow",),
        "DECLINED",
    ),
    Bug(
        7,
        in_executor.unavailable_is_decline,
        ("too-many-requests: no fault", "one-order: executor>psp_stub Charge#1/request-lost"),
        "DECLINED, but the PSP declined nothing",
    ),
    Bug(
        8,
        in_executor.forgotten_is_never_charged,
        (
            (
                "key-forgotten: executor.write#2/killed-before"
                " + payment>executor Execute#1/callee-paused"
            ),
        ),
        "DECLINED",
    ),
    Bug(
        9,
        in_executor.resent_too_late,
        (
            (
                "key-forgotten: executor.write#2/killed-before"
                " + payment>executor Execute#1/callee-paused"
            ),
        ),
        "the PSP captured 2 times",
    ),
    Bug(
        10,
        in_executor.timeout_overwrites,
        ("one-order: payment>wallet ApplyMovements#1/slow",),
        "executor's operation UNKNOWN",
    ),
    Bug(
        11,
        in_payment.epoch_ignored,
        ("owner-sleeps: payment>ledger PostEvents#1/answer-lost",),
        "told as SUCCEEDED, and now CAPTURED",
    ),
    Bug(
        12,
        in_payment.dead_never_replaced,
        ("one-order: payment.write#1/killed-after",),
        "still PROCESSING",
    ),
    Bug(
        13,
        in_payment.taken_by_two,
        ("one-of-two-sleeps: payment>ledger PostEvents#1/answer-lost",),
        "SUCCEEDED",
    ),
    Bug(
        14,
        in_books.movement_without_key,
        ("one-order: payment>wallet ApplyMovements#1/late-duplicate",),
        "credited 2 times",
    ),
    Bug(
        15,
        in_books.replay_changes_balance,
        ("one-order: payment>wallet ApplyMovements#1/late-duplicate",),
        "the balance is not the sum of the movements",
    ),
    Bug(16, in_books.twice_in_a_list, ("twice-in-a-list: no fault",), "a balance of 2468"),
    Bug(
        17,
        in_payment.deadlock_not_retried,
        ("one-call: payment.write#1/deadlock",),
        "the caller was refused",
    ),
    Bug(
        18,
        in_payment.ledger_first,
        ("wallet-is-paused: payment>wallet ApplyMovements#1/callee-paused",),
        "not in its seller's wallet",
    ),
    Bug(
        19,
        in_books.journal_without_key,
        ("one-order: payment>ledger PostEvents#1/late-duplicate",),
        "was booked 2 times",
    ),
    Bug(20, in_books.commission_missing, ("one-order: no fault",), "its journals lack"),
    Bug(21, in_payment.rounded_twice, ("halves: no fault",), "its journals should not have"),
    Bug(22, in_books.neighbours_fail, ("bad-one-in-a-list: no fault",), "refused for one"),
    Bug(23, in_books.results_shifted, ("bad-one-in-a-list: no fault",), "is stored"),
    Bug(
        24,
        in_payment.unknown_commit_under_new_ids,
        ("one-order: payment.write#1/cut-after",),
        "2 payments under",
    ),
    Bug(
        25,
        in_payment.unknown_commit_is_success,
        ("one-call: payment.write#1/cut-before",),
        "the order is not there",
    ),
    Bug(
        26,
        in_executor.call_repeated,
        ("one-order: executor.write#2/serialization",),
        "the PSP captured 2 times",
    ),
    Bug(
        27,
        in_payment.last_second_missed,
        ("one-order: payment.write#1/killed-after",),
        "still PROCESSING",
    ),
    Bug(28, in_payment.parked_not_shown, ("parked: no fault",), "GetStatus shows nothing"),
    Bug(29, in_payment.leaving_cancels, ("caller-leaves: no fault",), "VOIDED"),
    Bug(
        30,
        in_executor.wrong_amount_as_ordered,
        ("wrong-amount: no fault",),
        "the PSP did not capture what was asked",
    ),
    Bug(31, in_payment.drain_drops, ("drained: no fault",), "still PROCESSING"),
    Bug(32, in_books.lines_doubled, ("file-comes-twice: no fault",), "0 were seeded"),
    Bug(33, in_books.posted_twice, ("reconciled-twice: no fault",), "is no finding's"),
    Bug(
        34,
        in_payment.neighbour_credits,
        ("three-orders: no fault",),
        "credited for an order that is DECLINED",
    ),
    Bug(35, in_payment.settled_driven_again, ("declined-and-settled: no fault",), "still driven"),
)
"""In the order of their numbers."""


def scenarios(bugs: Iterable[Bug]) -> list[str]:
    """What reveals them, each once."""
    return list(dict.fromkeys(scenario for bug in bugs for scenario in bug.scenarios))
