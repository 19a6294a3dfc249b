-- Every order is terminal or parked with a reason, and nobody drives what has ended.
SELECT order_id::text, 'still ' || state FROM ordered
WHERE state IN ('NOT_STARTED', 'PROCESSING', 'UNKNOWN', 'CAPTURED')
UNION ALL
SELECT order_id::text, 'PARKED without a reason' FROM ordered
WHERE state = 'PARKED' AND attention = ''
UNION ALL
SELECT o.order_id::text, o.state || ', and its operation is still driven'
FROM ordered o JOIN operation p USING (order_id)
WHERE (p.owned OR p.scheduled)
  AND o.state IN ('SUCCEEDED', 'DECLINED', 'NOT_CHARGED', 'VOIDED', 'EXPIRED')
