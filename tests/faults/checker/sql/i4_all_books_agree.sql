-- All books add up to what the PSP captured, apart from orders that are not SUCCEEDED.
WITH part AS (
  SELECT c.currency, 'the PSP' AS book, c.amount
  FROM charged c LEFT JOIN ordered o USING (order_id)
  WHERE c.state = 'CAPTURED' AND coalesce(o.state, 'SUCCEEDED') = 'SUCCEEDED'
  UNION ALL
  SELECT currency, 'orders', captured FROM ordered WHERE state = 'SUCCEEDED'
  UNION ALL
  SELECT currency, 'wallets', pending + available + reserved - debt FROM balance
  UNION ALL
  SELECT m.currency, 'wallets', -m.amount
  FROM movement m JOIN ordered o USING (order_id) WHERE o.state <> 'SUCCEEDED'
  UNION ALL
  SELECT currency, 'wallets', commission FROM ordered WHERE state = 'SUCCEEDED'
  UNION ALL
  SELECT e.currency, 'ledger', CASE e.side WHEN 'DEBIT' THEN e.amount ELSE -e.amount END
  FROM entry e JOIN journal j USING (journal_id) LEFT JOIN ordered o USING (order_id)
  WHERE e.account IN ('PSP_RECEIVABLE', 'PSP_FEE_EXPENSE') AND j.kind IN ('CAPTURE', 'PSP_FEE')
    AND coalesce(o.state, 'SUCCEEDED') = 'SUCCEEDED'
), total AS (
  SELECT currency, book, coalesce(sum(amount), 0) AS amount
  FROM (SELECT DISTINCT currency FROM part) AS currencies
  CROSS JOIN (VALUES ('the PSP'), ('orders'), ('wallets'), ('ledger')) AS books (book)
  LEFT JOIN part USING (currency, book)
  GROUP BY currency, book
)
SELECT currency, 'captured in all: ' || string_agg(book || ' ' || amount, ', ')
FROM total GROUP BY currency HAVING count(DISTINCT amount) > 1
