"""Reads of payments by id: set-wise, and no more at once than a process can hold."""

from __future__ import annotations

import asyncio
import uuid

import pytest

from payment_svc import operations
from payment_svc.reader import Reader
from tests.support.fake_database import FakeDatabase, Statements


async def test_however_many_wait_no_statement_reads_more_than_some_thousand_orders(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    statements = Statements(select_payments=lambda payment_ids: {key: key for key in payment_ids})
    monkeypatch.setattr(operations, "store_reads", statements)
    reader = Reader(FakeDatabase().database)
    keys = [uuid.uuid4() for _ in range(600)]
    running = asyncio.create_task(reader.run())
    assert await asyncio.gather(*map(reader.get, keys)) == keys
    running.cancel()
    sizes = [len(payment_ids) for _, (payment_ids,) in statements.calls]
    assert sum(sizes) == 600
    # Each may have a hundred, and nobody knows before it is read.
    assert max(sizes) * 100 <= 5_000
    assert len(sizes) == 12
