-- No balance, account, capture or fee is below zero; nothing captured exceeds what was asked.
SELECT seller, currency || ': a balance is negative'
FROM balance WHERE least(pending, available, reserved, debt) < 0
UNION ALL
SELECT seller, currency || ': ' || account || ' is negative in the ledger'
FROM seller_account WHERE amount < 0
UNION ALL
SELECT movement_id::text, 'a movement of less than nothing' FROM movement WHERE amount < 0
UNION ALL
SELECT psp_key, 'the PSP took less than nothing, or a fee above the amount'
FROM charged WHERE amount < 0 OR fee NOT BETWEEN 0 AND amount
UNION ALL
SELECT order_id::text, 'captured ' || captured || ' of ' || amount
FROM ordered WHERE captured NOT BETWEEN 0 AND amount
