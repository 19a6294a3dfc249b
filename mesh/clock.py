"""Time, injected. UTC always.

What only shows or measures uses a `Clock`. What decides something (leases, key
windows, schedules) uses the database's time through `DB_NOW`, one SQL function that
tests can offset, so that all replicas of a service decide by one clock.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]

DB_NOW = "paymesh_now()"
"""The deciding time in SQL: the clock of the database plus the setting
`paymesh.clock_offset` (an interval), which only tests set."""

CREATE_DB_NOW = """
CREATE FUNCTION paymesh_now() RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE AS $$
  SELECT statement_timestamp()
       + coalesce(nullif(current_setting('paymesh.clock_offset', true), ''), '0')::interval
$$
"""
"""For the first migration of each service that decides by time."""


def utc_now() -> datetime:
    """The current time, aware, in UTC."""
    return datetime.now(UTC)
