"""The invariants of truth.py, over the tables of truth_tables.py. Each gives (name, id, what).

I1 journals sum to zero. I2 an order is captured, credited and booked at most once. I3 an
order is SUCCEEDED exactly if the PSP captured what was asked and all of it is booked. I4
a wallet is the sum of its movements and what the ledger says of the seller, and all books
add up to what the PSP captured. I5 what a caller was told stays. I6 nothing is negative.
I7 everything comes to rest. I8 a payment's state follows from those of its orders.
"""

from __future__ import annotations

from paymesh.ledger.v1 import ledger_service_pb2 as ledger
from paymesh.payment.v1 import payment_pb2 as pb
from paymesh.wallet.v1 import wallet_service_pb2 as wallet

_SUCCEEDED = pb.ORDER_STATE_SUCCEEDED
_PARKED = pb.ORDER_STATE_PARKED
_OPEN = ", ".join(
    str(state)
    for state in (
        pb.ORDER_STATE_NOT_STARTED,
        pb.ORDER_STATE_PROCESSING,
        pb.ORDER_STATE_UNKNOWN,
        pb.ORDER_STATE_CAPTURED,
    )
)
_TERMINAL = ", ".join(
    str(state)
    for state in (
        _SUCCEEDED,
        pb.ORDER_STATE_DECLINED,
        pb.ORDER_STATE_NOT_CHARGED,
        pb.ORDER_STATE_VOIDED,
        pb.ORDER_STATE_EXPIRED,
    )
)
# The states of executor_svc, which no contract names.
_EXECUTOR_CAPTURED, _EXECUTOR_DECLINED = 6, 7

_DEBIT, _CREDIT = ledger.DIRECTION_DEBIT, ledger.DIRECTION_CREDIT
_SELLERS = ", ".join(
    str(kind)
    for kind in (
        ledger.ACCOUNT_KIND_SELLER_PENDING,
        ledger.ACCOUNT_KIND_SELLER_AVAILABLE,
        ledger.ACCOUNT_KIND_SELLER_RESERVED,
        ledger.ACCOUNT_KIND_SELLER_DEBT,
    )
)

_JOURNALS = [
    """
    SELECT 'I1', journal_id, 'the journal has a balance in ' || currency
    FROM entry GROUP BY journal_id, currency
    HAVING sum(CASE direction WHEN {debit} THEN amount ELSE -amount END) <> 0
    """,
    """
    SELECT 'I1', currency, 'the trial balance: debits ' || debits || ', credits ' || credits
    FROM (SELECT currency, coalesce(sum(amount) FILTER (WHERE direction = {debit}), 0) AS debits,
                 coalesce(sum(amount) FILTER (WHERE direction = {credit}), 0) AS credits
          FROM entry GROUP BY currency) AS sums
    WHERE debits <> credits
    """,
    """
    SELECT 'I1', coalesce(j.journal_id, e.journal_id), 'the journal and its entries don''t match'
    FROM journal j
    FULL JOIN (SELECT journal_id, count(*) AS lines FROM entry GROUP BY journal_id) e
      USING (journal_id)
    WHERE j.lines IS DISTINCT FROM e.lines
    """,
]

_AT_MOST_ONCE = [
    """
    SELECT 'I2', order_id, 'the PSP captured ' || count(*) || ' times'
    FROM charged WHERE state = 'CAPTURED' GROUP BY order_id HAVING count(*) > 1
    """,
    """
    SELECT 'I2', order_id, 'the seller was credited ' || count(*) || ' times'
    FROM movement WHERE kind = {movement_capture} GROUP BY order_id HAVING count(*) > 1
    """,
    """
    SELECT 'I2', order_id, 'a journal of kind ' || kind || ' was written ' || count(*) || ' times'
    FROM journal WHERE {of_payments} GROUP BY order_id, kind HAVING count(*) > 1
    """,
]

