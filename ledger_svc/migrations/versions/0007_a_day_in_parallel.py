"""A PSP's day is joined by all processors; captures are found by the PSP's reference."""

from __future__ import annotations

from alembic import op

from mesh.migrations import app_role

revision = "0007"
down_revision = "0006"

# What was booked about when the day was: nearly every line's capture is among it, and is met
# by a hash join instead of by hashing an id for each line.
_BOOKED = """
SELECT j.operation_id, j.journal_id, e.currency, e.amount_minor
FROM public.entry AS e
JOIN public.journal AS j ON j.journal_id = e.journal_id
WHERE e.account_kind = 1 AND e.owner_id = '' AND e.source = of_source
  AND e.direction = {direction} AND j.kind = {kind} AND j.revision = 0
  AND e.create_time >= from_time AND e.create_time < until_time
"""
# INSERT … SELECT is never parallel, CREATE TABLE AS is. A superseded statement has no lines. What
# a line tells beside its amounts is read again of the few that don't meet a capture of the day, so
# that the table is half as large: they become open lines, as wide as begin_day() makes a bank's.
_PSP_DAY = f"""
CREATE FUNCTION begin_psp_day(
  of_source text, of_day date, from_time timestamptz, until_time timestamptz
) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM public.begin_day();
  DROP TABLE pg_temp.open_line;
  ALTER TABLE pg_temp.day_line RENAME TO open_line;
  CREATE TEMPORARY TABLE day_line ON COMMIT DROP AS
  SELECT l.file_id, l.sequence, l.kind, l.currency, l.amount_minor, f.create_time AS came,
         coalesce(l.gross_minor, l.amount_minor + coalesce(l.fee_minor, 0)) AS gross,
         coalesce(l.fee_minor, 0) AS fee,
         CASE WHEN c.journal_id IS NULL THEN l.operation_id END AS unmet_operation_id,
         c.journal_id AS capture_id, c.currency AS capture_currency,
         c.amount_minor AS capture_minor, k.currency AS told_fee_currency,
         k.amount_minor AS told_fee_minor
  FROM public.statement AS s
  JOIN public.settlement_line AS l ON l.file_id = s.file_id AND l.statement = s.number
  JOIN public.settlement_file AS f ON f.file_id = s.file_id
  LEFT JOIN ({_BOOKED.format(direction=1, kind=1)}) AS c
    ON c.operation_id = l.operation_id AND l.kind = 'CHARGE'
  LEFT JOIN ({_BOOKED.format(direction=2, kind=2)}) AS k ON k.operation_id = c.operation_id
  WHERE s.source = of_source AND s.settlement_date = of_day AND s.is_current
    AND l.level = 'ENTRY';
  GRANT SELECT, UPDATE, MAINTAIN ON day_line TO {{app}};
END
$$
"""  # noqa: S608 - of our own constants
_GRANTS = """
REVOKE ALL ON FUNCTION begin_psp_day(text, date, timestamptz, timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION begin_psp_day(text, date, timestamptz, timestamptz) TO {app}
"""
_BY_REFERENCE = """
CREATE INDEX journal_by_reference ON journal (psp_reference) WHERE kind = 1 AND psp_reference <> ''
"""


def upgrade() -> None:
    for statement in (_PSP_DAY, _GRANTS):
        op.execute(statement.format(app=app_role()))
    op.execute(_BY_REFERENCE)


def downgrade() -> None:
    raise NotImplementedError("migrations go forward only")
