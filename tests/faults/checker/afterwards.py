"""What is asked once, at the end of a run: the settlement (I9), and what is left behind (I10)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tests.faults.checker.reading import opened
from tests.faults.checker.records import Connection, Sessions, Urls, Violation

_BALANCED, _EXPLAINED = 2, 3

_RUN = """
SELECT run_id, state FROM reconciliation_run
WHERE source = %s AND settlement_date = %s ORDER BY version DESC LIMIT 1
"""
_DIFFERENCES = """
SELECT currency, difference_minor FROM run_balance
WHERE run_id = %s AND difference_minor <> 0 ORDER BY currency
"""
_CLASSES = "SELECT class, count(*) FROM run_finding WHERE run_id = %s AND class > 0 GROUP BY class"
_BOOKED_BY_NOTHING = """
SELECT j.journal_id FROM journal j
WHERE j.kind IN (3, 4) AND 1 <> (
  SELECT count(*) FROM settlement_booking b WHERE j.journal_id IN (b.journal_id, b.reversal_id))
"""
_TRUE_LINES = """
SELECT c.psp_reference, replace(c.order_id::text, '-', ''), c.captured_minor - c.fee_minor
FROM settlement_line l JOIN charge c USING (idempotency_key, generation)
WHERE l.settlement_date = %s
"""
_MATCHED_LINES = """
SELECT l.source_reference, replace(j.order_id::text, '-', ''), l.amount_minor
FROM settlement_line l
JOIN statement s ON (s.file_id, s.number) = (l.file_id, l.statement) AND s.is_current
JOIN settlement_match m ON (m.file_id, m.sequence) = (l.file_id, l.sequence)
JOIN journal j USING (journal_id)
WHERE s.source = %s AND s.settlement_date = %s AND j.kind = 1
"""


def settlement(
    urls: Urls | Sessions,
    day: str,
    seeded: Mapping[int, int] | None = None,
    *,
    source: str = "psp_stub",
) -> list[Violation]:
    """I9: what breaks it, of the stub's day (YYYY-MM-DD) after it was closed and reconciled.

    seeded: how many differences of which class (by the numbers of the contract) must have been
        found, and no others. None: nothing differs, and each capture met its line.
    """
    with opened(urls) as sessions:
        return [
            Violation("I9", "", f"{source} {day}: {text}")
            for text in _settlement(sessions, day, seeded or {}, source)
        ]


def _settlement(
    sessions: Sessions, day: str, seeded: Mapping[int, int], source: str
) -> Iterator[str]:
    ledger = sessions.ledger
    run = ledger.execute(_RUN, (source, day)).fetchone()
    if run is None:
        yield "nothing was reconciled"
        return
    run_id, state = run
    if state != (_EXPLAINED if seeded else _BALANCED):
        yield f"the run's state is {state}"
    for currency, difference in ledger.execute(_DIFFERENCES, (run_id,)):
        yield f"{difference} {currency} are not explained"
    classes: dict[int, int] = dict(ledger.execute(_CLASSES, (run_id,)).fetchall())
    for number in sorted({*classes, *seeded}):
        if classes.get(number, 0) != seeded.get(number, 0):
            yield (
                f"{classes.get(number, 0)} differences of class {number},"
                f" {seeded.get(number, 0)} were seeded"
            )
    for (journal_id,) in ledger.execute(_BOOKED_BY_NOTHING):
        yield f"journal {journal_id} is no finding's, or that of several"
    if not seeded:
        true = sessions.psp_stub.execute(_TRUE_LINES, (day,)).fetchall()
        matched = ledger.execute(_MATCHED_LINES, (source, day)).fetchall()
        for reference, order_id, amount in sorted(set(true) ^ set(matched)):
            where = (
                "settled and not matched"
                if (reference, order_id, amount) in true
                else "matched and not settled"
            )
            yield f"{reference} of order {order_id}, {amount}: {where}"
        if len(matched) != len(set(matched)):
            yield "a capture met more than one line"


_IN_TRANSACTION = """
SELECT usename || ': ' || state || ', since ' || xact_start
FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
  AND backend_type = 'client backend' AND xact_start < clock_timestamp() - %s * interval '1 second'
"""
_CONNECTED = """
SELECT usename || ' is connected, since ' || backend_start
FROM pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend' AND usename <> current_user
"""
_WAITING = """
SELECT 'a lock of kind ' || locktype || ' is waited for since ' || waitstart
FROM pg_locks WHERE NOT granted AND waitstart < clock_timestamp() - %s * interval '1 second'
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
_PREPARED = "SELECT 'prepared: ' || gid FROM pg_prepared_xacts WHERE database = current_database()"
_ORPHANED = """
SELECT 'operation ' || operation_id || ' is owned by epoch ' || epoch || ', which is over'
FROM operation LEFT JOIN replica USING (epoch)
WHERE epoch IS NOT NULL AND (replica.epoch IS NULL OR dead OR lease_until < paymesh_now())
"""
_LEASED = """
SELECT 'epoch ' || epoch || ' still has its lease, until ' || lease_until
FROM replica WHERE NOT dead AND lease_until > paymesh_now()
"""


def left_behind(
    urls: Urls | Sessions, *, stopped: bool, longer_than_s: float = 2.0
) -> list[Violation]:
    """I10: connections, transactions, locks and leases of nobody.

    stopped: whether the services were told to stop, so that there may be none at all.
    longer_than_s: what a transaction may take while they run, or a lock be waited for.
    """
    with opened(urls) as sessions:
        found = [
            f"{service}: {text}"
            for service, session in sessions._asdict().items()
            for text in _left_in(session, stopped, longer_than_s)
        ]
        questions = (_ORPHANED, _LEASED) if stopped else (_ORPHANED,)
        found += [text for each in questions for (text,) in sessions.payment.execute(each)]
    return [Violation("I10", "", text) for text in found]


def _left_in(session: Connection, stopped: bool, longer_than_s: float) -> Iterator[str]:
    for question in (_IN_TRANSACTION, _WAITING):
        yield from (str(text) for (text,) in session.execute(question, (longer_than_s,)))
    for question in (_PREPARED, _CONNECTED) if stopped else (_PREPARED,):
        yield from (str(text) for (text,) in session.execute(question))
