"""The ids that SQL computes are those that Python computes."""

from __future__ import annotations

import uuid

import psycopg
import pytest

from mesh import ids

App = psycopg.Connection[tuple[object, ...]]


def in_sql(app: App, lead: str | None, *fields: str) -> uuid.UUID:
    row = app.execute("SELECT paymesh_id(%s, VARIADIC %s::text[])", [lead, list(fields)]).fetchone()
    assert row is not None
    assert isinstance(row[0], uuid.UUID)
    return row[0]


@pytest.mark.parametrize("_", range(50))
def test_what_an_operation_causes(app: App, _: int) -> None:
    operation = ids.first_charge_id(uuid.uuid4())
    lead = operation.hex[:12]
    assert in_sql(app, lead, "journal", "capture", operation.hex, "0") == ids.journal_id(
        "capture", operation
    )
    assert in_sql(app, lead, "psp_key", operation.hex, "0") == ids.psp_key(operation)


@pytest.mark.parametrize("source", ["psp", "", "Ünïcödé \N{PILE OF POO}", "a,b", "x" * 255])
@pytest.mark.parametrize("n", range(20))
def test_what_nothing_of_ours_causes_leads_with_its_own_hash(app: App, source: str, n: int) -> None:
    sha256 = uuid.uuid4().hex * 2
    assert in_sql(
        app, None, "settlement_file", source, f"2026-01-{n + 1:02}", sha256
    ) == ids.settlement_file_id(source, f"2026-01-{n + 1:02}", sha256)
