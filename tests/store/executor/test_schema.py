"""The second belt: what the executor's table refuses whatever the service says."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg
import pytest

from executor_svc import operations
from executor_svc.operations import Write
from mesh.db import BadData, Database
from tests.store.executor.writes import (
    intended,
    intent,
)
from tests.support.executor import new_operation


@pytest.mark.parametrize(
    "change",
    [
        "state = 6, captured_minor = amount_minor + 1, captured_currency = currency, evidence = 1",
        "state = 6, captured_minor = amount_minor, captured_currency = 'USD', evidence = 1",
        "state = 6, captured_minor = amount_minor, captured_currency = currency, evidence = 0",
        "state = 6",
        "state = 7",
        "state = 4",
        "state = 5",
        "state = 8",
        "amount_minor = 0",
        "amount_minor = 1000000000000000",
        "fee_minor = -1",
        "send_count = 0",
    ],
)
async def test_the_table_refuses_what_the_domain_would_never_store(
    database: Database, executor_url: str, change: str
) -> None:
    operation = await intended(database)
    with (
        psycopg.connect(executor_url) as connection,
        pytest.raises(psycopg.errors.CheckViolation),
    ):
        connection.execute(
            f"UPDATE operation SET {change} WHERE operation_id = %s",
            (operation.operation_id,),
        )


@pytest.mark.parametrize(
    "statement", ["DELETE FROM operation", "TRUNCATE operation", "DROP TABLE operation"]
)
def test_the_service_may_not_remove_operations(executor_url: str, statement: str) -> None:
    with (
        psycopg.connect(executor_url) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute(statement)


async def test_a_row_that_the_table_refuses_is_bad_data(database: Database) -> None:
    """So the writer finds it by halving, and its neighbours are stored."""
    writes: Sequence[Write] = [intent(new_operation()._replace(amount_minor=0))]
    with pytest.raises(BadData):
        await operations.write(database, writes)
