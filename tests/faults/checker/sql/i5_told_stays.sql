-- What was acknowledged exists, as it was asked for; what was told of it, and ended, stays.
SELECT a.payment_id::text, 'acknowledged, and '
  || CASE WHEN p.payment_id IS NULL THEN 'not there' ELSE 'stored as another request' END
FROM accepted a LEFT JOIN payment p USING (payment_id)
WHERE (a.caller, a.request_id, a.buyer, a.method, a.policy, a.capture, a.metadata, a.orders)
      IS DISTINCT FROM
      (p.caller, p.request_id, p.buyer, p.method, p.policy, p.capture, p.metadata, p.orders)
UNION ALL
SELECT a.payment_id::text, 'order ' || a.position || ' is not stored as it was asked for'
FROM accepted a LEFT JOIN ordered o USING (payment_id, position)
WHERE (a.seller, a.currency, a.amount, a.commission, a.reference) IS DISTINCT FROM
      (o.seller, o.currency, o.amount, o.commission, o.reference)
UNION ALL
SELECT t.payment_id::text, 'told of, and '
  || CASE WHEN p.payment_id IS NULL THEN 'not there' ELSE 'stored as another payment' END
FROM told t LEFT JOIN payment p USING (payment_id)
WHERE (t.caller, t.request_id, t.buyer, t.orders)
      IS DISTINCT FROM (p.caller, p.request_id, p.buyer, p.orders)
UNION ALL
SELECT t.order_id::text, 'told otherwise than it is stored'
FROM told t LEFT JOIN ordered o USING (payment_id, position)
WHERE (t.order_id, t.seller, t.currency, t.amount, t.commission, t.reference) IS DISTINCT FROM
      (o.order_id, o.seller, o.currency, o.amount, o.commission, o.reference)
UNION ALL
SELECT t.order_id::text, 'told as ' || t.state || ', and now ' || o.state
FROM told t JOIN ordered o USING (order_id)
WHERE t.state IN ('SUCCEEDED', 'DECLINED', 'NOT_CHARGED', 'VOIDED', 'EXPIRED')
      AND (o.state <> t.state OR o.captured <> t.captured)
   OR t.state = 'CAPTURED' AND o.state NOT IN ('CAPTURED', 'SUCCEEDED', 'PARKED')
UNION ALL
SELECT min(payment_id::text), 'caller ' || caller || ' has ' || count(*) || ' payments under '
  || request_id
FROM payment GROUP BY caller, request_id HAVING count(*) > 1