_SUCCEEDED_IS_CAPTURED = [
    """
    SELECT 'I3', order_id, 'SUCCEEDED, but the PSP did not capture what was asked'
    FROM ordered o WHERE state = {succeeded} AND NOT EXISTS (
      SELECT FROM charged c WHERE c.order_id = o.order_id AND c.state = 'CAPTURED'
        AND (c.amount, c.currency) = (o.amount, o.currency))
    """,
    """
    SELECT 'I3', c.order_id, 'the PSP captured, but the order is '
      || coalesce('in state ' || o.state, 'not there')
    FROM charged c LEFT JOIN ordered o USING (order_id)
    WHERE c.state = 'CAPTURED'
      AND (o.state IS NULL OR o.state NOT IN ({succeeded}, {parked}, {open}))
    """,
    """
    SELECT 'I3', order_id, 'captured ' || captured || ' of ' || amount || ' in state ' || state
    FROM ordered
    WHERE captured <> CASE WHEN state = {succeeded} THEN amount
                           WHEN state = {captured} THEN amount
                           WHEN state = {parked} AND captured = amount THEN amount
                           ELSE 0 END
    """,
    """
    SELECT 'I3', o.order_id, 'the order is in state ' || o.state || ', the executor''s operation '
      || coalesce('in ' || e.state, 'not there')
    FROM ordered o LEFT JOIN executed e USING (order_id)
    WHERE o.state = {succeeded} AND (e.state, e.captured, e.captured_currency)
            IS DISTINCT FROM ({executor_captured}, o.amount, o.currency)
       OR o.state = {declined} AND e.state IS DISTINCT FROM {executor_declined}
    """,
    """
    SELECT 'I3', e.operation_id, 'the executor says captured, the PSP says something else'
    FROM executed e LEFT JOIN charged c ON c.psp_key = e.psp_key AND c.state = 'CAPTURED'
    WHERE e.state = {executor_captured}
      AND (c.amount, c.currency, c.reference, c.operation_id, c.order_id) IS DISTINCT FROM
          (e.captured, e.captured_currency, e.reference, e.operation_id, e.order_id)
    """,
    """
    SELECT 'I3', e.operation_id, 'the executor says declined, the PSP captured'
    FROM executed e JOIN charged c USING (order_id)
    WHERE e.state = {executor_declined} AND c.state = 'CAPTURED'
    """,
    """
    SELECT 'I3', c.psp_key, 'the PSP has a charge that the executor never asked for'
    FROM charged c LEFT JOIN executed e USING (operation_id, order_id, psp_key)
    WHERE e.operation_id IS NULL
    """,
    """
    SELECT 'I3', e.operation_id, 'the executor has an operation that no order asked for'
    FROM executed e
    LEFT JOIN (operation p JOIN ordered o USING (order_id)) USING (operation_id, order_id)
    WHERE (p.amount, o.currency) IS DISTINCT FROM (e.amount, e.currency)
    """,
    """
    SELECT 'I3', p.operation_id, 'the order names another PSP reference than the executor'
    FROM operation p JOIN ordered o USING (order_id) JOIN executed e USING (operation_id)
    WHERE o.state = {succeeded} AND p.reference <> e.reference
    """,
]

# Of an order that is still open or parked, wallet and ledger may know already.
_BOOKED = [
    """
    SELECT 'I3', o.order_id, 'SUCCEEDED, but the seller was not credited with amount - commission'
    FROM ordered o JOIN operation p USING (order_id)
    WHERE o.state = {succeeded} AND NOT EXISTS (
      SELECT FROM movement m
      WHERE (m.operation_id, m.order_id, m.kind, m.seller, m.currency, m.amount, m.pending)
          = (p.operation_id, o.order_id, {movement_capture}, o.seller, o.currency,
             o.amount - o.commission, o.amount - o.commission))
    """,
    """
    SELECT 'I3', m.movement_id, 'credited for an order that is '
      || coalesce('in state ' || o.state, 'not there')
    FROM movement m LEFT JOIN ordered o USING (order_id)
    WHERE o.state IS NULL OR o.state NOT IN ({succeeded}, {parked}, {open})
    """,
    """
    SELECT 'I3', j.journal_id, 'booked for an order that is '
      || coalesce('in state ' || o.state, 'not there')
    FROM journal j LEFT JOIN ordered o USING (order_id)
    WHERE {of_payments} AND (o.state IS NULL OR o.state NOT IN ({succeeded}, {parked}, {open}))
    """,
    """
    WITH expected AS (
      SELECT o.order_id, line.kind, line.account, line.owner, line.source, o.currency,
             line.direction, line.amount
      FROM ordered o JOIN charged c ON c.order_id = o.order_id AND c.state = 'CAPTURED'
      CROSS JOIN LATERAL (VALUES
        ({capture}, {receivable}, '', 'psp_stub', {debit}, o.amount),
        ({capture}, {pending}, o.seller, '', {credit}, o.amount - o.commission),
        ({capture}, {commission}, '', '', {credit}, o.commission),
        ({psp_fee}, {fee_expense}, '', 'psp_stub', {debit}, c.fee),
        ({psp_fee}, {receivable}, '', 'psp_stub', {credit}, c.fee)
      ) AS line (kind, account, owner, source, direction, amount)
      WHERE o.state = {succeeded} AND line.amount > 0
    ), booked AS (
      SELECT j.order_id, j.kind, e.account, e.owner, e.source, e.currency, e.direction, e.amount
      FROM journal j JOIN entry e USING (journal_id) JOIN ordered o USING (order_id)
      WHERE o.state = {succeeded} AND {of_payments}
    )
    SELECT 'I3', order_id, 'SUCCEEDED, and its journals lack ' || to_json(lacking)
    FROM (SELECT * FROM expected EXCEPT ALL SELECT * FROM booked) AS lacking
    UNION ALL
    SELECT 'I3', order_id, 'SUCCEEDED, and its journals should not have ' || to_json(surplus)
    FROM (SELECT * FROM booked EXCEPT ALL SELECT * FROM expected) AS surplus
    """,
]

