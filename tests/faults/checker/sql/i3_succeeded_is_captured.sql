-- An order is SUCCEEDED exactly if the PSP captured what was asked; order, executor and PSP agree.
SELECT o.order_id::text, 'SUCCEEDED, but the PSP did not capture what was asked'
FROM ordered o LEFT JOIN charged c
  ON c.order_id = o.order_id AND c.state = 'CAPTURED' AND c.amount = o.amount
     AND c.currency = o.currency
WHERE o.state = 'SUCCEEDED' AND c.order_id IS NULL
UNION ALL
SELECT c.order_id::text, 'the PSP captured, but the order is ' || coalesce(o.state, 'not there')
FROM charged c LEFT JOIN ordered o USING (order_id)
WHERE c.state = 'CAPTURED'
  AND coalesce(o.state, '') NOT IN
      ('SUCCEEDED', 'PARKED', 'NOT_STARTED', 'PROCESSING', 'UNKNOWN', 'CAPTURED')
UNION ALL
SELECT o.order_id::text, 'DECLINED, but the PSP declined nothing'
FROM ordered o LEFT JOIN charged c ON c.order_id = o.order_id AND c.state = 'DECLINED'
WHERE o.state = 'DECLINED' AND c.order_id IS NULL
UNION ALL
SELECT order_id::text, 'captured ' || captured || ' of ' || amount || ' in state ' || state
FROM ordered
WHERE captured <> CASE WHEN state IN ('SUCCEEDED', 'CAPTURED') THEN amount
                       WHEN state = 'PARKED' AND captured = amount THEN amount
                       ELSE 0 END
UNION ALL
SELECT o.order_id::text, 'the order is ' || o.state || ', the executor''s operation '
  || coalesce(e.state, 'not there')
FROM ordered o LEFT JOIN executed e USING (order_id)
WHERE o.state = 'SUCCEEDED' AND (e.state, e.captured, e.captured_currency)
        IS DISTINCT FROM ('CAPTURED', o.amount, o.currency)
   OR o.state = 'DECLINED' AND e.state IS DISTINCT FROM 'DECLINED'
UNION ALL
SELECT e.operation_id::text, 'the executor says CAPTURED, the PSP something else'
FROM executed e LEFT JOIN charged c ON c.psp_key = e.psp_key AND c.state = 'CAPTURED'
WHERE e.state = 'CAPTURED'
  AND (c.amount, c.currency, c.reference, c.operation_id, c.order_id) IS DISTINCT FROM
      (e.captured, e.captured_currency, e.reference, e.operation_id, e.order_id)
UNION ALL
SELECT e.operation_id::text, 'the executor says DECLINED, the PSP captured'
FROM executed e JOIN charged c USING (order_id)
WHERE e.state = 'DECLINED' AND c.state = 'CAPTURED'
UNION ALL
SELECT a.psp_key, 'the PSP was asked for what the executor has not'
FROM psp_asked a LEFT JOIN executed e USING (operation_id, order_id, psp_key)
WHERE e.operation_id IS NULL
UNION ALL
SELECT c.psp_key, 'the PSP has a charge that the executor never asked for'
FROM charged c LEFT JOIN executed e USING (operation_id, order_id, psp_key)
WHERE e.operation_id IS NULL
UNION ALL
SELECT e.operation_id::text, 'the executor has an operation that no order asked for'
FROM executed e
LEFT JOIN (SELECT p.operation_id, p.order_id, p.payment_id, p.amount, o.currency
           FROM operation p JOIN ordered o USING (order_id)) p USING (operation_id, order_id)
WHERE (p.amount, p.currency, p.payment_id) IS DISTINCT FROM (e.amount, e.currency, e.payment_id)
UNION ALL
SELECT p.operation_id::text, 'the order names another PSP reference than the executor'
FROM operation p JOIN ordered o USING (order_id) JOIN executed e USING (operation_id)
WHERE o.state = 'SUCCEEDED' AND p.reference <> e.reference
