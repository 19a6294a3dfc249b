-- A wallet is the sum of its movements, and what the ledger's accounts of the seller say, apart
-- from credits of orders that are not SUCCEEDED and wait to be booked.
WITH wallet AS (
  SELECT seller, currency, line.account, line.amount
  FROM balance CROSS JOIN LATERAL (VALUES
    ('SELLER_PENDING', pending), ('SELLER_AVAILABLE', available), ('SELLER_RESERVED', reserved),
    ('SELLER_DEBT', debt)
  ) AS line (account, amount)
  UNION ALL
  SELECT m.seller, m.currency, 'SELLER_PENDING', -m.pending
  FROM movement m JOIN ordered o USING (order_id)
  LEFT JOIN journal j ON j.order_id = m.order_id AND j.kind = 'CAPTURE'
  WHERE o.state <> 'SUCCEEDED' AND j.order_id IS NULL
)
SELECT seller, currency || ': the balance is not the sum of the movements'
FROM balance b FULL JOIN moved m USING (seller, currency)
WHERE (b.pending, b.available, b.debt) IS DISTINCT FROM (m.pending, m.available, m.debt)
UNION ALL
SELECT seller, currency || ': the wallet says ' || coalesce(w.amount, 0)
  || ', the ledger ' || coalesce(a.amount, 0) || ' in account ' || account
FROM (SELECT seller, currency, account, sum(amount) AS amount
      FROM wallet GROUP BY seller, currency, account) w
FULL JOIN seller_account a USING (seller, currency, account)
WHERE coalesce(w.amount, 0) <> coalesce(a.amount, 0)