_WALLETS = [
    """
    SELECT 'I4', seller, currency || ': the balance is not the sum of the movements'
    FROM balance b
    FULL JOIN (SELECT seller, currency, sum(pending) AS pending, sum(available) AS available,
                      sum(debt) AS debt
               FROM movement GROUP BY seller, currency) m USING (seller, currency)
    WHERE (b.pending, b.available, b.debt) IS DISTINCT FROM (m.pending, m.available, m.debt)
    """,
    """
    WITH wallet AS (
      SELECT seller, currency, line.account, line.amount
      FROM balance CROSS JOIN LATERAL (VALUES
        ({pending}, pending), ({available}, available), ({reserved}, reserved), ({debt}, debt)
      ) AS line (account, amount)
      WHERE line.amount <> 0
    ), booked AS (
      SELECT owner AS seller, currency, account,
             sum(CASE WHEN (direction = {debit}) = (account = {debt}) THEN amount ELSE -amount END)
               AS amount
      FROM entry WHERE account IN ({sellers}) GROUP BY owner, currency, account
    )
    SELECT 'I4', seller, currency || ': the wallet says ' || coalesce(w.amount, 0)
      || ', the ledger ' || coalesce(b.amount, 0) || ' in account ' || account
    FROM wallet w FULL JOIN booked b USING (seller, currency, account)
    WHERE coalesce(w.amount, 0) <> coalesce(b.amount, 0)
    """,
    # What is not SUCCEEDED stands apart in every book.
    """
    WITH apart AS (
      SELECT order_id FROM ordered WHERE state <> {succeeded}
    ), part AS (
      SELECT currency, 'stub' AS book, amount
      FROM charged WHERE state = 'CAPTURED' AND order_id NOT IN (SELECT order_id FROM apart)
      UNION ALL
      SELECT currency, 'orders', captured FROM ordered WHERE state = {succeeded}
      UNION ALL
      SELECT currency, 'wallets', pending + available + reserved - debt FROM balance
      UNION ALL
      SELECT currency, 'wallets', -amount FROM movement JOIN apart USING (order_id)
      UNION ALL
      SELECT currency, 'wallets', commission FROM ordered WHERE state = {succeeded}
      UNION ALL
      SELECT currency, 'ledger', CASE direction WHEN {debit} THEN amount ELSE -amount END
      FROM entry JOIN journal USING (journal_id)
      WHERE account IN ({receivable}, {fee_expense}) AND {of_payments}
        AND order_id NOT IN (SELECT order_id FROM apart)
    ), total AS (
      SELECT currency, book, coalesce(sum(amount), 0) AS amount
      FROM (SELECT DISTINCT currency FROM part) AS currencies
      CROSS JOIN (VALUES ('stub'), ('orders'), ('wallets'), ('ledger')) AS books (book)
      LEFT JOIN part USING (currency, book)
      GROUP BY currency, book
    )
    SELECT 'I4', currency, 'captured in all: ' || string_agg(book || ' ' || amount, ', ')
    FROM total GROUP BY currency HAVING count(DISTINCT amount) > 1
    """,
]

