-- Each journal sums to zero in each currency, and has the entries that it was written with.
SELECT journal_id::text, 'the journal does not balance in ' || currency
FROM entry GROUP BY journal_id, currency
HAVING sum(CASE side WHEN 'DEBIT' THEN amount ELSE -amount END) <> 0
UNION ALL
SELECT coalesce(j.journal_id, e.journal_id)::text,
       'the journal has ' || coalesce(e.lines, 0) || ' entries and was written with '
       || coalesce(j.lines::text, 'none: it is not there')
FROM journal j
FULL JOIN (SELECT journal_id, count(*) AS lines FROM entry GROUP BY journal_id) e
  USING (journal_id)
WHERE j.lines IS DISTINCT FROM e.lines
