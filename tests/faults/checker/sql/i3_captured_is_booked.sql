-- What SUCCEEDED is credited and booked to the cent; nothing else is, nor before its capture.
WITH expected AS (
  SELECT o.order_id, line.kind, line.account, line.owner, line.source, o.currency, line.side,
         line.amount
  FROM ordered o JOIN charged c ON c.order_id = o.order_id AND c.state = 'CAPTURED'
  CROSS JOIN LATERAL (VALUES
    ('CAPTURE', 'PSP_RECEIVABLE', '', 'psp_stub', 'DEBIT', o.amount),
    ('CAPTURE', 'SELLER_PENDING', o.seller, '', 'CREDIT', o.amount - o.commission),
    ('CAPTURE', 'COMMISSION_REVENUE', '', '', 'CREDIT', o.commission),
    ('PSP_FEE', 'PSP_FEE_EXPENSE', '', 'psp_stub', 'DEBIT', c.fee),
    ('PSP_FEE', 'PSP_RECEIVABLE', '', 'psp_stub', 'CREDIT', c.fee)
  ) AS line (kind, account, owner, source, side, amount)
  WHERE o.state = 'SUCCEEDED' AND line.amount > 0
), booked AS (
  SELECT j.order_id, j.kind, e.account, e.owner, e.source, e.currency, e.side, e.amount
  FROM journal j JOIN entry e USING (journal_id) JOIN ordered o USING (order_id)
  WHERE o.state = 'SUCCEEDED' AND j.kind IN ('CAPTURE', 'PSP_FEE')
)
SELECT o.order_id::text, 'SUCCEEDED, but the seller was not credited with amount - commission'
FROM ordered o JOIN operation p USING (order_id)
LEFT JOIN movement m
  ON (m.operation_id, m.order_id, m.seller, m.currency)
   = (p.operation_id, o.order_id, o.seller, o.currency)
 AND m.kind = 1 AND m.amount = o.amount - o.commission AND m.pending = m.amount
WHERE o.state = 'SUCCEEDED' AND m.order_id IS NULL
UNION ALL
SELECT m.movement_id::text, 'credited for an order that is ' || coalesce(o.state, 'not there')
  || ', its operation ' || coalesce(e.state, 'not there')
FROM movement m LEFT JOIN ordered o USING (order_id) LEFT JOIN executed e USING (operation_id)
WHERE e.state IS DISTINCT FROM 'CAPTURED'
   OR coalesce(o.state, '') NOT IN ('SUCCEEDED', 'PARKED', 'PROCESSING', 'UNKNOWN', 'CAPTURED')
UNION ALL
SELECT j.journal_id::text, 'booked for an order that is ' || coalesce(o.state, 'not there')
  || ', its operation ' || coalesce(e.state, 'not there')
FROM journal j LEFT JOIN ordered o USING (order_id) LEFT JOIN executed e USING (operation_id)
WHERE j.kind IN ('CAPTURE', 'PSP_FEE') AND (
  e.state IS DISTINCT FROM 'CAPTURED'
  OR coalesce(o.state, '') NOT IN ('SUCCEEDED', 'PARKED', 'PROCESSING', 'UNKNOWN', 'CAPTURED'))
UNION ALL
SELECT j.journal_id::text, 'booked before the seller was credited'
FROM journal j LEFT JOIN movement m USING (operation_id)
WHERE j.kind = 'CAPTURE' AND m.operation_id IS NULL
UNION ALL
SELECT order_id::text, 'SUCCEEDED, and its journals lack ' || to_json(lacking)::text
FROM (SELECT * FROM expected EXCEPT ALL SELECT * FROM booked) AS lacking
UNION ALL
SELECT order_id::text, 'SUCCEEDED, and its journals should not have ' || to_json(surplus)::text
FROM (SELECT * FROM booked EXCEPT ALL SELECT * FROM expected) AS surplus
