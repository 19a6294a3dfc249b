-- A payment's state follows from those of its orders, and theirs agree with their operations.
SELECT p.payment_id::text, 'in state ' || p.state || ', and its orders give ' || o.derived
FROM payment p JOIN (
  SELECT payment_id, count(*) AS orders, CASE
    WHEN bool_or(state IN ('NOT_STARTED', 'PROCESSING', 'UNKNOWN', 'CAPTURED')) THEN 'PROCESSING'
    WHEN bool_or(state = 'PARKED') THEN 'NEEDS_ATTENTION'
    WHEN bool_or(state = 'AUTHORIZED') THEN 'AUTHORIZED'
    WHEN bool_and(state = 'SUCCEEDED') THEN 'SUCCEEDED'
    WHEN bool_or(state = 'SUCCEEDED') THEN 'PARTIALLY_SUCCEEDED'
    WHEN bool_or(state = 'DECLINED') THEN 'FAILED'
    ELSE 'VOIDED' END AS derived
  FROM ordered GROUP BY payment_id
) AS o USING (payment_id)
WHERE p.state <> o.derived OR p.orders <> o.orders
UNION ALL
SELECT coalesce(p.payment_id, o.payment_id)::text, 'a payment without orders, or orders without one'
FROM payment p FULL JOIN (SELECT DISTINCT payment_id FROM ordered) o USING (payment_id)
WHERE p.payment_id IS NULL OR o.payment_id IS NULL
UNION ALL
SELECT o.order_id::text, 'the order is ' || o.state || ', its operation '
  || coalesce(p.state, 'not there')
FROM ordered o LEFT JOIN operation p USING (order_id)
WHERE p.state IS NULL
   OR o.state IN ('SUCCEEDED', 'CAPTURED') AND p.state <> 'SUCCEEDED'
   OR o.state = 'DECLINED' AND p.state <> 'FAILED'
   OR p.state = 'SUCCEEDED' AND o.state NOT IN ('SUCCEEDED', 'CAPTURED', 'PARKED')
   OR p.state = 'FAILED' AND o.state <> 'DECLINED'