_PROMISES = [
    """
    SELECT 'I5', t.order_id, 'told as in state ' || t.state || ', and now '
      || coalesce('in state ' || o.state, 'not there')
    FROM told t LEFT JOIN ordered o USING (payment_id, order_id)
    WHERE (o.amount, o.currency) IS DISTINCT FROM (t.amount, t.currency)
       OR t.state IN ({terminal}) AND t.state <> o.state
    """,
    """
    SELECT 'I6', seller, currency || ': a balance is negative'
    FROM balance WHERE least(pending, available, reserved, debt) < 0
    """,
    """
    SELECT 'I6', reference, 'the PSP took less than nothing, or a fee above the amount'
    FROM charged WHERE amount < 0 OR fee NOT BETWEEN 0 AND amount
    """,
    """
    SELECT 'I8', payment_id, 'in state ' || p.state || ', and its orders give ' || derived
    FROM payment p JOIN (
      SELECT payment_id, count(*) AS orders, CASE
        WHEN bool_or(state IN ({open})) THEN {payment_processing}
        WHEN bool_or(state = {parked}) THEN {payment_needs_attention}
        WHEN bool_or(state = {authorized}) THEN {payment_authorized}
        WHEN bool_and(state = {succeeded}) THEN {payment_succeeded}
        WHEN bool_or(state = {succeeded}) THEN {payment_partially_succeeded}
        WHEN bool_or(state = {declined}) THEN {payment_failed}
        ELSE {payment_voided} END AS derived
      FROM ordered GROUP BY payment_id
    ) AS o USING (payment_id)
    WHERE p.state <> derived OR p.orders <> o.orders
    """,
    """
    SELECT 'I8', coalesce(p.payment_id, o.payment_id), 'a payment without orders, or orders without'
    FROM payment p FULL JOIN (SELECT DISTINCT payment_id FROM ordered) o USING (payment_id)
    WHERE p.payment_id IS NULL OR o.payment_id IS NULL
    """,
]

# What the reconciliation booked beside them is about the PSP's account and has no order's say.
_OF_PAYMENTS = f"kind IN ({ledger.JOURNAL_KIND_CAPTURE}, {ledger.JOURNAL_KIND_PSP_FEE})"

_NAMES = {
    "of_payments": _OF_PAYMENTS,
    "debit": _DEBIT,
    "credit": _CREDIT,
    "sellers": _SELLERS,
    "open": _OPEN,
    "terminal": _TERMINAL,
    "succeeded": _SUCCEEDED,
    "parked": _PARKED,
    "captured": pb.ORDER_STATE_CAPTURED,
    "declined": pb.ORDER_STATE_DECLINED,
    "authorized": pb.ORDER_STATE_AUTHORIZED,
    "executor_captured": _EXECUTOR_CAPTURED,
    "executor_declined": _EXECUTOR_DECLINED,
    "movement_capture": wallet.MOVEMENT_KIND_CAPTURE,
    "capture": ledger.JOURNAL_KIND_CAPTURE,
    "psp_fee": ledger.JOURNAL_KIND_PSP_FEE,
    "receivable": ledger.ACCOUNT_KIND_PSP_RECEIVABLE,
    "fee_expense": ledger.ACCOUNT_KIND_PSP_FEE_EXPENSE,
    "commission": ledger.ACCOUNT_KIND_COMMISSION_REVENUE,
    "pending": ledger.ACCOUNT_KIND_SELLER_PENDING,
    "available": ledger.ACCOUNT_KIND_SELLER_AVAILABLE,
    "reserved": ledger.ACCOUNT_KIND_SELLER_RESERVED,
    "debt": ledger.ACCOUNT_KIND_SELLER_DEBT,
    "payment_processing": pb.PAYMENT_STATE_PROCESSING,
    "payment_needs_attention": pb.PAYMENT_STATE_NEEDS_ATTENTION,
    "payment_authorized": pb.PAYMENT_STATE_AUTHORIZED,
    "payment_succeeded": pb.PAYMENT_STATE_SUCCEEDED,
    "payment_partially_succeeded": pb.PAYMENT_STATE_PARTIALLY_SUCCEEDED,
    "payment_failed": pb.PAYMENT_STATE_FAILED,
    "payment_voided": pb.PAYMENT_STATE_VOIDED,
}

INVARIANTS = [
    invariant.format(**_NAMES)
    for invariant in (
        *_JOURNALS,
        *_AT_MOST_ONCE,
        *_SUCCEEDED_IS_CAPTURED,
        *_BOOKED,
        *_WALLETS,
        *_PROMISES,
    )
]
"""All but I7: what is under way breaks only that one."""

UNSETTLED = f"""
SELECT 'I7', order_id, 'still in state ' || state FROM payment_order WHERE state IN ({_OPEN})
"""
"""I7, in the database of payment_svc: the orders that are neither terminal nor parked."""
