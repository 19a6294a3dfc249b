-- An order is captured, credited and booked at most once, by one operation under one key.
SELECT order_id::text, 'the PSP captured ' || count(*) || ' times'
FROM charged WHERE state = 'CAPTURED' GROUP BY order_id HAVING count(*) > 1
UNION ALL
SELECT order_id::text, 'the PSP was asked under ' || count(*) || ' keys'
FROM psp_asked GROUP BY order_id HAVING count(*) > 1
UNION ALL
SELECT order_id::text, 'the PSP was asked again under a key that it had forgotten'
FROM psp_asked WHERE generation > 1
UNION ALL
SELECT order_id::text, 'there are ' || count(*) || ' operations that charge it'
FROM operation GROUP BY order_id HAVING count(*) > 1
UNION ALL
SELECT order_id::text, 'the executor has ' || count(*) || ' operations that charge it'
FROM executed GROUP BY order_id HAVING count(*) > 1
UNION ALL
SELECT order_id::text, 'the seller was credited ' || count(*) || ' times'
FROM movement WHERE kind = 1 GROUP BY order_id HAVING count(*) > 1
UNION ALL
SELECT order_id::text, 'its ' || kind || ' was booked ' || count(*) || ' times'
FROM journal WHERE kind IN ('CAPTURE', 'PSP_FEE') GROUP BY order_id, kind HAVING count(*) > 1
